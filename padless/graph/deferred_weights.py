"""Build a model without initial values, for the arrays of a file.

While a file is read, the shapes of the weights come from numbers in the file. No initializer runs. A weight is created as
zeros, if all weights together are not larger than the arrays of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from padless.errors import ShapeError
from padless.graph.meta_mode import SizeLimitMode
from padless.ragged.plan_limit import limited_plans
from padless.registry import is_of_padless

_SPARE_ELEMENTS = 1 << 20  # of weights that are created and not used, such as those of an attempt to build a layer


class DeferredWeights:
    """The weights that a model in a file has, while it is built.

    Args:
        num_elements: the number of elements of all arrays of the file.
    """

    def __init__(self, num_elements: int) -> None:
        self.num_elements = num_elements
        self._sizes: dict[tuple[int, str], int] = {}  # of the weights so far, by the identity of the layer and the name
        self._total_size = 0
        self.size_limit_mode = SizeLimitMode(_SPARE_ELEMENTS // 16)

    def new(self, layer: nn.Module, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a new weight of a layer, zeros.

        Raises:
            ShapeError: the file has no arrays of this size.
        """
        self._add((id(layer), name), math.prod(shape))
        self._check_sum(f"Weight {name!r} of shape {tuple(shape)}")
        return torch.zeros(tuple(shape), dtype=dtype)

    def create(self, weights: Iterable[Tensor]) -> None:
        """Give memory to those of some weights that have none.

        Raises:
            ShapeError: the file has no arrays of this size.
        """
        missing = {id(weight): weight for weight in weights if weight.is_meta}
        for key, weight in missing.items():
            self._add((0, str(key)), weight.numel())
        self._check_sum(f"The weights of shapes {[tuple(weight.shape) for weight in missing.values()]}")
        for weight in missing.values():
            place_array(weight, torch.zeros(tuple(weight.shape), dtype=weight.dtype))

    def _add(self, key: tuple[int, str], size: int) -> None:
        """Count a weight; one with the key of an earlier weight replaces it."""
        self._total_size += size - self._sizes.get(key, 0)
        self._sizes[key] = size

    def _check_sum(self, last_weight: str) -> None:
        if self._total_size > 2 * self.num_elements + _SPARE_ELEMENTS:
            raise ShapeError(
                f"{last_weight} needs more numbers than the file has, whose arrays have {self.num_elements} numbers. The "
                f"config does not belong to these arrays."
            )


_deferred: ContextVar[DeferredWeights | None] = ContextVar("deferred weights", default=None)


def deferred_weights() -> DeferredWeights | None:
    """Return the weights of the model that is read from a file in this context; None outside."""
    return _deferred.get()


@contextmanager
def deferring_weights(num_elements: int) -> Iterator[None]:
    """Build the models in this context without initial values. `padless.models.loading` restores the random state.

    Args:
        num_elements: the number of elements of the arrays that the weights get afterwards.
    """
    token = _deferred.set(DeferredWeights(num_elements))
    try:
        with limited_plans():
            yield
    finally:
        _deferred.reset(token)


@contextmanager
def limited_memory(layer_class: type | None = None) -> Iterator[None]:
    """Give no memory to large tensors that user-defined code creates while a file is read.

    Args:
        layer_class: the class whose code runs. The layers of padless create their tensors by `add_weight`.
    """
    deferred = deferred_weights()
    if deferred is None or layer_class is not None and is_of_padless(layer_class):
        yield
        return
    with deferred.size_limit_mode:
        yield


def place_array(weight: Tensor, array: Tensor) -> None:
    """Give a weight the values of an array. The weight stays the same object, and gets memory if it had none."""
    if not weight.is_meta:
        weight.detach().copy_(array)
        return
    values = torch.empty(tuple(weight.shape), dtype=weight.dtype).copy_(array)
    values = values.to(torch.get_default_device())
    if isinstance(weight, nn.Parameter):
        values = nn.Parameter(values, requires_grad=weight.requires_grad)
    torch.utils.swap_tensors(weight, values)
