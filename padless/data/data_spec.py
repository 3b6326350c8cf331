"""What a model expects of its data: the number of inputs and outputs, their names, and which inputs take sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from padless.ragged.packed import Packed


@dataclass(frozen=True)
class DataSpec:
    """Describe the inputs and outputs of a model for the code that reads its data.

    Args:
        num_inputs: Number of inputs. With more than 1, a list or tuple `x` has one entry for each input. None if it depends
            on the data, as for a model with a user-defined `call`.
        input_names: Names of the inputs, the keys of a dictionary `x`. Empty if they are not known.
        num_outputs: Number of outputs. With more than 1, a list or tuple `y` has one entry for each output. None if it
            depends on the data.
        output_names: Names of the outputs, the keys of a dictionary `y`. Empty if they are not known.
        takes_sequences: For each input, whether lists of equal lengths are sequences too. Otherwise they are an array.
            Missing entries are False.
        outputs_have_steps: For each output, whether it has a mask, so that its targets are for steps. Missing entries are
            False: not known.
    """

    num_inputs: int | None = None
    input_names: Sequence[str] = ()
    num_outputs: int | None = None
    output_names: Sequence[str] = ()
    takes_sequences: Sequence[bool] = ()
    outputs_have_steps: Sequence[bool] = ()

    def complete(self, x: object, y: object, num_trained_inputs: int | None = None, num_losses: int = 1) -> DataSpec:
        """Return the spec with the unknown numbers and names derived from the data.

        A dictionary has one input (output) for each key. A tuple `y` of arrays has one output for each array, and several
        losses mean several outputs. A list or tuple `x` of arrays has several inputs if each array has as many rows as `y`.
        Without `y`, it has several inputs if the model was trained on that number of inputs.

        Args:
            x: The inputs, in any container.
            y: The targets, in any container, or None.
            num_trained_inputs: Number of inputs in the last call with targets, or None.
            num_losses: Number of losses that the model was compiled with.

        >>> DataSpec().complete([np.zeros((5, 2)), np.zeros((5, 3))], np.zeros(5)).num_inputs
        2
        """
        spec = self
        if spec.num_outputs is None:
            output_names = tuple(y) if isinstance(y, Mapping) else ()
            spec = replace(spec, num_outputs=_count_outputs(y, num_losses), output_names=output_names)
        if spec.num_inputs is None:
            num_rows = None if y is None else _count_rows(y, spec.num_outputs)
            input_names = tuple(x) if isinstance(x, Mapping) else ()
            spec = replace(spec, num_inputs=_count_inputs(x, num_rows, num_trained_inputs), input_names=input_names)
        return spec


UNKNOWN_SPEC = DataSpec()
"""The spec of a model whose inputs and outputs depend on the data."""


def _count_outputs(y: object, num_losses: int) -> int:
    if isinstance(y, Mapping):
        return len(y)
    if isinstance(y, list | tuple) and num_losses > 1:
        return num_losses
    return len(y) if isinstance(y, tuple) and y and all(_is_array(entry) for entry in y) else 1


def _count_inputs(x: object, num_rows: int | None, num_trained_inputs: int | None) -> int:
    if isinstance(x, Mapping):
        return len(x)
    if not isinstance(x, list | tuple) or len(x) < 2 or not all(_is_array(entry) for entry in x):
        return 1
    if num_rows is None and num_trained_inputs is not None:
        return len(x) if len(x) == num_trained_inputs else 1
    num_rows = len(x[0]) if num_rows is None else num_rows
    return len(x) if num_rows != len(x) and all(len(entry) == num_rows for entry in x) else 1


def _count_rows(y: object, num_outputs: int | None) -> int:
    """Return the number of rows of the targets, those of the first output if there are several."""
    if isinstance(y, Mapping):
        y = next(iter(y.values()), ())
    elif isinstance(y, list | tuple) and num_outputs != 1:
        y = y[0]
    return len(y) if isinstance(y, Sized) else 0


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray | Tensor | Packed) and value.ndim > 0
