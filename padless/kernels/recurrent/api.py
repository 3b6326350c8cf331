"""A step sees its past: recurrent cells over packed steps.

A masked step does not exist, so the state passes over it, and the last state of a sequence is the one after its last
real step (the initial one if it has none). Steps go in time-major order, longest sequence first: at each time the
sequences still alive are the first rows, and the others are through.

Numbers are Keras's: LSTM gates i, f, c, o; GRU gates z, r, h with `h = z * h + (1 - z) * candidate`. Outputs stand in
packed order, each where its input stands, also with `reverse`; states are `(B, U)` in the order of the batch, empty
rows included. Under autocast inputs, weights and states all take its dtype, as in torch's own recurrent layers.

`PATHS` names the ways to compute a cell: "reference" takes anything; "packed" (`scan_fast.py`) takes the usual
activations and no recurrent dropout, and leaves second derivatives to the reference; "compiled" (`scan_compiled.py`) is
the same in C, for float32 and bfloat16 on the CPU, where it was built; "cudnn" (`scan_cudnn.py`) is the same by torch's
own packed recurrent functions: cuDNN's on CUDA, where it is taken by itself, torch's own loop elsewhere.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.kernels.half_precision import dtype_of
from padless.kernels.native import library as compiled
from padless.kernels.recurrent import cudnn as scan_cudnn
from padless.kernels.recurrent import manual as scan_fast
from padless.kernels.recurrent import native as scan_compiled
from padless.kernels.recurrent.reference import REFERENCE, Activation
from padless.ragged.index import Index


def lstm(
    values: Float[Tensor, "n features"],
    index: Index,
    kernel: Float[Tensor, "features gates"],
    recurrent: Float[Tensor, "units gates"],
    bias: Float[Tensor, " gates"] | None,
    h0: Float[Tensor, "b units"],
    c0: Float[Tensor, "b units"],
    *,
    reverse: bool = False,
    activation: Activation = torch.tanh,
    recurrent_activation: Activation = torch.sigmoid,
    recurrent_masks: Float[Tensor, "4 b units"] | None = None,
    path: str | None = None,
) -> tuple[Float[Tensor, "n units"], Float[Tensor, "b units"], Float[Tensor, "b units"]]:
    """Keras's LSTM: outputs, last h, last c. `recurrent_masks` multiply the previous h on its way into each gate."""
    usual = activation is torch.tanh and recurrent_activation is torch.sigmoid and recurrent_masks is None
    run = _path("lstm", path, usual, values, kernel, recurrent, bias, h0, c0)
    weights, unautocast = _one_dtype(values, kernel, recurrent, bias, h0, c0, recurrent_masks)
    with unautocast:
        return run(index, reverse, activation, recurrent_activation, *weights)


def gru(
    values: Float[Tensor, "n features"],
    index: Index,
    kernel: Float[Tensor, "features gates"],
    recurrent: Float[Tensor, "units gates"],
    bias: Float[Tensor, "2 gates"] | Float[Tensor, " gates"] | None,
    h0: Float[Tensor, "b units"],
    *,
    reset_after: bool = True,
    reverse: bool = False,
    activation: Activation = torch.tanh,
    recurrent_activation: Activation = torch.sigmoid,
    recurrent_masks: Float[Tensor, "3 b units"] | None = None,
    path: str | None = None,
) -> tuple[Float[Tensor, "n units"], Float[Tensor, "b units"]]:
    """Keras's GRU: outputs, last h. With `reset_after` the bias has two rows, for inputs and state, else one axis."""
    if bias is not None and bias.ndim != 1 + reset_after:
        raise ShapeError(
            f"The bias of a GRU with reset_after={reset_after} has shape "
            f"{'(2, 3 * units)' if reset_after else '(3 * units,)'}; got {tuple(bias.shape)}."
        )
    usual = activation is torch.tanh and recurrent_activation is torch.sigmoid and recurrent_masks is None
    run = _path("gru", path, usual and reset_after, values, kernel, recurrent, bias, h0)
    weights, unautocast = _one_dtype(values, kernel, recurrent, bias, h0, recurrent_masks)
    with unautocast:
        return run(index, reverse, activation, recurrent_activation, reset_after, *weights)


