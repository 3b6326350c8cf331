"""Types of public signatures: the arguments and results of layers, losses and `fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from padless.ragged.packed import ArrayLike as ArrayLike
from padless.ragged.packed import MaskLike as MaskLike
from padless.ragged.packed import Packed
from padless.ragged.tensor_like import TensorLike

__all__ = [
    "ActivationLike",
    "Arguments",
    "ArrayLike",
    "BasicLayerOptions",
    "BatchTree",
    "Config",
    "ConfigLike",
    "ConstraintLike",
    "DTypeLike",
    "DataLike",
    "InitializerLike",
    "LayerOptions",
    "LossLike",
    "MaskLike",
    "MaskTree",
    "MetricLike",
    "OptimizerLike",
    "RegularizerLike",
    "ShapeLike",
    "ShapeTree",
    "StepTensor",
    "TensorTree",
]

DataLike: TypeAlias = "ArrayLike | Mapping[str, Any] | Iterable[Any] | Dataset[Any]"
"""Data for `fit`: `ArrayLike`, a list or dictionary of several, a table, a dataset, a loader or generator of batches."""

BatchTree: TypeAlias = Any
"""Inputs, targets, outputs or weights of one batch: a tensor, a `Packed`, None, or a list, tuple or dictionary of these.

The model decides which of them it is, so a type checker cannot know (as torch's `PyTree`, which is Any too).
"""

StepTensor: TypeAlias = "Tensor | Packed"
"""A batch of time steps, padded `(B, T, ...)` or packed."""

ShapeLike: TypeAlias = "Sequence[int | None] | Mapping[str, Sequence[int | None]]"
"""The shape of a layer's input with None for an open size; a mapping for an input that is a dictionary."""

Config: TypeAlias = "dict[str, Any]"
"""The config of an object: the arguments of its constructor, by name."""

TensorTree: TypeAlias = Any
"""What a layer takes and returns: a tensor, a `Packed` or a symbolic tensor, or a list, tuple or dictionary of these."""

MaskTree: TypeAlias = Any
"""The masks of a `TensorTree`: a mask or None, or a list, tuple or dictionary of these."""

ShapeTree: TypeAlias = Any
"""The shapes of a `TensorTree`: a `Shape`, or a list, tuple or dictionary of these."""

Arguments: TypeAlias = "dict[str, Any]"
"""The arguments of a call, by name."""

ConfigLike: TypeAlias = "str | Mapping[str, Any]"
"""A name or a config from which an object is made."""

LossLike: TypeAlias = "ConfigLike | Callable[..., Any] | nn.Module"
"""A loss: a name, a config, a Loss, a function of `(y_true, y_pred)`, a torch loss module."""

MetricLike: TypeAlias = "ConfigLike | Callable[..., Any] | nn.Module"
"""A metric: a name, a config, a Metric, a function of `(y_true, y_pred)`, a metric of torchmetrics."""

OptimizerLike: TypeAlias = "ConfigLike | Optimizer"
"""An optimizer: a name, a config, an optimizer of padless or of torch."""

Shape: TypeAlias = "Sequence[int | None]"
"""The shape of one tensor, the batch first, with None for an open size."""

StepT = TypeVar("StepT", bound="Tensor | TensorLike")
"""A tensor, a `Packed` or a symbolic tensor: a function that takes one of them returns the same kind."""

ActivationLike: TypeAlias = "ConfigLike | Callable[..., Any] | None"
"""An activation: a name, a config, a function of one tensor; None for the identity."""

InitializerLike: TypeAlias = "ConfigLike | Callable[..., Tensor] | NDArray[Any] | np.generic | Tensor | None"
"""An initializer: a name, a config, a function of shape and dtype, or the values themselves."""

RegularizerLike: TypeAlias = "ConfigLike | Callable[[Tensor], Tensor] | None"
"""A regularizer: a name, a config, a function from a tensor to a scalar; None for no penalty."""

ConstraintLike: TypeAlias = "ConfigLike | Callable[[Tensor], Tensor] | None"
"""A constraint: a name, a config, a function from a weight to a weight; None for no constraint."""

DTypeLike: TypeAlias = "ConfigLike | torch.dtype"
"""A dtype: torch's, its name, or a Keras policy such as "mixed_bfloat16"."""


class BasicLayerOptions(TypedDict, total=False):
    """Keyword arguments that every layer takes, as Keras's `Layer`."""

    name: str | None
    trainable: bool
    dtype: DTypeLike | None
    input_shape: Shape | None


class LayerOptions(BasicLayerOptions, total=False):
    """The same for layers that do not name `activity_regularizer` among their own arguments."""

    activity_regularizer: RegularizerLike
