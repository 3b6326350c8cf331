"""Torch modules as layers: wrapped, in Sequential and TimeDistributed, and on symbols."""

import copy
import inspect

import numpy as np
import pytest
import torch
from cases.torch_module import Mixed
from keras_parity import KINDS, keras, losing, mask_of, numbers, shown
from torch import nn
from torch.nn import functional as F

import padless
from padless import Input, Model, Sequential, pack
from padless import layers as L
from padless.errors import ArgumentError, MaskLost, ShapeError
from padless.graph import SymbolicTensor
from padless.layers import TorchModuleWrapper
from padless.saving.serialization import CustomObjectScope, serialize

MASKS = np.concatenate([mask_of(kind) for kind in KINDS])
X = torch.from_numpy(numbers(*MASKS.shape, 3))


class Probe(nn.Module):
    """Call a function, and record the mode and the arguments of each call."""

    def __init__(self, function=lambda x: x):
        super().__init__()
        self.function, self.calls = function, []
        self.drop = nn.Dropout(0.5)

    def forward(self, *args, **kwargs):
        self.calls.append((self.training, *args))
        return self.function(*args, **kwargs)


# ------------------------------------------------------------------------------------------------ the wrapper


def test_the_weights_of_the_module_are_those_of_the_layer():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    layer = TorchModuleWrapper(module)
    assert list(layer.parameters()) == list(module.parameters()) and len(layer.weights) == 7
    assert layer.count_params() == 3 * 4 + 4 + 4 * 4 + 1
    assert [w.shape for w in layer.trainable_weights] == [(4, 3), (4,), (4,), (4,)]
    assert layer.name == "sequential" and TorchModuleWrapper(nn.ReLU(), name="act").name == "act"
    assert [TorchModuleWrapper(nn.Linear(1, 1)).name for _ in range(2)] == ["linear", "linear_1"]
    model = Sequential([L.Dense(3), layer, L.Dense(2)])
    model.build((None, 3))
    assert [w.shape for w in model.get_weights()] == [(3, 3), (3,), (4, 3), (4,), (4,), (4,), (4,), (4,), (), (4, 2), (2,)]
    printed = []
    model.summary(print_fn=printed.append)
    assert "sequential (TorchModuleWrapper)" in printed[0] and " 33 " in printed[0]
    frozen = TorchModuleWrapper(nn.Linear(3, 4), trainable=False)
    assert not frozen.trainable_weights and len(frozen.non_trainable_weights) == 2


def test_arguments_begin_with_those_of_keras_and_numbers_equal_those_of_keras():
    keras_arguments = list(inspect.signature(keras.layers.TorchModuleWrapper.__init__).parameters)[:-1]
    assert list(inspect.signature(TorchModuleWrapper.__init__).parameters)[: len(keras_arguments)] == keras_arguments
    module = nn.Sequential(nn.Conv1d(5, 4, 2), nn.Tanh())
    layer, keras_layer = TorchModuleWrapper(module), keras.layers.TorchModuleWrapper(module)
    torch.testing.assert_close(layer(X), keras_layer(X, training=False))
    assert TorchModuleWrapper(module, output_shape=(9, 4)).compute_output_shape((None, 5, 3)) == (9, 4)
    assert layer.compute_output_shape((None, 5, 3)) == (None, 4, 2)


def test_the_module_has_the_mode_of_the_layer_and_gets_its_mode_back():
    module = Probe()
    module.drop.eval()
    layer = TorchModuleWrapper(module)
    for argument, layer_mode, expected in [
        (True, False, True),
        (False, True, False),
        (None, True, True),
        (None, False, False),
    ]:
        layer.training = layer_mode
        layer(X, training=argument)
        assert module.calls[-1][0] is expected and module.training and not module.drop.training
    module.function = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        layer(X, training=False)
    assert module.training
    layer.eval()
    with pytest.raises(ZeroDivisionError):
        layer(X, training=True)
    assert not module.training and not module.drop.training


