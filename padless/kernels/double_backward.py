"""Differentiate a hand-written backward pass again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from padless._torch_compat import FunctionContext, in_functional_transform

Backward = Callable[..., tuple[Tensor | None, ...]]


@dataclass(frozen=True)
class Reference:
    """The differentiable version of an autograd function, kept in `ctx.reference` for its second derivatives.

    Args:
        function: Computes the results of the autograd function from its tensors, by operations of torch.
        num_tensors: How many tensors it takes. They are the last arguments of `forward` and the first saved tensors.
    """

    function: Callable[..., Sequence[Tensor]]
    num_tensors: int

    def gradients(self, ctx: FunctionContext, grads: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
        """Return the gradients of all arguments of `forward`, computed through the reference."""
        num_options = len(ctx.needs_input_grad) - self.num_tensors
        needs_grad = ctx.needs_input_grad[num_options:]
        with torch.enable_grad():
            # Views: if one input was computed from another, the gradient of that computation must not be added here.
            tensors: list[Tensor | None] = [x if x is None else x.view_as(x) for x in ctx.saved_tensors[: self.num_tensors]]
            results = self.function(*tensors)
        used = [(result, grad) for result, grad in zip(results, grads, strict=True) if grad is not None]
        tensor_grads = iter(
            torch.autograd.grad(
                [result for result, _ in used],
                [x for x, is_needed in zip(tensors, needs_grad, strict=True) if is_needed and x is not None],
                [grad for _, grad in used],
                create_graph=torch.is_grad_enabled(),
                allow_unused=True,
            )
        )
        return (*(None,) * num_options, *(next(tensor_grads) if is_needed else None for is_needed in needs_grad))


def with_double_backward(backward: Backward) -> Backward:
    """Replace a hand-written backward by `ctx.reference` where it cannot be used.

    That is where the gradients are differentiated again (`create_graph=True`), and under torch.func, forward-mode
    differentiation and batched gradients.
    """

    @functools.wraps(backward)
    def hand_written_or_reference(ctx: FunctionContext, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grads = tuple(None if grad is None else grad.resolve_neg() for grad in grads)
        if not torch.is_grad_enabled() and not in_functional_transform(*grads):
            return backward(ctx, *grads)
        return ctx.reference.gradients(ctx, grads)

    return hand_written_or_reference
