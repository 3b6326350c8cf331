"""A call on symbols finds shapes, dtypes and masks without values: nothing is computed that memory or state would show."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import padless
from padless import Input, Model, Sequential, layers
from padless.errors import ArgumentError, MaskLost, PadlessError
from padless.graph.meta_mode import MetaMode
from padless.graph.meta_rules import find_rule
from padless.layers import Dense, Embedding, Layer

HUGE = 10**9


class Counted(Layer):
    """A layer that changes buffers, attributes and random numbers in its call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.calls = 0
        self.devices = []
        self.total = padless.metrics.Sum()
        self.register_buffer("steps", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(2))
        self.last = None

    def call(self, inputs):
        self.calls += 1
        self.devices.append(inputs.device.type)
        self.steps += 1
        self.steps[0] += 1
        self.replaced = self.replaced + 1
        self.total.update_state(self.steps)
        self.last = inputs * 2
        return inputs + torch.rand(1) + self.steps.sum()


@pytest.mark.parametrize("masked", [False, True])
def test_call_on_symbols_leaves_state_and_random_numbers_as_they_were(masked):
    layer, before = Counted(), torch.get_rng_state()
    layer(Input((None, 3), masked=masked))
    assert layer.calls <= 2 and set(layer.devices) == {"meta"}
    assert layer.steps.tolist() == layer.replaced.tolist() == [0, 0] and layer.last is None
    assert layer.total.result() == 0 and torch.equal(before, torch.get_rng_state())
    assert all(buffer.device.type == "cpu" for buffer in layer.buffers())


def test_eager_call_runs_call_once():
    layer = Counted()
    layer(torch.ones(2, 4, 3))
    assert layer.calls == 1 and layer.steps.tolist() == [2, 1]


def test_declared_output_shape_replaces_the_call():
    class Widened(Counted):
        def compute_output_shape(self, input_shape):
            self.shape_seen = input_shape
            return (*input_shape[:-1], 2 * input_shape[-1])

    layer = Widened()
    output = layer(Input((None, 3)))
    assert layer.calls == 0 and layer.shape_seen == (None, None, 3)
    assert output.shape == (None, None, 6) and output.dtype == torch.float32
    masked = layer(Input((None, 3), masked=True))
    assert layer.calls == 0 and masked.masked and masked.shape == (None, None, 6)


def test_declared_output_shape_of_several_inputs_and_outputs():
    class Pair(Layer):
        def call(self, first, second):
            raise AssertionError

        def compute_output_shape(self, first_shape, second_shape):
            return [first_shape, (second_shape[0], 7)]

    outputs = Pair()(Input((None, 3)), Input((4,)))
    assert [x.shape for x in outputs] == [(None, None, 3), (None, 7)]


def test_declared_output_shape_takes_the_mask_of_compute_mask():
    class Half(Layer):
        def call(self, inputs):
            raise AssertionError

        def compute_mask(self, inputs, mask=None):
            return mask[:, ::2]

        def compute_output_shape(self, input_shape):
            return (input_shape[0], 4, input_shape[2])

    output = Half()(Input((8, 3), masked=True))
    assert output.masked and output.shape == (None, 4, 3)


def test_sublayers_are_built_although_the_output_shape_is_declared():
    class Block(Layer):
        def __init__(self):
            super().__init__()
            self.dense = Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

        def compute_output_shape(self, input_shape):
            return (*input_shape[:-1], 3)

    block = Block()
    assert block(Input((None, 5))).shape == (None, None, 3)
    assert block.dense.kernel.shape == (5, 3) and block.dense.kernel.device.type == "cpu"


def test_weights_that_a_call_on_symbols_builds_have_the_same_random_numbers():
    class Block(Layer):
        def __init__(self):
            super().__init__()
            self.first, self.second = Dense(3), Dense(2)

        def call(self, inputs):
            return self.second(self.first(inputs))

    torch.manual_seed(3)
    symbolic = Block()
    symbolic(Input((None, 5)))
    torch.manual_seed(3)
    eager = Block()
    eager(torch.ones(1, 2, 5))
    assert all(map(np.array_equal, symbolic.get_weights(), eager.get_weights()))


class Positions(Layer):
    """Token and position embeddings, as many Keras programs define them."""

    def __init__(self, table):
        super().__init__()
        self.tokens, self.positions = Embedding(9, 4), table

    def call(self, ids):
        return self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))


@pytest.mark.parametrize("make_table", [lambda: Embedding(20, 4), lambda: nn.Embedding(20, 4)], ids=["padless", "torch"])
def test_position_embedding_of_few_rows_takes_an_open_length(make_table):
    ids = Input((None,))
    model = Model(ids, Positions(make_table())(ids))
    assert model.output_shape == (None, None, 4)
    assert model(torch.ones(2, 20, dtype=torch.long)).shape == (2, 20, 4)
    nested = Input((None,))
    assert Model(nested, model(nested)).output_shape == (None, None, 4)