def test_the_module_trains_in_fit_and_infers_in_predict():
    drop = Probe(lambda x: x)
    model = Sequential([Input((3,)), drop, nn.Dropout(0.5), L.Dense(1)])
    x = numbers(8, 3)
    model.compile("sgd", "mse")
    drop.calls.clear()
    model.fit(x, x[:, :1], epochs=1, batch_size=4, verbose=0)
    assert [mode for mode, *_ in drop.calls] == [True, True]
    drop.calls.clear()
    assert np.array_equal(model.predict(x, verbose=0), model.predict(x, verbose=0))
    assert {mode for mode, *_ in drop.calls} == {False}


def test_a_module_that_writes_into_its_input_gets_a_copy():
    x = Input((None, 3))
    model = Model(x, L.Add()([TorchModuleWrapper(nn.ReLU(inplace=True))(x), x]))
    grid = X.clone()
    torch.testing.assert_close(model(grid), X.relu() + X)
    assert torch.equal(grid, X)


def test_floats_are_cast_to_the_dtype_of_the_weights_and_integers_are_not():
    layer = TorchModuleWrapper(nn.Linear(3, 2).double())
    assert layer(X).dtype == torch.float64 and layer(pack(X, MASKS)).dtype == torch.float64
    ids = torch.from_numpy(MASKS.astype(int))
    assert TorchModuleWrapper(nn.Embedding(2, 4))(ids).shape == (*MASKS.shape, 4)
    assert TorchModuleWrapper(nn.Embedding(2, 4))(pack(ids, MASKS)).shape == (*MASKS.shape, 4)


def test_functions_and_lazy_modules_are_refused():
    for invalid, message in [(torch.tanh, "holds a torch.nn.Module"), (nn.LazyLinear(3), "without a shape yet")]:
        with pytest.raises(ArgumentError, match=message):
            TorchModuleWrapper(invalid)
    with pytest.raises(ArgumentError, match="None, 'stepwise' or 'padded_grid'; got 'reduce'"):
        TorchModuleWrapper(nn.ReLU(), relation="reduce")


# ------------------------------------------------------------------------------------------------ masks


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(3, 2),
        lambda: nn.LayerNorm(3),
        nn.ReLU,
        lambda: nn.Dropout(0.5),
        nn.PReLU,
        nn.Identity,
        lambda: nn.Softmax(-1),
        lambda: nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4), nn.Linear(4, 2)),
    ],
)
def test_a_module_that_treats_each_step_alone_keeps_the_mask(make):
    module = make()
    for relation in (None, "stepwise"):
        layer = TorchModuleWrapper(module, relation=relation)
        out = layer(pack(X, MASKS))
        assert np.array_equal(out.index.mask, MASKS)
        plain = module.eval()(X)
        torch.testing.assert_close(out.values, plain[torch.from_numpy(MASKS)])
        torch.testing.assert_close(layer(X), plain)
        symbol = layer(Input((None, 3), masked=True))
        assert symbol.masked and symbol.shape == (None, None, plain.shape[-1])


@pytest.mark.parametrize(
    ("make", "name", "padless_layer"),
    [
        (lambda: nn.Conv1d(3, 2, 1), "Conv1d", "Conv1D"),
        (lambda: nn.LSTM(3, 2, batch_first=True), "LSTM", "LSTM"),
        (lambda: nn.GRU(3, 2, batch_first=True), "GRU", "GRU"),
        (
            lambda: nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4), nn.ReLU())),
            "BatchNorm1d",
            "BatchNormalization",
        ),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Flatten()), "Flatten", "Flatten"),
        (lambda: nn.MaxPool1d(2), "MaxPool1d", "MaxPooling1D"),
        (lambda: nn.Softmax(1), "Softmax", "Softmax"),
        (lambda: Probe(lambda x: x.mean(1)), "Probe", None),
    ],
)
def test_a_module_that_mixes_steps_is_refused_with_the_ways_out(make, name, padless_layer):
    x = Input((None, 3), masked=True, name="steps")
    for inputs, mask_source in [(pack(X, MASKS), "the given mask"), (x, "Input 'steps'")]:
        with pytest.raises(
            MaskLost, match=f"created by {mask_source}.*It was torch's {name}, in the module of layer"
        ) as lost:
            TorchModuleWrapper(make())(inputs)
        for advice in ("relation='stepwise'", "relation='padded_grid'", "DropMask()"):
            assert advice in str(lost.value)
        assert padless_layer is None or f"the layer {padless_layer} of padless" in str(lost.value)
    with pytest.raises(MaskLost, match=f"It was torch's {name}"):
        Sequential([Input((None, 3), masked=True), make()])


