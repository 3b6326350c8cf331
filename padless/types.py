"""Types of public signatures: what layers, losses and `fit` take and give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from padless.ragged.packed import Packed

ArrayLike: TypeAlias = "NDArray[Any] | Tensor | Packed | Sequence[Any] | float"
"""Data that becomes a tensor or a `Packed`: an array, a list, a list of sequences, a number."""

StepTensor: TypeAlias = "Tensor | Packed"
"""A batch of time steps, padded `(B, T, ...)` or packed."""

ShapeLike: TypeAlias = "Sequence[int | None] | Mapping[str, Sequence[int | None]]"
"""The shape of a layer's input with None for an open size; a mapping for an input that is a dictionary."""

MaskLike: TypeAlias = "NDArray[np.bool_] | NDArray[np.integer[Any]] | Tensor | Packed | Sequence[Any]"
"""Which steps are real: an array of booleans (or 0 and 1) of shape `(B, T)`, or one list for each sequence."""

ConfigLike: TypeAlias = "str | Mapping[str, Any]"
"""A name or a config from which an object is made."""

LossLike: TypeAlias = "ConfigLike | Callable[..., Any] | nn.Module"
"""A loss: a name, a config, a Loss, a function of `(y_true, y_pred)`, a torch loss module."""

MetricLike: TypeAlias = "ConfigLike | Callable[..., Any] | nn.Module"
"""A metric: a name, a config, a Metric, a function of `(y_true, y_pred)`, a metric of torchmetrics."""

OptimizerLike: TypeAlias = "ConfigLike | Optimizer"
"""An optimizer: a name, a config, an optimizer of padless or of torch."""
