"""Graphs: shape inference by probes, replay of calls, lost masks, and gap values where the padded grid is read."""

import time

import numpy as np
import pytest
import torch
from concurrency import run_in_threads

import padless
from padless import Input, Model, Packed, layers, pack
from padless.errors import ArgumentError, MaskError, MaskLost, PadlessError
from padless.graph.function import Function
from padless.graph.node import auto_name
from padless.graph.symbolic import SymbolicTensor, leaves, probe
from padless.layers import LSTM, Dense, DropMask, Embedding, Flatten, Layer, LayerNormalization, Masking

IDS = torch.tensor([[1, 2, 0, 3], [0, 4, 1, 0], [0, 0, 0, 0]])
MASK = IDS != 0


def words(x=None, name=None):
    """Return an input of ids and its embedding."""
    x = Input((None,), dtype="int64") if x is None else x
    return x, Embedding(5, 6, mask_zero=True, name=name)(x)


class CountingDense(Dense):
    """A stepwise layer that counts the rows of its input, gap values included."""

    relation = "stepwise"
    rows = 0

    def call(self, inputs):
        self.rows = inputs.values.shape[0] + (0 if inputs.gap_values is None else inputs.gap_values.shape[0])
        return super().call(inputs)


class ReadsGrid(Layer):
    """A user-defined layer that receives the mask, and so may read the padded grid."""

    def call(self, inputs, mask=None):
        return inputs.cumsum(1)


# ---------------------------------------------------------------------------------------------------- symbols


def test_axes_that_depend_on_the_data_are_open():
    x = Input((None, 3))
    assert (x * 2).shape == (None, None, 3) and x.sum(1).shape == (None, 3) and x.transpose(1, 2).shape == (None, 3, None)
    assert x.reshape(-1, 3).shape == (None, 3) and x.mean().shape == () and (x > 0).dtype == torch.bool
    assert torch.cat([x, x], 1).shape == (None, None, 3) and x[:, -1].shape == (None, 3) and x[:, 2:7].shape == (None, 5, 3)
    assert Dense(5)(x).shape == (None, None, 5) and LSTM(2)(x).shape == (None, 2)
    assert Input((4,), batch_size=7).shape == (7, 4) and Input(batch_shape=(2, None)).shape == (2, None)
    assert [part.shape for part in x.unbind(-1)] == [(None, None)] * 3
    assert not (x * 2).masked and repr(x).startswith("<Symbolic 'input_layer' shape=(None, None, 3) float32")


def test_a_symbol_has_a_mask_and_its_source():
    _, e = words(name="words")
    assert (
        e.masked
        and e.num_step_axes == 2
        and e.mask_source == "Embedding 'words'"
        and "masked by Embedding 'words'" in repr(e)
    )
    assert (
        LSTM(3, return_sequences=True)(e).mask_source == e.mask_source
        and not LSTM(3)(e).masked
        and not Flatten()(e[:, :2]).masked
    )
    x = Input((None, 2), masked=True, name="data")
    assert x.masked and (x + 1).mask_source == "Input 'data'"
    assert Masking(name="m")(x).mask_source == "Masking 'm'"
    outputs = LSTM(3, return_sequences=True, return_state=True)(e)
    assert [s.masked for s in outputs] == [True, False, False]


def test_a_symbol_has_no_values_and_no_length():
    x = Input((None, 3))
    for function in (bool, len, list, lambda x: x.shape[1] + 1):
        with pytest.raises(TypeError):
            function(x)
    with pytest.raises(AttributeError):
        _ = x.foo

    class NumAxesDependsOnBatch(Layer):
        def call(self, inputs):
            return inputs[0] if inputs.shape[0] == 2 else inputs

    with pytest.raises(PadlessError, match=r"\(29, 3\).*\(3, 61, 3\).*number of axes"):
        NumAxesDependsOnBatch()(x)

    class NumOutputsDependsOnLength(Layer):
        def call(self, inputs):
            return list(inputs.unbind(1))

    with pytest.raises(PadlessError, match="29 results.*61"):
        NumOutputsDependsOnLength()(x)


def test_probes_have_a_gap_padding_and_an_empty_sequence():
    for shape, num_step_axes in (((None, None, 3), 2), ((None, 1), 2), ((None, 2), 2), ((None, 2, None, 3), 3), ((4, 3), 2)):
        data = probe(SymbolicTensor(shape, torch.float32, num_step_axes=num_step_axes), (2, 9))
        assert isinstance(data, Packed) and data.num_step_axes == num_step_axes
        assert data.gap_values.shape[0] == data.index.num_gaps
        assert 0 < data.index.num_steps < data.mask.numel() and not data.mask[-1].any()