def test_a_stepwise_module_gets_the_real_steps_as_rows():
    module = Probe()
    layer = TorchModuleWrapper(module, relation="stepwise")
    packed = pack(X, MASKS)
    layer(packed)
    ((_, rows),) = module.calls
    assert rows is packed.values or rows.data_ptr() == packed.values.data_ptr()  # not a copy
    layer(X)
    assert torch.equal(module.calls[-1][1], X.reshape(-1, 3))
    two = TorchModuleWrapper(Probe(lambda x, y, scale: (x * scale, {"sum": x + y})), relation="stepwise")
    product, both = two(packed, packed * 2, scale=3)
    torch.testing.assert_close(product.values, 3 * packed.values)
    torch.testing.assert_close(both["sum"].values, 3 * packed.values)
    with pytest.raises(ShapeError, match="begin with the same"):
        two(packed, X, scale=3)
    with pytest.raises(ShapeError, match="same mask"):
        two(packed, pack(X, np.ones_like(MASKS)), scale=3)
    with pytest.raises(ShapeError, match=r"of \d+ steps its module must give as many rows; got \(3,\)"):
        TorchModuleWrapper(Probe(lambda x: x.sum(0)), relation="stepwise")(packed)


def test_a_stepwise_batch_normalization_has_the_statistics_of_real_steps():
    module, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    layer = TorchModuleWrapper(module, relation="stepwise")
    real = torch.from_numpy(MASKS)
    noise = torch.where(real[..., None], X, torch.nan)
    out = layer(pack(noise, MASKS), training=True)
    torch.testing.assert_close(out.values, other(X[real]))
    torch.testing.assert_close(module.running_mean, other.running_mean)
    state = copy.deepcopy(module.state_dict())
    for empty in (pack(torch.ones(2, 3, 3), lengths=[0, 0]), torch.ones(0, 3, 3), torch.ones(2, 0, 3)):
        assert layer(empty, training=True).shape == empty.shape  # the module infers
    assert all(torch.equal(state[k], v) for k, v in module.state_dict().items())


def test_the_module_is_applied_to_gap_values():
    ids = torch.tensor([[1, 2, 0, 3], [0, 0, 1, 0]])
    h = L.Embedding(4, 3, mask_zero=True)(ids)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with torch.no_grad():
        layer = TorchModuleWrapper(module, relation="stepwise")
        expected = layer(h.unpack())
        torch.testing.assert_close(layer(h).unpack(), expected)
        torch.testing.assert_close(TorchModuleWrapper(module[0])(h).unpack(), module[0](h.unpack()))
        noisy = TorchModuleWrapper(nn.Dropout(0.5), relation="stepwise")(h, training=True)
        assert torch.equal(noisy.gap_values, h.gap_values) and not torch.equal(noisy.values, h.values)


def test_padded_grid_consumes_the_mask():
    module = nn.LSTM(3, 2, batch_first=True)
    layer = TorchModuleWrapper(module, relation="padded_grid")
    packed = pack(X, MASKS)
    out, _ = layer(packed)
    torch.testing.assert_close(out, module(packed.unpack())[0])
    symbol, _ = layer(Input((None, 3), masked=True))
    assert not symbol.masked and layer.needs_gap_values(False) and layer.compute_mask(packed, packed.mask) is None
    ids = Input((None,))
    model = Model(ids, layer(L.Embedding(4, 3, mask_zero=True)(ids))[0])
    table = model.layers[1].embeddings
    grid = np.array([[1, 2, 0], [3, 0, 0]])
    torch.testing.assert_close(model(grid), module(table[grid])[0])  # gap values included


