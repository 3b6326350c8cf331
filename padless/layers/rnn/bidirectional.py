"""A recurrent layer run in both directions over the real steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor, nn

from padless.errors import ArgumentError, ShapeError
from padless.graph.symbolic import in_shape_inference
from padless.layers.base.layer import Layer, get
from padless.layers.rnn.cell_runner import state_count
from padless.layers.rnn.cells import StackedRNNCells
from padless.layers.rnn.rnn import RNN
from padless.ragged.index import Index
from padless.ragged.packed import Packed, gap_values_needed
from padless.registry import register
from padless.types import Arguments, ConfigLike, LayerOptions, MaskTree, Shape, ShapeTree, StepTensor, TensorTree

_MERGE_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "concat": lambda a, b: torch.cat([a, b], dim=-1),
    "sum": torch.add,
    "mul": torch.mul,
    "ave": lambda a, b: (a + b) / 2,
}


@register("layer")
class Bidirectional(Layer):
    """Run a recurrent layer forward and backward over the real steps, and merge the outputs: Keras's `Bidirectional`.

    The padded output is 0 at masked steps.

    Args:
        layer: the recurrent layer, or its config. Copies of it run in the two directions.
        merge_mode: "concat", "sum", "mul", "ave", or None for both outputs.
        weights: initial values of all weights, in the order of `get_weights`.
        backward_layer: the layer for the other direction, by default a copy of `layer` with new weights.
        kwargs: name, trainable, dtype, activity_regularizer, input_shape.

    Raises:
        ArgumentError: a layer is not recurrent, or the two do not fit together.

    Example:
        >>> from padless.layers.rnn.rnn import LSTM
        >>> Bidirectional(LSTM(3))(torch.ones(2, 5, 4)).shape
        torch.Size([2, 6])
    """

    relation = "recurrent"

    def __init__(
        self,
        layer: RNN | ConfigLike,
        merge_mode: str | None = "concat",
        weights: Sequence[TensorTree] | None = None,
        backward_layer: RNN | ConfigLike | None = None,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        first = _as_recurrent(layer)
        if merge_mode is not None and merge_mode not in _MERGE_FUNCTIONS:
            raise ArgumentError(f"merge_mode must be one of {sorted(_MERGE_FUNCTIONS)} or None; got {merge_mode!r}.")
        super().__init__(**kwargs)
        second = first if backward_layer is None else _as_recurrent(backward_layer)
        for recurrent in (first, second):
            if type(recurrent).call is not RNN.call:
                raise ArgumentError(
                    f"Bidirectional runs the cell of a recurrent layer, so the `call` that "
                    f"{type(recurrent).__name__} defines would never be used. Put what it does into the cell: "
                    f"RNN(your_cell)."
                )
        self.merge_mode = merge_mode
        self.forward_layer = _copy_layer(first, f"forward_{first.name}", first.go_backwards)
        if backward_layer is None:
            self.backward_layer = _copy_layer(first, f"backward_{first.name}", not first.go_backwards, new_weights=True)
        else:
            self.backward_layer = _copy_layer(second, f"backward_{second.name}", second.go_backwards)
        self._check_directions()
        self.return_sequences = self.forward_layer.return_sequences
        self.return_state = self.forward_layer.return_state
        self.stateful = self.forward_layer.stateful
        self._initial_weights = weights

    def _check_directions(self) -> None:
        """Check that the two layers run in opposite directions and return the same kinds of outputs."""
        forward, backward = self.forward_layer, self.backward_layer
        for option, in_forward, in_backward in (
            ("return_sequences", forward.return_sequences, backward.return_sequences),
            ("return_state", forward.return_state, backward.return_state),
            ("stateful", forward.stateful, backward.stateful),
        ):
            if in_forward != in_backward or forward.go_backwards == backward.go_backwards:
                raise ArgumentError(
                    f"Bidirectional needs a forward and a backward layer with the same {option}, one of "
                    f"them with go_backwards; got {in_forward!r} and {in_backward!r}, go_backwards "
                    f"{forward.go_backwards} and {backward.go_backwards}."
                )

    if TYPE_CHECKING:  # a nest with `return_state`, or without `merge_mode`

        def __call__(self, *args: object, **kwargs: object) -> TensorTree: ...

    def build(self, sequences_shape: Shape, initial_state_shape: object = None) -> None:
        """Create the weights of both layers."""
        self.forward_layer.build(sequences_shape)
        self.backward_layer.build(sequences_shape)
        if self._initial_weights is not None:
            self.set_weights(self._initial_weights)

    def call(
        self,
        sequences: StepTensor,
        initial_state: Sequence[TensorTree] | None = None,
        mask: MaskTree = None,
        training: bool = False,
    ) -> TensorTree:
        """Run both directions and merge the outputs.

        Args:
            sequences: the inputs, `(B, T, ...)`.
            initial_state: the states of the forward layer, then those of the backward layer.
            mask: an explicit mask `(B, T)`.
            training: the training mode.

        Returns:
            The merged output or a tuple of both; with `return_state` a tuple with the states after the outputs.
        """
        forward_states, backward_states = self._split_states(initial_state)
        results, states = [], []
        index = Index.dense(0, 0)
        for layer, layer_states in ((self.forward_layer, forward_states), (self.backward_layer, backward_states)):
            result = layer.run(sequences, layer_states, training)
            index = result.index
            output = result.values if self.return_sequences else layer._last_output(result)
            results.append(output)
            states.extend(result.states)
            if layer.activity_regularizer is not None and not in_shape_inference():
                regularized = Packed(output, index) if self.return_sequences else output
                layer._add_activity_loss([regularized, *result.states] if self.return_state else regularized)
        outputs = [_MERGE_FUNCTIONS[self.merge_mode](*results)] if self.merge_mode else results
        if self.return_sequences:
            outputs = [self._sequence_output(values, index, isinstance(sequences, Packed)) for values in outputs]
        if self.return_state:
            return (*outputs, *states)
        return outputs[0] if self.merge_mode else tuple(outputs)

    def _split_states(
        self, initial_state: Sequence[TensorTree] | None
    ) -> tuple[list[TensorTree] | None, list[TensorTree] | None]:
        """Return the initial states of the forward and of the backward layer."""
        if initial_state is None:
            return None, None
        states = list(initial_state)
        if len(states) % 2:
            raise ShapeError(
                f"Bidirectional {self.name!r} expected as many initial states for each direction; got {len(states)}."
            )
        half = len(states) // 2
        return states[:half], states[half:]

    def _sequence_output(self, values: Tensor, index: Index, is_packed: bool) -> StepTensor:
        """Return outputs `(N, ...)` on the grid of the input."""
        if not is_packed:
            return values.reshape(*index.shape, *values.shape[1:])
        gap_values = values.new_zeros((index.num_gaps, *values.shape[1:])) if gap_values_needed() else None
        return Packed(values, index, gap_values)

    def compute_mask(self, inputs: TensorTree, mask: MaskTree = None) -> MaskTree:
        """Return the mask for sequences, None for last outputs and for states."""
        output_mask = mask if self.return_sequences else None
        output_masks = [output_mask] if self.merge_mode else [output_mask, output_mask]
        if self.return_state:
            num_states = state_count(self.forward_layer.cell) + state_count(self.backward_layer.cell)
            return [*output_masks, *[None] * num_states]
        return output_mask if self.merge_mode else output_masks

    def compute_output_shape(self, sequences_shape: Shape, initial_state_shape: object = None) -> ShapeTree:
        """Return the shape of the layer's output, twice as wide for "concat", with those of the states after it."""
        shapes = [layer.compute_output_shape(sequences_shape) for layer in (self.forward_layer, self.backward_layer)]
        outputs = [shape[0] for shape in shapes] if self.return_state else shapes
        if self.merge_mode == "concat":
            outputs = [(*outputs[0][:-1], outputs[0][-1] + outputs[1][-1])]
        elif self.merge_mode:
            outputs = outputs[:1]
        if self.return_state:
            return [*outputs, *shapes[0][1:], *shapes[1][1:]]
        return outputs[0] if self.merge_mode else outputs

    def reset_state(self) -> None:
        """Forget the states of both layers."""
        self.forward_layer.reset_state()
        self.backward_layer.reset_state()

    reset_states = reset_state

    def _input_dtype(self) -> torch.dtype | None:
        """Return the dtype of the weights."""
        return self.forward_layer._input_dtype()


