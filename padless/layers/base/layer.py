"""The base class of all layers: weights, build, call, config and names.

A layer is a `torch.nn.Module`. `forward` builds the weights at the first call, finds the masks (mask_rule.py)
and calls `call`. A call on symbolic tensors is recorded as a node of a graph instead.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, TypeVar, cast, overload

import torch
from torch import Tensor, nn

from padless import regularizers
from padless._torch_compat import pytree
from padless.errors import ArgumentError, ShapeError
from padless.graph.deferred_weights import limited_memory
from padless.graph.function import Function
from padless.graph.model_runs import check_no_other_thread_trains, copying, mode_of_run, training_runs
from padless.graph.node import Node, auto_name
from padless.graph.shape_inference import building_weights, elements_of_probes, infer, max_elements, size_of_numbers
from padless.graph.symbolic import SymbolicTensor, in_shape_inference, is_symbolic, leaves, map_leaves, probe_shape
from padless.graph.train_mode import training_mode
from padless.layers.base.mask_rule import (
    CallInterface,
    CallSpec,
    apply_explicit_mask,
    as_data,
    attach_output_masks,
    call_spec_of,
    check_same_steps,
    is_data,
    mask_of,
)
from padless.layers.base.weights import (
    UnbuiltParameters,
    WeightContainer,
    as_dtype,
    non_padless_children,
    structure_lock,
)
from padless.ragged.broadcast import AlignedOperand, NotElementwise, align, gap_values_by_operand
from padless.ragged.call_context import call_context
from padless.ragged.packed import Packed, computing_gap_values, gather_real_steps
from padless.registry import base_of, register, snake_case
from padless.saving.serialization import deserialize, serialize
from padless.types import (
    Arguments,
    Config,
    ConfigLike,
    DTypeLike,
    RegularizerLike,
    Shape,
    ShapeTree,
    StepTensor,
    TensorTree,
)

T = TypeVar("T")
compiled_calls: ContextVar[Mapping[int, Callable[..., TensorTree]]] = ContextVar("compiled calls", default={})  # noqa: B039
"""What runs in the place of `call`, by the identity of the layer, for `jit_compile=True`."""

_training_of_enclosing_call: ContextVar[bool | None] = ContextVar("training", default=None)


@base_of("layer")
@register("layer")
class Layer(CallInterface, WeightContainer):
    """The base of built-in and user-defined layers: Keras's `Layer`.

    A subclass defines `call`, and `build` if it has weights. If the class sets `stepwise = True`, it promises that
    `call` treats each step alone, and `call` then receives the real steps as one row `(1, N, ...)`.

    Args:
        name: the name of the layer; by default the class name in snake case with a number.
        trainable: whether an optimizer changes the weights.
        dtype: the dtype of the weights, to which floating inputs are cast.
        activity_regularizer: a penalty on the outputs at real steps.
        input_shape: the shape of the inputs without the batch, for the first layer of a `Sequential`.

    Example:
        >>> class Double(Layer):
        ...     def call(self, inputs):
        ...         return inputs * 2
        >>> Double()(torch.ones(1, 2)).tolist()
        [[2.0, 2.0]]
    """

    known_violations: ClassVar[Mapping[str, str]] = {}  # properties of padless.testing that do not hold, and why
    stateful: bool = False  # whether a call continues from the states of the previous batch, as Keras's RNN(stateful=True)
    states: TensorTree = None  # of a stateful layer: tensors, or lists and tuples of them; backups contain them
    _arguments: Arguments  # of the constructor, by name
    _building: bool = False  # whether `build` runs
    _class_supports_masking: bool | None = None  # the class attribute `supports_masking` of a user-defined layer
    _function: Function | None = None  # the graph of a model
    _runs_user_code: bool = False  # whether `call` runs a function of the user

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        layer = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(layer, *args, **kwargs)
        except TypeError:  # copy and pickle call this without arguments; __init__ reports a mistake of the user
            layer.__dict__["_arguments"] = {}
            return layer
        bound.apply_defaults()
        layer.__dict__["_arguments"] = _constructor_arguments(bound)
        return layer

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if isinstance(vars(cls).get("supports_masking"), bool):
            cls._class_supports_masking = vars(cls)["supports_masking"]
            delattr(cls, "supports_masking")  # the property of Layer stays in force
        if "build" in vars(cls):
            cls.build = _build_once(cls.build)

    def __init__(
        self,
        *,
        name: str | None = None,
        trainable: bool = True,
        dtype: DTypeLike | None = None,
        activity_regularizer: RegularizerLike = None,
        input_shape: Shape | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(trainable, type(self).build is not Layer.build)
        if kwargs:
            raise ArgumentError(
                f"{type(self).__name__} got unknown arguments {sorted(kwargs)}. Expected its own and "
                f"name, trainable, dtype, activity_regularizer."
            )
        self.__dict__["training"] = False  # as in Keras, a layer alone does not train
        self.name = name or auto_name(snake_case(type(self).__name__))
        self.built = False
        self.dtype = as_dtype(dtype)
        self.activity_regularizer = regularizers.get(activity_regularizer)
        self._supports_masking = self._class_supports_masking
        self._input_shape_argument = input_shape
        self._inbound_nodes: list[Node] = []
        if isinstance(self._parameters, UnbuiltParameters):
            self._parameters.owner = f"Layer {self.name!r}"

    # ------------------------------------------------------------------------------------------------ for subclasses

    def build(self, *shapes: ShapeTree) -> None:
        """Create the weights. A subclass with weights overrides this method.

        Args:
            shapes: the shape of each input with the batch, `(None, ..., features)`.
        """
        self.built = True

    def compute_output_shape(self, *shapes: ShapeTree) -> ShapeTree:
        """Return the shape of the output. The default calls the layer on small probes.

        Args:
            shapes: the shape of each input with the batch, None for an open size.

        Returns:
            A shape, or a nest of shapes for several outputs.
        """
        symbols = [_symbols_of_shapes(shape, self.dtype) for shape in shapes]
        if not self.built:
            self.build(*shapes)
        return map_leaves(lambda symbol: symbol.shape, self._infer_by_calls(symbols, {}))

    def needs_gap_values(self, outputs_needed: bool) -> bool:
        """Return whether a call reads what its input shows at masked steps.

        A stepwise layer needs them for the gap values of its output. A recurrent layer and a reduction never do.
        A user-defined layer may always do so.

        Args:
            outputs_needed: whether the gap values of the output are read.
        """
        spec = call_spec_of(type(self))
        if spec.stepwise or spec.relation in ("stepwise", "merge"):
            return outputs_needed
        return spec.relation not in ("recurrent", "reduce", "attention", "window")

    # ------------------------------------------------------------------------------------------------ calling

    if TYPE_CHECKING:  # torch declares that a call returns Any

        @overload
        def __call__(self, inputs: SymbolicTensor, *args: object, **kwargs: object) -> SymbolicTensor: ...
        @overload
        def __call__(self, inputs: Tensor, *args: object, **kwargs: object) -> Tensor: ...
        @overload
        def __call__(self, inputs: Packed, *args: object, **kwargs: object) -> StepTensor: ...
        @overload
        def __call__(self, *args: object, **kwargs: object) -> TensorTree: ...
        def __call__(self, *args: object, **kwargs: object) -> TensorTree: ...

    def forward(self, *args: object, **kwargs: object) -> TensorTree:
        """Run `call` on data, or record the call if an argument is symbolic. A layer is called as `layer(inputs)`."""
        if any(is_symbolic(leaf) for leaf in leaves((args, kwargs))):
            return self._record(args, kwargs)
        return self._call_on_data(args, kwargs)

    def _record(self, args: Sequence[object], kwargs: Arguments) -> TensorTree:
        """Record a call on symbolic tensors as a node, and return its symbolic outputs."""
        spec = call_spec_of(type(self))
        arguments = _bind_arguments(self, spec, args, kwargs)
        self._ensure_built(spec, {name: x for name, x in arguments.items() if any(map(is_symbolic, leaves(x)))})
        if "mask" in spec.names[: len(args)]:  # by name, so that the graph sees that a mask was given
            position = spec.names.index("mask")
            kwargs = {**kwargs, **dict(zip(spec.names[position:], args[position:], strict=False))}
            args = args[:position]
        node = Node(self, tuple(args), kwargs, self._infer_outputs(args, kwargs))
        self._inbound_nodes.append(node)
        return node.outputs

    def _infer_outputs(self, args: Sequence[object], kwargs: Arguments) -> TensorTree:
        """Return the symbolic outputs for symbolic arguments, from the shapes of the user or from calls on probes."""
        spec = call_spec_of(type(self))
        if not spec.declares_output_shape:
            return self._infer_by_calls(args, kwargs)
        if any(isinstance(module._parameters, UnbuiltParameters) for module in self.modules()):
            self._infer_by_calls(args, kwargs)  # a layer inside is built by its first call
        arguments = _bind_arguments(self, spec, args, kwargs)
        inputs = {
            name: x for name, x in arguments.items() if name not in spec.mask_names and any(map(is_symbolic, leaves(x)))
        }
        shapes = {name: map_leaves(lambda leaf: leaf.shape if is_symbolic(leaf) else None, x) for name, x in inputs.items()}
        outputs = _symbols_of_shapes(_call_with_shapes(self.compute_output_shape, spec, shapes), self._output_dtype(inputs))
        input_symbols = [leaf for leaf in leaves(inputs) if is_symbolic(leaf)]
        if not any(symbol.masked for symbol in input_symbols):
            return outputs

        def on_probes(*args: object, **kwargs: object) -> TensorTree:
            return self._mask_declared_outputs(spec, outputs, input_symbols, _bind_arguments(self, spec, args, kwargs))

        return infer(on_probes, tuple(args), kwargs, self)

    def _infer_by_calls(self, args: Sequence[object], kwargs: Arguments) -> TensorTree:
        """Return the symbolic outputs for symbolic arguments, from calls on two probes."""
        num_elements = self._max_elements_in_call(args, kwargs)
        return infer(lambda *a, **k: self._call_on_data(a, k), tuple(args), kwargs, self, num_elements=num_elements)

    def _mask_declared_outputs(
        self, spec: CallSpec, outputs: TensorTree, input_symbols: Sequence[SymbolicTensor], arguments: Arguments
    ) -> TensorTree:
        """Return tensors in the shape of symbolic outputs, with the masks that they have for these arguments.

        Args:
            spec: what the class of the layer declares about its `call`.
            outputs: the symbolic outputs.
            input_symbols: the symbolic inputs.
            arguments: the arguments of a call on probes, by name.
        """
        data = {name: x for name, x in arguments.items() if name not in spec.mask_names and is_data(x)}
        first_input = apply_explicit_mask(next(iter(data.values())), arguments.get("mask"), "mask")
        probes = [leaf for leaf in leaves(data) if isinstance(leaf, Tensor | Packed)]
        open_axes = [
            (probe.shape[0], probe.shape[axis])
            for symbol, probe in zip(input_symbols, probes, strict=True)
            for axis, size in enumerate(symbol.shape)
            if axis > 0 and size is None
        ]
        sizes = open_axes[0] if open_axes else (probes[0].shape[0], 1)
        tensors = map_leaves(lambda x: torch.empty(probe_shape(x, sizes), dtype=x.dtype, device=probes[0].device), outputs)
        if spec.may_use_grid(self):
            return attach_output_masks(self, spec, first_input, mask_of(first_input), tensors)
        index = next((x.index for x in leaves(first_input) if isinstance(x, Packed)), None)

        def on_steps(x: Tensor) -> StepTensor:
            has_steps = index is not None and tuple(x.shape[: len(index.grid)]) == index.grid
            return Packed(gather_real_steps(x, index), index) if index is not None and has_steps else x

        return map_leaves(on_steps, tensors)

    def _output_dtype(self, inputs: TensorTree) -> torch.dtype:
        """Return the dtype of outputs whose shape the user declares: as in Keras that of the layer."""
        dtypes = [x.dtype for x in leaves(inputs) if is_symbolic(x) and x.dtype.is_floating_point]
        return dtypes[0] if dtypes and self._input_dtype() is None else self.dtype

    def _max_elements_in_call(self, args: Sequence[object], kwargs: Arguments) -> float:
        """Return how many elements a tensor of a call on probes may have; infinity for code that is not padless's."""
        num_elements = elements_of_probes((args, kwargs))
        for module in self.modules():
            if isinstance(module, Layer):
                is_unknown = not call_spec_of(type(module)).is_built_in or module._runs_user_code
            else:
                is_unknown = not type(module).__module__.startswith("torch.nn.")
            if is_unknown:
                return math.inf
            weights = [w for table in (module._parameters, module._buffers) for w in dict.values(table) if w is not None]
            if any(weight.is_meta or weight.numel() > max_elements() for weight in weights):
                return math.inf
            if isinstance(module, Layer):
                num_elements *= module._enlargement()
        return num_elements

    def _enlargement(self) -> int:
        """Return how many times more elements than its inputs a tensor of a call can have, or more than that."""
        return size_of_numbers(list(self._arguments.values()))

    def _call_on_data(self, args: Sequence[object], kwargs: Arguments) -> TensorTree:
        """Convert the arguments, apply explicit masks, build the weights, and run `call`."""
        spec = call_spec_of(type(self))
        arguments = _bind_arguments(self, spec, args, kwargs)
        for name in arguments:
            if name not in spec.mask_names:
                arguments[name] = as_data(arguments[name], self._float_dtype)
        data_names = [name for name, value in arguments.items() if name not in spec.mask_names and is_data(value)]
        for position, name in enumerate(data_names):
            mask = arguments.get(f"{name}_mask") if f"{name}_mask" in spec.mask_names else None
            if mask is None and position == 0:
                mask = arguments.get("mask", kwargs.get("mask"))
            arguments[name] = self._cast_floats(spec, apply_explicit_mask(arguments[name], mask, "mask"))
        self._ensure_built(spec, {name: arguments[name] for name in data_names})
        first_input = arguments[data_names[0]] if data_names else None
        for name in spec.mask_names:
            if spec.relation is not None:  # a built-in layer finds the mask in the Packed
                arguments.pop(name, None)
            else:
                arguments[name] = mask_of(first_input if name == "mask" else arguments.get(name.removesuffix("_mask")))
        training = self._resolve_training(arguments.get("training", kwargs.get("training")))
        if "training" in spec.names:
            arguments["training"] = training
        return self._call_in_context(spec, arguments, data_names, first_input, training)

    def _call_in_context(
        self, spec: CallSpec, arguments: Arguments, data_names: Sequence[str], first_input: object, training: bool
    ) -> TensorTree:
        """Run `call` where sublayers and torch functions can ask for the training mode and the calling layer."""
        is_outermost = _training_of_enclosing_call.get() is None
        if is_outermost and not in_shape_inference():
            if training_runs:
                check_no_other_thread_trains(self)
            self._clear_call_losses()
        may_use_grid = spec.may_use_grid(self)
        token = _training_of_enclosing_call.set(training)
        try:
            with call_context(self.name, may_use_grid and not spec.stepwise):
                if spec.stepwise:
                    outputs = self._call_on_row_of_steps(spec, arguments, data_names, training)
                elif spec.relation is not None:
                    outputs = self._invoke(spec, arguments, training)
                else:
                    with computing_gap_values(True):
                        outputs = self._invoke(spec, arguments, training)
                if may_use_grid:
                    outputs = attach_output_masks(self, spec, first_input, mask_of(first_input), outputs)
        finally:
            _training_of_enclosing_call.reset(token)
        if self.activity_regularizer is not None and not in_shape_inference():
            self._add_activity_loss(outputs)
        return outputs

    def _invoke(self, spec: CallSpec, arguments: Arguments, training: bool) -> TensorTree:
        """Run `call` with these arguments; torch modules inside the layer run in the same mode."""
        call = compiled_calls.get().get(id(self)) or self.call
        args: tuple[Any, ...] = ()
        if not spec.accepts_keywords:
            bound = inspect.BoundArguments(spec.signature, arguments)  # pyright: ignore[reportArgumentType] - any dict
            args, arguments = bound.args, bound.kwargs
        modules = self._torch_modules()
        if not modules:
            return call(*args, **arguments)
        with training_mode(training, *modules):
            return call(*args, **arguments)

    def _torch_modules(self) -> list[nn.Module]:
        """Return the torch modules whose mode `_invoke` sets for the time of `call`."""
        return non_padless_children(self)

    # ------------------------------------------------------------------------------------------------ stepwise layers

    def _call_on_row_of_steps(
        self, spec: CallSpec, arguments: Arguments, data_names: Sequence[str], training: bool
    ) -> TensorTree:
        """Run `call` on the real steps as one row `(1, N, ...)`, and again, without training, on the gap values."""
        inputs = [x for name in data_names for x in leaves(arguments[name])]
        packed = next((x for x in inputs if isinstance(x, Packed)), None)
        if packed is None:
            return self._invoke(spec, arguments, training)
        operands = {id(x): self._operand_of_row(packed, x) for x in inputs if isinstance(x, Tensor | Packed)}
        operands_with_rows = [x for x in operands.values() if not isinstance(x, Tensor)]
        mask_names = [name for name in spec.mask_names if arguments.get(name) is not None]

        def call_on_rows(rows: dict[int, Tensor], are_real: bool, training: bool) -> TensorTree:
            def as_row(x: object) -> object:
                operand = operands.get(id(x), x)
                return rows[id(operand)][None] if id(operand) in rows else operand

            row_arguments = dict(arguments)
            for name in data_names:
                row_arguments[name] = map_leaves(as_row, arguments[name])
            num_rows = len(next(iter(rows.values())))
            for name in mask_names:
                row_arguments[name] = torch.full((1, num_rows), are_real, device=packed.device)
            if "training" in row_arguments:
                row_arguments["training"] = training
            return self._invoke(spec, row_arguments, training)

        outputs = call_on_rows({id(x): x.values for x in operands_with_rows}, True, training)
        gap_rows = gap_values_by_operand(packed.index, operands_with_rows)
        if gap_rows is None:
            return map_leaves(lambda row: self._packed_from_row(packed, row, None), outputs)
        gap_outputs = call_on_rows(gap_rows, False, False)
        return pytree.tree_map(functools.partial(self._packed_from_row, packed), outputs, gap_outputs)

    def _operand_of_row(self, packed: Packed, x: StepTensor) -> StepTensor | AlignedOperand:
        """Return an input as it is combined with the row of steps of `packed`."""
        if isinstance(x, Packed):
            check_same_steps(self.name, packed, x)
            return x
        try:
            operand = align(packed, x)
        except NotElementwise as error:
            raise ShapeError(
                f"Layer {self.name!r} works step by step on {packed!r}, which an input of shape "
                f"{tuple(x.shape)} does not fit. {error}"
            ) from None
        return operand[None] if isinstance(operand, Tensor) and x.ndim == packed.ndim else operand

    def _packed_from_row(self, packed: Packed, row: Tensor, gap_row: Tensor | None) -> Packed:
        """Return an output row `(1, N, ...)` on the steps of `packed`."""
        if tuple(row.shape[:2]) != (1, packed.index.num_steps):
            raise ShapeError(
                f"Layer {self.name!r} is stepwise, so for an input of one row {(1, packed.index.num_steps)} its "
                f"output must begin with the same; got {tuple(row.shape)}. A layer that mixes steps must "
                f"not say `stepwise = True`."
            )
        return packed.with_values(row[0], None if gap_row is None else gap_row[0])

    # ------------------------------------------------------------------------------------------------ training, dtype

    @property
    def training(self) -> bool:
        """The mode of a call that has no argument `training` and no enclosing call.

        `evaluate` and `predict` set it for the calls that belong to them. Other threads do not see that.
        """
        mode = mode_of_run(self)
        return self.__dict__["training"] if mode is None else mode

    @training.setter
    def training(self, value: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride] - torch has an attribute
        self.__dict__["training"] = value

    def _resolve_training(self, argument: object) -> bool:
        """Return the training mode: the argument, else that of the enclosing call, else `self.training`."""
        if isinstance(argument, Tensor | Packed):
            raise ArgumentError(
                f"Layer {self.name!r} got data of shape {tuple(argument.shape)} for `training`, which is True "
                f"or False. Several inputs go into one list: layer([x, y])."
            )
        if in_shape_inference():
            return False
        if argument is not None:
            return bool(argument)
        enclosing_training = _training_of_enclosing_call.get()
        return bool(self.training if enclosing_training is None else enclosing_training)

    def _cast_floats(self, spec: CallSpec, x: TensorTree) -> TensorTree:
        """Cast floating inputs to the dtype of the layer, as Keras does.

        Integers are cast for built-in layers only, since in a user-defined layer they may be ids. Under autocast
        a layer with weights casts nothing: torch chooses the dtypes of each operation.
        """
        dtype = self._input_dtype()
        if dtype is None or not dtype.is_floating_point or isinstance(x, Tensor | Packed) and x.dtype == dtype:
            return x
        only_by_argument = type(self)._input_dtype is Layer._input_dtype and self._first_weight_dtype() is None
        casts_integers = spec.relation is not None and not only_by_argument

        def cast(leaf: object) -> object:
            if not isinstance(leaf, Tensor | Packed) or leaf.dtype == dtype:
                return leaf
            if not leaf.dtype.is_floating_point and (leaf.dtype.is_complex or not casts_integers):
                return leaf
            if torch.is_autocast_enabled(leaf.device.type) and not only_by_argument:
                return leaf
            return leaf.to(dtype)

        return map_leaves(cast, x)

    def _input_dtype(self) -> torch.dtype | None:
        """Return the dtype of floating inputs: that of the weights, else the argument `dtype`, else None (any)."""
        weight_dtype = self._first_weight_dtype()
        if weight_dtype is not None or type(self).build is not Layer.build:
            return weight_dtype
        argument = self._arguments.get("dtype")
        if argument is None or isinstance(argument, dict) or str(argument).startswith("mixed_"):  # default, Keras policy
            return None
        return self.dtype

    def _first_weight_dtype(self) -> torch.dtype | None:
        """Return the dtype of the layer's own weights; None if it has none, also not after a build."""
        if not self.built:
            return self.dtype if type(self).build is not Layer.build else None
        return next((weight.dtype for weight in self._parameters.values() if weight is not None), None)

    def _float_dtype(self) -> torch.dtype:
        """Return the dtype for floats of NumPy and Python: that of the first floating weight, of sublayers too."""
        with structure_lock:
            for module in self.modules():
                if isinstance(module._parameters, UnbuiltParameters):
                    continue
                for weight in module._parameters.values():
                    if weight is not None and weight.dtype.is_floating_point:
                        return weight.dtype
        return self.dtype if self.dtype.is_floating_point else torch.float32

    def _add_activity_loss(self, outputs: object) -> None:
        """Add the activity regularization of the real steps, divided by the number of sequences as in Keras."""
        penalty = self.activity_regularizer
        if penalty is None:
            return
        for output in leaves(outputs):
            values = output.values if isinstance(output, Packed) else output
            values = values.to(torch.promote_types(values.dtype, torch.float32))  # half precision is too coarse for sums
            self._add_call_loss(penalty(values) / max(output.shape[0], 1))

    # ------------------------------------------------------------------------------------------------ building

    def _shape_of_input(self, x: object) -> tuple[int | None, ...] | None:
        """Return the shape of an input, for `build`; None for None."""
        if x is None:
            return None
        if not isinstance(x, Tensor | Packed | SymbolicTensor):
            raise ArgumentError(f"Layer {self.name!r} got {x!r:.100} among its inputs. Expected tensors.")
        return tuple(x.shape)

    def _ensure_built(self, spec: CallSpec, data: Mapping[str, TensorTree]) -> None:
        """Build the weights for these data arguments, on the device of the data."""
        if self.built and not self._building:
            return
        shapes = {name: map_leaves(self._shape_of_input, x) for name, x in data.items()}
        device = next((x.device for x in leaves(data) if isinstance(x, Tensor | Packed)), None)
        is_probe = device is not None and device.type == "meta" and in_shape_inference()
        with nullcontext() if device is None or device.type == "cpu" or is_probe else device:
            _call_with_shapes(self.build, spec, shapes)

    # ------------------------------------------------------------------------------------------------ public facts

    @property
    def supports_masking(self) -> bool:
        """Whether the layer handles masks, as in Keras. A user-defined layer that sets True may use the padded grid."""
        if self._supports_masking is not None:
            return self._supports_masking
        spec = call_spec_of(type(self))
        return spec.relation is not None or spec.overrides_compute_mask

    @supports_masking.setter
    def supports_masking(self, value: bool) -> None:
        self._supports_masking = bool(value)

    @property
    def input(self) -> TensorTree:
        """The symbolic input of the only call on symbolic tensors, or a list of inputs.

        Raises:
            ArgumentError: there is no such call, or more than one.
        """
        symbols = list(self._single_node("input").inputs())
        return symbols[0] if len(symbols) == 1 else symbols

    @property
    def output(self) -> TensorTree:
        """The symbolic output of the only call on symbolic tensors, or a nest of outputs.

        Raises:
            ArgumentError: there is no such call, or more than one.
        """
        return self._single_node("output").outputs

    def _single_node(self, attribute: str) -> Node:
        if len(self._inbound_nodes) != 1:
            raise ArgumentError(
                f"Layer {self.name!r} has {len(self._inbound_nodes)} calls on symbols, so `{attribute}` means "
                f"{'nothing yet' if not self._inbound_nodes else 'no single one'}. Keep the symbol that a call "
                f"returns instead."
            )
        return self._inbound_nodes[0]

    def get_config(self) -> Config:
        """Return the constructor arguments that create the same layer, as JSON values."""
        arguments = {name: serialize(value) for name, value in self._arguments.items() if name not in _NOT_IN_ARGUMENTS}
        accepts_any_dtype = type(self).build is Layer.build and self._input_dtype() is None
        dtype = None if accepts_any_dtype else str(self.dtype).removeprefix("torch.")
        config = {"name": self.name, "trainable": self.trainable, "dtype": dtype}
        if self.activity_regularizer is not None:
            config["activity_regularizer"] = serialize(self.activity_regularizer, "regularizer")
        return {**config, **arguments}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Create the layer that has this config, with new weights."""
        with limited_memory(cls):
            return cls(**config)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy; training in other threads waits until the copy is complete."""
        with copying(self):
            make, arguments, state = cast("_Reduced", self.__reduce_ex__(4)[:3])  # as `copy.deepcopy` does itself
            memo[id(self)] = layer = make(*copy.deepcopy(arguments, memo))
            layer.__setstate__(copy.deepcopy(state, memo))
        return layer

    def __getstate__(self) -> dict[str, Any]:
        """Return what copy and pickle keep. Calls on symbolic tensors are kept by their graph (`Function`)."""
        if training_runs:
            check_no_other_thread_trains(self, "A copy")
        state = {name: value for name, value in self.__dict__.copy().items() if name not in _TRANSIENT}
        state["_inbound_nodes"] = [node for node in self._inbound_nodes if not any(True for _ in node.inputs())]
        state["_arguments"] = {
            name: value for name, value in self._arguments.items() if not any(map(is_symbolic, leaves(value)))
        }
        return state

    def extra_repr(self) -> str:
        """Return what `print(layer)` shows between the parentheses."""
        return f"name={self.name!r}" + ("" if self.built else ", not built")