def test_torch_modules_keep_their_mask():
    """Keras warns, drops the mask, and the padding counts."""
    module = nn.Linear(3, 2)
    layer, keras_layer = L.TorchModuleWrapper(module), keras.layers.TorchModuleWrapper(module)
    ids = torch.tensor([[1, 2, 0]])
    table = numbers(4, 3)
    h, keras_h = (lib.layers.Embedding(4, 3, mask_zero=True, weights=[table])(ids) for lib in (padless, keras))
    with pytest.warns(UserWarning, match="does not support masking"):
        keras_output = keras_layer(keras_h)
    np.testing.assert_allclose(shown(layer(h)), shown(keras_output), rtol=1e-5)
    assert getattr(keras_output, "_keras_mask", None) is None and layer(h).lengths.tolist() == [2]
    with losing(), pytest.raises(MaskLost):
        conv, keras_conv = (lib.layers.TorchModuleWrapper(nn.Conv1d(3, 2, 1)) for lib in (padless, keras))
        assert keras_conv(keras_h).shape == (1, 2, 3)
        conv(h)


def test_config_of_torch_modules():
    """Keras pickles the module into the config, and reads it back in unsafe mode only."""
    assert isinstance(keras.layers.TorchModuleWrapper(nn.Linear(3, 2)).get_config()["module"], str)
    with pytest.raises(ArgumentError, match="torch module Linear has no config.*save_weights.*from_config"):
        TorchModuleWrapper(nn.Linear(3, 2)).get_config()
    config = serialize(TorchModuleWrapper(Mixed(3, 4), relation="stepwise", output_shape=(1, 2)), "layer")
    again = TorchModuleWrapper.from_config(config["config"])
    assert again.get_config() == config["config"] and type(again.module) is Mixed
    assert again.relation == "stepwise" and again.output_shape == (1, 2)


# ------------------------------------------------------------------------------------------------ in models


def test_sequential_wraps_modules():
    model = Sequential([L.Embedding(5, 3, mask_zero=True), nn.Linear(3, 4), nn.ReLU(), L.LSTM(2), nn.Linear(2, 1)])
    ids = np.array([[1, 2, 0, 0], [3, 0, 4, 1]])
    y = model.predict(ids, verbose=0)
    assert y.shape == (2, 1)
    assert [layer.name for layer in model.layers] == ["embedding", "linear", "re_lu", "lstm", "linear_1"]
    assert len(model.weights) == 8
    model.compile("adam", "mse")
    weights_before = [p.detach().clone() for p in model.parameters()]
    model.fit(ids, np.ones((2, 1)), epochs=1, verbose=0)
    assert all(not torch.equal(p, b) for p, b in zip(model.parameters(), weights_before, strict=True))
    model.add(nn.Linear(1, 1))
    model.pop()
    act = nn.ReLU()
    assert len(Sequential([Input((3,)), act, L.Dense(2), act]).layers) == 3


def frames(mask, content=0.0):
    x = torch.from_numpy(numbers(*mask.shape, 1, 4, 4))
    return torch.where(torch.from_numpy(mask)[..., None, None, None], x, torch.as_tensor(content))


def encoder():
    return nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: L.TimeDistributed(m),
        lambda m: TorchModuleWrapper(m, relation="stepwise"),
    ],
    ids=["TimeDistributed", "stepwise"],
)
def test_an_image_encoder_on_each_frame_ignores_padding(wrap):
    module = encoder()
    x = Input((None, 1, 4, 4), masked=True)
    h = wrap(module)(x)
    assert h.shape == (None, None, 5) and h.masked
    model = Model(x, L.Dense(2)(L.LSTM(3)(h)))
    mask = MASKS
    y = model.predict(pack(frames(mask), mask), verbose=0)
    alone = np.concatenate([model.predict(frames(mask)[[r]][:, mask[r]], verbose=0) for r in range(len(mask))])
    np.testing.assert_allclose(y, alone, atol=1e-6)
    results = []
    target = numbers(len(mask), 2)
    for content in (0.0, float("nan"), 9.0):
        fresh = copy.deepcopy(model)
        fresh.compile("sgd", "mse")
        data = pack(frames(mask, content), mask)
        history = fresh.fit(data, target, epochs=2, verbose=0, shuffle=False).history["loss"]
        results.append((history, fresh.evaluate(data, target, verbose=0), [w.tobytes() for w in fresh.get_weights()]))
    assert results[0] == results[1] == results[2]
    assert results[0][0][1] < results[0][0][0]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in fresh.layers[1].parameters())