def test_call_that_reads_values_runs_on_zeros_and_changes_nothing():
    class Scaled(Layer):
        def __init__(self):
            super().__init__()
            self.dense = Dense(3)
            self.register_buffer("steps", torch.zeros(2))

        def call(self, inputs):
            self.steps += 1
            torch.rand(5)
            scale = float(inputs.abs().max()) + self.steps[0].item()
            return self.dense(inputs * scale)

    torch.manual_seed(0)
    expected = Dense(3)
    expected(torch.ones(1, 2))
    expected_next = torch.rand(3)
    torch.manual_seed(0)
    layer = Scaled()
    assert layer(Input((None, 2))).shape == (None, None, 3)
    assert layer.steps.tolist() == [0, 0]
    assert torch.equal(layer.dense.kernel, expected.kernel) and torch.equal(torch.rand(3), expected_next)


def test_call_that_reads_values_of_a_huge_input_is_refused():
    class Scaled(Layer):
        def call(self, inputs):
            return inputs * inputs.max().item()

    with pytest.raises(ArgumentError, match="compute_output_shape"):
        Scaled()(Input((HUGE, HUGE)))


def test_error_of_a_call_is_the_one_that_data_give():
    class Wrong(Layer):
        def call(self, inputs):
            return inputs @ torch.ones(4, 2)

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        Wrong()(Input((None, 3)))


def test_lost_mask_is_found_without_values():
    class Mean(Layer):
        def call(self, inputs):
            return inputs.mean(1)

    with pytest.raises(MaskLost):
        Mean()(Input((None, 3), masked=True))


def test_mask_that_a_layer_creates_inside_a_user_defined_layer_is_known():
    class Words(Layer):
        def __init__(self):
            super().__init__()
            self.table = Embedding(9, 4, mask_zero=True)

        def call(self, ids):
            return self.table(ids)

    output = Words()(Input((None,)))
    assert output.masked and output.shape == (None, None, 4)