def test_shape_inference_changes_no_state_and_draws_no_random_number():
    class WithNoise(Layer):
        def __init__(self):
            super().__init__()
            self.noise = layers.Dropout(0.5)

        def call(self, inputs, training=None):
            self.training_seen = training
            self.add_loss(padless.unpack(inputs).sum())
            return self.noise(inputs)

    generator = torch.get_rng_state()
    layer = WithNoise()
    layer.train()
    layer(Input((None, 3)))
    assert layer.training_seen is False and layer.losses == [] and torch.equal(generator, torch.get_rng_state())


def test_numpy_constants_in_a_graph():
    x = Input((3,))
    y = np.array([1.0, 2.0, 3.0], np.float32) * x + np.float32(2) * x - x * np.float64(1)
    assert torch.equal(Model(x, y)(torch.ones(2, 3)), torch.tensor([[2.0, 3, 4]] * 2))


@pytest.mark.slow
def test_shape_inference_runs_on_the_device_of_the_model():
    x = Input((None, 4))
    model = Model(x, Dense(2)(x)).to("meta")
    function = model._function
    symbols = function.infer_with_input_masks([2])
    assert symbols[id(model.output)].shape == (None, None, 2) and symbols[id(model.output)].masked


# ---------------------------------------------------------------------------------------------------- replay


def test_shared_layers_branches_and_several_outputs():
    x, e = words()
    dense, lstm = Dense(6), LSTM(6, return_sequences=True)
    a, b = dense(e), dense(lstm(dense(e)))
    model = Model(x, {"sum": a + b, "last": LSTM(2)(a), "parts": [a, b.sum(-1)]})
    out = model(IDS)
    h = model.get_layer("embedding")(IDS)
    hidden = dense(h)
    torch.testing.assert_close(out["sum"].values, (hidden + dense(lstm(hidden))).values)
    assert out["sum"].index is out["parts"][1].index and out["last"].shape == (3, 2)
    assert len(model.layers) == len({id(layer) for layer in model.layers}) and len(dense.weights) == 2


def test_a_model_may_end_at_an_inner_layer_or_return_its_input():
    x, e = words()
    y = Dense(2, name="d")(LSTM(3, return_sequences=True, name="lstm")(e))
    model = Model(x, y)
    inner = Model(model.input, model.get_layer("lstm").output)
    assert inner(IDS).values.shape == (5, 3) and inner.get_layer("lstm") is model.get_layer("lstm")
    again = Model(x, [y, x])
    assert torch.equal(again(IDS)[1], IDS)


def test_a_model_in_a_model_keeps_the_mask():
    x, e = words()
    inner = Model(x, Dense(3)(e))
    z = Input((None,), dtype="int64")
    outer = Model(z, LSTM(2, return_sequences=True)(inner(z)))
    assert outer.output.masked and torch.equal(outer(IDS).mask, MASK)
    torch.testing.assert_close(outer(IDS).values, outer.layers[-1](inner(IDS)).values)


@pytest.mark.parametrize("passed_by", ["keyword", "position"])
def test_an_explicit_mask_may_be_a_symbol(passed_by):
    x, m = Input((None, 6)), Input((None,), dtype="bool")
    lstm = LSTM(3, return_sequences=True)
    y = lstm(x, mask=m) if passed_by == "keyword" else lstm(x, None, m)
    assert y.masked and Dense(2)(x, mask=m).masked
    data = torch.randn(3, 4, 6)
    out = Model([x, m], y)([data, MASK])
    assert torch.equal(out.mask, MASK)
    torch.testing.assert_close(out.values, lstm(pack(data, mask=MASK)).values)


def test_invalid_graphs_are_refused():
    x, e = words()
    y = Dense(2)(e)
    other = Input((None,), name="other")
    with pytest.raises(ArgumentError, match=r"not connected.*'input_layer'.*\['other'\]"):
        Model(other, y)
    with pytest.raises(ArgumentError, match="begins at symbols made by Input"):
        Model(e, y)
    with pytest.raises(ArgumentError, match="got Tensor"):
        Model(x, torch.ones(1))
    with pytest.raises(ArgumentError, match="different names.*'d'"):
        Model(x, Dense(2, name="d")(Dense(2, name="d")(e)))
    with pytest.raises(ArgumentError, match="twice"):
        Model([x, x], y)


@pytest.mark.slow
def test_a_deep_graph_needs_no_recursion():
    x = Input((4,), batch_size=1)
    y = x
    for _ in range(1000):
        y = torch.tanh(y) + 0.1
    start = time.perf_counter()
    model = Model(x, y)
    value = torch.ones(1, 4)
    for _ in range(1000):
        value = torch.tanh(value) + 0.1
    assert torch.equal(model(torch.ones(1, 4)), value) and len(model._function.nodes) == 2000
    again = Model.from_config(model.get_config())
    assert torch.equal(again(torch.ones(1, 4)), value)
    assert time.perf_counter() - start < 30


