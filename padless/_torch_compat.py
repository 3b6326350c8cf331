"""Collect the parts of torch that padless needs and that have no public name.

Only this module imports private names of torch. Each comment says why the public way is not enough. A release of
torch that renames one of them is dealt with here: a function then gives the answer that is slower but never wrong.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

# The base classes of torch's batch normalizations and losses have no public names.
from torch.nn.modules.batchnorm import _BatchNorm as BatchNormModule
from torch.nn.modules.loss import _Loss as LossModule

# torch documents its pytree functions for `torch.export` only, and under this name only.
from torch.utils import _pytree as pytree

try:
    # torch.func has no public function that recognizes its own tensors.
    from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor
except ImportError:
    is_functorch_wrapped_tensor = is_legacy_batchedtensor = None

# torch documents TorchDispatchMode, but under this name only.
from torch.utils._python_dispatch import TorchDispatchMode

try:
    # It has no public name.
    from torch.utils._python_dispatch import _get_current_dispatch_mode as current_dispatch_mode
except ImportError:
    current_dispatch_mode = None

__all__ = [
    "BatchNormModule",
    "DispatchMode",
    "FunctionContext",
    "LossModule",
    "disabled_torch_function",
    "torch_foreach",
    "in_backward_pass",
    "in_dispatch_mode",
    "in_functional_transform",
    "is_torch_compile_error",
    "pytree",
    "write_count",
]

FunctionContext: TypeAlias = Any
"""The `ctx` of a `torch.autograd.Function`: torch gives it no type to which attributes can be assigned."""

torch_foreach: Any = torch
"""torch's functions for a list of tensors in one call. They have private names (`_foreach_add_`) only."""

# The documented way to switch `__torch_function__` off for a tensor subclass; it has this name only.
disabled_torch_function: Any = torch._C._disabled_torch_function_impl


class DispatchMode(TorchDispatchMode):
    """The base of contexts that see every operation of torch in `__torch_dispatch__`.

    torch imports its compiler at the first operation in such a context, which takes seconds, unless a class says that the
    compiler may trace it. padless has no such context while a compiler runs.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def in_functional_transform(*tensors: Tensor | None) -> bool:
    """Return whether torch.func, forward-mode differentiation or batched gradients are in use.

    They replace the torch functions that an operation calls, so they cannot see what a compiled kernel does.

    Args:
        tensors: The tensors of the operation. One of them may be a batch of tensors in disguise
            (`torch.autograd.grad(..., is_grads_batched=True)`) although no transform is active.

    Returns:
        True if a transform is active or one of the tensors belongs to a transform.
    """
    if is_functorch_wrapped_tensor is None or is_legacy_batchedtensor is None:
        return True
    try:
        active = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    except AttributeError:
        return True
    return active or any(t is not None and (is_legacy_batchedtensor(t) or is_functorch_wrapped_tensor(t)) for t in tensors)


def in_dispatch_mode() -> bool:
    """Return whether a `TorchDispatchMode` is active: fake tensors, tracers, counters of operations."""
    return current_dispatch_mode is None or current_dispatch_mode() is not None


def is_torch_compile_error(error: Exception) -> bool:
    """Return whether torch.compile raised an error, and not the function that it compiled."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))  # they have no public base class


def in_backward_pass() -> bool:
    """Return whether this thread runs a backward pass, which may compute a call again (activation checkpointing)."""
    try:
        return torch._C._current_graph_task_id() != -1  # torch has no public function for it
    except AttributeError:
        return False


def write_count(x: Tensor) -> int:
    """Return how many times torch has written to a tensor in place."""
    return x._version  # torch documents the counter, but under this name only