@pytest.mark.parametrize(
    ("shape", "make", "expected"),
    [
        ((10**12, 1), lambda: Dense(2), (None, 10**12, 2)),
        ((HUGE, 10**6), lambda: layers.Activation("relu"), (None, HUGE, 10**6)),
        ((HUGE, 3), lambda: layers.Conv1D(2, 3, strides=2), (None, (HUGE - 3) // 2 + 1, 2)),
        ((HUGE, 3), lambda: layers.GlobalAveragePooling1D(), (None, 3)),
        ((HUGE, 3), lambda: layers.UpSampling1D(10**4), (None, HUGE * 10**4, 3)),
        ((5,), lambda: layers.RepeatVector(10**15), (None, 10**15, 5)),
    ],
)
def test_huge_shapes_cost_nothing(shape, make, expected):
    assert make()(Input(shape)).shape == expected


def test_shapes_that_double_forty_times_cost_nothing():
    x = Input((None, 3))
    for _ in range(40):
        x = torch.cat([x, x], -1)
    assert x.shape == (None, None, 3 * 2**40)


def test_graph_called_as_a_layer_is_inferred_call_by_call():
    x = Input((None, 3), masked=True)
    inner = Model(x, [layers.LSTM(2)(x), x, x * 2])
    outer = Input((7, 3), masked=True)
    last, same, doubled = inner(outer)
    assert (last.shape, last.masked) == ((None, 2), False)
    assert (same.shape, same.masked, same is outer) == ((None, 7, 3), True, False)
    assert (doubled.shape, doubled.masked) == ((None, 7, 3), True)
    plain = inner(Input((None, 3)))
    assert [s.masked for s in plain] == [False] * 3


def test_graph_called_as_a_layer_takes_a_last_axis_of_size_one_as_data_do():
    x = Input((None,))
    inner = Sequential([x, Embedding(9, 2)])
    assert inner(Input((None, 1))).shape == (None, None, 2)
    with pytest.raises(PadlessError, match="expected shape"):
        inner(Input((None, 3)))


# ------------------------------------------------------------------------------------------------ rules of torch functions

FLOATS = {"x": (5, 3), "y": (3, 4), "b": (4,), "z": (2, 5, 3), "w": (5, 5, 2), "g": (4, 2, 2)}
CALLS = [
    "x + 1",
    "1 - x",
    "x * x[:1]",
    "x / 2",
    "-x",
    "x > 0",
    "x == x",
    "x ** 2",
    "i // 2",
    "i / 2",
    "i % 2",
    "x.exp()",
    "i.exp()",
    "torch.where(x > 0, x, 0.0)",
    "x.clamp(0, 1)",
    "x.masked_fill(x > 0, 0.0)",
    "torch.lerp(x, x, 0.5)",
    "x.half() + x",
    "torch.relu(x)",
    "functional.gelu(x)",
    "functional.silu(x)",
    "functional.softplus(x)",
    "functional.dropout(x)",
    "functional.linear(z, y.mT, b)",
    "torch.addmm(b, x, y)",
    "x @ y",
    "functional.layer_norm(x, (3,))",
    "functional.layer_norm(z, (5, 3))",
    "functional.group_norm(z, 5)",
    "functional.batch_norm(x, x[0], x[0])",
    "x.mean()",
    "x.mean(1)",
    "x.mean((0, 1), keepdim=True)",
    "(x > 0).any()",
    "(x > 0).all(1)",
    "(x > 0).any(1, keepdim=True)",
    "x.norm(dim=-1)",
    "x.std(0)",
    "x.var(1, keepdim=True)",
    "x.logsumexp(0)",
    "i.cumsum(0)",
    "(x > 0).cumsum(1)",
    "x.cumprod(1)",
    "x.tril()",
    "x.triu(1)",
    "x.roll(1, 0)",
    "torch.cat([x, x], -1)",
    "torch.cat([x, x.double()])",
    "torch.stack([x, x], 1)",
    "torch.softmax(x, -1)",
    "torch.log_softmax(x, 0)",
    "functional.normalize(x)",
    "functional.scaled_dot_product_attention(z, z, z)",
    "functional.embedding(i, x)",
    "functional.one_hot(i % 5, 5)",
    "functional.conv1d(z.mT, z[:, :2].mT)",
    "x.new_zeros(3)",
    "torch.zeros(4) + b",
    "torch.arange(4) * b",
    "x.clone().relu_()",
    "x.double().sigmoid_()",
    "i.sum()",
    "x.sum((0, 1))",
    "(x > 0).sum(-1, keepdim=True)",
    "x.amax(1)",
    "x.amin()",
    "x.repeat(2, 3, 1)",
    "functional.conv1d(z, w, stride=2, padding=1)",
    "functional.conv_transpose1d(z, w.mT.mT, stride=2)",
    "torch.tile(x, (2, 1))",
    "functional.conv1d(z[:, :4], g, dilation=2, groups=2)",
    "functional.conv_transpose1d(z[:, :4], g, groups=1)",
    "functional.cosine_similarity(x, x)",
    "torch.rand(4) + b",
]


@pytest.mark.parametrize("call", CALLS)
def test_shape_and_dtype_without_values_are_those_of_data(call):
    data = {name: torch.rand(shape) for name, shape in FLOATS.items()} | {"i": torch.arange(5)}
    expected = eval(call, {"torch": torch, "functional": functional}, data)
    with MetaMode(), torch.no_grad():
        result = eval(call, {"torch": torch, "functional": functional}, {name: x.to("meta") for name, x in data.items()})
    assert (result.shape, result.dtype, result.device.type) == (expected.shape, expected.dtype, "meta")


MISFITS = [
    "x + y",
    "torch.cat([x, y])",
    "torch.addmm(x, x, y)",
    "x @ x",
    "functional.layer_norm(x, (4,))",
    "functional.conv1d(z, w.mT)",
    "x.sum(2)",
    "x.repeat(2)",
]


@pytest.mark.parametrize("call", MISFITS)
def test_shapes_that_do_not_fit_are_an_error_without_values(call):
    with MetaMode(), torch.no_grad(), pytest.raises((RuntimeError, ValueError, IndexError)):
        eval(call, {"torch": torch, "functional": functional}, {n: torch.empty(s, device="meta") for n, s in FLOATS.items()})


def test_every_rule_is_that_of_a_function_of_torch():
    assert find_rule(torch.ops.aten.add.Tensor) is not None and find_rule(torch.ops.aten.sort.default) is None


def test_tensors_from_before_are_not_written_to_and_new_ones_are():
    before = torch.zeros(3)
    with MetaMode(), torch.no_grad():
        before.add_(1)
        before[0] = 5
        before[1:].copy_(torch.ones(2, device="meta"))
        new = torch.tensor([1, 2])
        new[0] = 7
    assert before.tolist() == [0, 0, 0] and new.tolist() == [7, 2]


@pytest.mark.slow
def test_shape_inference_does_not_import_the_compiler_of_torch():
    code = """
import sys, torch, padless
from padless import layers
class Block(layers.Layer):
    def __init__(self):
        super().__init__()
        self.dense, self.norm, self.attention = layers.Dense(4), layers.LayerNormalization(), layers.MultiHeadAttention(2, 2)
    def call(self, x):
        return self.norm(x + self.attention(x, x) + torch.relu(self.dense(x)))
Block()(padless.Input((None, 4), masked=True))
print("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
