"""Draw random models as short programs, and random masked data for them.

A program is a list of lines such as `h2 = L.LSTM(4, return_sequences=True)(h1)`. The source of a program is valid Python,
so a failing case can be read and run. For each value the features, the mask and the frame are known. Two values with the
same frame have the same columns. So they can be merged for any padding.
"""

import random
import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

import padless
from padless import layers as L
from padless.saving.serialization import register_keras_serializable

Frame = tuple[Hashable, ...]
VOCABULARY = 7
WIDEST = 400  # no drawn sequence becomes longer


# ------------------------------------------------------------------------------------------------ user-defined objects


@register_keras_serializable("random_models")
class LeakyCell(L.Layer):
    """A user-defined cell with one state, whose output is wider than the state."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.output_size = 2 * units

    def build(self, input_shape):
        self.add_weight((input_shape[-1], self.units), name="kernel")

    def call(self, inputs, states):
        state = 0.5 * states[0] + torch.sin(inputs @ self.kernel)
        return torch.cat([state, state.cos()], dim=-1), [state]


@register_keras_serializable("random_models")
class ResidualBlock(L.Layer):
    """A user-defined layer with sublayers, written without a word about masks."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.norm = L.LayerNormalization()
        self.inner = L.Dense(units, activation="tanh")

    def call(self, inputs):
        return inputs + self.inner(self.norm(inputs))


@register_keras_serializable("random_models")
class Linear(nn.Linear):
    """A linear module of torch with a config."""

    def __init__(self, num_inputs, num_outputs):
        super().__init__(num_inputs, num_outputs)

    def get_config(self):
        return {"num_inputs": self.in_features, "num_outputs": self.out_features}


@register_keras_serializable("random_models")
def masked_sums(x, mask=None):
    """Return cumulative sums over the real steps, computed on the padded grid."""
    return (x if mask is None else torch.where(mask[..., None], x, 0)).cumsum(1)


@register_keras_serializable("random_models")
def with_square(x, factor):
    """Return the features times a factor, and the sum of their squares."""
    return torch.cat([x * factor, x.square().sum(-1, keepdim=True)], -1)


# ------------------------------------------------------------------------------------------------ programs


@dataclass(frozen=True)
class Input:
    """An input of a program.

    Attributes:
        name: The name of the variable and of the input.
        form: How the data come: see `FORMS`.
        features: The shape of one step.
        groups: The time axes. Inputs of one group have the same width.
    """

    name: str
    form: str
    features: tuple[int, ...] = ()
    groups: tuple[int, ...] = (0,)

    @property
    def source(self) -> str:
        """The call of `Input`."""
        shape = (*(None,) * len(self.groups), *self.features)
        options = {"packed": ", masked=True", "packed_ids": ', masked=True, dtype="int64"'}.get(self.form, "")
        if self.form in ("ids", "document_ids"):
            options = ', dtype="int64"'
        if self.form in ("step_mask", "pair_mask"):
            options = ', dtype="bool"'
        return f'Input({shape}, name="{self.name}"{options})'


FORMS = {
    "packed": "a `Packed` of numbers",
    "packed_ids": "a `Packed` of ids",
    "ids": "ids, 0 at masked steps",
    "masking": "numbers, 0 at masked steps",
    "document_ids": "ids of words in sentences, 0 at masked words",
    "document_masking": "numbers of words in sentences, 0 at masked words",
    "vector": "one vector for each sequence",
    "step_mask": "booleans for the steps of a group",
    "pair_mask": "booleans for pairs of steps of two groups",
}
PACKED_FORMS = ("packed", "packed_ids")