def test_calls_are_replayed_after_those_they_need():
    x = Input((2,))
    a = x + 1
    b = x * 2
    c = a * b
    function = Function([x], [c, a])
    names = [node.operation.name for node in function.nodes]
    assert sorted(names) == ["add", "mul", "mul_1"] and names[-1] == "mul_1"
    assert [t.tolist() for t in function([torch.ones(1, 2)])] == [[[4, 4]], [[2, 2]]]
    assert function.input_positions_for(c) == [0]


# ---------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize(
    "function",
    [lambda e: e.sum(1), lambda e: e[:, -1], lambda e: torch.softmax(e, 1), lambda e: layers.Reshape((-1,))(e),
     lambda e: layers.Activation(lambda x: torch.softmax(x, 1))(e), lambda e: e.reshape(-1, 6),
     lambda e: torch.nn.functional.mse_loss(e, e)],
)  # fmt: skip
def test_a_lost_mask_is_an_error_while_the_model_is_built(function):
    for masked in (words(name="w")[1], Input((None, 6), masked=True, name="w")):
        with pytest.raises(MaskLost, match="'w'"):
            function(masked)
    function(Input((5, 6)))


def test_an_input_may_declare_its_mask():
    x = Input((None, 3), masked=True)
    model = Model(x, LSTM(2, return_sequences=True)(x))
    assert model.output.masked
    out = model([[[1.0] * 3] * 2, [[2.0] * 3]])
    assert isinstance(out, Packed) and out.lengths.tolist() == [2, 1]
    assert not isinstance(model(torch.ones(1, 2, 3)), Packed)  # the data may still have no mask
    with pytest.raises(ArgumentError, match="time axis"):
        Input((), masked=True)


def test_a_mask_of_the_data_that_would_be_lost_is_refused_before_weights_change():
    x = Input((None, 3))
    model = Model(x, Dense(1)(Dense(4)(x).mean(1)))
    model.compile(optimizer="sgd", loss="mse")
    plain = np.ones((2, 3, 3), np.float32)
    model.fit(plain, np.ones((2, 1)), verbose=0)
    weights_before = model.get_weights()
    sequences = [np.ones((2, 3)), np.ones((1, 3))]
    y = np.ones((2, 1))
    for call in (lambda: model.fit(sequences, y, verbose=0), lambda: model.predict(sequences, verbose=0),
                lambda: model(pack(sequences)), lambda: model.evaluate(pack(plain), y, verbose=0),
                lambda: model.train_on_batch(sequences, y)):  # fmt: skip
        with pytest.raises(MaskLost, match="the data of input 'input_layer'"):
            call()
    assert all((a == b).all() for a, b in zip(weights_before, model.get_weights(), strict=True))
    model.fit(plain, np.ones((2, 1)), verbose=0)  # the model still works


def test_the_data_may_have_masks_of_two_levels():
    x = Input((None, None, 3))
    model = Model(x, layers.TimeDistributed(LSTM(2))(x))
    mask = np.array([[[1, 1], [1, 0]], [[0, 1], [0, 0]]], bool)
    out = model(pack(torch.randn(2, 2, 2, 3), mask=mask))
    assert isinstance(out, Packed) and out.mask.tolist() == mask.any(-1).tolist()


def test_a_model_may_be_called_with_a_mask():
    x = Input((None, 3))
    model = Model(x, LSTM(2, return_sequences=True)(x))
    data = torch.randn(3, 4, 3)
    out = model(data, mask=MASK)
    assert torch.equal(out.mask, MASK) and not isinstance(model(data), Packed)
    torch.testing.assert_close(out.values, model(pack(data, mask=MASK)).values)


# ---------------------------------------------------------------------------------------------------- who reads gap values


class Branches:
    """Several layers that are called on the same input."""

    def __init__(self, *layers):
        self.layers = layers

    def __call__(self, h):
        return [layer(h) for layer in self.layers]


STEPS, GAPS = int(MASK.sum()), pack(IDS, mask=MASK).index.num_gaps