def test_an_image_encoder_runs_on_real_frames_only():
    module, counts = encoder(), []
    module[0].register_forward_hook(lambda m, args, out: counts.append(len(args[0])))
    x = Input((None, 1, 4, 4), masked=True)
    model = Model(x, L.Dense(2)(L.LSTM(3)(L.TimeDistributed(module)(x))))
    model.compile("sgd", "mse")
    model.predict(pack(frames(MASKS), MASKS), verbose=0)
    model.evaluate(pack(frames(MASKS), MASKS), numbers(len(MASKS), 2), verbose=0)
    counts.clear()
    model.evaluate(pack(frames(MASKS), MASKS), numbers(len(MASKS), 2), verbose=0, batch_size=100)
    model.fit(pack(frames(MASKS), MASKS), numbers(len(MASKS), 2), verbose=0, batch_size=100)
    assert counts == [MASKS.sum()] * 2


def test_time_distributed_wraps_a_module():
    module = nn.Sequential(nn.Conv1d(2, 4, 2), nn.Dropout(0.5))
    layer = L.TimeDistributed(module)
    assert layer.compute_output_shape((None, 7, 2, 5)) == (None, 7, 4, 4)
    assert len(layer.weights) == 2 and layer.count_params() == 20
    x = torch.randn(3, 7, 2, 5)
    assert torch.equal(layer(x), layer(x)) and not torch.equal(layer(x, training=True), layer(x, training=True))
    torch.testing.assert_close(layer(x)[:, 2], module.eval()(x[:, 2]))
    assert layer(Input((None, 2, 5))).shape == (None, None, 4, 4)


def test_weights_are_saved_and_whole_models_if_modules_have_configs(tmp_path):
    path = tmp_path / "model.safetensors"

    def build(module):
        x = Input((None, 3), masked=True)
        return Model(x, L.Dense(2, name="out")(TorchModuleWrapper(module, name="inner", relation="stepwise")(x)))

    model, other = build(nn.BatchNorm1d(3)), build(nn.BatchNorm1d(3))
    model(pack(X, MASKS), training=True)
    with pytest.raises(ArgumentError, match="torch module BatchNorm1d has no config"):
        model.save(path)
    assert not list(tmp_path.iterdir())
    model.save_weights(path)
    other.load_weights(path)
    assert torch.equal(other(pack(X, MASKS)).values, model(pack(X, MASKS)).values)
    assert "inner/module.running_mean" in model._named_weights()
    other.load_state_dict(model.state_dict())
    twin = copy.deepcopy(model)
    assert torch.equal(twin(pack(X, MASKS)).values, model(pack(X, MASKS)).values)
    assert twin.get_layer("inner").module is not model.get_layer("inner").module
    with CustomObjectScope({}):
        x = Input((None, 3), masked=True)
        hidden, out = TorchModuleWrapper(Mixed(3, 4))(x)
        whole = Model(x, L.Add()([hidden, out]))
        whole.save(path)
        again = padless.load_model(path)
    assert torch.equal(again(pack(X, MASKS)).values, whole(pack(X, MASKS)).values)


# ------------------------------------------------------------------------------------------------ on symbols


