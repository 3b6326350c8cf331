"""Second derivatives for backward passes written by hand."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from padless.kernels.native.library import under_functional_transform


def with_double_backward(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward by hand, or through the reference where it shall be differentiated again, or for many gradients at once."""

    @functools.wraps(backward)
    def chosen(ctx: Any, *grads: Tensor | None) -> Any:
        grads = tuple(None if g is None else g.resolve_neg() for g in grads)
        if not torch.is_grad_enabled() and not under_functional_transform(*grads):
            return backward(ctx, *grads)
        ahead = getattr(ctx, "ahead", 0)  # how many arguments come before the tensors
        need = ctx.needs_input_grad[ahead:]
        with torch.enable_grad():  # views, so that what one input owes to another is not counted in
            given: list[Any] = [x if x is None else x.view_as(x) for x in ctx.saved_tensors[: ctx.given]]
            outputs = ctx.again(*given)
        pairs = [(output, grad) for output, grad in zip(outputs, grads, strict=True) if grad is not None]
        wanted = [x for x, needed in zip(given, need, strict=False) if needed]
        outputs, arrived = (list(side) for side in zip(*pairs, strict=True))
        found = iter(torch.autograd.grad(outputs, wanted, arrived, create_graph=torch.is_grad_enabled(), allow_unused=True))
        return (*(None,) * ahead, *(next(found) if needed else None for needed in need))

    return chosen
