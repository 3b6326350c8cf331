"""The base class of layers: training mode, building, weights, sublayers, losses, dtypes, copies, names."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from padless import Input, Model, Packed, Sequential, layers, pack, unpack
from padless.errors import ArgumentError, NotBuilt, ShapeError
from padless.layers import LSTM, Dense, Embedding, Layer


def masked(features=4):
    torch.manual_seed(0)
    return pack(torch.randn(3, 4, features), lengths=[4, 2, 0])


class Mode(Layer):
    """A layer that records its training mode."""

    def __init__(self, inner=None, inner_training=None, **kwargs):
        super().__init__(**kwargs)
        self.inner, self.inner_training = inner, inner_training

    def call(self, inputs, training=None):
        self.seen = training
        if self.inner is not None:
            self.inner(inputs, **({} if self.inner_training is None else {"training": self.inner_training}))
        return inputs


# ---------------------------------------------------------------------------------------------------- training


def test_training_mode_is_the_argument_else_that_of_the_enclosing_call_else_that_of_the_module():
    x = torch.ones(2, 3)
    layer = Mode()
    assert layer.training is False  # the mode of a new layer
    for argument, mode, expected in [(None, False, False), (None, True, True), (True, False, True), (False, True, False)]:
        layer.train(mode)
        layer(x, **({} if argument is None else {"training": argument}))
        assert layer.seen is expected
    layer.train()
    layer(x, training=None)
    assert layer.seen is True
    outer = Mode(Mode())
    for argument, mode, expected in [(True, False, True), (False, True, False), (None, True, False)]:
        outer.inner.train(mode)
        outer.training = False
        outer(x, training=argument)
        assert outer.inner.seen is expected
    training_inside = Mode(Mode(), inner_training=True)
    training_inside(x, training=False)
    assert training_inside.inner.seen is True


def test_a_layer_in_a_torch_module_follows_the_module():
    inner = Mode()
    module = nn.Sequential(nn.Identity(), inner)
    for mode in (True, False):
        module.train(mode)
        module(torch.ones(2, 3))
        assert inner.seen is mode


def test_every_layer_accepts_training_on_data_and_on_symbols():
    x = Input((None, 4))
    for y in (Dense(3)(x, training=True), Dense(3)(x, training=True, mask=None), LSTM(2)(x, training=False)):
        assert y.shape[0] is None
    Dense(3)(torch.ones(1, 4), training=True)
    inner = Mode()
    model = Model(x, inner(Dense(3)(x)))
    assert inner.seen is False  # shape inference runs without training
    model(torch.ones(1, 2, 4), training=True)
    assert inner.seen is True
    recorded = Mode()
    Model(x, recorded(x, training=True))(torch.ones(1, 2, 4), training=False)
    assert recorded.seen is True


# ---------------------------------------------------------------------------------------------------- building


def test_weights_of_an_unbuilt_layer_are_an_error():
    dense = Dense(3, name="mine")
    outer = nn.ModuleList([nn.Linear(2, 2), dense])
    for ask in (dense.parameters, dense.state_dict, lambda: dense.weights, dense.get_weights, outer.parameters,
                outer.state_dict, lambda: torch.optim.SGD(outer.parameters(), 0.1), lambda: dense.set_weights([]),
                lambda: outer.load_state_dict({}), dense.count_params, dense.double):  # fmt: skip
        with pytest.raises(NotBuilt, match="'mine' has no weights yet.*build"):
            list(ask())
    assert "not built" in repr(dense) and dense.train() is dense and not dense.built
    dense(torch.ones(1, 2))
    assert len(list(outer.parameters())) == 4 and dense.built and "not built" not in repr(dense)


def test_a_layer_without_build_is_complete_at_once():
    assert list(layers.Dropout(0.5).parameters()) == [] == list(layers.Activation("relu").parameters())

    class Early(Layer):
        def __init__(self):
            super().__init__()
            self.scale = self.add_weight((), "ones", name="scale")

        def call(self, inputs):
            return inputs * self.scale

    assert len(Early().weights) == 1


def test_weights_from_the_constructor_are_listed_after_build_has_added_the_others():
    class Late(Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.first = nn.Parameter(torch.ones(1))
            self.add_weight((1,), "ones", name="second")

        def build(self, shape):
            self.third = self.add_weight((shape[-1],), "ones", name="third")

        def call(self, inputs):
            return inputs * self.first * self.second * self.third

    layer = Late(trainable=False)
    with pytest.raises(NotBuilt):
        list(layer.parameters())
    other = copy.deepcopy(layer)
    assert torch.equal(other(torch.ones(1, 3)), torch.ones(1, 3))
    assert [tuple(w.shape) for w in other.weights] == [(1,), (1,), (3,)]
    layer.trainable = True
    layer.build((None, 2))
    assert list(layer.state_dict()) == ["first", "second", "third"] and all(p.requires_grad for p in layer.parameters())


def test_a_failed_build_leaves_the_layer_unbuilt():
    class Failing(Layer):
        def build(self, shape):
            self.add_weight((shape[-1],), name="one")
            if shape[-1] == 2:
                raise ShapeError("not 2")

        def call(self, inputs):
            return inputs * self.one

    layer = Failing()
    with pytest.raises(ShapeError):
        layer(torch.ones(1, 2))
    with pytest.raises(NotBuilt):
        list(layer.parameters())
    assert layer(torch.ones(1, 3)).shape == (1, 3) and len(layer.weights) == 1


def test_build_runs_once():
    class Counting(Layer):
        count = 0

        def build(self, shape):
            super().build(shape)
            self.count += 1
            self.add_weight((1,), name="one")

        def call(self, inputs):
            return inputs

    layer = Counting()
    for _ in range(2):
        layer(torch.ones(1, 2))
        layer.build((None, 2))
    assert layer.count == 1 and len(layer.weights) == 1


def test_build_receives_the_shapes_of_the_arguments_that_it_names():
    class Two(Layer):
        def build(self, query_shape, value_shape):
            self.shapes = query_shape, value_shape

        def call(self, query, value=None):
            return query

    one, two = Two(), Two()
    one(masked(), torch.ones(3, 2))
    two(Input((5, 4)), value=Input((2,)))
    assert one.shapes == ((3, 4, 4), (3, 2)) and two.shapes == ((None, 5, 4), (None, 2))


@pytest.mark.slow
def test_weights_are_created_on_the_device_of_the_data():
    dense = Dense(3)
    assert dense(torch.ones(2, 4, device="meta")).device.type == "meta" and dense.kernel.device.type == "meta"
    assert Dense(3)(torch.ones(2, 4)).device.type == "cpu"


# ---------------------------------------------------------------------------------------------------- weights


def test_add_weight_creates_parameters_and_buffers():
    layer = Layer()
    kernel = layer.add_weight((2, 3), "ones")
    count = layer.add_weight((), "zeros", dtype="int64", trainable=False, name="count")
    assert isinstance(kernel, nn.Parameter) and layer.weight_0 is kernel and dict(layer.named_buffers())["count"] is count
    assert layer.weights == [kernel, count] == layer.variables
    assert layer.trainable_weights == [kernel] and layer.non_trainable_weights == [count] and layer.count_params() == 7
    with pytest.raises(ShapeError, match=r"'w'.*\(None, 2\)"):
        layer.add_weight((None, 2), name="w")


@pytest.mark.parametrize("view", [lambda w: w, lambda w: w.detach(), lambda w: w.detach().numpy(), lambda w: w.detach().T.T])
def test_set_weights_takes_weights_of_the_layer_in_another_order(view):
    layer = layers.StackedRNNCells([layers.SimpleRNNCell(2, use_bias=False) for _ in range(2)])
    layer.build((None, 2))
    before = layer.get_weights()
    layer.set_weights([view(weight) for weight in reversed(layer.weights)])
    assert all(map(np.array_equal, layer.get_weights(), reversed(before)))


def test_set_weights_checks_all_arrays_before_it_changes_a_weight():
    dense = Dense(3)
    dense.build((None, 2))
    before = dense.get_weights()
    for wrong, words in [
        ([np.ones((2, 3))], "2 weights; got 1"),
        ([np.ones((2, 3)), np.ones(4)], r"Weight 1.*\(3,\).*\(4,\)"),
        ([np.ones((3, 2)), np.ones(3)], r"Weight 0.*\(2, 3\).*\(3, 2\)"),
    ]:
        with pytest.raises(ShapeError, match=words):
            dense.set_weights(wrong)
        assert all((a == b).all() for a, b in zip(before, dense.get_weights(), strict=True))
    dense.set_weights([np.ones((2, 3)), [1, 2, 3]])
    assert dense.bias.tolist() == [1, 2, 3] and (dense.get_weights()[0] == 1).all()
    dense.get_weights()[0][:] = 7  # copies
    assert (dense.kernel == 1).all()


def test_a_frozen_layer_from_its_config_is_frozen():
    layer = Dense(2, trainable=False)
    late = Dense(2)
    late.trainable = False
    for frozen in (layer, late):
        again = Dense.from_config(frozen.get_config())
        again.build((None, 3))
        assert not again.trainable and not again.trainable_weights and len(again.weights) == 2


def test_trainable_is_set_for_all_layers_inside():
    class Mixed(Layer):
        def __init__(self):
            super().__init__()
            self.mine, self.theirs = Dense(2), nn.Linear(3, 2)

        def call(self, inputs):
            return self.mine(inputs) + self.theirs(inputs)

    layer = Mixed()
    layer.trainable = False  # before it is built
    layer(torch.ones(1, 3))
    assert len(layer.non_trainable_weights) == 4 and not layer.trainable_weights and not layer.mine.trainable
    layer.trainable = True
    assert len(layer.trainable_weights) == 4
    layer.mine.trainable = False
    assert [w.shape[0] for w in layer.trainable_weights] == [2, 2] and layer.trainable
    frozen = Dense(2, trainable=False)
    frozen.build((None, 2))
    assert frozen.trainable_weights == []


def test_layers_in_lists_and_dictionaries_are_tracked():
    class Many(Layer):
        def __init__(self):
            super().__init__()
            self.at_once = [Dense(2), Dense(2)]
            self.pair = (Dense(2), Dense(2))
            self.later, self._private, self.nested, self.named = [], [], [], {}
            for _ in range(2):
                self.later.append(Dense(2))
                self._private.append(Dense(2))
                self.nested.append([Dense(2)])
                self.named[f"d{len(self.named)}"] = Dense(2)
            self.numbers, self.empty, self.mixed = [1, 2], [], [Dense(2), None]

        def call(self, inputs):
            for layer in (*self.at_once, *self.pair, *self.later, *self._private, *self.named.values()):
                inputs = layer(inputs)
            for (layer,) in self.nested:
                inputs = layer(inputs)
            return inputs

    for ask in (lambda m: len(list(m.parameters())), lambda m: len(m.state_dict()), lambda m: len(m.weights),
                lambda m: sum(p.dtype == torch.float64 for p in m.double().parameters())):  # fmt: skip
        many = Many()
        many.numbers.append(3)
        with pytest.raises(NotBuilt):
            ask(many)
        many = Many()
        for held in (many.at_once, many.pair, many.later, many._private, many.named.values(), [x for (x,) in many.nested]):
            for dense in held:
                dense.build((None, 2))
        many.built = True
        assert ask(many) == 24
        assert many.numbers == [1, 2] and many.empty == []
    one, other = Many(), Many()
    one(torch.ones(1, 2)), other(torch.ones(1, 2))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(torch.ones(1, 2)), other(torch.ones(1, 2)))


def test_load_state_dict_finds_layers_that_were_listed_later():
    class Later(Layer):
        def __init__(self):
            super().__init__()
            self.blocks = []
            self.blocks.append(Dense(2))
            self.blocks[0].build((None, 2))

    one, other = Later(), Later()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.weights[0], other.weights[0])


def test_torch_modules_and_layers_contain_each_other():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = Embedding(5, 4, mask_zero=True), nn.LayerNorm(4)
            self.lstm = LSTM(3, return_sequences=True)
            self.linear, self.act = nn.Linear(3, 2), nn.ReLU(inplace=True)

        def forward(self, ids):
            return self.linear(self.act(self.lstm(self.norm(self.embed(ids)))))

    class Inner(Layer):
        def __init__(self):
            super().__init__()
            self.module = Outer()

        def call(self, inputs):
            return self.module(inputs)

    ids = torch.tensor([[1, 2, 0], [3, 0, 0]])
    layer = Inner()
    out = layer(ids)
    assert isinstance(out, Packed) and out.lengths.tolist() == [2, 1] and len(list(layer.parameters())) == 8
    out.values.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


# ---------------------------------------------------------------------------------------------------- losses


def test_losses_of_weights_and_of_the_last_call():
    class Adding(Layer):
        def __init__(self):
            super().__init__()
            self.dense = Dense(2, kernel_regularizer="l2", activity_regularizer="l2", kernel_initializer="ones")

        def call(self, inputs):
            self.add_loss(unpack(inputs).sum())
            return self.dense(self.dense(inputs))

    layer, h = Adding(), pack(torch.ones(2, 3, 2), lengths=[2, 0])
    for _ in range(2):  # only the losses of the last call are kept
        layer(h)
        assert len(layer.weight_losses) == 1 and len(layer.call_losses) == 3 and len(layer.losses) == 4
    assert layer.weight_losses[0].item() == pytest.approx(0.01 * 4)
    assert layer.call_losses[0].item() == 4
    assert layer.call_losses[1].item() == pytest.approx(0.01 * 2 * (4 + 4) / 2)  # real steps only, divided by 2 rows
    layer.dense.trainable = False
    assert layer.weight_losses == []
    layer.compute_output_shape((None, 3, 2))
    assert len(layer.call_losses) == 3  # shape inference adds no loss
    assert Adding()(pack(torch.ones(0, 3, 2))).values.shape == (0, 2)


def test_an_activity_loss_ignores_padding():
    found = []
    for padding in (0, 5):
        dense = Dense(2, activity_regularizer="l1", kernel_initializer="ones", bias_initializer="ones")
        dense(pack(torch.ones(2, 2 + padding, 3), lengths=[2, 1]))
        found.append(dense.losses[0].item())
    assert found[0] == found[1] == pytest.approx(0.01 * 3 * 2 * 4 / 2)


def test_a_weight_that_is_not_trainable_has_a_constraint_but_no_penalty():
    layer = Layer()
    layer.add_weight((2,), "ones", trainable=False, regularizer="l2", constraint="unit_norm", name="state")
    layer.add_weight((2,), "ones", regularizer="l2", constraint="unit_norm", name="kernel")
    layer.apply_constraints()
    assert layer.state.norm().item() == pytest.approx(1, rel=1e-5) == layer.kernel.norm().item()
    assert len(layer.losses) == 1


# ---------------------------------------------------------------------------------------------------- dtypes


def test_floats_are_cast_to_the_dtype_of_the_weights():
    exact = 1 + 2.0**-40
    dense = Dense(2, kernel_initializer="ones", use_bias=False)
    assert dense(torch.ones(1, 3, dtype=torch.float64)).dtype == torch.float32
    assert dense(pack(torch.ones(1, 3, 3, dtype=torch.float64))).dtype == torch.float32
    assert dense(torch.ones(1, 3, dtype=torch.float16)).dtype == torch.float32
    for double in (dense.double(), Dense(2, dtype="float64", kernel_initializer="ones", use_bias=False)):
        assert double(np.full((1, 3), exact))[0, 0].item() == 3 * exact
        assert double(torch.ones(1, 3)).dtype == torch.float64
        assert double([[exact, exact, exact]])[0, 0].dtype == torch.float64
    x = Input((3,), dtype="float64")
    model = Model(x, Dense(1, dtype="float64", kernel_initializer="ones")(x))
    assert model(np.full((1, 3), exact)).item() == 3 * exact  # without a step through float32
    assert layers.Activation("relu")(np.ones((1, 2))).dtype == torch.float32
    assert layers.Activation("relu")(torch.ones(1, 2, dtype=torch.float64)).dtype == torch.float64


def test_under_autocast_a_layer_casts_no_floats():
    dense = Dense(2)
    dense.build((None, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert dense(masked(3)).dtype == torch.bfloat16
        assert dense(dense(masked(3)).values.repeat(1, 2)[:, :3]).dtype == torch.bfloat16
    assert dense.kernel.dtype == torch.float32


def test_an_error_names_the_unknown_argument_or_dtype():
    with pytest.raises(ArgumentError, match="float33"):
        Dense(2, dtype="float33")
    with pytest.raises(ArgumentError, match="unitz"):
        Dense(2, unitz=3)
    assert Dense(2, dtype="mixed_bfloat16").dtype == torch.float32


# ---------------------------------------------------------------------------------------------------- objects


def test_names_are_numbered_or_given():
    assert [Dense(1).name, Dense(1).name, LSTM(1).name, Dense(1, name="d").name, Dense(1).name] == [
        "dense", "dense_1", "lstm", "d", "dense_2"]  # fmt: skip


def test_input_and_output_of_the_only_call():
    x, dense = Input((3,)), Dense(2)
    with pytest.raises(ArgumentError, match="nothing yet"):
        _ = dense.output
    y = dense(x)
    assert dense.input is x and dense.output is y
    dense(x)
    with pytest.raises(ArgumentError, match="no single one"):
        _ = dense.input


def test_output_shapes_without_data():
    assert Dense(2).compute_output_shape((None, 7, 3)) == (None, 7, 2)

    class Doubled(Layer):
        def call(self, inputs):
            return {"a": torch.cat([inputs, inputs], -1), "b": [inputs.sum(-1)]}

    assert Doubled().compute_output_shape((None, None, 3)) == {"a": (None, None, 6), "b": [(None, None)]}
    assert layers.Add().compute_output_shape([(None, 3), (None, 3)]) == (None, 3)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_layers_can_be_copied_built_or_not(again):
    for built in (True, False):
        dense = Dense(2, name="mine", kernel_regularizer="l2")
        x = Input((3,))
        if built:
            dense(x)
        other = again(dense)
        assert other.name == "mine" and other.built == built and other.get_config() == dense.get_config()
        if not built:
            with pytest.raises(NotBuilt, match="'mine'"):
                list(other.parameters())
        y = torch.ones(1, 3)
        first = other(y)
        assert torch.equal(first, dense(y)) == built


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_layer_that_was_called_is_copied_without_the_losses_of_the_call(again):
    dense = Dense(2, activity_regularizer="l2")
    dense(torch.ones(1, 3))
    assert len(dense.losses) == 1 and not again(dense).losses


def test_a_copy_of_a_model_is_complete_and_independent():
    x = Input((None,), dtype="int64")
    h = Embedding(5, 3, mask_zero=True)(x)
    shared = Dense(3)
    model = Model(x, LSTM(2, name="last")(shared(shared(h)) + h * 2))
    ids = torch.tensor([[1, 2, 0], [0, 3, 4]])
    for again in (copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded):
        other = again(model)
        assert torch.equal(other(ids), model(ids)) and other.output_names == model.output_names == ["last"]
        part = Model(other.input, other.get_layer("last").output)  # the copy contains the calls
        assert torch.equal(part(ids), model(ids))
        with torch.no_grad():
            other.get_layer("dense").kernel.zero_()
        assert not torch.equal(other(ids), model(ids))
        assert len(list(other.parameters())) == len(list(model.parameters()))


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_a_copied_sequential_can_grow():
    model = Sequential([Input((3,)), Dense(2)])
    other = copy.deepcopy(model)
    other.add(Dense(4))
    assert other(torch.ones(1, 3)).shape == (1, 4) and model(torch.ones(1, 3)).shape == (1, 2)


def test_hooks_of_torch_receive_the_packed_data():
    dense, seen = Dense(2), []
    dense.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    handle = dense.register_forward_hook(lambda module, args, out: out * 0)
    h = masked()
    out = dense(h)
    assert seen[0] is h and isinstance(out, Packed) and not out.values.any()
    handle.remove()
    assert dense(h).values.any()


def test_a_value_that_is_not_a_layer_is_refused():
    with pytest.raises(ArgumentError, match="got 3"):
        layers.Bidirectional(3)
    with pytest.raises(NotImplementedError, match="must define `call"):
        Layer()(torch.ones(1))


def test_the_argument_dtype_applies_to_layers_without_weights():
    x = pack(torch.ones(1, 2, 3), mask=np.array([[1, 0]]))
    double = {"dtype": "float64"}
    for layer in (
        layers.Activation("softmax", **double),
        layers.Softmax(**double),
        layers.Rescaling(2.0, **double),
        layers.GlobalMaxPooling1D(**double),
    ):
        assert layer(x).dtype == torch.float64, layer
        with torch.autocast("cpu"):
            assert layer(x).dtype == torch.float64, layer
    assert layers.Activation("softmax")(x.to(torch.float64)).dtype == torch.float64
    assert layers.Activation("relu", dtype="mixed_bfloat16")(x.to(torch.bfloat16)).dtype == torch.bfloat16
    assert layers.Identity(dtype="float64")(torch.ones(1, 2, dtype=torch.long)).dtype == torch.long


@pytest.mark.parametrize(
    "make",
    [
        layers.LayerNormalization,
        layers.RMSNormalization,
        layers.BatchNormalization,
        lambda: layers.AttentionPooling1D(2),
        lambda: layers.GroupNormalization(2),
        lambda: layers.Dense(2),
    ],
)
def test_another_number_of_features_is_refused_by_name(make):
    layer = make()
    layer(torch.ones(2, 3, 6))
    for wrong in (torch.ones(2, 3, 4), pack(torch.ones(2, 3, 4), mask=np.ones((2, 3)))):
        with pytest.raises(ShapeError, match=rf"{layer.name}.*\(2, 3, 4\)"):
            layer(wrong)


def test_numpy_scalars_are_accepted_as_sizes_and_rates():
    assert layers.Dropout(np.float32(0.5)).get_config()["rate"] == 0.5
    assert layers.Conv1D(2, np.int64(3)).kernel_size == (3,)