def _as_recurrent(layer: Layer | ConfigLike) -> RNN:
    """Return a recurrent layer, or create the one that a config describes."""
    recurrent = get(layer)
    if not isinstance(recurrent, RNN):
        raise ArgumentError(f"Bidirectional runs a recurrent layer both ways; got {type(recurrent).__name__}.")
    return recurrent


def _copy_layer(layer: RNN, name: str, go_backwards: bool, new_weights: bool = False) -> RNN:
    """Create a layer with the arguments of `layer` and separate weights.

    A cell that is a torch module has no config. The copy uses the same module, or with `new_weights` a module like it.
    """
    arguments = layer._arguments
    changes: Arguments = {"name": name, "go_backwards": go_backwards}
    has_config = "cell" not in arguments or all(isinstance(m, Layer | nn.ModuleList) for m in layer.modules())
    if has_config:
        return type(layer).from_config({**layer.get_config(), **changes})
    changes["cell"] = _new_cell(layer.cell) if new_weights else layer.cell
    return type(layer)(**{**arguments, **changes})


def _new_cell(cell: nn.Module) -> nn.Module:
    """Create a cell like this one with new weights: from its config, or a copy of a torch module with reset parameters."""
    if isinstance(cell, StackedRNNCells):
        return StackedRNNCells([_new_cell(inner) for inner in cell.cells])
    if isinstance(cell, Layer):
        return type(cell).from_config(cell.get_config())
    get_config = getattr(cell, "get_config", None)  # optional for torch modules
    if get_config is not None:
        return type(cell).from_config(get_config())  # pyright: ignore[reportAttributeAccessIssue] - comes with get_config
    module_copy = copy.deepcopy(cell)
    for module in module_copy.modules():
        reset_parameters = getattr(module, "reset_parameters", None)  # PyTorch's convention
        if reset_parameters is not None:
            reset_parameters()
        elif next(module.parameters(recurse=False), None) is not None:
            raise ArgumentError(
                f"Bidirectional needs a second {type(module).__name__} with separate weights, and the "
                f"module has no `reset_parameters()` to draw them. Give `backward_layer=`."
            )
    return module_copy