@dataclass(frozen=True)
class Line:
    """A line of a program: `results = template(arguments)`, after lines that it needs."""

    results: tuple[str, ...]
    template: str
    arguments: tuple[str, ...]
    setup: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The line with its arguments."""
        expression = self.template
        for number, name in enumerate(self.arguments):
            expression = expression.replace(f"${number}", name)
        return f"{', '.join(self.results)} = {expression}"


@dataclass(frozen=True)
class Program:
    """A model as a program.

    Attributes:
        inputs: Its inputs.
        lines: Its lines, in order.
        outputs: The names of its outputs.
        grids: For outputs that are padded grids, the output with their mask.
    """

    inputs: tuple[Input, ...]
    lines: tuple[Line, ...]
    outputs: tuple[str, ...]
    grids: tuple[tuple[str, str], ...] = ()

    @property
    def source(self) -> str:
        """The program as Python."""
        text = [f"{x.name} = {x.source}" for x in self.inputs]
        setup_done = set()
        for line in self.lines:
            text += [extra for extra in line.setup if extra not in setup_done]
            setup_done.update(line.setup)
            text.append(line.source)
        names = ", ".join(x.name for x in self.inputs)
        return "\n".join([*text, f"model = Model([{names}], [{', '.join(self.outputs)}])"])

    def has(self, *words: str) -> bool:
        """Return whether one of the words is in the source."""
        return any(re.search(rf"\b{word}\b", self.source) for word in words)

    @property
    def sees_time(self) -> bool:
        """Whether gaps between real steps change the result."""
        return self.uses_columns or self.has(*WINDOWS, "sliding_window")

    @property
    def uses_columns(self) -> bool:
        """Whether the columns of the grid are counted, so that padding on the left changes the result."""
        return self.has("columns_from")

    @property
    def is_noisy(self) -> bool:
        """Whether training draws random numbers."""
        return self.has("Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout", "dropout")

    def without_unused(self) -> "Program":
        """Return the program with only the lines and inputs that its outputs need."""
        needed, lines = set(self.outputs), []
        for line in reversed(self.lines):
            if needed & set(line.results):
                needed |= {*line.arguments, *line.needs}
                lines.append(line)
        return replace(self, inputs=tuple(x for x in self.inputs if x.name in needed), lines=tuple(reversed(lines)))

    def smaller(self) -> Iterator["Program"]:
        """Yield programs with one output or line less."""
        grid_sources = {source for _, source in self.grids}
        for name in self.outputs:
            rest = tuple(other for other in self.outputs if other != name)
            if rest and name not in grid_sources:
                grids = tuple(pair for pair in self.grids if pair[0] != name)
                yield replace(self, outputs=rest, grids=grids).without_unused()
        for number, line in reversed(list(enumerate(self.lines))):
            if line.template == "L.Masking()($0)":  # else padding would be data
                continue
            if grid_sources & set(line.results) or any(name in line.results for name, _ in self.grids):
                continue
            for argument in dict.fromkeys(line.arguments):
                names = dict.fromkeys(line.results, argument)
                lines = [other for k, other in enumerate(self.lines) if k != number]
                changed = tuple(
                    replace(other, arguments=tuple(names.get(name, name) for name in other.arguments)) for other in lines
                )
                outputs = tuple(dict.fromkeys(names.get(name, name) for name in self.outputs))
                inputs = {x.name for x in self.inputs}
                if not inputs & set(outputs):
                    yield replace(self, lines=changed, outputs=outputs).without_unused()


WINDOWS = (
    *("Conv1D", "Conv1DTranspose", "DepthwiseConv1D", "SeparableConv1D", "MaxPooling1D", "AveragePooling1D"),
    *("Cropping1D", "ZeroPadding1D", "UpSampling1D"),
)


def build(program: Program, library=padless) -> "padless.Model":
    """Return the model of a program, in padless or in Keras."""
    if library is padless:
        padless.clear_session()
    names = {
        "torch": torch,
        "F": nn.functional,
        "L": library.layers,
        "Input": library.Input,
        "Model": library.Model,
        "Sequential": library.Sequential,
        "LeakyCell": LeakyCell,
        "ResidualBlock": ResidualBlock,
        "Linear": Linear,
        "masked_sums": masked_sums,
        "with_square": with_square,
        "columns_from": columns_from,
    }
    exec(program.source, names)  # the program was drawn here, no file is read
    return names["model"]


def columns_from(x, start, step):
    """Return every `step`-th column of the grid, from `start` on."""
    return x[:, start::step]


# ------------------------------------------------------------------------------------------------ drawing


@dataclass(frozen=True)
class Value:
    """What is known of a variable of a program.

    Attributes:
        name: Its name.
        kind: "sequence", "vector", "document" (a sequence of sequences) or "fixed" (steps without a mask). A value of
            another kind is an output only.
        features: The shape of one step, or of one vector.
        frame: Values with the same frame have the same columns.
        mask: Values with the same mask have the same real steps. None for values without a mask.
        width: The largest number of columns.
        has_gaps_of_padding: Whether padding of the inputs is now a gap, so that a window would see it.
    """

    name: str
    kind: str
    features: tuple[int, ...]
    frame: Frame = ()
    mask: Hashable = None
    width: int = 8
    has_gaps_of_padding: bool = False


Op = Callable[["Drawer", Value], "Value | None"]
OPS: dict[str, list[tuple[float, Op]]] = {"sequence": [], "vector": [], "document": [], "fixed": []}


def op(*kinds: str, weight: float = 1.0) -> Callable[[Op], Op]:
    """Enter a function that adds a line with an argument of these kinds, or returns None where it does not apply."""

    def enter(function: Op) -> Op:
        for kind in kinds:
            OPS[kind].append((weight, function))
        return function

    return enter


class Drawer:
    """Draw a program."""

    def __init__(self, seed: int, for_keras: bool = False) -> None:
        self.random = random.Random(seed)
        self.for_keras = for_keras
        self.inputs: list[Input] = []
        self.lines: list[Line] = []
        self.values: list[Value] = []
        self.count = 0
        self.shared: list[tuple[str, str, tuple[int, ...], str, tuple[int, ...]]] = []
        self.grids: list[tuple[str, str]] = []

    # -------------------------------------------------------------------------------------------- parts

    def pick(self, *choices):
        """Return one of the choices."""
        return self.random.choice(choices)

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return self.random.random() < probability

    def name(self, letter: str = "h") -> str:
        """Return a new name."""
        self.count += 1
        return f"{letter}{self.count}"

    def units(self) -> int:
        """Return a number of units; small numbers are where kernels have special cases."""
        return self.pick(1, 2, 3, 4, 4, 5, 6, 8)

    def options(self, *choices: tuple[float, str]) -> str:
        """Return keyword arguments, each with its probability, with a comma before each."""
        return "".join(f", {text}" for probability, text in choices if self.chance(probability))

    def regularizers(self, *names: str) -> str:
        """Return sometimes a regularizer."""
        return self.options(*((0.04, f'{name}_regularizer="{self.pick("l1", "l2")}"') for name in names))

    def add(self, value: Value, template: str, *arguments: str, setup: tuple[str, ...] = ()) -> Value:
        """Add a line with one result."""
        needs = tuple(name for name in re.findall(r"\bx\d+\b", template))
        self.lines.append(Line((value.name,), template, arguments, setup, needs))
        self.values.append(value)
        return value

    def like(self, x: Value, **changes) -> Value:
        """Return a new value with the steps of `x`."""
        return replace(x, name=self.name(), **changes)

    def vector(self, *features: int) -> Value:
        """Return a new vector."""
        return Value(self.name(), "vector", features)

    def windowed(self, x: Value, signature: str, width: int, **changes) -> Value:
        """Return a new value whose steps are those of a window."""
        frame = ("window", x.frame, x.mask, signature)
        return self.like(x, frame=frame, mask=(x.mask, signature), width=width, **changes)

    def others(self, condition: Callable[[Value], bool]) -> list[Value]:
        """Return all values with a condition."""
        return [y for y in self.values if condition(y)]

    def partner(self, x: Value, condition: Callable[[Value], bool]) -> Value | None:
        """Return a value with a condition, if possible another than `x`."""
        found = self.others(lambda y: y.name != x.name and condition(y))
        return self.random.choice(found) if found else (x if condition(x) else None)

    # -------------------------------------------------------------------------------------------- inputs

    def add_input(self, form: str, features: tuple[int, ...] = (), groups: tuple[int, ...] = (0,)) -> str:
        """Add an input, and return its name."""
        name = f"x{len(self.inputs)}"
        self.inputs.append(Input(name, form, features, groups))
        return name

    def add_data(self, form: str, group: int) -> None:
        """Add an input with data, and the layer that creates its mask."""
        size, frame = self.pick(1, 2, 3, 3, 4, 6, 8), ("input", group)
        if form == "vector":
            self.values.append(Value(self.add_input(form, (size,), ()), "vector", (size,)))
        elif form in ("packed", "masking"):
            features = (self.pick(2, 3, 4), size) if form == "packed" and self.chance(0.25) else (size,)
            name = self.add_input(form, features, (group,))
            value = Value(name, "sequence", features, frame, name)
            self.values.append(value)
            if form == "masking":
                self.values.pop()
                self.add(self.like(value), "L.Masking()($0)", name)
        elif form in ("ids", "packed_ids"):
            name = self.add_input(form, (), (group,))
            zero = ", mask_zero=True" if form == "ids" else ""
            layer = self.pick("Embedding", "Embedding", "TokenAndPositionEmbedding")
            if layer == "Embedding" or self.for_keras:
                call = f"L.Embedding({VOCABULARY}, {size}{zero}{self.regularizers('embeddings')})"
            else:
                call = f"L.TokenAndPositionEmbedding({VOCABULARY}, {WIDEST}, {size}{zero})"
            self.add(Value(self.name(), "sequence", (size,), frame, name), f"{call}($0)", name)
        elif form == "document_ids":
            name = self.add_input(form, (), (group, group + 100))
            value = Value(self.name(), "document", (size,), frame, name)
            self.add(value, f"L.Embedding({VOCABULARY}, {size}, mask_zero=True)($0)", name)
        else:
            name = self.add_input(form, (size,), (group, group + 100))
            self.add(Value(self.name(), "document", (size,), frame, name), "L.Masking()($0)", name)

    # -------------------------------------------------------------------------------------------- programs

    def draw(self) -> Program:
        """Draw a program."""
        if self.for_keras:
            self.add_data(self.pick("ids", "ids", "masking"), 0)
        else:
            for _ in range(self.pick(1, 1, 1, 2, 2, 3)):
                form = self.random.choices(
                    ["packed", "ids", "masking", "packed_ids", "document_ids", "document_masking", "vector"],
                    [5, 3, 2, 1, 1.2, 0.6, 1],
                )[0]
                self.add_data(form, self.pick(0, 0, 1))
            if all(value.kind == "vector" for value in self.values):
                self.add_data("packed", 0)
        length = self.pick(1, 2, 3, 4, 5, 6, 8, 10)
        tries = 0
        while length and tries < 200:
            tries += 1
            usable = [value for value in self.values if value.kind in OPS]
            x = self.random.choice(usable[-4:] if self.chance(0.8) else usable)
            weights, functions = zip(*OPS[x.kind], strict=True)
            length -= self.random.choices(functions, weights)[0](self, x) is not None
        return self._finish()

    def _finish(self) -> Program:
        """Return the program, with unused values as outputs."""
        used = {name for line in self.lines for name in line.arguments}
        inputs = {x.name for x in self.inputs}
        ends = [value for value in self.values if value.name not in used and value.name not in inputs]
        if not ends:
            ends = [self.add(self.like(self.values[-1]), "L.Identity()($0)", self.values[-1].name)]
        outputs = [value.name for value in self.random.sample(ends, min(len(ends), self.pick(1, 2, 3)))]
        last = next(value for value in ends if value.name == outputs[0])
        if last.kind == "sequence" and len(last.features) == 1 and not self.for_keras and self.chance(0.1):
            grid = self.name()
            self.lines.append(Line((grid,), self.pick("L.DropMask()($0)", "L.Flatten()($0)"), (last.name,)))
            outputs.append(grid)
            self.grids.append((grid, last.name))
        return Program(tuple(self.inputs), tuple(self.lines), tuple(outputs), tuple(self.grids)).without_unused()


def draw_program(seed: int, for_keras: bool = False) -> Program:
    """Return the program of a seed."""
    return Drawer(seed, for_keras).draw()


# ------------------------------------------------------------------------------------------------ stepwise layers

ACTIVATIONS = ("relu", "tanh", "sigmoid", "gelu", "softmax", "elu", "silu", "softplus", "linear")


@op("sequence", "vector", "document", "fixed", weight=2.5)
def _dense(d, x):
    units, activation = d.units(), d.pick(*ACTIVATIONS)
    regularized = d.regularizers("kernel", "bias", *(() if d.for_keras else ("activity",)))
    options = d.options((0.6, f'activation="{activation}"'), (0.2, "use_bias=False")) + regularized
    return d.add(d.like(x, features=(*x.features[:-1], units)), f"L.Dense({units}{options})($0)", x.name)


@op("sequence", "fixed", weight=0.8)
def _time_distributed_dense(d, x):
    return d.add(d.like(x, features=(*x.features[:-1], 3)), 'L.TimeDistributed(L.Dense(3, activation="tanh"))($0)', x.name)


@op("sequence", "vector", "document", "fixed", weight=2)
def _activation(d, x):
    layers = (
        *(f'L.Activation("{d.pick(*ACTIVATIONS)}")', "L.ReLU(max_value=1.5, negative_slope=0.2, threshold=0.3)"),
        *("L.ReLU()", "L.LeakyReLU(0.2)", "L.ELU(alpha=0.5)", "L.Identity()"),
        *("L.Dropout(0.4)", "L.GaussianNoise(0.5)", "L.GaussianDropout(0.4)", "L.AlphaDropout(0.3)"),
        *("L.LayerNormalization()", "L.Rescaling(0.5, offset=-1.0)"),
    )
    if not d.for_keras:
        layers += (
            *(
                "L.Softmax()",
                "L.ActivityRegularization(l2=0.01)",
                "L.RMSNormalization()",
                "L.UnitNormalization()",
                "L.Lambda(torch.sin)",
            ),
        )
    return d.add(d.like(x), f"{d.pick(*layers)}($0)", x.name)


@op("sequence", weight=1.2)
def _stepwise_of_sequences(d, x):
    size = x.features[-1]
    one_axis = len(x.features) == 1
    layers = ["L.PReLU(shared_axes=[1])"] if one_axis else ["L.PReLU(shared_axes=[1, 3])"]
    if one_axis:
        layers.append("L.SpatialDropout1D(0.5)")
    if not d.for_keras:
        layers += [
            *("L.BatchNormalization()", "L.Softmax(axis=1)", "L.Normalization(mean=0.5, variance=2.0, axis=None)"),
        ]
        if one_axis:
            layers += [f"ResidualBlock({size})", f"Sequential([L.InputLayer((None, {size})), L.Dense({size})])"]
            layers += [f"L.GroupNormalization({d.pick(1, -1, size)})", "L.GroupNormalization(1, center=False)"]
            layers += [
                "L.BatchNormalization(scale=False, momentum=0.5)",
                "L.Masking(mask_value=9.0)",
                "L.Lambda(masked_sums)",
            ]
    call = d.pick(*layers)
    if call.startswith("Sequential"):
        call = f"({call})"
    mask = (x.mask, d.count) if "Masking" in call else x.mask
    return d.add(d.like(x, mask=mask), f"{call}($0)", x.name)


@op("vector", weight=0.5)
def _normalization_of_vectors(d, x):
    return d.add(d.like(x), f"{d.pick('L.BatchNormalization()', 'L.PReLU()')}($0)", x.name)


@op("sequence", "fixed", weight=1.5)
def _features(d, x):
    if d.for_keras:
        return None
    size, units = x.features[-1], d.units()
    if len(x.features) == 2:
        first = x.features[0]
        call, features = d.pick(
            ("L.Permute((1, 3, 2))", (size, first)),
            (f"L.Reshape((-1, {first * size}))", (first * size,)),
            ("L.LayerNormalization(axis=[2, 3])", x.features),
            ("L.RMSNormalization(axis=2)", x.features),
            ("L.UnitNormalization(axis=[2, 3])", x.features),
            (f'L.EinsumDense("abcd,cde->abe", (None, {units}), bias_axes="e")', (units,)),
            ("L.TimeDistributed(L.Flatten())", (first * size,)),
            (f"L.TimeDistributed(L.LSTM({units}))", (units,)),
            (f'L.TimeDistributed(L.Conv1D({units}, 2, padding="same"))', (first, units)),
            ("L.TimeDistributed(L.GlobalAveragePooling1D())", (size,)),
            ("L.Softmax(axis=2)", x.features),
            ("L.BatchNormalization(axis=2)", x.features),
        )
    else:
        choices = [
            (f'L.EinsumDense("abc,cd->abd", (None, {units}), bias_axes="d")', (units,)),
            (f'L.EinsumDense("...x,xy->...y", {units}, activation="tanh")', (units,)),
            (f"L.TorchModuleWrapper(Linear({size}, {units}))", (units,)),
            ('L.Lambda(with_square, arguments={"factor": 0.5})', (size + 1,)),
            (f"L.Reshape((-1, 1, {size}))", (1, size)),
        ]
        if size % 2 == 0:
            choices.append((f"L.Reshape((-1, {size // 2}, 2))", (size // 2, 2)))
        call, features = d.pick(*choices)
    if x.kind == "fixed" and "-1" in call:
        call = call.replace("(-1,", f"({x.width},")
    return d.add(d.like(x, features=features), f"{call}($0)", x.name)


@op("sequence", "fixed", weight=0.7)
def _positions(d, x):
    if d.for_keras or len(x.features) > 1:
        return None
    layers = [f"L.PositionEmbedding({WIDEST})", f"L.SinePositionEncoding({WIDEST})"]
    if x.features[0] % 2 == 0:
        layers.append(f"L.RotaryEmbedding({WIDEST})")
    return d.add(d.like(x), f"{d.pick(*layers)}($0)", x.name)


# ------------------------------------------------------------------------------------------------ torch functions


@op("sequence", "vector", "document", "fixed", weight=2)
def _torch_function(d, x):
    if d.for_keras:
        return None
    size = x.features[-1]
    choices = [
        *(("torch.tanh($0)", size), ("$0 * 2 + 1", size), ("1 - $0 / 3", size), ("-$0", size), ("torch.relu($0)", size)),
        *(("F.gelu($0)", size), ("torch.softmax($0, -1)", size), ("$0.sum(-1, keepdim=True)", 1), ("$0.clamp(-1, 1)", size)),
        *(("torch.where($0 > 0, $0, $0 * 0.1)", size), ("$0 - $0.mean(dim=-1, keepdim=True)", size)),
        *(
            (f"F.layer_norm($0, ({size},))", size),
            ("torch.flip($0, [-1])", size),
            ("torch.cat([$0, $0.square()], -1)", 2 * size),
        ),
        *(("$0.cumsum(-1)", size), ("torch.logsumexp($0, -1, keepdim=True)", 1), ("$0.abs().sqrt() * $0.sign()", size)),
        *(
            (f"$0[..., :{max(size - 1, 1)}]", max(size - 1, 1)),
            ("F.normalize($0, dim=-1)", size),
            ("torch.exp($0.clamp(max=1))", size),
        ),
    ]
    template, new = d.pick(*choices)
    return d.add(d.like(x, features=(*x.features[:-1], new)), template, x.name)


@op("sequence", "vector", "fixed", weight=1)
def _operator(d, x):
    if d.for_keras:
        return None
    y = d.partner(x, lambda y: (y.kind, y.frame, y.mask, y.features) == (x.kind, x.frame, x.mask, x.features))
    template = d.pick(
        "$0 + $1", "$0 - $1", "$0 * $1", "torch.maximum($0, $1)", "torch.cat([$0, $1], -1)", "torch.hypot($0, $1 + 3)"
    )
    features = (*x.features[:-1], 2 * x.features[-1]) if "cat" in template else x.features
    return d.add(d.like(x, features=features), template, x.name, y.name)


@op("sequence", weight=0.4)
def _stack(d, x):
    if d.for_keras or len(x.features) != 1:
        return None
    return d.add(d.like(x, features=(2, x.features[0])), "torch.stack([$0, torch.sin($0)], 2)", x.name)


@op("sequence", weight=0.25)
def _columns(d, x):
    if d.for_keras or x.has_gaps_of_padding:
        return None
    start, step = d.pick((1, 1), (0, 2), (1, 2))
    return d.add(d.windowed(x, f"columns {start} {step}", x.width), f"columns_from($0, {start}, {step})", x.name)


# ------------------------------------------------------------------------------------------------ windows


@op("sequence", weight=3)
def _window(d, x):
    if d.for_keras or len(x.features) != 1 or x.has_gaps_of_padding:
        return None
    size, kernel = x.features[0], d.pick(1, 2, 3, 4)
    stride, dilation = d.pick((1, 1), (1, 1), (1, 2), (2, 1), (3, 1))
    layer = d.pick("Conv1D", "Conv1D", "Conv1D", "DepthwiseConv1D", "SeparableConv1D")
    padding = d.pick("valid", "same", "causal")
    if layer != "Conv1D" and padding == "causal":
        padding = "same"
    filters, options = d.units(), ""
    if layer == "Conv1D" and size % 2 == 0 and d.chance(0.2):
        filters, options = 2 * filters, ", groups=2"
    options += f', padding="{padding}"'
    options += "" if stride == 1 else f", strides={stride}"
    options += "" if dilation == 1 else f", dilation_rate={dilation}"
    options += d.options((0.3, f'activation="{d.pick(*ACTIVATIONS[:4])}"'), (0.2, "use_bias=False"))
    if layer == "DepthwiseConv1D":
        filters = size
        if d.chance(0.3):
            filters, options = 2 * size, options + ", depth_multiplier=2"
        call = f"L.{layer}({kernel}{options})"
    else:
        call = f"L.{layer}({filters}, {kernel}{options})"
    if stride == 1 and padding != "valid":
        return d.add(d.like(x, features=(filters,)), f"{call}($0)", x.name)
    return d.add(
        d.windowed(x, f"{kernel} {stride} {padding} {dilation}", x.width, features=(filters,)), f"{call}($0)", x.name
    )


@op("sequence", weight=1.2)
def _pooling(d, x):
    if d.for_keras or len(x.features) != 1 or x.has_gaps_of_padding:
        return None
    layer, size, stride, padding = d.pick("Max", "Average"), d.pick(2, 3), d.pick(1, 2, 3), d.pick("valid", "same")
    template = f'L.{layer}Pooling1D({size}, {stride}, "{padding}")($0)'
    if stride == 1 and padding == "same":
        return d.add(d.like(x), template, x.name)
    return d.add(d.windowed(x, f"pool {size} {stride} {padding}", x.width), template, x.name)


@op("sequence", weight=1.2)
def _longer_or_shorter(d, x):
    if d.for_keras or len(x.features) != 1 or x.has_gaps_of_padding:
        return None
    units = d.units()
    stride = d.pick(1, 2, 3)
    kernel, padding = d.pick(1, 2, 3), d.pick("valid", "same")
    calls = {
        "L.Cropping1D((2, 1))": (x.width, x.features),
        "L.Cropping1D((0, 1))": (x.width, x.features),
        "L.ZeroPadding1D((2, 1))": (x.width + 3, x.features),
        "L.UpSampling1D(3)": (3 * x.width, x.features),
        "L.UpSampling1D(2)": (2 * x.width, x.features),
        f'L.Conv1DTranspose({units}, {kernel}, strides={stride}, padding="{padding}")': (x.width * stride + 3, (units,)),
    }
    call = d.pick(*calls)
    width, features = calls[call]
    if width > WIDEST // 4:
        return None
    return d.add(d.windowed(x, call, width, features=features), f"{call}($0)", x.name)


# ------------------------------------------------------------------------------------------------ recurrent layers


def _rnn(d, units, options=""):
    """Return the call of a recurrent layer without its parenthesis, and its number of states."""
    cls = d.pick("LSTM", "GRU", "SimpleRNN")
    changes = [(0.12, "use_bias=False"), (0.08, 'activation="relu"'), (0.06, 'activation="softsign"')]
    text = f"L.{cls}({units}" + d.options(changes[0], changes[d.pick(1, 2)])
    if cls != "SimpleRNN":
        text += d.options((0.08, 'recurrent_activation="hard_sigmoid"'))
    if cls == "GRU":
        text += d.options((0.2, "reset_after=False"))
    if cls == "LSTM":
        text += d.options((0.1, "unit_forget_bias=False"))
    text += d.regularizers("kernel", "recurrent")
    if not d.for_keras:
        text += d.options((0.05, "dropout=0.3"), (0.05, "zero_output_for_mask=True")) + d.regularizers("activity")
    return text + options, 2 if cls == "LSTM" else 1


@op("sequence", "fixed", weight=4)
def _recurrent(d, x):
    if len(x.features) != 1:
        return None
    units, sequences = d.units(), d.chance(0.7)
    backwards = d.chance(0.25) and not (d.for_keras and sequences)
    text, num_states = _rnn(d, units, ", return_sequences=True" * sequences + ", go_backwards=True" * backwards)
    arguments = [x.name]
    call = "($0"
    if not d.for_keras and d.chance(0.15):
        states = d.others(lambda y: y.kind == "vector" and y.features == (units,))
        if states:
            chosen = [d.random.choice(states).name for _ in range(num_states)]
            arguments += chosen
            call += f", initial_state=[{', '.join(f'${k + 1}' for k in range(num_states))}]"
    mask = x.mask
    if x.mask is not None and x.frame[0] == "input" and not d.for_keras and d.chance(0.1):
        name = d.add_input("step_mask", (), (x.frame[1],))
        mask, call = (x.mask, name), f"{call}, mask={name}"
    result = d.like(x, features=(units,), mask=mask) if sequences else d.vector(units)
    if sequences and backwards and x.kind == "sequence":
        frame = x.frame[1] if x.frame[0] == "reversed" else ("reversed", x.frame)
        result = replace(result, frame=frame, mask=(mask, "reversed"))
    if not d.for_keras and d.chance(0.2):
        states = [d.vector(units) for _ in range(num_states)]
        needs = tuple(re.findall(r"\bx\d+\b", call))
        names = (result.name, *(state.name for state in states))
        d.lines.append(Line(names, f"{text}, return_state=True){call})", tuple(arguments), (), needs))
        d.values += [result, *states]
        return result
    return d.add(result, f"{text}){call})", *arguments)


@op("sequence", "fixed", weight=1.5)
def _bidirectional(d, x):
    if len(x.features) != 1:
        return None
    units, sequences = d.units(), d.chance(0.6)
    inner = _rnn(d, units, ", return_sequences=True" * sequences)[0] + ")"
    if not d.for_keras and d.chance(0.2):
        cells = d.pick(f"L.LSTMCell({units})", f"[L.GRUCell(3), L.SimpleRNNCell({units})]")
        inner = f"L.RNN({cells}{', return_sequences=True' * sequences})"
    mode = d.pick("concat", "concat", "sum", "mul", "ave")
    width = 2 * units if mode == "concat" else units
    options = "" if mode == "concat" else f', merge_mode="{mode}"'
    if not d.for_keras and d.chance(0.15):
        options += f", backward_layer=L.GRU({units}, go_backwards=True{', return_sequences=True' * sequences})"
    result = d.like(x, features=(width,)) if sequences else d.vector(width)
    return d.add(result, f"L.Bidirectional({inner}{options})($0)", x.name)


@op("sequence", "fixed", weight=1.5)
def _cells(d, x):
    if len(x.features) != 1:
        return None
    units, sequences = d.units(), d.chance(0.6)
    cells = [f"L.SimpleRNNCell({units})", f"L.GRUCell({units})", f"L.LSTMCell({units})"]
    cells.append(f"L.StackedRNNCells([L.LSTMCell(3), L.GRUCell({units})])")
    width = units
    if not d.for_keras:
        cells += [f"[L.GRUCell(4), L.LSTMCell({units})]", f"LeakyCell({units})"]
    cell = d.pick(*cells)
    if "Leaky" in cell:
        width = 2 * units
    result = d.like(x, features=(width,)) if sequences else d.vector(width)
    return d.add(result, f"L.RNN({cell}{', return_sequences=True' * sequences})($0)", x.name)


@op("sequence", weight=4)
def _conv_lstm(d, x):
    if d.for_keras or len(x.features) != 2:
        return None
    filters, sequences, first = d.units(), d.chance(0.6), x.features[0]
    kernel = d.pick(*range(1, first + 1))
    padding = d.pick("same", "valid")
    size = first if padding == "same" else first - kernel + 1
    tail = ", return_sequences=True" * sequences
    features = (size, filters)
    call = d.pick(
        f'L.ConvLSTM1D({filters}, {kernel}, padding="{padding}"{tail})',
        f'L.RNN(L.ConvLSTM1DCell({filters}, {kernel}, padding="{padding}"){tail})',
        f'L.Bidirectional(L.ConvLSTM1D({filters}, {kernel}, padding="{padding}"{tail}), merge_mode="sum")',
    )
    result = d.like(x, features=features) if sequences else d.vector(*features)
    return d.add(result, f"{call}($0)", x.name)


# ------------------------------------------------------------------------------------------------ attention


def _heads(d, x):
    """Return the call of an attention layer with heads, and the features of its output."""
    num, size, gate = d.pick(1, 2, 3), d.pick(1, 2, 3, 4), d.options((0.1, "use_gate=True"), (0.1, "use_bias=False"))
    if d.for_keras:
        return f"L.MultiHeadAttention({num}, {size})", x.features
    if d.chance(0.3):
        return f"L.GroupQueryAttention({size}, {num * d.pick(1, 2)}, {num}{gate})", x.features
    output = d.pick(None, None, 5)
    more = gate + d.options((0.2, f"value_dim={d.pick(1, 3, 5)}"), (0.1, "dropout=0.2"))
    more += "" if output is None else f", output_shape={output}"
    return f"L.MultiHeadAttention({num}, {size}{more}", (x.features if output is None else (output,))


@op("sequence", "fixed", weight=2.5)
def _self_attention(d, x):
    if len(x.features) != 1 or d.for_keras and x.kind == "fixed":
        return None
    if d.for_keras and any("MultiHead" in line.template for line in d.lines):
        return None  # Keras loses the mask of one of two such layers on the same steps
    call, features = _heads(d, x)
    if "MultiHead" in call and not d.for_keras:
        window = d.options((0.25, f"sliding_window={d.pick(1, 2, 3)}")) if not x.has_gaps_of_padding else ""
        call += window + ")"
    options = d.options((0.35, "use_causal_mask=True"))
    if not d.for_keras and x.frame[0] == "input" and d.chance(0.25):
        name = d.add_input("pair_mask", (), (x.frame[1], x.frame[1]))
        options += f", attention_mask={name}"
    kind = "end" if d.for_keras else x.kind  # Keras loses the mask here
    return d.add(d.like(x, kind=kind, features=features), f"{call}($0, $0{options})", x.name)


@op("sequence", "fixed", weight=2)
def _cross_attention(d, x):
    if d.for_keras or len(x.features) != 1:
        return None
    y = d.partner(x, lambda y: y.kind in ("sequence", "fixed") and len(y.features) == 1)
    z = d.partner(y, lambda z: (z.kind, z.frame, len(z.features)) == (y.kind, y.frame, 1))
    call, features = _heads(d, x)
    call += ")" if "MultiHead" in call else ""
    same = x.frame == y.frame and x.kind == y.kind
    options = d.options((0.3, "use_causal_mask=True")) if same else ""
    if x.frame[0] == y.frame[0] == "input" and d.chance(0.3):
        options += f", attention_mask={d.add_input('pair_mask', (), (x.frame[1], y.frame[1]))}"
    if d.chance(0.5):
        return d.add(d.like(x, features=features), f"{call}($0, $1{options})", x.name, y.name)
    return d.add(d.like(x, features=features), f"{call}($0, $1, $2{options})", x.name, y.name, z.name)


@op("sequence", "fixed", weight=1.5)
def _dot_attention(d, x):
    if d.for_keras or len(x.features) != 1:
        return None
    size = x.features[0]
    y = d.partner(x, lambda y: y.kind in ("sequence", "fixed") and y.features == (size,))
    layer = d.pick(
        *("L.Attention()", "L.Attention(use_scale=True)", 'L.Attention(score_mode="concat")', "L.AdditiveAttention()"),
        "L.AdditiveAttention(use_scale=False)",
    )
    same = x.frame == y.frame and x.kind == y.kind
    options = d.options((0.3, "use_causal_mask=True")) if same else ""
    if d.chance(0.3):
        z = d.partner(y, lambda z: (z.kind, z.frame, z.features) == (y.kind, y.frame, y.features))
        return d.add(d.like(x), f"{layer}([$0, $1, $2]{options})", x.name, y.name, z.name)
    return d.add(d.like(x), f"{layer}([$0, $1]{options})", x.name, y.name)


@op("sequence", "fixed", weight=1.2)
def _transformer(d, x):
    if d.for_keras or len(x.features) != 1:
        return None
    heads = d.pick(*(n for n in (1, 2, 3) if x.features[0] % n == 0))
    if x.features[0] // heads == 0:
        return None
    options = d.options((0.5, "normalize_first=True"), (0.1, "dropout=0.2"))
    if d.chance(0.5):
        return d.add(d.like(x), f"L.TransformerEncoder({d.units()}, {heads}{options})($0)", x.name)
    if d.chance(0.4):
        return d.add(d.like(x), f"L.TransformerDecoder({d.units()}, {heads}{options})($0)", x.name)
    y = d.partner(x, lambda y: y.kind in ("sequence", "fixed") and len(y.features) == 1)
    return d.add(d.like(x), f"L.TransformerDecoder({d.units()}, {heads}{options})($0, $1)", x.name, y.name)


@op("sequence", "fixed", weight=0.6)
def _dot_of_steps(d, x):
    if d.for_keras or len(x.features) != 1:
        return None
    if x.kind != "sequence":
        return None
    y = d.partner(x, lambda y: (y.kind, y.features, y.mask) == ("sequence", x.features, x.mask))  # no step without a key
    normalize = d.pick("", ", normalize=True")
    return d.add(d.like(x), f"L.Dot((2, 1))([L.Dot(2{normalize})([$0, $1]), $1])", x.name, y.name)


# ------------------------------------------------------------------------------------------------ merges


@op("sequence", "fixed", "vector", weight=2.5)
def _merge(d, x):
    def fits(y):
        mask = y.mask == x.mask if d.for_keras else True
        return (y.kind, y.frame, y.features) == (x.kind, x.frame, x.features) and mask

    y = d.partner(x, fits)
    layer = d.pick("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
    mask = x.mask if x.mask == y.mask else ("union", frozenset([x.mask, y.mask]))
    flag = x.has_gaps_of_padding or y.has_gaps_of_padding
    return d.add(d.like(x, mask=mask, has_gaps_of_padding=flag), f"L.{layer}()([$0, $1])", x.name, y.name)


@op("sequence", "fixed", "vector", weight=1.5)
def _concatenate(d, x):
    def fits(y):
        mask = y.mask == x.mask if d.for_keras else True
        return (y.kind, y.frame, y.features[:-1]) == (x.kind, x.frame, x.features[:-1]) and mask

    y = d.partner(x, fits)
    mask = x.mask if x.mask == y.mask else ("union", frozenset([x.mask, y.mask]))
    flag = x.has_gaps_of_padding or y.has_gaps_of_padding
    features = (*x.features[:-1], x.features[-1] + y.features[-1])
    if features[-1] > 40:
        return None
    result = d.like(x, features=features, mask=mask, has_gaps_of_padding=flag)
    return d.add(result, "L.Concatenate()([$0, $1])", x.name, y.name)


@op("sequence", weight=0.5)
def _concatenate_in_time(d, x):
    y = d.partner(x, lambda y: (y.kind, y.features) == ("sequence", x.features))
    if d.for_keras or y is None or x.width + y.width > WIDEST // 4:
        return None
    frame = ("joined", x.frame, x.mask, y.frame, y.mask)
    result = d.like(x, frame=frame, mask=frame, width=x.width + y.width, has_gaps_of_padding=True)
    return d.add(result, "L.Concatenate(axis=1)([$0, $1])", x.name, y.name)


@op("sequence", weight=0.8)
def _repeat_on_steps(d, x):
    vectors = d.others(lambda y: y.kind == "vector" and len(y.features) == 1)
    if d.for_keras or not vectors:
        return None
    v = d.random.choice(vectors)
    return d.add(d.like(x, features=v.features), "L.RepeatVector()([$0, $1])", v.name, x.name)


# ------------------------------------------------------------------------------------------------ summaries


@op("sequence", "fixed", weight=2)
def _summary(d, x):
    many = len(x.features) > 1
    layers = {"L.GlobalAveragePooling1D()": x.features}
    if d.for_keras and many:
        return None
    if not d.for_keras:
        layers |= {
            "L.GlobalMaxPooling1D()": x.features,
            "L.GlobalSumPooling1D()": x.features,
            "L.FirstStep()": x.features,
            "L.LastStep()": x.features,
        }
        if not many:
            layers |= {
                "L.AttentionPooling1D()": x.features,
                "L.AttentionPooling1D(4)": x.features,
                "L.AttentionPooling1D(4, num_queries=2)": (2, *x.features),
            }
    call = d.pick(*layers)
    return d.add(d.vector(*layers[call]), f"{call}($0)", x.name)


@op("sequence", weight=0.4)
def _dot_over_time(d, x):
    if d.for_keras or len(x.features) != 1:
        return None
    y = d.partner(x, lambda y: y.kind == "sequence" and y.frame == x.frame and len(y.features) == 1)
    return d.add(d.vector(x.features[0], y.features[0]), "L.Dot(1)([$0, $1])", x.name, y.name)


@op("vector", weight=1.5)
def _vector_to_steps(d, x):
    if d.for_keras or len(x.features) > 2:
        return None
    if len(x.features) == 2:
        size = x.features[0] * x.features[1]
        return d.add(d.vector(size), d.pick("L.Flatten()($0)", f"L.Reshape(({size},))($0)"), x.name)
    number = d.pick(1, 2, 3)
    result = Value(d.name(), "fixed", x.features, ("fixed", number), None, number)
    return d.add(result, f"L.RepeatVector({number})($0)", x.name)


@op("fixed", weight=1)
def _flatten_fixed(d, x):
    if d.for_keras:
        return None
    size = int(np.prod(x.features)) * x.width
    return d.add(d.vector(size), d.pick("L.Flatten()($0)", f"L.Reshape(({size},))($0)"), x.name)


@op("vector", weight=0.4)
def _dot_of_vectors(d, x):
    y = d.partner(x, lambda y: (y.kind, y.features) == ("vector", x.features))
    if len(x.features) != 1:
        return None
    return d.add(d.vector(1), f"L.Dot(1{d.pick('', ', normalize=True')})([$0, $1])", x.name, y.name)


# ------------------------------------------------------------------------------------------------ nested models


@op("sequence", weight=1.5)
def _nested(d, x):
    """Use a layer or a model twice, on values with the same features."""
    if d.for_keras or len(x.features) != 1:
        return None
    size, units = x.features[0], d.units()
    known = [entry for entry in d.shared if entry[2] == x.features]
    if known and d.chance(0.6):
        name, line, _, kind, features = d.random.choice(known)
    else:
        name, inner = d.name("shared"), d.name("i")
        kind, call, features = d.pick(
            ("sequence", f'L.Dense({units}, activation="tanh")', (units,)),
            ("sequence", f"L.LSTM({units}, return_sequences=True)", (units,)),
            ("vector", f"L.GRU({units})", (units,)),
            ("sequence", "L.MultiHeadAttention(1, 2)", x.features),
            ("sequence", "L.BatchNormalization()", x.features),
            ("sequence", f'Sequential([L.Dense({units}), L.Conv1D(3, 2, padding="same")])', (3,)),
            ("vector", f"Sequential([L.Bidirectional(L.LSTM({units}, return_sequences=True)), L.LastStep()])", (2 * units,)),
            ("sequence", f"Model({inner}, L.Add()([{inner}, L.GRU({size}, return_sequences=True)({inner})]))", x.features),
            ("vector", f"Model({inner}, L.GlobalMaxPooling1D()({inner} * 2))", x.features),
        )
        if x.has_gaps_of_padding and "Conv1D" in call:
            return None
        prefix = f"{inner} = Input((None, {size}), masked=True)\n" if "Model(" in call else ""
        line = f"{prefix}{name} = {call}"
        d.shared.append((name, line, x.features, kind, features))
    if x.has_gaps_of_padding and "Conv1D" in line:
        return None
    result = d.like(x, features=features) if kind == "sequence" else d.vector(*features)
    arguments = "$0, $0" if "MultiHead" in line else "$0"
    return d.add(result, f"{name}({arguments})", x.name, setup=(line,))


# ------------------------------------------------------------------------------------------------ documents


@op("document", weight=6)
def _in_sentences(d, x):
    size, units = x.features[0], d.units()
    sequence = {
        f"L.LSTM({units}, return_sequences=True)": (units,),
        f'L.Dense({units}, activation="tanh")': (units,),
        f"L.Bidirectional(L.GRU({units}, return_sequences=True))": (2 * units,),
        f'L.Conv1D({units}, 3, padding="same")': (units,),
        f"L.TransformerEncoder({units}, 1)": (size,),
        "L.LayerNormalization()": (size,),
    }
    summary = {
        f"L.LSTM({units})": (units,),
        f"L.GRU({units}, go_backwards=True)": (units,),
        f"L.Bidirectional(L.SimpleRNN({units}))": (2 * units,),
        "L.GlobalAveragePooling1D()": (size,),
        "L.GlobalMaxPooling1D()": (size,),
        "L.AttentionPooling1D(3)": (size,),
        "L.LastStep()": (size,),
        f'Sequential([L.Dense({units}, activation="tanh"), L.SimpleRNN(4)])': (4,),
        f"Sequential([L.Conv1D({units}, 2), L.GlobalMaxPooling1D()])": (units,),
    }
    if d.chance(0.4):
        call = d.pick(*sequence)
        return d.add(d.like(x, features=sequence[call]), f"L.TimeDistributed({call})($0)", x.name)
    call = d.pick(*summary)
    result = Value(d.name(), "sequence", summary[call], x.frame, (x.mask, "sentences"))
    return d.add(result, f"L.TimeDistributed({call})($0)", x.name)


# ------------------------------------------------------------------------------------------------ data


@dataclass(frozen=True)
class Data:
    """Data for a program.

    Attributes:
        grids: The grid of each input, zeros at masked steps.
        masks: The mask of each input: `(B, T)`, for documents `(B, S, W)`; None for vectors and masks.
    """

    grids: dict[str, np.ndarray]
    masks: dict[str, np.ndarray | None]

    @property
    def batch(self) -> int:
        """The number of sequences."""
        return len(next(iter(self.grids.values())))

    def select(self, rows) -> "Data":
        """Return some sequences."""
        rows = list(rows)
        return Data(
            {name: grid[rows] for name, grid in self.grids.items()},
            {name: None if mask is None else mask[rows] for name, mask in self.masks.items()},
        )


def draw_data(program: Program, seed: int, for_keras: bool = False) -> Data:
    """Return random data for a program."""
    r = np.random.default_rng(seed)
    batch = int(r.integers(1, 5))
    widths: dict[int, int] = {}
    for x in program.inputs:
        for group in x.groups:
            low = 1 if for_keras or r.random() < 0.95 else 0
            widths.setdefault(group, int(r.integers(low, 5 if group >= 100 else 8)))
    common: dict[tuple[int, ...], np.ndarray] = {}
    style = int(r.integers(0, 8))
    grids: dict[str, np.ndarray] = {}
    masks: dict[str, np.ndarray | None] = {}
    for x in program.inputs:
        if x.form in ("vector", "step_mask", "pair_mask"):
            continue
        shape = (batch, *(widths[group] for group in x.groups))
        if x.groups not in common or r.random() < 0.3:
            common[x.groups] = _draw_mask(r, shape, style, for_keras)
        mask = common[x.groups]
        if "ids" in x.form:
            grid = r.integers(1, VOCABULARY, shape)
        else:
            grid = r.normal(size=(*shape, *x.features)).astype(np.float32).astype(np.float64)
        grids[x.name] = np.where(mask.reshape(*mask.shape, *(1,) * (grid.ndim - mask.ndim)), grid, 0)
        masks[x.name] = mask
    for x in program.inputs:
        if x.form == "vector":
            grids[x.name], masks[x.name] = r.normal(size=(batch, *x.features)).astype(np.float32).astype(np.float64), None
        elif x.form == "step_mask":
            real = np.ones((batch, widths[x.groups[0]]), dtype=bool)
            for other in program.inputs:
                if other.groups[:1] == x.groups and masks.get(other.name) is not None:
                    mask = masks[other.name]
                    real &= mask if mask.ndim == 2 else mask.any(2)
            grids[x.name], masks[x.name] = real & (r.random(real.shape) < 0.8), None
        elif x.form == "pair_mask":
            shape = (batch, *(widths[group] for group in x.groups))
            grids[x.name], masks[x.name] = r.random(shape) < 0.7, None
    return Data({x.name: grids[x.name] for x in program.inputs}, {x.name: masks[x.name] for x in program.inputs})


def _draw_mask(r, shape, style, nonempty):
    """Return a mask: without padding, right or left padding, on both sides, gaps, empty sequences, or no step at all."""
    *rows, width = shape
    column = np.arange(width)
    lengths = r.integers(0, width + 1, (*rows, 1))
    if style == 0:
        mask = np.ones(shape, dtype=bool)
    elif style == 1:
        mask = column < lengths
    elif style == 2:
        mask = column >= width - lengths
    elif style == 3:
        first = r.integers(0, width + 1, (*rows, 1))
        mask = (column >= first) & (column < first + lengths)
    elif style == 7 and r.random() < 0.4 and not nonempty:
        mask = np.zeros(shape, dtype=bool)
    else:
        mask = r.random(shape) < r.random((*rows, 1))
    if nonempty:
        empty = ~mask.any(-1, keepdims=True)
        mask = np.where(empty, column == r.integers(0, width, (*rows, 1)), mask)
    return mask