_Reduced: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], Any]
_TRANSIENT = ("_building", "_compiled_calls")  # exist only while a layer is built, or hold what cannot be copied
_NOT_IN_ARGUMENTS = ("name", "trainable", "dtype", "activity_regularizer", "weights")  # `weights` are initial values


def get(identifier: Layer | ConfigLike) -> Layer:
    """Return a layer, or create the layer that a config describes."""
    if isinstance(identifier, dict):
        return deserialize(identifier, "layer")
    if not isinstance(identifier, Layer):
        raise ArgumentError(f"Expected a padless layer; got {identifier!r}.")
    return identifier


def _bind_arguments(layer: Layer, spec: CallSpec, args: Sequence[object], kwargs: Arguments) -> Arguments:
    """Return the arguments of a call by name.

    Every layer may be called with `mask` and `training`; here they are left out if `call` does not declare them.
    """
    if len(args) == 1 and not kwargs and spec.accepts_one_positional:  # the usual call; `bind` is slow
        return {spec.names[0]: args[0]}
    undeclared = {"mask", "training"} - set(spec.names)
    try:
        return spec.signature.bind(*args, **{k: v for k, v in kwargs.items() if k not in undeclared}).arguments
    except TypeError as error:
        raise TypeError(
            f"Layer {layer.name!r} is called as {type(layer).__name__}()({', '.join(spec.names)}): {error}."
        ) from None


