"""Every layer against Keras 3.15.1 on torch: outputs at every position, states, masks, gradients, names and shapes.

One batch holds rows of all five kinds of masks; a Keras call costs the same for many rows as for few. What differs on
purpose is listed in docs/differences.md and is tested in test_differences.py.
"""

import inspect
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_parity import (
    KINDS,
    MASKS,
    D,
    T,
    V,
    all_ids,
    close,
    compare,
    embed,
    equal_masks,
    flat,
    ids_of,
    keras,
    losing,
    mask_on,
    numbers,
    set_mask,
    shown,
    table,
    twins,
)

import padless

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own

RNNS = {"SimpleRNN": {}, "GRU": {}, "GRU-v1": {"reset_after": False}, "LSTM": {}}
SEQUENCES = {"return_sequences": True}
BOTH = {"return_sequences": True, "return_state": True}
OPTIONS = {
    "last": {},
    "sequences": SEQUENCES,
    "state": {"return_state": True},
    "both": BOTH,
    "backwards": {"go_backwards": True, "return_state": True},
    "backwards sequences": {**BOTH, "go_backwards": True},
    "no bias": {**SEQUENCES, "use_bias": False},
    "relu": {**SEQUENCES, "activation": "relu"},
    "zeros": {**BOTH, "zero_output_for_mask": True},
    "unroll": {**SEQUENCES, "unroll": True},
}


def rnn(name, **options):
    return lambda lib: getattr(lib.layers, name.removesuffix("-v1"))(2, **RNNS.get(name, {}), **options)


class Plus:
    """A user-defined cell whose output is not its state."""

    def __new__(cls, lib):
        class PlusCell(lib.layers.Layer):
            state_size = 3
            output_size = 2

            def build(self, input_shape):
                self.kernel = self.add_weight(shape=(3, 3), name="kernel")
                self.out = self.add_weight(shape=(3, 2), name="out")

            def call(self, inputs, states):
                state = inputs @ self.kernel + 0.5 * states[0]
                return state @ self.out, [state]

        return lib.layers.RNN(PlusCell(), return_sequences=True, return_state=True)


def stack(lib, **options):
    cells = [lib.layers.GRUCell(2), lib.layers.LSTMCell(4), lib.layers.SimpleRNNCell(3)]
    return lib.layers.RNN(cells, **options)


def both_ways(merge, options):
    return lambda lib: lib.layers.Bidirectional(lib.layers.LSTM(2, **options), merge_mode=merge)


LAYERS = {
    "Dense": lambda lib: lib.layers.Dense(2),
    "Dense relu": lambda lib: lib.layers.Dense(2, activation="relu", use_bias=False),
    "softmax": lambda lib: lib.layers.Activation("softmax"),
    "gelu": lambda lib: lib.layers.Activation("gelu"),
    "Dropout": lambda lib: lib.layers.Dropout(0.5),
    "LayerNormalization": lambda lib: lib.layers.LayerNormalization(),
    "LayerNormalization wide": lambda lib: lib.layers.LayerNormalization(epsilon=0.1, center=False),
    "TimeDistributed": lambda lib: lib.layers.TimeDistributed(lib.layers.Dense(2, activation="tanh")),
    "Flatten": lambda lib: lib.layers.Flatten(),
    "cell": lambda lib: lib.layers.RNN(lib.layers.LSTMCell(2), **BOTH),
    "user-defined cell": Plus,
    "stack": lambda lib: stack(lib, **BOTH),
    "stack last": lambda lib: stack(lib, return_state=True, go_backwards=True),
    "GRU recurrent": rnn("GRU", **SEQUENCES, recurrent_activation="tanh"),
    "LSTM recurrent": rnn("LSTM", **SEQUENCES, recurrent_activation="relu"),
    "Bidirectional GRU": lambda lib: lib.layers.Bidirectional(lib.layers.GRU(2, **SEQUENCES)),
    "Bidirectional two": lambda lib: lib.layers.Bidirectional(
        lib.layers.LSTM(2, **SEQUENCES), backward_layer=lib.layers.LSTM(3, go_backwards=True, **SEQUENCES)
    ),
    "Bidirectional stack": lambda lib: lib.layers.Bidirectional(stack(lib, **SEQUENCES)),
}
LAYERS |= {f"{name} {option}": rnn(name, **options) for name in RNNS for option, options in OPTIONS.items()}
LAYERS |= {
    f"Bidirectional {merge} {option}": both_ways(merge, OPTIONS[option])
    for merge in ("concat", "sum", "mul", "ave", None)
    for option in ("last", "sequences", "both")
}


