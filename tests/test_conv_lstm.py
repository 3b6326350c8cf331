"""ConvLSTM1D against Keras 3.15.1 at every position, and what differs on purpose."""

import inspect
import json

import numpy as np
import pytest
import torch
from keras_parity import KINDS, MASKS, compare, keras, losing, mask_of, numbers, same_weights, twins

import padless
from padless import pack
from padless.errors import ArgumentError, NotBuilt, ShapeError
from padless.layers import ConvLSTM1D, ConvLSTM1DCell
from padless.saving.serialization import deserialize
from padless.testing.layer_properties import flatten_shapes

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own
L, K = padless.layers, keras.layers
ROWS, CHANNELS, T = 6, 2, 5
BOTH = {"return_sequences": True, "return_state": True}
OPTIONS = {
    "last": {},
    "both": BOTH,
    "last and states": {"return_state": True},
    "same": {**BOTH, "padding": "SAME"},
    "strides": {**BOTH, "strides": 2, "padding": "same", "use_bias": False},
    "strides valid": {**BOTH, "strides": (2,)},
    "dilation": {**BOTH, "dilation_rate": 2, "activation": "relu"},
    "channels first": {**BOTH, "data_format": "channels_first"},
    "softmax": {**BOTH, "data_format": "channels_first", "activation": "softmax"},
    "recurrent": {**BOTH, "recurrent_activation": "hard_sigmoid", "unit_forget_bias": False},
    "zeros": {**BOTH, "zero_output_for_mask": True},
}
EVERY = np.concatenate([mask_of(kind) for kind in KINDS])


def build_both(**options):
    shape = (None, T, CHANNELS, ROWS) if options.get("data_format") == "channels_first" else (None, T, ROWS, CHANNELS)
    return twins(lambda lib: lib.layers.ConvLSTM1D(3, 3, **options), shape)


def data(batch, **options):
    x = torch.from_numpy(numbers(batch, T, ROWS, CHANNELS))
    return x.transpose(2, 3) if options.get("data_format") == "channels_first" else x


def same_shapes(mine, theirs, shape):
    ours, kerass = (flatten_shapes(layer.compute_output_shape(shape)) for layer in (mine, theirs))
    assert ours == kerass


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_every_position_equals_keras(name):
    mine, theirs = build_both(**OPTIONS[name])
    x = data(len(EVERY), **OPTIONS[name])
    compare(mine(x, mask=EVERY), theirs(x, mask=torch.from_numpy(EVERY)), [(mine, theirs)])
    mine, theirs = build_both(**OPTIONS[name])
    compare(mine(x), theirs(x), [(mine, theirs)])


def test_a_batch_with_one_kind_of_mask():
    for kind in KINDS:
        mine, theirs = build_both(**BOTH)
        x, mask = data(4), np.array(MASKS[kind], dtype=bool)
        compare(mine(x, mask=mask), theirs(x, mask=torch.from_numpy(mask)), [(mine, theirs)])


def test_backwards():
    """Keras reverses the outputs but not their mask, so only the numbers of full rows and the states are compared."""
    mine, theirs = build_both(**BOTH, go_backwards=True)
    x = data(len(EVERY))
    ours, kerass = mine(x, mask=EVERY), theirs(x, mask=torch.from_numpy(EVERY))
    compare(ours[1:], kerass[1:])
    compare(mine(x), theirs(x), [(mine, theirs)])
    assert np.array_equal(ours[0].index.mask, EVERY[:, ::-1])


def test_initial_states_and_stateful_layers():
    mine, theirs = build_both(**BOTH)
    x, mask = data(4), mask_of("holes")
    states = [torch.from_numpy(numbers(4, ROWS - 2, 3, seed=seed)) for seed in (5, 6)]
    compare(mine(x, initial_state=states), theirs(x, initial_state=states))
    with losing():  # Keras loses the mask of the data, but not an explicit mask
        compare(
            mine(pack(x, mask), initial_state=states),
            theirs(x, initial_state=states, mask=torch.from_numpy(mask)),
            masks=False,
        )
    mine, theirs = L.ConvLSTM1D(3, 3, stateful=True, return_state=True), K.ConvLSTM1D(3, 3, stateful=True, return_state=True)
    mine.build((4, T, ROWS, CHANNELS))
    theirs.build((4, T, ROWS, CHANNELS))
    same_weights(mine, theirs)
    for _ in range(2):
        compare(mine(x, mask=mask), theirs(x, mask=torch.from_numpy(mask)))
    mine.reset_state()
    theirs.reset_state()
    compare(mine(x, mask=mask), theirs(x, mask=torch.from_numpy(mask)))


def test_bidirectional():
    for options in (BOTH, {}):
        mine, theirs = twins(
            lambda lib, o=options: lib.layers.Bidirectional(lib.layers.ConvLSTM1D(3, 3, **o)), (None, T, ROWS, CHANNELS)
        )
        x = data(len(EVERY))
        compare(mine(x, mask=EVERY), theirs(x, mask=torch.from_numpy(EVERY)), masks=False)
        same_shapes(mine, theirs, (None, T, ROWS, CHANNELS))