class Net(nn.Module):
    """Functions, a branch by mode, several outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, x, scale=1.0):
        h = torch.relu(self.a(x))
        if self.training:
            h = h + 0
        left, right = self.drop(h).chunk(2, -1)
        return {"out": self.b(torch.cat([left, right], -1)) * scale, "right": right, "h": h, "x": x, "four": 4}


class Shifted(nn.Module):
    """A module with a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x):
        return x + self.shift


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (nn.Linear(3, 2), "`linear` on a symbol was given a parameter"),
        (nn.Conv1d(4, 2, 1), "`conv1d` on a symbol was given a parameter"),
        (nn.LayerNorm(3), "`layer_norm` on a symbol was given a parameter"),
        (nn.PReLU(), "`prelu` on a symbol was given a parameter"),
        (nn.Linear(3, 2).forward, "`linear` on a symbol was given a parameter"),
        (nn.Sequential(nn.Tanh(), nn.BatchNorm1d(4)), "`batch_norm` on a symbol was given a parameter"),
        (nn.LSTM(3, 2, batch_first=True), "Axis 0 of .* has no size yet"),
        (Shifted(), "`(__)?add(__)?` on a symbol was given a buffer"),
        (Shifted().double(), "`(__)?add(__)?` on a symbol was given a buffer"),  # a new tensor in the same module
        (nn.BatchNorm1d(4, affine=False), "`batch_norm` on a symbol was given a buffer"),
        (nn.BatchNorm1d(4, affine=False, track_running_stats=False), "`batch_norm` on a symbol depends on the mode"),
        (nn.Dropout(0.5), "`dropout` on a symbol depends on the mode"),
        (lambda x: F.dropout(x, 0.5, True), "`dropout` on a symbol depends on the mode"),
        (lambda x: F.dropout(x, 0.5, training=False), "`dropout` on a symbol depends on the mode"),
        (lambda x: F.rrelu(x), "`rrelu` on a symbol depends on the mode"),
        (lambda x: torch.dropout(x, 0.5, True), "`dropout` on a symbol draws random numbers"),
        (torch.rand_like, "`rand_like` on a symbol draws random numbers"),
        (torch.bernoulli, "`bernoulli` on a symbol draws random numbers"),
        (F.gumbel_softmax, "`gumbel_softmax` on a symbol draws random numbers"),
        (lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5), "`scaled_dot_.*` on a symbol draws random"),
        (Probe(lambda x: x.tanh().view(x.shape[0], -1)), "`view` .*an axis whose size is open"),
        (Probe(lambda x: x.sin().view(x.size(0), -1)), "Axis 0 of .* has no size yet"),
    ],
)
def test_a_module_with_state_must_be_wrapped(call, reason):
    x, generator = Input((4, 3)), torch.get_rng_state()
    with pytest.raises(ArgumentError, match=f"{reason}.*TorchModuleWrapper"):
        call(x)
    assert torch.equal(torch.get_rng_state(), generator), "no random number was drawn"
    if isinstance(call, nn.Module):
        assert isinstance(TorchModuleWrapper(call)(x), SymbolicTensor | tuple)


def test_a_module_that_reads_data_must_be_wrapped():
    x = Input((4, 3))
    with pytest.raises(TypeError, match="has no value yet.*TorchModuleWrapper"):
        Probe(lambda x: x * 2 if bool((x > 0).all()) else x)(x)
    with pytest.raises(AttributeError, match="TorchModuleWrapper"):
        Probe(lambda x: torch.arange(3, device=x.device) + x)(x)
    assert TorchModuleWrapper(Probe(lambda x: x.tanh().view(x.shape[0], -1)))(x).shape == (None, 12)


def test_attention_without_dropout_and_constants_are_recorded():
    x = Input((4, 3))
    model = Model(x, F.scaled_dot_product_attention(x, x, x) * torch.tensor([1.0, 2.0, 3.0]))
    data = X[:, :4]
    expected = F.scaled_dot_product_attention(data, data, data) * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(model(data), expected)


def test_modules_that_only_call_functions_need_no_wrapper():
    x = Input((None, 3), masked=True)
    net = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Softmax(-1), nn.LayerNorm(3, elementwise_affine=False)), nn.Identity())
    y = net(x)
    assert y.masked and nn.Identity()(x) is x
    model = Model(x, y)
    assert [layer.name for layer in model.layers] == ["input_layer"]
    torch.testing.assert_close(model(pack(X, MASKS)).values, net(pack(X, MASKS)).values)
    hidden, both = nn.Sequential(L.Dense(4), nn.ReLU()), nn.Sequential(L.Embedding(5, 3, mask_zero=True), nn.Tanh())
    assert hidden(x).masked and len(hidden[0]._inbound_nodes) == 1
    ids = Input((None,))
    assert Model(ids, L.LastStep()(both(ids))).predict(np.array([[1, 2, 0], [3, 0, 4]]), verbose=0).shape == (2, 3)