def check(make, ids, **call):
    """The layer on embedded ids: everything equal, and the gradients of its weights and of the table."""
    mine, theirs = twins(make, (None, ids.shape[1], D))
    (x, table), (y, other) = embed(padless, ids), embed(keras, ids)
    with losing():
        ours, kerass = mine(x, **call), theirs(y, **call)
    assert type(ours) is type(kerass) or isinstance(ours, padless.Packed)
    if getattr(mine, "go_backwards", False) and mine.return_sequences:
        set_mask(flat(kerass)[0], mask_on(flat(kerass)[0])[:, ::-1])  # docs/differences.md: go_backwards
    compare(ours, kerass, [(mine, theirs), (table, other)])


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_equals_keras_at_every_position(name):
    check(LAYERS[name], all_ids())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Dense", "GRU both", "LSTM both", "Bidirectional concat both", "stack"])
def test_a_batch_with_one_kind_of_mask(name):
    for kind in KINDS:
        check(LAYERS[name], ids_of(kind))


@settings(max_examples=40)
@given(
    st.sampled_from(list(RNNS)),
    st.lists(st.lists(st.integers(0, V - 1), min_size=4, max_size=4), min_size=1, max_size=3),
    st.integers(1, 4),
    st.fixed_dictionaries({key: st.booleans() for key in ("return_sequences", "return_state", "go_backwards", "use_bias")}),
)
def test_any_mask_in_any_recurrent_layer(name, rows, width, options):
    check(rnn(name, **options), np.array(rows)[:, :width])


@pytest.mark.parametrize("name", [*RNNS, "Bidirectional", "stack"])
def test_initial_state(name):
    """Keras loses the mask of the inputs when `initial_state` is given, so it receives the mask explicitly."""
    ids = all_ids()
    make = {"Bidirectional": both_ways("concat", BOTH), "stack": LAYERS["stack"]}.get(name, rnn(name, **BOTH))
    sizes = {"LSTM": [2, 2], "Bidirectional": [2, 2, 2, 2], "stack": [2, [4, 4], 3]}.get(name, [2])
    state = [
        [torch.from_numpy(numbers(len(ids), s, seed=s)) for s in size]
        if isinstance(size, list)
        else torch.from_numpy(numbers(len(ids), size, seed=7 + n))
        for n, size in enumerate(sizes)
    ]
    mine, theirs = twins(make, (None, T, D))
    (x, table), (y, other) = embed(padless, ids), embed(keras, ids)
    compare(
        mine(x, initial_state=state),
        theirs(y, initial_state=state, mask=torch.from_numpy(ids != 0)),
        [(mine, theirs), (table, other)],
    )


@pytest.mark.parametrize("name", [*RNNS, "Bidirectional"])
def test_a_stateful_layer_continues_from_the_batch_before(name):
    make = both_ways("concat", {**SEQUENCES, "stateful": True})
    mine, theirs = twins(make if name == "Bidirectional" else rnn(name, **SEQUENCES, stateful=True), (len(all_ids()), T, D))
    with torch.no_grad():
        for seed in range(3):
            if seed == 2:
                mine.reset_state()
                theirs.reset_state()
            compare(mine(embed(padless, all_ids(seed))[0]), theirs(embed(keras, all_ids(seed))[0]))


def test_a_batch_without_real_steps_keeps_the_state_of_a_stateful_layer():
    mine, theirs = twins(rnn("LSTM", return_state=True, stateful=True), (4, T, D))
    with torch.no_grad():
        for ids in (ids_of("holes"), 0 * ids_of("none"), ids_of("left")):
            compare(mine(embed(padless, ids)[0]), theirs(embed(keras, ids)[0]))


