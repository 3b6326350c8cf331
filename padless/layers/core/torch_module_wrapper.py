"""Any torch module as a layer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from padless._torch_compat import BatchNormModule, pytree
from padless.errors import ArgumentError, MaskLost, ShapeError
from padless.graph.node import auto_name
from padless.graph.symbolic import leaves, map_leaves
from padless.graph.train_mode import training_mode
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import check_same_steps
from padless.ragged.packed import Packed, computing_gap_values, unpack
from padless.registry import entries, register, snake_case
from padless.saving.serialization import deserialize

_RELATIONS = (None, "stepwise", "padded_grid")
_TWINS = {
    "RNN": "SimpleRNN",
    "BatchNorm1d": "BatchNormalization",
    "MultiheadAttention": "MultiHeadAttention",
    "MaxPool1d": "MaxPooling1D",
    "AvgPool1d": "AveragePooling1D",
    "GroupNorm": "GroupNormalization",
    "ConvTranspose1d": "Conv1DTranspose",
    "TransformerEncoderLayer": "TransformerEncoder",
    "TransformerDecoderLayer": "TransformerDecoder",
    "Conv1d": "Conv1D",
}  # torch's name: the one here


@register("layer")
class TorchModuleWrapper(Layer):
    """A torch module as a layer: its weights are the layer's, and it trains when the layer does.

    Keras's `TorchModuleWrapper`. `relation` says what the module gets of a masked input:

    - None: the masked steps themselves. What treats each step alone keeps the mask (Linear, LayerNorm, ReLU, Dropout, a
      Sequential of them); what mixes steps raises `MaskLost`.
    - "stepwise": the real steps as examples `(N, ...)`, of a plain input all steps `(B * T, ...)`; the mask passes.
    - "padded_grid": the padded grid `(B, T, ...)`, on purpose. The mask ends, as with `DropMask`.

    Over no example at all the module infers, since there is nothing to learn from; one with torch's batch normalization
    also over a single one, which has no variance. A module without `get_config` and
    `from_config` can be saved by its weights only.

    >>> TorchModuleWrapper(nn.BatchNorm1d(3), relation="stepwise")(torch.ones(2, 5, 3)).shape
    torch.Size([2, 5, 3])
    """

    relation = "module"

    def __init__(
        self, module: Any, name: str | None = None, output_shape: Any = None, relation: str | None = None, **kwargs: Any
    ) -> None:
        if isinstance(module, dict):
            module = deserialize(module, "layer")
        if not isinstance(module, nn.Module):
            raise ArgumentError(f"TorchModuleWrapper holds a torch.nn.Module; got {module!r}.")
        if any(isinstance(m, LazyModuleMixin) and m.has_uninitialized_params() for m in module.modules()):  # pyright: ignore
            raise ArgumentError(
                f"{type(module).__name__} has weights without a shape yet, so an optimizer would miss them. "
                f"Call it once on data first."
            )
        if relation not in _RELATIONS:
            raise ArgumentError(f"The relation of a wrapped module is None, 'stepwise' or 'padded_grid'; got {relation!r}.")
        super().__init__(name=name or auto_name(snake_case(type(module).__name__)), **kwargs)
        self.module = module
        self.output_shape = None if output_shape is None else tuple(output_shape)
        self.relation = relation
        self.built = True
        if not self._trainable:
            self.trainable = False  # the weights are there already

    def call(self, inputs: Any, *args: Any, training: bool = False, **kwargs: Any) -> Any:
        """What the module gives."""
        args, kwargs = map_leaves(self._fitted, ((inputs, *args), kwargs))
        if self.relation == "stepwise":
            return self._by_step(args, kwargs, training)
        if self.relation == "padded_grid":
            args, kwargs = map_leaves(unpack, (args, kwargs))
        inner = any(isinstance(m, Layer) for m in self.module.modules())
        try:
            with computing_gap_values(True) if inner else nullcontext():
                return self._run_module(args, kwargs, training)
        except MaskLost as lost:
            raise MaskLost(f"{lost} {self._ways_out(self._innermost_running(args, kwargs))}") from lost

    def _fitted(self, x: Any) -> Any:
        """Floats in the dtype of the weights; what a module may write into is its own copy."""
        if not _is_array(x):
            return x
        if x.dtype.is_floating_point and not torch.is_autocast_enabled(x.device.type):
            own = (w.dtype for m in self.module.modules() for w in dict.values(m._parameters) if w is not None)
            x = x.to(next((dtype for dtype in own if dtype.is_floating_point), x.dtype))
        writes = isinstance(x, Tensor) and any(getattr(m, "inplace", False) for m in self.module.modules())
        return x.clone() if writes else x

    def _run_module(self, args: Any, kwargs: Any, training: bool) -> Any:
        examples = next((x.shape[0] for x in leaves((args, kwargs)) if _is_array(x)), 1)
        alone = examples == 1 and any(isinstance(m, BatchNormModule) for m in self.module.modules())
        with training_mode(training and examples > 0 and not alone, self.module):
            return self.module(*args, **kwargs)

    def _by_step(self, args: Any, kwargs: Any, training: bool) -> Any:
        """The module on rows, one for each step; once more, inferring, on what gaps show."""
        first, *others = [x for x in leaves((args, kwargs)) if _is_array(x)]
        for other in (first, *others):
            if isinstance(first, Packed) and isinstance(other, Packed):
                check_same_steps(self.name, first, other)
            elif type(first) is not type(other) or first.ndim < 2 or first.shape[:2] != other.shape[:2]:
                raise ShapeError(
                    f"Layer {self.name!r} works step by step, so all its inputs begin with the same (batch, "
                    f"steps) and bear the same mask; got shapes {tuple(first.shape)} and "
                    f"{tuple(other.shape)}. Bring one to the other's steps with padless.pack(x, like=y)."
                )
        if isinstance(first, Tensor):
            outputs = self._on_rows(lambda x: x.flatten(0, 1), args, kwargs, training)
            return map_leaves(lambda x: x.unflatten(0, first.shape[:2]) if isinstance(x, Tensor) else x, outputs)
        outputs = self._on_rows(lambda x: x.values, args, kwargs, training)
        shown = all(x.gap_values is not None and len(x.gap_values) == first.index.num_gaps for x in (first, *others))
        fills = self._on_rows(lambda x: x.gap_values, args, kwargs, False) if shown else map_leaves(lambda _: None, outputs)

        def masked(values: Any, fill: Any) -> Any:
            return first.with_values(values, fill) if isinstance(values, Tensor) else values

        return pytree.tree_map(masked, outputs, fills)

    def _on_rows(self, rows: Callable[[Any], Tensor], args: Any, kwargs: Any, training: bool) -> Any:
        """What the module makes of the rows of its inputs: as many rows."""
        args, kwargs = map_leaves(lambda x: rows(x) if _is_array(x) else x, (args, kwargs))
        outputs = self._run_module(args, kwargs, training)
        count = next(x.shape[0] for x in leaves((args, kwargs)) if _is_array(x))
        for x in leaves(outputs):
            if isinstance(x, Tensor) and x.shape[:1] != (count,):
                raise ShapeError(
                    f"Layer {self.name!r} is stepwise, so of {count} steps its module must give as many rows; "
                    f"got {tuple(x.shape)}. A module that mixes steps takes relation='padded_grid'."
                )
        return outputs

    def _innermost_running(self, args: Any, kwargs: Any) -> nn.Module:
        """Return the innermost torch module in whose `forward` the mask is lost.

        The module runs a second time, in inference, with hooks that record which of its modules are running.
        """
        running: list[nn.Module] = []

        def enter(module: nn.Module, _: Any) -> None:
            running.append(module)

        def leave(*_: Any) -> None:
            running.pop()

        handles = []
        for module in self.module.modules():
            if not isinstance(module, Layer):
                handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        try:
            with torch.no_grad():
                self._run_module(args, kwargs, training=False)
        except Exception:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return running[-1] if running else self.module

    def _ways_out(self, module: nn.Module) -> str:
        """Return what to do where a torch module mixes steps."""
        name = type(module).__name__
        layer_name = _TWINS.get(name, name)
        layer_advice = f"the layer {layer_name} of padless, " if layer_name in entries("layer") else ""
        return (
            f"It was torch's {name}, in the module of layer {self.name!r}. For a torch module: {layer_advice}"
            f"TorchModuleWrapper(module, relation='stepwise') if it treats steps as examples, "
            f"relation='padded_grid' if it is meant to see the padding."
        )

    def _direct_weights(self, trainable: bool) -> list[Tensor]:
        """The module's weights, in the place of the layer's."""
        return list(self.module.parameters() if trainable else self.module.buffers())

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask of the first input; none for "padded_grid"."""
        return None if self.relation == "padded_grid" else mask

    def compute_output_shape(self, *shapes: Any) -> Any:
        """As given by `output_shape`, else found by a call on small probes."""
        return super().compute_output_shape(*shapes) if self.output_shape is None else self.output_shape

    def needs_gap_values(self, shown: bool) -> bool:
        """The grid itself, or what a layer inside the module reads."""
        return shown or self.relation == "padded_grid" or any(isinstance(m, Layer) for m in self.module.modules())


def as_layer(module: Any) -> Layer:
    """A layer as it is, any other torch module in a wrapper of its own."""
    return module if isinstance(module, Layer) else TorchModuleWrapper(module)


def _is_array(x: Any) -> bool:
    return isinstance(x, Tensor | Packed)
