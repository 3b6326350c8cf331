"""Sequence models with Keras's API on PyTorch that compute on the real time steps of a padded batch only."""

from padless import (
    activations,
    callbacks,
    constraints,
    data,
    errors,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    regularizers,
    utils,
)
from padless.data import collate, pack
from padless.graph.node import reset_names as _reset_names
from padless.kernels.backends import backends
from padless.layers import Input, Layer
from padless.models import Model, Sequential, load_model
from padless.ragged import Index, Packed, unpack

__version__ = "0.1.0"

__all__ = [
    "Index",
    "Input",
    "Layer",
    "Model",
    "Packed",
    "Sequential",
    "activations",
    "backends",
    "callbacks",
    "clear_session",
    "collate",
    "constraints",
    "data",
    "errors",
    "initializers",
    "layers",
    "load_model",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "pack",
    "regularizers",
    "unpack",
    "utils",
]


def clear_session() -> None:
    """Start to count layer names again, as Keras's `clear_session`: the next Dense is `dense`."""
    _reset_names()