@pytest.mark.parametrize("which", ["dropout", "recurrent_dropout"])
def test_dropout_has_kerass_distribution(which):
    keras.utils.set_random_seed(0)
    mine, theirs = build_both(**{which: 0.5})
    x = data(1).expand(3000, -1, -1, -1)
    with torch.no_grad():
        one, other = (layer(x, training=True).detach().flatten(1) for layer in (mine, theirs))
    torch.testing.assert_close(one.mean(0), other.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(one.std(0), other.std(0), atol=0.03, rtol=0)


def test_arguments_weights_and_config_are_kerass():
    wanted = [(n, p.default) for n, p in inspect.signature(K.ConvLSTM1D.__init__).parameters.items()]
    assert [(n, p.default) for n, p in inspect.signature(ConvLSTM1D.__init__).parameters.items()] == wanted
    mine, theirs = build_both(padding="same", strides=2)
    assert [(w.path.split("/")[-1], tuple(w.shape)) for w in theirs.weights] == [
        (name.split(".")[-1], tuple(w.shape)) for name, w in mine.named_parameters()
    ]
    config = json.loads(json.dumps(mine.get_config()))
    for layer in (
        ConvLSTM1D.from_config(config),
        deserialize({"class_name": "ConvLSTM1D", "config": json.loads(json.dumps(theirs.get_config()))}, "layer"),
    ):
        layer.build((None, T, ROWS, CHANNELS))
        same_weights(layer, theirs)
        compare(layer(data(4)), theirs(data(4)))
    new, old = (lib.layers.ConvLSTM1D(3, 3) for lib in (padless, keras))
    for layer in (new, old):
        layer.build((None, T, ROWS, CHANNELS))
    assert new.get_weights()[2].tolist() == old.get_weights()[2].tolist() == [0.0] * 3 + [1.0] * 3 + [0.0] * 6
    assert new.count_params() == old.count_params()


def test_shapes_are_known_before_there_are_weights():
    for options in OPTIONS.values():
        mine, theirs = L.ConvLSTM1D(3, 3, **options), K.ConvLSTM1D(3, 3, **options)
        shape = (None, T, CHANNELS, ROWS) if options.get("data_format") == "channels_first" else (None, T, ROWS, CHANNELS)
        theirs.build(shape)
        mask = torch.ones(2, T, dtype=torch.bool)
        assert str(mine.compute_mask(None, mask)) == str(theirs.compute_mask(None, mask))
        same_shapes(mine, theirs, shape)
    x = L.Input((None, ROWS, CHANNELS), masked=True)
    out, h, c = ConvLSTM1D(3, 3, **BOTH)(x)
    assert out.shape == (None, None, 4, 3) and out.masked and h.shape == c.shape == (None, 4, 3) and not h.masked


def test_training_in_a_model_uses_the_real_steps_only():
    x = L.Input((None, ROWS, CHANNELS), masked=True)
    model = padless.Model(x, L.Dense(1)(L.Flatten()(ConvLSTM1D(3, 3)(ConvLSTM1D(2, 3, return_sequences=True)(x)))))
    grid, mask = numbers(4, T, ROWS, CHANNELS), mask_of("empty")
    losses = []
    for content in (0.0, np.nan):
        model.compile("sgd", "mse")
        losses.append(model.evaluate(pack(np.where(mask[..., None, None], grid, content), mask), numbers(4, 1), verbose=0))
    assert losses[0] == losses[1]
    assert all(np.isfinite(model.fit(pack(grid, mask), numbers(4, 1), epochs=2, verbose=0).history["loss"]))


def test_invalid_arguments_and_shapes_are_refused():
    with pytest.raises(ArgumentError, match="strides or a dilation_rate above 1, not both"):
        ConvLSTM1D(3, 3, strides=2, dilation_rate=2)
    with pytest.raises(ArgumentError, match="padding"):
        ConvLSTM1D(3, 3, padding="causal")
    with pytest.raises(ArgumentError, match="filters"):
        ConvLSTM1D(0, 3)
    with pytest.raises(ShapeError, match="two known sizes, rows and channels"):
        ConvLSTM1D(3, 3)(torch.ones(2, T, CHANNELS))
    layer = ConvLSTM1D(3, 3)
    with pytest.raises(ShapeError, match="two known sizes"):
        layer(L.Input((None, None, CHANNELS)))
    assert layer(torch.ones(2, T, ROWS, CHANNELS)).shape == (2, 4, 3)  # and nothing had changed
    with pytest.raises(ShapeError, match=r"built for steps of shape \(6, 2\); got steps of shape \(7, 2\)"):
        layer(torch.ones(2, T, 7, CHANNELS))
    with pytest.raises(NotBuilt, match="not known yet"):
        ConvLSTM1DCell(3, 3).get_initial_state(2)


def test_other_dtypes():
    for dtype in (torch.bfloat16, torch.float64):
        layer = ConvLSTM1D(3, 3, **BOTH, dtype=dtype)
        out, h, c = layer(pack(torch.ones(2, T, ROWS, CHANNELS), lengths=[3, 0]))
        assert out.dtype == h.dtype == c.dtype == dtype
        assert not out.unpack()[1].any() and not h[1].any()


def test_a_kernel_wider_than_a_step_is_refused_as_in_keras():
    with pytest.raises(ShapeError, match="9 rows.*steps of 4"):
        ConvLSTM1D(2, 9)(torch.ones(2, 3, 4, 1))
    with pytest.raises(ShapeError, match="9 rows.*steps of 4"):
        ConvLSTM1D(2, 5, dilation_rate=2)(padless.Input((None, 4, 1)))
    with pytest.raises(ValueError, match="zero or negative"):
        K.ConvLSTM1D(2, 9)(torch.ones(2, 3, 4, 1))
    assert ConvLSTM1D(2, 9, padding="same")(torch.ones(2, 3, 4, 1)).shape == (2, 4, 2)