def simple_rnn(
    values: Float[Tensor, "n features"],
    index: Index,
    kernel: Float[Tensor, "features units"],
    recurrent: Float[Tensor, "units units"],
    bias: Float[Tensor, " units"] | None,
    h0: Float[Tensor, "b units"],
    *,
    reverse: bool = False,
    activation: Activation = torch.tanh,
    recurrent_masks: Float[Tensor, "1 b units"] | None = None,
    path: str | None = None,
) -> tuple[Float[Tensor, "n units"], Float[Tensor, "b units"]]:
    """Keras's SimpleRNN: outputs, last h."""
    usual = (activation is torch.tanh or activation is torch.relu) and recurrent_masks is None
    run = _path("simple_rnn", path, usual, values, kernel, recurrent, bias, h0)
    weights, unautocast = _one_dtype(values, kernel, recurrent, bias, h0, recurrent_masks)
    with unautocast:
        return run(index, reverse, activation, *weights)


# The reference


# The paths

PATHS: dict[str, dict[str, Callable[..., Any]]] = {
    "compiled": {"lstm": scan_compiled.lstm, "gru": scan_compiled.gru, "simple_rnn": scan_compiled.simple_rnn},
    "cudnn": {"lstm": scan_cudnn.lstm, "gru": scan_cudnn.gru, "simple_rnn": scan_cudnn.simple_rnn},
    "packed": {"lstm": scan_fast.lstm, "gru": scan_fast.gru, "simple_rnn": scan_fast.simple_rnn},
    "reference": REFERENCE,
}
FAST_DEVICES = ("cpu", "cuda")
FAST_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COMPILED_DTYPES = (torch.float32, torch.bfloat16)


def _path(cell: str, forced: str | None, usual: bool, values: Tensor, *others: Tensor | None) -> Callable[..., Any]:
    """The implementation of a cell: the forced one, else the fastest that can take this."""
    if forced is not None and forced not in PATHS:
        raise ArgumentError(unknown_name("path", forced, PATHS))
    dtype = dtype_of(values)
    can = {
        "reference": True,
        "packed": usual
        and values.device.type in FAST_DEVICES
        and dtype in FAST_DTYPES
        and not compiled.under_functional_transform(values),
        "compiled": usual
        and values.device.type == "cpu"
        and dtype in COMPILED_DTYPES
        and compiled.library() is not None
        and compiled.can_access_memory(values, *others),
        "cudnn": usual
        and values.device.type == "cuda"
        and dtype in FAST_DTYPES
        and torch.backends.cudnn.enabled
        and not torch.compiler.is_compiling(),
    }
    if forced not in (None, "reference") and not usual:
        raise ArgumentError(
            f"The {forced} path of {cell} computes tanh, with sigmoid gates, without recurrent dropout "
            f"and (GRU) with reset_after; got something else. Use path='reference', or none."
        )
    if forced == "compiled" and not can[forced]:
        raise ArgumentError(
            f"The compiled path of {cell} is for float32 and bfloat16 on the CPU; got {dtype} on "
            f"{values.device}, and of the compiled scan padless.backends() says: "
            f"{compiled.backends()['compiled scan']}. Use path='packed', or none."
        )
    return PATHS[forced or next(path for path in PATHS if can[path])][cell]


def _one_dtype(values: Tensor, *others: Tensor | None) -> tuple[list[Tensor | None], Any]:
    """The tensors in the dtype of autocast, and the context in which nothing more is cast; unchanged without it."""
    device = values.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return [values, *others], nullcontext()
    dtype = torch.get_autocast_dtype(device)
    cast = [t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in (values, *others)]
    return cast, torch.autocast(device, enabled=False)