def test_a_wrapped_module_is_one_call():
    net = Net()
    x = Input((None, 3), masked=True)
    outputs = TorchModuleWrapper(net)(x, scale=2.0)
    assert outputs["four"] == 4 and outputs["out"].shape == (None, None, 2) and outputs["out"].masked
    node = outputs["out"].node
    assert node is outputs["right"].node is outputs["h"].node is outputs["x"].node
    assert node.operation.module is net and node.kwargs == {"scale": 2.0} and node.operation.name == "net"
    model = Model(x, [outputs["out"] + 1, outputs["right"], outputs["h"]])
    assert [layer.name for layer in model.layers] == ["input_layer", "net"]
    assert list(model.parameters()) == list(net.parameters())
    out, right, h = model(pack(X, MASKS))
    expected = net.eval()(pack(X, MASKS).values, 2.0)
    for result, key in ((out - 1, "out"), (right, "right"), (h, "h")):
        torch.testing.assert_close(result.values, expected[key])
    noisy = model(pack(X, MASKS), training=True)[0]
    assert not torch.equal(noisy.values, out.values)
    assert L.Dense(1).name == "dense" and TorchModuleWrapper(nn.ReLU()).name == "re_lu"  # no name was used up


@pytest.mark.parametrize("shape", [(3,), (None, 3)])
def test_a_wrapped_dropout_has_an_effect_in_training_only(shape):
    x = Input(shape)
    model = Model(x, TorchModuleWrapper(nn.Dropout(0.5))(x))
    data = torch.ones(8, 5, 3)[:, 0] if shape == (3,) else torch.ones(8, 5, 3)
    assert torch.equal(model(data), data) and not torch.equal(model(data, training=True), data)


def test_a_wrapper_called_twice_is_one_layer():
    net, x, y = TorchModuleWrapper(nn.Linear(3, 3)), Input((None, 3)), Input((None, 3))
    model = Model([x, y], net(net(x)) - net(y))
    assert [name for name in (layer.name for layer in model.layers) if "linear" in name] == ["linear"]
    assert len(list(model.parameters())) == 2
    torch.testing.assert_close(model([X, X + 1]), net(net(X)) - net(X + 1))


def test_layers_inside_a_wrapped_module_keep_and_create_masks():
    inner = nn.Sequential(L.Dense(4), nn.ReLU(), TwoInputs())
    x = Input((None, 3), masked=True)
    y = TorchModuleWrapper(nn.Sequential(inner, L.Dense(2), nn.Identity()))(x)
    assert y.masked and y.node.operation.name == "sequential" and list(y.node.inputs()) == [x]
    model = Model(x, L.LSTM(2)(y))
    assert len(model.layers) == 3 and not inner[0]._inbound_nodes
    torch.testing.assert_close(model(pack(X, MASKS)), model.layers[2](y.node.operation.module.eval()(pack(X, MASKS))))
    ids = Input((None,))
    embedded = TorchModuleWrapper(nn.Sequential(L.Embedding(5, 3, mask_zero=True), nn.Linear(3, 2)))(ids)
    assert embedded.masked
    grid = np.array([[1, 2, 0, 0], [3, 0, 4, 1]])
    assert Model(ids, L.LastStep()(embedded)).predict(grid, verbose=0).shape == (2, 2)
    lists = Model(ids, embedded).predict([[1, 2], [3]], verbose=0)
    assert [row.shape for row in lists] == [(2, 2), (1, 2)]


