"""The layer TorchModuleWrapper, which calls a torch module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from threading import get_ident
from typing import Any, Literal, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from padless._torch_compat import BatchNormModule, pytree
from padless.errors import ArgumentError, MaskLost, ShapeError
from padless.graph.deferred_weights import limited_memory
from padless.graph.node import auto_name
from padless.graph.symbolic import leaves, map_leaves
from padless.graph.train_mode import training_mode
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import check_same_steps
from padless.ragged.packed import Packed, computing_gap_values, unpack
from padless.registry import base_of, entries, register, snake_case
from padless.saving.serialization import deserialize
from padless.types import (
    Arguments,
    Config,
    ConfigLike,
    DTypeLike,
    MaskTree,
    RegularizerLike,
    Shape,
    ShapeTree,
    StepTensor,
    TensorTree,
)

_RELATIONS = (None, "stepwise", "padded_grid")
_EQUIVALENT_LAYERS = {
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
}  # the name in torch: the name in padless


class WrapperOptions(TypedDict, total=False):
    """Further keyword arguments of the wrapper."""

    trainable: bool
    dtype: DTypeLike | None
    activity_regularizer: RegularizerLike
    input_shape: Shape | None


base_of("module")(nn.Module)


@register("layer")
class TorchModuleWrapper(Layer):
    """Call a torch module as a layer: Keras's `TorchModuleWrapper`. The module trains when the layer does.

    `relation` decides what the module receives of a masked input:

    - None: the Packed. A module that treats each step alone keeps the mask (Linear, LayerNorm, ReLU, Dropout, a Sequential
      of them). A module that mixes steps raises `MaskLost`.
    - "stepwise": the real steps as examples `(N, ...)`; of a plain input all steps, `(B * T, ...)`. The mask passes.
    - "padded_grid": the padded grid `(B, T, ...)`, on purpose. The mask ends, as with `DropMask`.

    Without an example the module runs in inference mode, since there is nothing to learn from. So does a module with batch
    normalization on a single example, which has no variance. A module without `get_config` and `from_config` can be saved
    by its weights only.

    Args:
        module: the torch module, or its config.
        name: the name of the layer, by default that of the module's class.
        output_shape: the shape of the output with the batch, by default found by a call on small probes.
        relation: None, "stepwise" or "padded_grid".
        kwargs: trainable, dtype, activity_regularizer, input_shape.

    Raises:
        ArgumentError: `module` is not a torch module, or has weights without a shape.

    Example:
        >>> TorchModuleWrapper(nn.BatchNorm1d(3), relation="stepwise")(torch.ones(2, 5, 3)).shape
        torch.Size([2, 5, 3])
    """

    relation = "module"

    def __init__(
        self,
        module: nn.Module | ConfigLike,
        name: str | None = None,
        output_shape: Shape | None = None,
        relation: Literal["stepwise", "padded_grid"] | None = None,
        **kwargs: Unpack[WrapperOptions],
    ) -> None:
        if isinstance(module, dict):
            with limited_memory():
                module = deserialize(module, ("module", "layer"))
        if not isinstance(module, nn.Module):
            raise ArgumentError(f"TorchModuleWrapper holds a torch.nn.Module; got {module!r}.")
        lazy_modules = [inner for inner in module.modules() if isinstance(inner, LazyModuleMixin)]
        if any(inner.has_uninitialized_params() for inner in lazy_modules):  # pyright: ignore - torch types `self` as a protocol
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

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Create the layer of a config. Files of padless 0.1.0 name the relation "padded_grid" in another way."""
        relation = config.get("relation")
        return super().from_config({**config, "relation": "padded_grid" if relation == "grid" else relation})

    def call(self, inputs: object, *args: object, training: bool = False, **kwargs: object) -> TensorTree:
        """Return what the module returns. Further arguments are passed on to it."""
        module_args, module_kwargs = map_leaves(self._prepare_input, ((inputs, *args), kwargs))
        if self.relation == "stepwise":
            return self._call_stepwise(module_args, module_kwargs, training)
        if self.relation == "padded_grid":
            module_args, module_kwargs = map_leaves(unpack, (module_args, module_kwargs))
        try:
            with computing_gap_values(True) if self._contains_layer() else nullcontext():
                return self._run_module(module_args, module_kwargs, training)
        except MaskLost as error:
            module = self._innermost_running(module_args, module_kwargs)
            raise MaskLost(f"{error} {self._ways_out(module)}") from error

    def _torch_modules(self) -> list[nn.Module]:
        """Return no module: `_run_module` sets the mode, for each call of the module."""
        return []

    def _contains_layer(self) -> bool:
        """Return whether the module has a padless layer inside, which may read gap values."""
        return any(isinstance(module, Layer) for module in self.module.modules())

    def _prepare_input(self, x: object) -> object:
        """Return floats in the dtype of the weights, and a copy if the module may write into its input."""
        if not isinstance(x, Tensor | Packed):
            return x
        if x.dtype.is_floating_point and not torch.is_autocast_enabled(x.device.type):
            weights = (w for module in self.module.modules() for w in dict.values(module._parameters) if w is not None)
            x = x.to(next((weight.dtype for weight in weights if weight.dtype.is_floating_point), x.dtype))
        # `inplace` is the name that torch's modules give to this option.
        writes_into_input = any(getattr(module, "inplace", False) for module in self.module.modules())
        return x.clone() if isinstance(x, Tensor) and writes_into_input else x

    def _run_module(self, args: Sequence[object], kwargs: Arguments, training: bool) -> TensorTree:
        """Call the module in the training mode that the number of examples allows."""
        num_examples = next((x.shape[0] for x in _arrays_in((args, kwargs))), 1)
        too_few_examples = num_examples == 0 or (
            num_examples == 1 and any(isinstance(module, BatchNormModule) for module in self.module.modules())
        )
        with training_mode(training and not too_few_examples, self.module):
            return self.module(*args, **kwargs)

    def _call_stepwise(self, args: Sequence[object], kwargs: Arguments, training: bool) -> TensorTree:
        """Call the module on rows, one for each step, and again, without training, on the gap values."""
        arrays = _arrays_in((args, kwargs))
        first = arrays[0]
        for array in arrays:
            self._check_same_steps(first, array)
        if isinstance(first, Tensor):
            outputs = self._call_on_rows(lambda x: x.flatten(0, 1), args, kwargs, training)
            return map_leaves(lambda x: x.unflatten(0, first.shape[:2]) if isinstance(x, Tensor) else x, outputs)
        outputs = self._call_on_rows(lambda x: x.values, args, kwargs, training)
        gap_outputs = map_leaves(lambda _: None, outputs)
        if all(x.gap_values is not None and len(x.gap_values) == first.index.num_gaps for x in arrays):
            gap_outputs = self._call_on_rows(lambda x: x.gap_values, args, kwargs, False)

        def on_steps(values: object, gap_values: Tensor | None) -> object:
            return first.with_values(values, gap_values) if isinstance(values, Tensor) else values

        return pytree.tree_map(on_steps, outputs, gap_outputs)

    def _check_same_steps(self, first: StepTensor, other: StepTensor) -> None:
        """Check that two inputs have the same steps: one mask, or the same first two axes of plain tensors."""
        if isinstance(first, Packed) and isinstance(other, Packed):
            check_same_steps(self.name, first, other)
        elif type(first) is not type(other) or first.ndim < 2 or first.shape[:2] != other.shape[:2]:
            raise ShapeError(
                f"Layer {self.name!r} works step by step, so all its inputs begin with the same (batch, "
                f"steps) and have the same mask; got shapes {tuple(first.shape)} and "
                f"{tuple(other.shape)}. Bring one to the other's steps with padless.pack(x, like=y)."
            )

    def _call_on_rows(
        self, rows_of: Callable[[Any], Tensor], args: Sequence[object], kwargs: Arguments, training: bool
    ) -> TensorTree:
        """Call the module on the rows of its inputs, and check that it returns the same number of rows."""
        row_args, row_kwargs = map_leaves(
            lambda x: rows_of(x) if isinstance(x, Tensor | Packed) else x, (tuple(args), dict(kwargs))
        )
        outputs = self._run_module(row_args, row_kwargs, training)
        num_rows = _arrays_in((row_args, row_kwargs))[0].shape[0]
        for x in leaves(outputs):
            if isinstance(x, Tensor) and x.shape[:1] != (num_rows,):
                raise ShapeError(
                    f"Layer {self.name!r} is stepwise, so of {num_rows} steps its module must give as many rows; "
                    f"got {tuple(x.shape)}. A module that mixes steps takes relation='padded_grid'."
                )
        return outputs

    def _innermost_running(self, args: Sequence[object], kwargs: Arguments) -> nn.Module:
        """Return the innermost torch module in whose `forward` the mask is lost.

        The module runs a second time, in inference, with hooks that record which of its modules are running.
        """
        running: list[nn.Module] = []

        thread = get_ident()  # other threads may call the module meanwhile

        def enter(module: nn.Module, _: object) -> None:
            if get_ident() == thread:
                running.append(module)

        def leave(*_: object) -> None:
            if get_ident() == thread:
                running.pop()

        handles = []
        for module in self.module.modules():
            if not isinstance(module, Layer):
                handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        try:
            with torch.no_grad(), suppress(MaskLost):  # the error that is explained here is raised once more
                self._run_module(args, kwargs, training=False)
        finally:
            for handle in handles:
                handle.remove()
        return running[-1] if running else self.module

    def _ways_out(self, module: nn.Module) -> str:
        """Return what to do where a torch module mixes steps."""
        name = type(module).__name__
        layer_name = _EQUIVALENT_LAYERS.get(name, name)
        layer_advice = f"the layer {layer_name} of padless, " if layer_name in entries("layer") else ""
        return (
            f"It was torch's {name}, in the module of layer {self.name!r}. For a torch module: {layer_advice}"
            f"TorchModuleWrapper(module, relation='stepwise') if it treats steps as examples, "
            f"relation='padded_grid' if it is meant to see the padding."
        )

    def _direct_weights(self, trainable: bool) -> list[Tensor]:
        """Return the weights of the module as those of the layer."""
        return list(self.module.parameters() if trainable else self.module.buffers())

    def compute_mask(self, inputs: TensorTree, mask: MaskTree = None) -> MaskTree:
        """Return the mask of the first input; None for "padded_grid"."""
        return None if self.relation == "padded_grid" else mask

    def compute_output_shape(self, *shapes: ShapeTree) -> ShapeTree:
        """Return the argument `output_shape`, else the shape of a call on small probes."""
        return super().compute_output_shape(*shapes) if self.output_shape is None else self.output_shape

    def needs_gap_values(self, outputs_needed: bool) -> bool:
        """Return whether the output, the module or a layer inside it needs them."""
        return outputs_needed or self.relation == "padded_grid" or self._contains_layer()


def as_layer(module: nn.Module) -> Layer:
    """Return a layer as it is, and any other torch module in a new wrapper."""
    return module if isinstance(module, Layer) else TorchModuleWrapper(module)


def _arrays_in(tree: object) -> list[Any]:
    """Return the tensors and Packed in a nest of arguments."""
    return [x for x in leaves(tree) if isinstance(x, Tensor | Packed)]
