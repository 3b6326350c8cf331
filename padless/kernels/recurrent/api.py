"""Run Keras's recurrent cells over packed steps, on the fastest path that can compute them.

Masked steps do not exist: the state of a sequence goes from one real step to the next. The last state is the one
after the last real step, or the initial state of an empty sequence. Steps are computed in time-major order, longest
sequence first. So the sequences that have a step at some time are the first rows.

Numbers are Keras's: LSTM gates i, f, c, o; GRU gates z, r, h with `h = z * h + (1 - z) * candidate`. Outputs are in packed
order, at the steps of their inputs also with `reverse`. States are `(B, U)` in the order of the batch, empty rows included.
Under autocast, inputs, weights and states are cast to its dtype, as in torch's recurrent layers.

There is a module for each path, in the order in which `PATHS` tries them:

- `native.py`: the compiled kernel; float32 and bfloat16 on the CPU;
- `cudnn.py`: torch's packed recurrent functions, which are cuDNN's on CUDA;
- `manual.py`: torch, with a backward pass written by hand;
- `reference.py`: plain torch; any activation, recurrent dropout, second derivatives.

All but the last compute tanh, with sigmoid gates (SimpleRNN: tanh or relu). They leave second derivatives to the reference.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.kernels.backends import backends
from padless.kernels.half_precision import compute_dtype
from padless.kernels.recurrent import cudnn, manual, native, reference
from padless.kernels.recurrent.reference import Activation
from padless.ragged.index import Index


@dataclass(frozen=True)
class RecurrentPath:
    """One way to compute the cells.

    Args:
        supports: Whether the path can compute a cell with these tensors, values first. A tensor may be None.
        lstm: Computes Keras's LSTM.
        gru: Computes Keras's GRU.
        simple_rnn: Computes Keras's SimpleRNN.
    """

    supports: Callable[..., bool]
    lstm: Callable[..., tuple[Tensor, Tensor, Tensor]]
    gru: Callable[..., tuple[Tensor, Tensor]]
    simple_rnn: Callable[..., tuple[Tensor, Tensor]]


PATHS = {
    "native": RecurrentPath(native.supports, native.lstm, native.gru, native.simple_rnn),
    "cudnn": RecurrentPath(cudnn.supports, cudnn.lstm, cudnn.gru, cudnn.simple_rnn),
    "manual": RecurrentPath(manual.supports, manual.lstm, manual.gru, manual.simple_rnn),
    "reference": RecurrentPath(lambda *tensors: True, reference.lstm, reference.gru, reference.simple_rnn),
}


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
    """Run Keras's LSTM over packed steps.

    Args:
        values: The inputs of all real steps.
        index: The real steps.
        kernel: The weights of the inputs, gates i, f, c, o side by side.
        recurrent: The weights of the state.
        bias: The bias of the gates.
        h0: The initial h of each row.
        c0: The initial c of each row.
        reverse: Whether each sequence runs from its last step to its first.
        activation: The activation of the candidate and of c.
        recurrent_activation: The activation of the gates.
        recurrent_masks: Recurrent dropout: factors of h, one set for each gate.
        path: The name of a path in `PATHS`; None for the fastest one that can compute this.

    Returns:
        The outputs, the last h and the last c.
    """
    _check_shapes("LSTM", 4, index, values, kernel, recurrent, bias, h0, c0)
    standard = activation is torch.tanh and recurrent_activation is torch.sigmoid and recurrent_masks is None
    run = PATHS[_choose_path("lstm", path, standard, values, kernel, recurrent, bias, h0, c0)].lstm
    tensors, no_autocast = _in_autocast_dtype(values, kernel, recurrent, bias, h0, c0, recurrent_masks)
    with no_autocast:
        return run(index, reverse, activation, recurrent_activation, *tensors)


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
    """Run Keras's GRU over packed steps; the arguments are those of `lstm`.

    Args:
        values: The inputs of all real steps.
        index: The real steps.
        kernel: The weights of the inputs, gates z, r, h side by side.
        recurrent: The weights of the state.
        bias: With `reset_after` two rows, for the products of inputs and state. Else one axis, for their sum.
        h0: The initial h of each row.
        reset_after: Whether the reset gate is applied after the product with the recurrent weights, as in cuDNN.
        reverse: Whether each sequence runs from its last step to its first.
        activation: The activation of the candidate.
        recurrent_activation: The activation of the gates.
        recurrent_masks: Recurrent dropout: factors of h, one set for each gate.
        path: The name of a path in `PATHS`; None for the fastest one that can compute this.

    Returns:
        The outputs and the last h.
    """
    if bias is not None and bias.ndim != 1 + reset_after:
        raise ShapeError(
            f"The bias of a GRU with reset_after={reset_after} has shape "
            f"{'(2, 3 * units)' if reset_after else '(3 * units,)'}; got {tuple(bias.shape)}."
        )
    _check_shapes("GRU", 3, index, values, kernel, recurrent, bias, h0)
    standard = activation is torch.tanh and recurrent_activation is torch.sigmoid and recurrent_masks is None
    run = PATHS[_choose_path("gru", path, standard and reset_after, values, kernel, recurrent, bias, h0)].gru
    tensors, no_autocast = _in_autocast_dtype(values, kernel, recurrent, bias, h0, recurrent_masks)
    with no_autocast:
        return run(index, reverse, activation, recurrent_activation, reset_after, *tensors)


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
    """Run Keras's SimpleRNN over packed steps; the arguments are those of `lstm`.

    Returns:
        The outputs and the last h.
    """
    _check_shapes("SimpleRNN", 1, index, values, kernel, recurrent, bias, h0)
    standard = (activation is torch.tanh or activation is torch.relu) and recurrent_masks is None
    run = PATHS[_choose_path("simple_rnn", path, standard, values, kernel, recurrent, bias, h0)].simple_rnn
    tensors, no_autocast = _in_autocast_dtype(values, kernel, recurrent, bias, h0, recurrent_masks)
    with no_autocast:
        return run(index, reverse, activation, *tensors)


def _check_shapes(
    cell: str,
    gates: int,
    index: Index,
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    *states: Tensor,
) -> None:
    """Raise `ShapeError` unless the tensors of a cell fit each other and the index, before a kernel reads them."""
    units, columns = len(recurrent), gates * len(recurrent)
    features = values.shape[-1]
    tensors: list[tuple[Tensor, tuple[int, ...]]] = [
        (values, (index.num_steps, features)),
        (kernel, (features, columns)),
        (recurrent, (units, columns)),
    ]
    if bias is not None:
        tensors.append((bias, (2, columns) if cell == "GRU" and bias.ndim == 2 else (columns,)))
    tensors += [(state, (index.shape[0], units)) for state in states]
    if any(tensor.shape != expected for tensor, expected in tensors):
        raise ShapeError(
            f"A {cell} of {units} units over {index.num_steps} steps of {index.shape[0]} sequences needs inputs, kernel, "
            f"recurrent kernel, bias and states of the shapes {[expected for _, expected in tensors]}; "
            f"got {[tuple(tensor.shape) for tensor, _ in tensors]}."
        )


def _choose_path(
    cell: Literal["lstm", "gru", "simple_rnn"],
    requested: str | None,
    standard: bool,
    values: Tensor,
    *others: Tensor | None,
) -> str:
    """Return the name of the path for a cell: the requested one, else the first in `PATHS` that can compute it.

    Args:
        cell: The name of the cell, for messages.
        requested: The name of a path, or None.
        standard: Whether activations, gates and dropout are those that every path computes.
        values: The inputs.
        others: The other tensors of the cell.

    Raises:
        ArgumentError: If there is no such path, or if the requested path cannot compute this.
    """
    if requested is not None and requested not in PATHS:
        raise ArgumentError(unknown_name("path", requested, PATHS))
    if requested == "reference" or requested is None and not standard:
        return "reference"
    if not standard:
        raise ArgumentError(
            f"path={requested!r} of {cell} computes tanh with sigmoid gates (simple_rnn: tanh or relu), without recurrent "
            f"dropout, and a GRU with reset_after=True. The arguments ask for something else. "
            f"Use path='reference', or leave path out."
        )
    if requested is None:
        return next(name for name, path in PATHS.items() if path.supports(values, *others))
    if requested == "native" and not native.supports(values, *others):
        raise ArgumentError(
            f"path='native' of {cell} needs float32 or bfloat16 on the CPU, and compiled kernels; "
            f"got {compute_dtype(values)} on {values.device}, and padless.backends() says of the native kernels: "
            f"{backends()['native kernels']}. Use path='manual', or leave path out."
        )
    return requested


def _in_autocast_dtype(
    values: Tensor, *others: Tensor | None
) -> tuple[list[Tensor | None], AbstractContextManager[None | object]]:
    """Cast the tensors of a cell as autocast would.

    Returns:
        The tensors in the dtype of autocast, and a context that switches autocast off. Where autocast is off, the
        tensors as they are and a context without effect. Tensors of float64 are not cast, as in autocast.
    """
    device = values.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return [values, *others], nullcontext()
    dtype = torch.get_autocast_dtype(device)
    cast = [t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in (values, *others)]
    return cast, torch.autocast(device, enabled=False)