PLAIN = {
    "LSTM": rnn("LSTM", go_backwards=True, **BOTH),
    "GRU": rnn("GRU", **BOTH),
    "Bidirectional": both_ways("ave", BOTH),
    "LayerNormalization two": lambda lib: lib.layers.LayerNormalization(axis=[1, 2]),
    "Pooling": lambda lib: lib.layers.GlobalAveragePooling1D(),
    "Pooling first": lambda lib: lib.layers.GlobalAveragePooling1D(data_format="channels_first", keepdims=True),
    "Flatten first": lambda lib: lib.layers.Flatten(data_format="channels_first"),
    "Reshape": lambda lib: lib.layers.Reshape((D, -1)),
    "TimeDistributed": lambda lib: lib.layers.TimeDistributed(lib.layers.Dense(2)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_layer_without_a_mask_equals_keras(name):
    mine, theirs = twins(PLAIN[name], (None, T, D))
    x = torch.from_numpy(numbers(4, T, D))
    compare(mine(x), theirs(x), [(mine, theirs)] if mine.get_weights() else ())


def test_a_recurrent_layer_on_each_step():
    mine, theirs = twins(lambda lib: lib.layers.TimeDistributed(lib.layers.LSTM(2)), (None, 2, T, D))
    x = torch.from_numpy(numbers(4, 2, T, D))
    compare(mine(x), theirs(x), [(mine, theirs)])


@pytest.mark.parametrize("name", ["SimpleRNN both", "GRU both", "LSTM both", "Bidirectional concat both", "stack"])
def test_an_explicit_mask(name):
    """An explicit mask may be in any container, and replaces the mask of an embedding."""
    ids, mask = all_ids(), np.concatenate([np.flip(MASKS[kind], 1) for kind in KINDS]).astype(bool)
    mine, theirs = twins(LAYERS[name], (None, T, D))
    x = torch.from_numpy(numbers(len(ids), T, D))
    for given_ in (mask, mask.astype(int), torch.from_numpy(mask)):
        compare(mine(x, mask=given_), theirs(x, mask=torch.from_numpy(mask)))
    compare(mine(embed(padless, ids)[0], mask=mask), theirs(embed(keras, ids)[0], mask=torch.from_numpy(mask)))


def test_pooling():
    for kind in ("none", "right", "left", "holes"):
        for keepdims in (False, True):
            check(lambda lib, k=keepdims: lib.layers.GlobalAveragePooling1D(keepdims=k), ids_of(kind))


@pytest.mark.parametrize("name", ["Dense", "LSTM both", "Bidirectional concat both", "LayerNormalization"])
@pytest.mark.parametrize("value", [0.0, -1.5])
def test_masking(name, value):
    x = numbers(len(all_ids()), T, D)
    x[all_ids() == 0] = value
    x = torch.from_numpy(x)
    mine, theirs = twins(LAYERS[name], (None, T, D))
    compare(mine(padless.layers.Masking(value)(x)), theirs(keras.layers.Masking(value)(x)), [(mine, theirs)])


def test_an_embedding_without_mask_zero_and_ids_as_floats():
    for ids in (all_ids(), all_ids().astype("float32")):
        for zero in (False, True):
            mine, theirs = twins(lambda lib, zero=zero: lib.layers.Embedding(V, D, mask_zero=zero), (None, T))
            x = torch.from_numpy(ids)
            compare(mine(x), theirs(x), [(mine, theirs)])
            equal_masks(mine.compute_mask(x), theirs.compute_mask(x))


MERGES = ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"]


def operands(lib, *seeds):
    """Embeddings through different tables, of the same ids or of others."""
    return [embed(lib, all_ids(seed), weights=table(seed=10 + n)) for n, seed in enumerate(seeds)]


@pytest.mark.parametrize("name", MERGES)
def test_a_merge_of_equal_masks(name):
    mine, theirs = (operands(lib, *([0] if name == "Subtract" else [0, 0]), 0) for lib in (padless, keras))
    a, b = (getattr(lib.layers, name)()([x for x, _ in parts]) for lib, parts in ((padless, mine), (keras, theirs)))
    compare(a, b, [(x[1], y[1]) for x, y in zip(mine, theirs, strict=True)])


@pytest.mark.parametrize("name", ["Multiply", "Maximum", "Minimum"])
def test_a_merge_of_different_masks_that_keras_supports(name):
    a, b = (
        getattr(lib.layers, name)()([embed(lib, ids)[0] for ids in (ids_of("left"), ids_of("holes"))])
        for lib in (padless, keras)
    )
    equal_masks(mask_on(a), mask_on(b))
    close(a.values, b[torch.from_numpy(mask_on(b))])


def test_concatenate_in_time():
    mine, theirs = operands(padless, 0, 2), operands(keras, 0, 2)
    x = torch.from_numpy(numbers(len(all_ids()), 2, D))
    a, b = (
        lib.layers.Concatenate(axis=1)([parts[0][0], x, parts[1][0]]) for lib, parts in ((padless, mine), (keras, theirs))
    )
    equal_masks(mask_on(a), mask_on(b))
    close(a.values, b[torch.from_numpy(mask_on(b))])
    (a.values.square().sum()).backward()
    (b[torch.from_numpy(mask_on(b))].square().sum()).backward()
    for (_, p), (_, q) in zip(mine, theirs, strict=True):
        close(p.embeddings.grad, q.embeddings.value.grad)


# ------------------------------------------------------------------------------------------------ random numbers


@pytest.mark.parametrize(
    "make",
    [
        lambda lib: lib.layers.Dropout(0.3),
        lambda lib: lib.layers.Dropout(0.3, noise_shape=(None, 1, None)),
        rnn("SimpleRNN", **SEQUENCES, dropout=0.3),
        rnn("LSTM", **SEQUENCES, dropout=0.3),
        rnn("GRU", **SEQUENCES, recurrent_dropout=0.3),
        rnn("LSTM", **SEQUENCES, recurrent_dropout=0.5),
    ],
    ids=["Dropout", "noise_shape", "SimpleRNN", "LSTM", "recurrent GRU", "recurrent LSTM"],
)
def test_dropout_has_kerass_distribution(make):
    keras.utils.set_random_seed(0)
    mine, theirs = twins(make, (None, T, D))
    ids = np.tile([[1, 3, 0, 2, 5]], (4000, 1))
    (x, _), (y, _) = embed(padless, ids), embed(keras, ids)
    with torch.no_grad():
        rows = [
            shown(layer(data, training=True))[:, ids[0] != 0].reshape(4000, -1)  # Keras has noise in gaps too
            for layer, data in ((mine, x), (theirs, y))
        ]
        compare(mine(x, training=False), theirs(y, training=False))
    means, seconds = [r.mean(0) for r in rows], [r.T @ r / 4000 for r in rows]
    np.testing.assert_allclose(*means, atol=0.1)
    np.testing.assert_allclose(*seconds, atol=0.2)  # also of two steps: whether they share their noise


@pytest.mark.parametrize(
    "make, shape",
    [
        (lambda lib: lib.layers.Embedding(500, 80), (None, T)),
        (lambda lib: lib.layers.Dense(80), (None, 60)),
        (lambda lib: lib.layers.LayerNormalization(), (None, T, 9)),
        (lambda lib: lib.layers.SimpleRNN(60), (None, T, 50)),
        (lambda lib: lib.layers.GRU(60), (None, T, 50)),
        (lambda lib: lib.layers.LSTM(60), (None, T, 50)),
        (lambda lib: lib.layers.LSTM(60, unit_forget_bias=False), (None, T, 50)),
        (lambda lib: lib.layers.RNN([lib.layers.GRUCell(60), lib.layers.LSTMCell(70)]), (None, T, 50)),
        (lambda lib: lib.layers.Bidirectional(lib.layers.LSTM(60)), (None, T, 50)),
    ],
)
def test_initial_weights_have_kerass_distribution(make, shape):
    torch.manual_seed(1)
    keras.utils.set_random_seed(1)
    mine, theirs = make(padless), make(keras)
    mine.build(shape)
    theirs.build(shape)
    names = [w.name for w in theirs.weights]
    for name, a, b in zip(names, mine.get_weights(), theirs.get_weights(), strict=True):
        if np.unique(b).size <= 2:  # zeros, ones, the bias of the forget gate
            np.testing.assert_array_equal(a, b)
            continue
        np.testing.assert_allclose(a.std(), b.std(), rtol=0.05)
        np.testing.assert_allclose(a.mean(), 0, atol=0.05 * b.std())
        np.testing.assert_allclose(np.abs(a).max(), np.abs(b).max(), rtol=0.35)
        if name == "recurrent_kernel":  # orthogonal rows
            close(a @ a.T, b @ b.T, 1e-4)


# ------------------------------------------------------------------------------------------------ configs


KNOWN = {
    "Embedding": lambda lib: lib.layers.Embedding(V, 2, mask_zero=True),
    "Masking": lambda lib: lib.layers.Masking(),
    "Dense": LAYERS["Dense"],
    "Activation": LAYERS["softmax"],
    "Dropout": LAYERS["Dropout"],
    "LayerNormalization": LAYERS["LayerNormalization"],
    "SimpleRNN": rnn("SimpleRNN"),
    "GRU": rnn("GRU", **BOTH),
    "LSTM": rnn("LSTM", **BOTH),
    "LSTM sequences": rnn("LSTM", **SEQUENCES),
    "RNN": lambda lib: lib.layers.RNN(lib.layers.GRUCell(2, reset_after=False, dropout=0.1), **BOTH),
    "stack": LAYERS["stack"],
    "Bidirectional": both_ways("concat", BOTH),
    "Bidirectional None": both_ways(None, SEQUENCES),
    "Bidirectional ave": both_ways("ave", {}),
    "TimeDistributed": LAYERS["TimeDistributed"],
    "GlobalAveragePooling1D": lambda lib: lib.layers.GlobalAveragePooling1D(keepdims=True),
    "Flatten": LAYERS["Flatten"],
    "Reshape": lambda lib: lib.layers.Reshape((-1, 1)),
}
SHAPES = [(None, T, D), (8, T, D)]


def lists(shapes):
    """Shapes as lists of tuples, whether they came in lists or tuples."""
    if shapes and isinstance(shapes[0], list | tuple):
        return [lists(shape) for shape in shapes]
    return tuple(shapes)


@pytest.mark.parametrize("name", KNOWN)
def test_names_and_shapes(name):
    make, ids = KNOWN[name], name == "Embedding"
    for shape in SHAPES:
        mine, theirs = twins(make, shape[: 2 if ids else 3])
        assert lists(mine.compute_output_shape(shape[: 2 if ids else 3])) == lists(
            theirs.compute_output_shape(shape[: 2 if ids else 3])
        )
    named = {id(weight): path.split(".")[-1] for path, weight in mine.named_parameters()}
    assert [named[id(w)] for w in mine.weights] == [w.name for w in theirs.weights]
    assert [w.shape for w in mine.get_weights()] == [w.shape for w in theirs.get_weights()]
    assert mine.count_params() == theirs.count_params()
    assert mine.name == theirs.name or "_" in theirs.name  # Keras continues its numbers from test to test


@pytest.mark.parametrize("name", KNOWN)
def test_compute_mask(name):
    mine, theirs = (KNOWN[name](lib) for lib in (padless, keras))
    x = torch.from_numpy(all_ids()) if name == "Embedding" else torch.from_numpy(numbers(len(all_ids()), T, D))
    if name in ("Flatten", "Reshape"):
        return  # Keras says that these pass the mask, and drops it in a call: docs/differences.md
    shape = tuple(x.shape)
    mine.build(shape)
    theirs.build(shape)
    mask = torch.from_numpy(all_ids() != 0)
    creates_mask = name in ("Embedding", "Masking")  # these narrow a mask, Keras's lose it: docs/differences.md
    for given_ in (None,) if creates_mask else (None, mask):
        ours, kerass = mine.compute_mask(x, given_), theirs.compute_mask(x, given_)
        if kerass is None:  # as Bidirectional says of all its outputs together
            kerass = [None] * len(flat(ours))
        for a, b in zip(flat(ours), flat(kerass), strict="Bidirectional" not in name):
            equal_masks(a, b)


def test_compute_mask_of_merges():
    masks = [torch.from_numpy(all_ids(seed) != 0) for seed in (0, 1)]
    xs = [torch.from_numpy(numbers(len(masks[0]), T, D, seed=seed)) for seed in (0, 1)]
    for name in MERGES:
        mine, theirs = getattr(padless.layers, name)(), getattr(keras.layers, name)()
        theirs.build([x.shape for x in xs])
        equal_masks(mine.compute_mask(xs, masks), theirs.compute_mask(xs, masks))
        equal_masks(mine.compute_mask(xs, [None, None]), theirs.compute_mask(xs, [None, None]))
        assert lists(mine.compute_output_shape(SHAPES[:1] * 2)) == lists(theirs.compute_output_shape(SHAPES[:1] * 2))


UNKNOWN = {"quantization_config", "lora_rank", "lora_alpha", "rms_scaling"}  # what padless does not do


@pytest.mark.parametrize("name", KNOWN)
def test_arguments_are_in_kerass_order(name):
    """A call with positional arguments means the same; what padless adds comes last."""
    mine, theirs = (KNOWN[name](lib) for lib in (padless, keras))
    cells = [] if not hasattr(mine, "cell") or name == "stack" else [(mine.cell, theirs.cell)]
    for a, b in [(mine, theirs), *cells]:
        ours, kerass = (list(inspect.signature(type(layer).__init__).parameters)[1:] for layer in (a, b))
        kerass = [argument for argument in kerass if argument not in UNKNOWN]
        assert ours[: len(kerass) - 1] == kerass[:-1]
        for argument in kerass[:-1]:
            defaults = [inspect.signature(type(layer).__init__).parameters[argument].default for layer in (a, b)]
            assert defaults[0] == defaults[1], argument


@pytest.mark.parametrize("name", KNOWN)
def test_a_config_has_kerass_keys_and_creates_the_same_layer(name):
    mine, theirs = (KNOWN[name](lib) for lib in (padless, keras))
    config = json.loads(json.dumps(mine.get_config()))
    missing = set(theirs.get_config()) - set(config) - UNKNOWN
    assert missing <= {"activity_regularizer", "zero_output_for_mask"}  # written where they were given
    again = type(mine).from_config(config)
    assert again.get_config() == mine.get_config()
    for layer in (mine, again):
        layer.build((None, T, D)[: 2 if name == "Embedding" else 3])
    assert [w.shape for w in again.get_weights()] == [w.shape for w in mine.get_weights()]