def _constructor_arguments(bound: inspect.BoundArguments) -> Arguments:
    """Return constructor arguments by name, without `self`; those of `**kwargs` are at the same level."""
    arguments: Arguments = {}
    for name, value in list(bound.arguments.items())[1:]:
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(value)
        else:
            arguments[name] = value
    return arguments


def _symbols_of_shapes(shape: ShapeTree, dtype: torch.dtype) -> TensorTree:
    """Return a symbolic tensor for a shape, or a nest of them for a nest of shapes."""
    if isinstance(shape, dict):
        return {key: _symbols_of_shapes(inner, dtype) for key, inner in shape.items()}
    if isinstance(shape, list | tuple) and shape and isinstance(shape[0], list | tuple | dict):
        return [_symbols_of_shapes(inner, dtype) for inner in shape]
    return SymbolicTensor(tuple(shape), dtype)


def _call_with_shapes(method: Callable[..., T], spec: CallSpec, shapes: Mapping[str, ShapeTree]) -> T:
    """Call `build` or `compute_output_shape` with the shapes of the arguments of a call, by their names.

    Layers with several inputs have a parameter for each, such as `build(query_shape, value_shape)` in Keras.
    """
    parameters = list(inspect.signature(method).parameters)
    if len(parameters) > 1 and all(name.removesuffix("_shape") in spec.names for name in parameters):
        return method(**{name: shapes.get(name.removesuffix("_shape")) for name in parameters})
    return method(next(iter(shapes.values()), None))


def _build_once(build: Callable[..., None]) -> Callable[..., None]:
    """Wrap `build`: it runs once, sets `built`, and leaves the layer unbuilt if it fails."""

    @functools.wraps(build)
    def build_if_needed(self: Layer, *args: object, **kwargs: object) -> None:
        with structure_lock:  # the first of several threads builds the layer, the others wait for it
            is_super_call = self._building
            if self.built and not is_super_call:
                return
            self._building = True
            parameters = self._parameters
            self._replace_unbuilt_parameters()
            is_complete = False
            try:
                with building_weights(self), limited_memory(type(self)):
                    build(self, *args, **kwargs)
                is_complete = True
                self.built = True
            finally:
                self._building = is_super_call
                if not is_complete:
                    self.__dict__["_parameters"] = parameters

    return build_if_needed
