"""A recurrent layer run both ways over the real steps."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from padless.errors import ArgumentError, ShapeError
from padless.graph.symbolic import in_shape_inference
from padless.layers.base.layer import Layer, get
from padless.layers.rnn import cell_runner as recurrence
from padless.layers.rnn import cells
from padless.layers.rnn.rnn import RNN
from padless.ragged.index import Index
from padless.ragged.packed import Packed, gap_values_needed
from padless.registry import register

_MERGES = {
    "concat": lambda a, b: torch.cat([a, b], dim=-1),
    "sum": torch.add,
    "mul": torch.mul,
    "ave": lambda a, b: (a + b) / 2,
}


@register("layer")
class Bidirectional(Layer):
    """A recurrent layer run both ways over the real steps, its outputs merged; masked steps show zeros.

    Keras's `Bidirectional`: `merge_mode` "concat", "sum", "mul", "ave", or None for both outputs. `return_state` gives
    the states of the forward, then of the backward layer; `initial_state` takes them in that order.

    >>> from padless.layers.rnn.rnn import LSTM
    >>> Bidirectional(LSTM(3))(torch.ones(2, 5, 4)).shape
    torch.Size([2, 6])
    """

    relation = "recurrent"

    def __init__(
        self,
        layer: Any,
        merge_mode: str | None = "concat",
        weights: Any = None,
        backward_layer: Any = None,
        **kwargs: Any,
    ) -> None:
        layer = get(layer)
        if not isinstance(layer, RNN):
            raise ArgumentError(f"Bidirectional runs a recurrent layer both ways; got {type(layer).__name__}.")
        if merge_mode is not None and merge_mode not in _MERGES:
            raise ArgumentError(f"merge_mode must be one of {sorted(_MERGES)} or None; got {merge_mode!r}.")
        super().__init__(**kwargs)
        for own in (layer, layer if backward_layer is None else get(backward_layer)):
            if isinstance(own, RNN) and type(own).call is not RNN.call:
                raise ArgumentError(
                    f"Bidirectional runs the cell of a recurrent layer, so the `call` that "
                    f"{type(own).__name__} defines would never be used. Put what it does into the cell: "
                    f"RNN(your_cell)."
                )
        self.merge_mode = merge_mode
        self.forward_layer = _again(layer, f"forward_{layer.name}", layer.go_backwards)
        back: Any = layer if backward_layer is None else get(backward_layer)
        ahead = layer.go_backwards if backward_layer is None else not back.go_backwards  # pyright: ignore
        self.backward_layer = _again(back, f"backward_{back.name}", not ahead, fresh=backward_layer is None)
        for name in ("return_sequences", "return_state", "stateful"):
            mine, theirs = getattr(self.forward_layer, name), getattr(self.backward_layer, name)
            if mine != theirs or self.forward_layer.go_backwards == self.backward_layer.go_backwards:
                raise ArgumentError(
                    f"Bidirectional needs a forward and a backward layer with the same {name}, one of "
                    f"them with go_backwards; got {mine!r} and {theirs!r}, go_backwards "
                    f"{self.forward_layer.go_backwards} and {self.backward_layer.go_backwards}."
                )
            setattr(self, name, mine)
        self._first_weights = weights

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        """The weights of both layers."""
        self.forward_layer.build(sequences_shape)
        self.backward_layer.build(sequences_shape)
        if self._first_weights is not None:
            self.set_weights(self._first_weights)

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:
        """Both ways, merged."""
        given = None if initial_state is None else list(initial_state)
        half = len(given or ()) // 2
        states = (None, None) if given is None else (given[:half], given[half:])
        if given is not None and 2 * half != len(given):
            raise ShapeError(
                f"Bidirectional {self.name!r} expected as many initial states for each direction; got {len(given)}."
            )
        results, ended = [], []
        index = Index.dense(0, 0)
        for layer, state in zip((self.forward_layer, self.backward_layer), states, strict=True):
            outputs, last, index = layer.run(sequences, state, training)
            results.append(outputs if self.return_sequences else layer._last(outputs, last, index))
            ended.extend(last)
            if layer.activity_regularizer is not None and not in_shape_inference():
                own = Packed(outputs, index) if self.return_sequences else results[-1]
                layer._add_activity_loss([own, *last] if self.return_state else own)
        merged = [_MERGES[self.merge_mode](*results)] if self.merge_mode else results
        if self.return_sequences:
            merged = [self._sequence(values, sequences, index) for values in merged]
        if self.return_state:
            return (*merged, *ended)
        return merged[0] if self.merge_mode else tuple(merged)

    def _sequence(self, values: Tensor, sequences: Any, index: Index) -> Any:
        if not isinstance(sequences, Packed):
            return values.reshape(*index.shape, *values.shape[1:])
        fill = values.new_zeros((index.num_gaps, *values.shape[1:])) if gap_values_needed() else None
        return Packed(values, index, fill)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask for sequences, None for last outputs and for states."""
        own = mask if self.return_sequences else None
        outputs = [own] if self.merge_mode else [own, own]
        if self.return_state:
            return [
                *outputs,
                *(
                    None
                    for layer in (self.forward_layer, self.backward_layer)
                    for _ in range(recurrence.state_count(layer.cell))
                ),
            ]
        return outputs if self.merge_mode is None else own

    def compute_output_shape(self, sequences_shape: Any, initial_state_shape: Any = None) -> Any:
        """The layer's own, twice as wide for "concat"."""
        shapes = [layer.compute_output_shape(sequences_shape) for layer in (self.forward_layer, self.backward_layer)]
        outputs = [s[0] for s in shapes] if self.return_state else shapes
        if self.merge_mode == "concat":
            outputs = [(*outputs[0][:-1], outputs[0][-1] + outputs[1][-1])]
        elif self.merge_mode:
            outputs = outputs[:1]
        if self.return_state:
            return [*outputs, *shapes[0][1:], *shapes[1][1:]]
        return outputs if self.merge_mode is None else outputs[0]

    def reset_state(self) -> None:
        """Forget the states of both layers."""
        self.forward_layer.reset_state()
        self.backward_layer.reset_state()

    reset_states = reset_state

    def _input_dtype(self) -> torch.dtype | None:
        return self.forward_layer._input_dtype()


def _again(layer: RNN, name: str, go_backwards: bool, fresh: bool = False) -> RNN:
    """A layer like this one, with weights of its own; those of a torch module stay where they are, unless `fresh`."""
    arguments: dict[str, Any] = layer.__dict__["_arguments"]
    own = {"name": name, "go_backwards": go_backwards}
    if "cell" not in arguments or all(isinstance(m, Layer | nn.ModuleList) for m in layer.modules()):
        return type(layer).from_config({**layer.get_config(), **own})
    return type(layer)(**{**arguments, **own, "cell": _renewed(layer.cell) if fresh else layer.cell})


def _renewed(cell: Any) -> Any:
    """A cell like this one with other weights: from its config, or as a copy of a torch module, drawn anew."""
    if isinstance(cell, cells.StackedRNNCells):
        return cells.StackedRNNCells([_renewed(inner) for inner in cell.cells])
    if hasattr(cell, "get_config"):
        return type(cell).from_config(cell.get_config())
    cell = copy.deepcopy(cell)
    for module in cell.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif next(module.parameters(recurse=False), None) is not None:
            raise ArgumentError(
                f"Bidirectional needs a second {type(module).__name__} with weights of its own, and the "
                f"module has no `reset_parameters()` to draw them. Give `backward_layer=`."
            )
    return cell