@pytest.mark.parametrize(
    ("later_layers", "always_read", "read_if_shown"),  # whether later layers read its gap values
    [
        (lambda: [], False, True),
        (lambda: [Dense(3), layers.Activation("relu"), layers.Dropout(0.5), LayerNormalization()], False, True),
        (lambda: [LSTM(3, return_sequences=True)], False, False),
        (lambda: [layers.Bidirectional(LSTM(3))], False, False),
        (lambda: [Dense(2), layers.GlobalAveragePooling1D()], False, False),
        (lambda: [layers.LastStep()], False, False),
        (lambda: [torch.tanh], False, True),
        (lambda: [lambda h: layers.Add()([h, h])], False, True),
        (lambda: [layers.TimeDistributed(Dense(2))], False, True),
        (lambda: [Masking(7.0)], False, False),
        (lambda: [Dense(2), DropMask()], True, True),
        (lambda: [DropMask(), LSTM(2)], True, True),
        (lambda: [Dense(2), Flatten()], True, True),
        (lambda: [ReadsGrid()], True, True),
        (lambda: [torch.tanh, ReadsGrid(), Dense(2), LSTM(2)], True, True),
        (lambda: [Branches(LSTM(2), Flatten())], True, True),
        (lambda: [Branches(layers.Activation("relu"), LSTM(2))], False, True),
    ],
)
def test_gap_values_are_computed_only_where_they_are_read(later_layers, always_read, read_if_shown):
    embed, dense, later_layers = Embedding(5, 6, mask_zero=True), CountingDense(4, activation="relu"), later_layers()
    x = Input((4,), dtype="int64")

    def run(h):
        for function in (embed, dense, *later_layers):
            h = function(h)
        return h

    model = Model(x, run(x))
    for _ in range(2):
        model._function([IDS], False)
        assert dense.rows == STEPS + GAPS * always_read
        outputs = model._function([IDS], True)
        assert dense.rows == STEPS + GAPS * read_if_shown
    expected = run(IDS)
    for output, eager in zip(leaves(outputs), leaves(expected), strict=True):
        torch.testing.assert_close(padless.unpack(output), padless.unpack(eager))
    outputs = model._function([IDS], False)
    for output, eager in zip(leaves(outputs), leaves(expected), strict=True):
        if isinstance(output, Packed):
            assert output.gap_values is None and torch.equal(output.values, eager.values)
        else:
            torch.testing.assert_close(output, eager)


def test_fit_and_evaluate_compute_no_gap_values_and_predict_does():
    dense = CountingDense(2)
    x, e = words(Input((4,), dtype="int64"))
    model = Model(x, dense(e))
    model.compile(optimizer="sgd", loss="mse")
    ids, y = IDS.numpy(), np.zeros((3, 4, 2), np.float32)
    for call, num_rows in [(lambda: model.fit(ids, y, verbose=0), STEPS), (lambda: model.evaluate(ids, y, verbose=0), STEPS),
                        (lambda: model.train_on_batch(ids, y), STEPS), (lambda: model.predict(ids, verbose=0), STEPS + GAPS),
                        (lambda: model(IDS), STEPS + GAPS)]:  # fmt: skip
        call()
        assert dense.rows == num_rows


def test_a_subclassed_model_always_computes_gap_values():
    class Subclassed(Model):
        def __init__(self):
            super().__init__()
            self.embed, self.dense = Embedding(5, 6, mask_zero=True), CountingDense(2)

        def call(self, inputs):
            return self.dense(self.embed(inputs))

    model = Subclassed()
    model.compile(optimizer="sgd", loss="mse")
    model.fit(IDS.numpy(), np.zeros((3, 4, 2), np.float32), verbose=0)
    assert model.dense.rows == STEPS + GAPS


@pytest.mark.parametrize("passed_by", ["keyword", "position"])
def test_an_explicit_mask_reads_gap_values_because_it_may_add_steps(passed_by):
    x, e = words()
    m, dense, lstm = Input((None,), dtype="bool"), CountingDense(3), LSTM(2, return_sequences=True)
    h = dense(e)
    model = Model([x, m], lstm(h, mask=m) if passed_by == "keyword" else lstm(h, None, m))
    all_real = torch.ones(3, 4, dtype=torch.bool)
    out = model._function([IDS, all_real], False)
    assert dense.rows == STEPS + GAPS and out.index.full
    model.compile(optimizer="sgd", loss="mse")
    model.fit([IDS.numpy(), all_real.numpy()], np.zeros((3, 4, 2), np.float32), verbose=0)
    other = Input((None, 3))
    data = pack(torch.ones(3, 4, 3), mask=MASK)  # without gap values
    with pytest.raises(MaskError, match="step 2 of row 0.*the input has no value there"):
        Model([other, m], LSTM(2)(other, mask=m))([data, all_real])


def test_the_real_steps_of_the_last_call_are_counted():
    x, e = words()
    model = Model(x, LSTM(2)(e))
    model(IDS)
    assert model._function.num_real_steps == STEPS
    plain = Input((None, 3))
    other = Model(plain, LSTM(2)(plain))
    other(torch.ones(1, 2, 3))
    assert other._function.num_real_steps is None


def test_eight_threads_get_different_names():
    names = [name for part in run_in_threads([lambda: [auto_name("thread_test") for _ in range(500)]] * 8) for name in part]
    assert len(set(names)) == 4000
