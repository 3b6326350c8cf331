"""The base of all layers: weights, build, call, config, names.

A layer is a `torch.nn.Module`. `forward` builds its weights at the first call, finds the masks (rule.py) and calls
`call`; on symbols it records the call in a graph instead.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from padless import regularizers
from padless._torch_compat import pytree
from padless.errors import ArgumentError, ShapeError
from padless.graph.node import Node, auto_name
from padless.graph.symbolic import (
    SymbolicTensor,
    device_of_weights,
    in_shape_inference,
    infer,
    is_symbolic,
    leaves,
    map_leaves,
)
from padless.graph.train_mode import training_mode
from padless.layers.base.mask_rule import (
    CallSpec,
    apply_explicit_mask,
    as_data,
    attach_output_masks,
    call_spec_of,
    is_data,
    mask_of,
    same_steps,
)
from padless.layers.base.weights import UnbuiltParameters, WeightContainer, as_dtype, non_padless_children
from padless.ragged.broadcast import NotElementwise, align, call_context, gap_values_by_operand
from padless.ragged.packed import Packed, computing_gap_values
from padless.registry import register, snake_case
from padless.saving.serialization import deserialize, serialize

_training: ContextVar[bool | None] = ContextVar("training", default=None)  # what the enclosing call runs in


@register("layer")
class Layer(WeightContainer):
    """The base of layers, built in and your own: define `call`, and `build` if there are weights to make.

    `name`, `trainable`, `dtype` and `activity_regularizer` are Keras's. A class may say `stepwise = True`: its `call`
    treats each step alone and then gets the real steps as one row `(1, N, ...)`.

    >>> class Double(Layer):
    ...     def call(self, inputs):
    ...         return inputs * 2
    >>> Double()(torch.ones(1, 2)).tolist()
    [[2.0, 2.0]]
    """

    relation: str | None = None
    stepwise: bool = False
    known_violations: ClassVar[Mapping[str, str]] = {}  # properties of padless.testing that do not hold, and why
    stateful: bool = False  # whether a call continues from the states of the previous batch, as Keras's RNN(stateful=True)
    states: Any = None  # of a stateful layer: tensors, or lists and tuples of them; backups contain them
    _class_supports_masking: bool | None = None  # what the class says by `supports_masking = True`

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        layer = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(layer, *args, **kwargs)
        except TypeError:  # copy and pickle make the object without arguments; __init__ reports a user's mistake
            return layer
        bound.apply_defaults()
        layer.__dict__["_arguments"] = _constructor_arguments(bound)
        return layer

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if isinstance(vars(cls).get("supports_masking"), bool):
            cls._class_supports_masking = vars(cls)["supports_masking"]
            del cls.supports_masking  # pyright: ignore - the property of the base stays in force
        if "build" in vars(cls):
            cls.build = _build_once(cls.build)

    def __init__(
        self,
        *,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = None,
        activity_regularizer: Any = None,
        input_shape: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(trainable, type(self).build is not Layer.build)
        if kwargs:
            raise ArgumentError(
                f"{type(self).__name__} got unknown arguments {sorted(kwargs)}. Expected its own and "
                f"name, trainable, dtype, activity_regularizer."
            )
        self.training = False  # Keras's default: a layer infers unless somebody trains
        self.name = name or auto_name(snake_case(type(self).__name__))
        self.built = False
        self.dtype = as_dtype(dtype)
        self.activity_regularizer = regularizers.get(activity_regularizer)
        self._supports_masking = self._class_supports_masking
        self._input_shape_argument = input_shape  # the old way to say what comes into the first layer of a Sequential
        self._inbound_nodes: list[Node] = []
        if isinstance(self._parameters, UnbuiltParameters):
            self._parameters.owner = f"Layer {self.name!r}"

    # ------------------------------------------------------------------------------------------------ for subclasses

    def build(self, *shapes: Any) -> None:
        """Make the weights for inputs of this shape `(None, ..., features)`; override where there are any."""
        self.built = True

    def call(self, inputs: Any) -> Any:
        """What the layer does. Override it."""
        raise NotImplementedError(f"{type(self).__name__} must define `call(self, inputs)`.")

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Which steps of the output are real, given those of the input: a boolean grid, or None."""
        return mask

    def compute_output_shape(self, *shapes: Any) -> Any:
        """The shape of the output for inputs of this shape, found by a call on small probes."""
        symbols = [_symbols_of_shapes(shape, self.dtype) for shape in shapes]
        if not self.built:
            self.build(*shapes)
        return map_leaves(
            lambda symbol: symbol.shape,
            infer(lambda *inputs: self._call_on_data(inputs, {}), tuple(symbols), {}, device_of_weights(self)),
        )

    # ------------------------------------------------------------------------------------------------ calling

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Build, find the mask, call; on symbols, remember the call."""
        if any(is_symbolic(leaf) for leaf in leaves((args, kwargs))):
            return self._record(args, kwargs)
        return self._call_on_data(args, kwargs)

    def _record(self, args: Any, kwargs: dict[str, Any]) -> Any:
        """A call on symbols: the outputs as symbols, the call kept as a node."""
        rule = call_spec_of(type(self), Layer)
        arguments = _bind_arguments(self, rule, args, kwargs)
        self._ensure_built(rule, {k: v for k, v in arguments.items() if any(map(is_symbolic, leaves(v)))})
        if "mask" in rule.names[: len(args)]:  # by name, so that the graph sees that a mask was given
            place = rule.names.index("mask")
            args, kwargs = args[:place], {**kwargs, **dict(zip(rule.names[place:], args[place:], strict=False))}
        node = Node(
            self, args, kwargs, infer(lambda *a, **k: self._call_on_data(a, k), args, kwargs, device_of_weights(self))
        )
        self._inbound_nodes.append(node)
        return node.outputs

    def _call_on_data(self, args: Any, kwargs: dict[str, Any]) -> Any:
        rule = call_spec_of(type(self), Layer)
        arguments = _bind_arguments(self, rule, args, kwargs)
        for name in arguments:
            if name not in rule.mask_names:
                arguments[name] = as_data(arguments[name], self._float_dtype)
        data = [name for name, value in arguments.items() if name not in rule.mask_names and is_data(value)]
        explicit = arguments.get("mask", kwargs.get("mask"))
        for position, name in enumerate(data):
            own = arguments.get(f"{name}_mask") if f"{name}_mask" in rule.mask_names else None
            own = explicit if own is None and position == 0 else own
            arguments[name] = self._cast_floats(apply_explicit_mask(arguments[name], own, "mask"))
        self._ensure_built(rule, {name: arguments[name] for name in data})
        first = arguments[data[0]] if data else None
        if rule.relation is not None:
            for name in rule.mask_names:
                arguments.pop(name, None)
        else:
            for name in rule.mask_names:
                source = first if name == "mask" else arguments.get(name.removesuffix("_mask"))
                arguments[name] = mask_of(source)
        training = self._resolve_training(arguments.get("training", kwargs.get("training")))
        if "training" in rule.names:
            arguments["training"] = training
        return self._call_in_context(rule, arguments, data, first, training)

    def _call_in_context(
        self, rule: CallSpec, arguments: dict[str, Any], data: list[str], first: Any, training: bool
    ) -> Any:
        """`call`, with everything around it that inner layers and functions need to know."""
        outermost = _training.get() is None
        if outermost and not in_shape_inference():
            for state in self._containers():
                state._losses.clear()
        token = _training.set(training)
        try:
            with call_context(self.name, rule.takes_mask(self) and not rule.stepwise):
                if rule.stepwise:
                    outputs = self._call_on_row_of_steps(arguments, data, training)
                elif rule.relation is not None:
                    outputs = self._invoke(arguments, training)
                else:
                    with computing_gap_values(True):
                        outputs = self._invoke(arguments, training)
                if rule.takes_mask(self):
                    outputs = attach_output_masks(self, rule, first, mask_of(first), outputs)
        finally:
            _training.reset(token)
        if self.activity_regularizer is not None and not in_shape_inference():
            self._add_activity_loss(outputs)
        return outputs

    def _invoke(self, arguments: dict[str, Any], training: bool) -> Any:
        """`call` by its own signature; modules of torch's that it holds train if it does."""
        rule = call_spec_of(type(self), Layer)
        if rule.by_name:
            args, named = (), arguments
        else:
            bound = inspect.BoundArguments(rule.signature, arguments)  # pyright: ignore[reportArgumentType]
            args, named = bound.args, bound.kwargs
        others = non_padless_children(self)
        if not others:
            return self.call(*args, **named)
        with training_mode(training, *others):
            return self.call(*args, **named)

    def _call_on_row_of_steps(self, arguments: dict[str, Any], data: list[str], training: bool) -> Any:
        """`call` on the real steps as one row `(1, N, ...)`, and once more, inferring, on the fill."""
        packed = next((x for name in data for x in leaves(arguments[name]) if isinstance(x, Packed)), None)
        if packed is None:
            return self._invoke(arguments, training)
        meets = {}
        for name in data:
            for x in leaves(arguments[name]):
                if isinstance(x, Packed):
                    same_steps(self.name, packed, x)
                    meets[id(x)] = x
                elif isinstance(x, Tensor):
                    meets[id(x)] = self._align_plain_input(packed, x)
        operands = [met for met in meets.values() if not isinstance(met, Tensor)]
        masks = [name for name in call_spec_of(type(self), Layer).mask_names if arguments.get(name) is not None]

        def on(rows: dict[int, Tensor], real: bool, **more: Any) -> Any:
            def view(x: Any) -> Any:
                met = meets.get(id(x), x)
                return rows[id(met)][None] if id(met) in rows else met

            inner = {name: map_leaves(view, arguments[name]) if name in data else arguments[name] for name in arguments}
            row = torch.full((1, len(next(iter(rows.values())))), real, device=packed.device)
            inner = {**inner, **{k: v for k, v in more.items() if k in inner}, **dict.fromkeys(masks, row)}
            return self._invoke(inner, more.get("training", training))

        outputs = on({id(x): x.values for x in operands}, True)
        rows = gap_values_by_operand(packed.index, operands)
        fills = map_leaves(lambda _: None, outputs) if rows is None else on(rows, False, training=False)
        return pytree.tree_map(lambda v, f: self._unstack_row(packed, v, f), outputs, fills, is_leaf=lambda x: x is None)

    def _align_plain_input(self, packed: Packed, x: Tensor) -> Any:
        """A plain input of a stepwise layer, as it meets the one row of steps."""
        try:
            met = align(packed, x)
        except NotElementwise as why:
            raise ShapeError(
                f"Layer {self.name!r} works step by step on {packed!r}, which an input of shape "
                f"{tuple(x.shape)} does not fit. {why}"
            ) from None
        return met[None] if isinstance(met, Tensor) and x.ndim == packed.ndim else met

    def _unstack_row(self, packed: Packed, row: Tensor, fill: Tensor | None) -> Packed:
        if tuple(row.shape[:2]) != (1, packed.index.num_steps):
            raise ShapeError(
                f"Layer {self.name!r} is stepwise, so for an input of one row {(1, packed.index.num_steps)} its "
                f"output must begin with the same; got {tuple(row.shape)}. A layer that mixes steps must "
                f"not say `stepwise = True`."
            )
        return packed.with_values(row[0], None if fill is None else fill[0])

    def _resolve_training(self, given: Any) -> bool:
        enclosing = _training.get()
        if isinstance(given, Tensor | Packed):
            raise ArgumentError(
                f"Layer {self.name!r} got data of shape {tuple(given.shape)} for `training`, which is True "
                f"or False. Several inputs go into one list: layer([x, y])."
            )
        if in_shape_inference():
            return False
        return bool(given if given is not None else self.training if enclosing is None else enclosing)

    def _cast_floats(self, x: Any) -> Any:
        """Floating inputs in the dtype of the layer's own weights, as Keras casts; autocast keeps its own order.

        Integers are cast for built-in layers only: in a layer of the user's they may be ids.
        """
        dtype = self._input_dtype()
        if dtype is None or not dtype.is_floating_point:
            return x
        without = (
            type(self)._input_dtype is Layer._input_dtype and self._first_weight_dtype() is None
        )  # then it was asked for
        whole = call_spec_of(type(self), Layer).relation is not None and not without

        def cast(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor | Packed) or leaf.dtype == dtype:
                return leaf
            if not leaf.dtype.is_floating_point and (leaf.dtype.is_complex or not whole):
                return leaf
            return leaf if torch.is_autocast_enabled(leaf.device.type) and not without else leaf.to(dtype)

        return map_leaves(cast, x)

    def _input_dtype(self) -> torch.dtype | None:
        """The dtype that inputs are brought to: that of the layer's own weights, else the one that it was given, or None."""
        given = self.__dict__.get("_arguments", {}).get("dtype")
        asked = given is not None and not str(given).startswith("mixed_") and not isinstance(given, dict)
        return self._first_weight_dtype() or (self.dtype if asked and type(self).build is Layer.build else None)

    def _first_weight_dtype(self) -> torch.dtype | None:
        if not self.built:
            return self.dtype if type(self).build is not Layer.build else None
        return next((w.dtype for w in self._parameters.values() if w is not None), None)

    def _float_dtype(self) -> torch.dtype:
        """The dtype that floats of NumPy and Python are brought to: that of the weights, of a model's layers too."""
        known = (
            w.dtype
            for m in self.modules()
            if not isinstance(m._parameters, UnbuiltParameters)
            for w in m._parameters.values()
            if w is not None and w.dtype.is_floating_point
        )
        return next(known, self.dtype if self.dtype.is_floating_point else torch.float32)

    def _add_activity_loss(self, outputs: Any) -> None:
        """The activity loss of real steps, per row of the batch as in Keras."""
        for output in leaves(outputs):
            values = output.values if isinstance(output, Packed) else output
            values = values.to(torch.promote_types(values.dtype, torch.float32))  # sums are never of half precision
            self._losses.append(self.activity_regularizer(values) / max(output.shape[0], 1))  # pyright: ignore

    def needs_gap_values(self, shown: bool) -> bool:
        """Whether a call looks at what its input shows at masked steps; `shown`: whether its output is looked at.

        A scan and a segment never do, a stepwise layer for its own output's sake, a layer of the user's may.
        """
        rule = call_spec_of(type(self), Layer)
        if rule.stepwise or rule.relation in ("stepwise", "merge"):
            return shown
        return rule.relation not in ("recurrent", "reduce", "attention", "window")

    # ------------------------------------------------------------------------------------------------ building

    def _ensure_built(self, rule: CallSpec, data: dict[str, Any]) -> None:
        if self.built:
            return
        shapes = {name: map_leaves(lambda x: None if x is None else tuple(x.shape), x) for name, x in data.items()}
        wanted = list(inspect.signature(self.build).parameters)
        first = next((x for x in leaves(data) if isinstance(x, Tensor | Packed)), None)
        elsewhere = first is not None and first.device.type != "cpu"
        with first.device if elsewhere and first is not None else nullcontext():
            if len(wanted) > 1 and all(name.removesuffix("_shape") in rule.names for name in wanted):
                self.build(**{name: shapes.get(name.removesuffix("_shape")) for name in wanted})
            else:
                self.build(next(iter(shapes.values()), None))

    # ------------------------------------------------------------------------------------------------ who it is

    @property
    def supports_masking(self) -> bool:
        """Whether masks reach the layer's outputs; setting it to True lets `call` look at the padded grid."""
        rule = call_spec_of(type(self), Layer)
        return rule.relation is not None or rule.overrides_mask if self._supports_masking is None else self._supports_masking

    @supports_masking.setter
    def supports_masking(self, value: bool) -> None:
        self._supports_masking = bool(value)

    @property
    def input(self) -> Any:
        """The symbol that the layer was called on, if it was called once."""
        node = self._single_node("input")
        symbols = list(node.inputs())
        return symbols[0] if len(symbols) == 1 else symbols

    @property
    def output(self) -> Any:
        """The symbol that the layer gave, if it was called once."""
        return self._single_node("output").outputs

    def _single_node(self, what: str) -> Node:
        if len(self._inbound_nodes) != 1:
            raise ArgumentError(
                f"Layer {self.name!r} has {len(self._inbound_nodes)} calls on symbols, so `{what}` means "
                f"{'nothing yet' if not self._inbound_nodes else 'no single one'}. Keep the symbol that a call "
                f"returns instead."
            )
        return self._inbound_nodes[0]

    def get_config(self) -> dict[str, Any]:
        """The arguments that make the same layer again, as JSON has them."""
        own = {k: serialize(v) for k, v in self.__dict__.get("_arguments", {}).items() if k not in _NOT_IN_ARGUMENTS}
        free = type(self).build is Layer.build and self._input_dtype() is None  # takes floats of any dtype
        dtype = None if free else str(self.dtype).removeprefix("torch.")
        base = {"name": self.name, "trainable": self.trainable, "dtype": dtype}
        if self.activity_regularizer is not None:
            base["activity_regularizer"] = serialize(self.activity_regularizer, "regularizer")
        return {**base, **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The layer that has this config, with new weights."""
        return cls(**config)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: calls on symbols belong to the graphs, which bring them along (`Function`)."""
        inbound = [node for node in self._inbound_nodes if not any(True for _ in node.inputs())]
        arguments = self.__dict__.get("_arguments", {})
        arguments = {name: value for name, value in arguments.items() if not any(map(is_symbolic, leaves(value)))}
        own = {name: value for name, value in self.__dict__.items() if name not in _TRANSIENT}
        return {**own, "_inbound_nodes": inbound, "_arguments": arguments, "_losses": []}  # losses are of a call

    def extra_repr(self) -> str:
        """What `print(layer)` shows."""
        return f"name={self.name!r}" + ("" if self.built else ", not built")


_TRANSIENT = ("_known", "_jit", "call")  # what a run remembers, and what it calls in the place of `call`
_NOT_IN_ARGUMENTS = ("name", "trainable", "dtype", "activity_regularizer", "weights")  # first weights are no setting


def get(identifier: Any) -> Layer:
    """A layer from itself or from its config."""
    if isinstance(identifier, dict):
        return deserialize(identifier, "layer")
    if not isinstance(identifier, Layer):
        raise ArgumentError(f"Expected a padless layer; got {identifier!r}.")
    return identifier


def _bind_arguments(layer: Layer, rule: CallSpec, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name; any layer may be called with `mask` and `training`, whether its `call` takes them or not."""
    if len(args) == 1 and not kwargs and rule.one_suffices:  # as nearly always; `bind` takes its time
        return {rule.names[0]: args[0]}
    unasked = {"mask", "training"} - set(rule.names)
    try:
        return rule.signature.bind(*args, **{k: v for k, v in kwargs.items() if k not in unasked}).arguments
    except TypeError as wrong:
        raise TypeError(
            f"Layer {layer.name!r} is called as {type(layer).__name__}()({', '.join(rule.names)}): {wrong}."
        ) from None


def _constructor_arguments(bound: inspect.BoundArguments) -> dict[str, Any]:
    """Constructor arguments by name, those of `**kwargs` among them, without self."""
    kinds = bound.signature.parameters
    named = {}
    for position, (name, value) in enumerate(bound.arguments.items()):
        if position and kinds[name].kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        elif position:
            named[name] = value
    return named


def _symbols_of_shapes(shape: Any, dtype: torch.dtype) -> Any:
    """A symbol for a shape, a nest of them for a nest of shapes."""
    if isinstance(shape, dict):
        return {key: _symbols_of_shapes(inner, dtype) for key, inner in shape.items()}
    if isinstance(shape, list | tuple) and shape and isinstance(shape[0], list | tuple | dict):
        return [_symbols_of_shapes(inner, dtype) for inner in shape]
    return SymbolicTensor(tuple(shape), dtype)


def _build_once(build: Callable[..., Any]) -> Callable[..., Any]:
    """`build` that runs once and then says so."""

    @functools.wraps(build)
    def once(self: Layer, *args: Any, **kwargs: Any) -> None:
        if self.__dict__.get("_building") or not self.built:
            outer, self.__dict__["_building"] = self.__dict__.get("_building", False), True
            before = self._parameters
            self._replace_unbuilt_parameters()
            try:
                build(self, *args, **kwargs)
            except BaseException:
                self.__dict__["_parameters"] = before  # as if it had not been tried
                raise
            finally:
                self.__dict__["_building"] = outer
            self.built = True

    return once