class TwoInputs(nn.Module):
    """A module with an optional second input and a hook."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.register_forward_hook(lambda module, args, out: out * 2)

    def forward(self, x, y=None):
        return self.norm(x) if y is None else self.norm(x) + y


def test_a_wrapped_module_may_have_several_inputs_and_hooks():
    net, x, y = TwoInputs(), Input((None, 4), masked=True), Input((None, 4), masked=True)
    layer = TorchModuleWrapper(net)
    z = layer(x, y=torch.tanh(x))
    assert [s.name for s in z.node.inputs()] == ["input_layer", "tanh"] and z.node.operation.module is net
    data = pack(torch.cat([X, X[..., :1]], -1), MASKS)
    torch.testing.assert_close(Model(x, z)(data).values, net(data, y=torch.tanh(data)).values)
    torch.testing.assert_close(Model([x, y], layer(x, y))([data, data]).values, net(data, data).values)


def test_a_call_on_a_symbol_changes_nothing_in_the_module():
    net = nn.Sequential(nn.Conv1d(4, 3, 1), nn.BatchNorm1d(3, momentum=None), nn.Dropout(0.5), nn.BatchNorm1d(3))
    before, generator = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    assert TorchModuleWrapper(net)(Input((4, 7))).shape == (None, 3, 7)
    with pytest.raises(ArgumentError):
        net(Input((4, 7)))
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())


def test_symbols_made_while_a_wrapped_layer_is_built_are_a_graph_for_themselves():
    class Inner(L.Layer):
        def build(self, shape):
            x = Input((3,))
            self.model = Model(x, torch.relu(TorchModuleWrapper(nn.Linear(3, 2))(x)))

        def call(self, inputs):
            return self.model(inputs)

    x = Input((3,))
    y = TorchModuleWrapper(nn.Sequential(Inner(), nn.Tanh()))(x)
    assert list(y.node.inputs()) == [x] and y.shape == (None, 2)
    inner = y.node.operation.module[0].model
    assert [layer.name for layer in inner.layers][1:] == ["linear"]
    torch.testing.assert_close(Model(x, y)(X[:, 0]), inner(X[:, 0]).tanh())


def test_a_symbol_that_is_not_an_argument_is_refused():
    x, y = Input((None, 3)), Input((None, 3))
    with pytest.raises(ArgumentError, match="which it was not given"):
        TorchModuleWrapper(Probe(lambda x: x + y.mean()))(x)
    model = Model([x, y], TorchModuleWrapper(Probe(lambda x, y: x + y))(x, y))
    torch.testing.assert_close(model([X, X]), 2 * X)


def test_an_error_of_the_module_itself_is_raised_as_it_is():
    x = Input((None, 3))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        TorchModuleWrapper(nn.Linear(4, 2))(x)
    assert TorchModuleWrapper(nn.Linear(3, 2))(x).shape == (None, None, 2)


# ------------------------------------------------------------------------------------------------ inside user-defined layers


class WithModules(padless.Layer):
    """A layer with torch modules, one of them in a list."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.drop = nn.Dropout(0.5)
        self.more = nn.ModuleList([nn.Sequential(nn.BatchNorm1d(3))])

    def call(self, inputs):
        return self.drop(self.more[0](inputs.flatten(0, 1)).reshape(inputs.shape))


class StepwiseWithModules(WithModules):
    stepwise = True

    def call(self, inputs):
        return super().call(inputs)


@pytest.mark.parametrize("kind", [WithModules, StepwiseWithModules])
def test_modules_inside_a_layer_train_when_it_does(kind):
    layer = kind()
    norm = layer.more[0][0]
    x = torch.randn(2, 5, 3)
    assert layer(x).ne(0).all() and norm.num_batches_tracked == 0  # though torch modules start in training mode
    assert layer(x, training=True).eq(0).any() and norm.num_batches_tracked == 1
    Model(symbol := Input((5, 3)), layer(symbol))
    assert norm.num_batches_tracked == 1, "building a model counts no batch"
    assert layer.drop.training, "the mode is restored"


def test_gap_values_train_no_module_in_a_stepwise_layer():
    layer = StepwiseWithModules()
    packed = padless.pack(torch.randn(2, 5, 3), mask=np.array([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]]))
    with_gap_values = packed.with_values(packed.values, torch.full((packed.index.num_gaps, 3), 100.0))
    layer(with_gap_values, training=True)
    assert layer.more[0][0].num_batches_tracked == 1 and layer.more[0][0].running_mean.abs().max() < 2


def test_a_single_row_trains_no_batch_normalization():
    layer = TorchModuleWrapper(nn.BatchNorm1d(3), relation="stepwise")
    packed = padless.pack(torch.randn(2, 2, 3), mask=np.array([[0, 1], [0, 0]]))
    assert layer(packed, training=True).values.isfinite().all()
    assert layer.module.num_batches_tracked == 0


def test_a_module_whose_train_keeps_it_frozen_stays_frozen():
    class Frozen(nn.BatchNorm1d):
        def train(self, mode=True):
            return super().train(False)

    class WithFrozen(padless.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.norms = nn.ModuleList([Frozen(3)])

        def call(self, inputs):
            return self.norms[0](inputs)

    wrapped, layer_with_frozen = TorchModuleWrapper(Frozen(3)), WithFrozen()
    for layer, norm in ((wrapped, wrapped.module), (layer_with_frozen, layer_with_frozen.norms[0])):
        layer(torch.randn(4, 3), training=True)
        assert norm.num_batches_tracked == 0
