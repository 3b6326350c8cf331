"""Models from graphs and from classes: names, layers, shapes, masks, weights, summary, copies."""

import copy
import pickle

import numpy as np
import pytest
import torch

import padless
from padless import Input, Model, Packed, Sequential
from padless.errors import ArgumentError, MaskLost, NotBuilt, ShapeError
from padless.graph.symbolic import leaves
from padless.layers import (
    GRU,
    LSTM,
    Add,
    Bidirectional,
    Concatenate,
    Dense,
    Dropout,
    Embedding,
    GlobalAveragePooling1D,
    LastStep,
    Layer,
    Masking,
)

IDS = np.array([[1, 2, 0, 3], [4, 0, 0, 0], [0, 0, 0, 0]])
OTHER = np.array([[1, 0, 2], [1, 1, 1], [0, 3, 0]])


# ------------------------------------------------------------------------------------------- graphs, compared with Keras's


def shallow_and_deep(api, layers):
    """Two inputs at different distances from two outputs, one layer shared."""
    a, b = api.Input((4,)), api.Input((3,))
    embed = layers.Embedding(5, 3, mask_zero=True)
    h = layers.LSTM(4)(layers.LSTM(4, return_sequences=True)(embed(a)))
    g = layers.GRU(2)(embed(b))
    both = layers.Concatenate()([g, h])
    return api.Model([a, b], [layers.Dense(2)(both), layers.Dense(1, name="small")(h)])


def unequal(api, layers):
    """Branches of different length, so that the order of layers is not that of their making."""
    a, b = api.Input((4, 3), name="a"), api.Input((4, 3), name="b")
    short = layers.Dense(2)(b)
    long = layers.Dense(2)(layers.Dense(5)(layers.Dense(4)(a)))
    return api.Model({"a": a, "b": b}, {"sum": layers.Add()([long, short]), "short": layers.Dense(1)(short)})


def unused(api, layers):
    """An input that no layer reads, and a layer called twice at different depths."""
    a, b = api.Input((3,)), api.Input((3,))
    shared = layers.Dense(3)
    return api.Model([a, b], shared(layers.Dense(3)(shared(a))))


def nested(api, layers):
    """Models in a model."""
    x = api.Input((4,))
    inner_x = api.Input((4, 3))
    inner = api.Model(inner_x, layers.LSTM(2, return_sequences=True)(layers.Dense(3)(inner_x)))
    head = api.Sequential([layers.Input((4, 2)), layers.GlobalAveragePooling1D(), layers.Dense(1)])
    return api.Model(x, head(inner(layers.Embedding(5, 3, mask_zero=True)(x))))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Keras warns of masks that nested models destroy
@pytest.mark.parametrize("make", [shallow_and_deep, unequal, unused, nested])
def test_names_order_shapes_and_numbers_are_those_of_keras(make):
    keras = pytest.importorskip("keras")
    keras.utils.clear_session()
    theirs, ours = make(keras, keras.layers), make(padless, padless.layers)

    assert [layer.name for layer in ours.layers] == [layer.name for layer in theirs.layers]
    assert ours.output_names == theirs.output_names
    assert leaves(ours.input_shape) == leaves(theirs.input_shape)
    assert leaves(ours.output_shape) == leaves(theirs.output_shape)
    assert [w.shape for w in ours.get_weights()] == [w.shape for w in theirs.get_weights()]
    assert ours.count_params() == theirs.count_params()

    ours.set_weights(theirs.get_weights())
    rng = np.random.default_rng(0)
    shapes = ours.input_shape
    if isinstance(shapes, dict):
        data = {name: rng.normal(size=(3, *shape[1:])).astype("float32") for name, shape in shapes.items()}
    else:
        listed = shapes if isinstance(shapes, list) else [shapes]
        data = [rng.integers(1, 5, (3, *shape[1:])).astype("float32") for shape in listed]
        data = data if isinstance(shapes, list) else data[0]
    expected, got = theirs.predict(data, verbose=0), ours.predict(data, verbose=0)
    assert type(got) is type(expected)
    for key in expected if isinstance(expected, dict) else range(len(expected)):
        assert got[key] == pytest.approx(expected[key], abs=1e-5)


def test_names_are_numbered_by_class_until_clear_session():
    x = Input((3,))
    assert [Dense(1).name, Dense(1).name, LSTM(1).name, x.name, Input((3,)).name] == [
        "dense",
        "dense_1",
        "lstm",
        "input_layer",
        "input_layer_1",
    ]
    assert [Model(x, Dense(1)(x)).name, Model(x, Dense(1)(x)).name] == ["functional", "functional_1"]
    assert Sequential().name == "sequential" and Model(x, Dense(1)(x), name="mine").name == "mine"
    padless.clear_session()
    assert Dense(1).name == "dense"


def test_layers_by_name_and_index():
    model = shallow_and_deep(padless, padless.layers)
    assert model.get_layer("small") is model.get_layer(index=-1) is model.layers[-1]
    with pytest.raises(ArgumentError, match="no layer 'dens'.*'dense'"):
        model.get_layer("dens")
    with pytest.raises(ArgumentError, match="no layer 99"):
        model.get_layer(index=99)
    with pytest.raises(ArgumentError, match="no layer None"):
        model.get_layer()


def test_a_model_to_an_inner_layer_shares_it():
    x = Input((None,))
    model = Model(x, Dense(2)(LSTM(4, name="lstm", return_sequences=True)(Embedding(5, 3, mask_zero=True)(x))))
    inner = Model(model.input, model.get_layer("lstm").output)
    assert inner.predict(IDS, verbose=0).shape == (3, 4, 4)
    inner.set_weights([w + 1 for w in inner.get_weights()])
    assert np.array_equal(inner.get_weights()[1], model.get_weights()[1])


def test_inputs_may_be_a_list_a_tuple_or_a_dictionary():
    a, b = Input((2,), name="a"), Input((2,), name="b")
    as_list, as_dict = Model([a, b], a - b), Model({"a": a, "b": b}, a - b)
    one, two = torch.ones(3, 2), torch.full((3, 2), 2.0)
    for given in ([one, two], (one, two), {"b": two, "a": one}, {"b": two.numpy(), "a": one.numpy()}):
        for model in (as_list, as_dict):
            assert torch.equal(model(given), torch.full((3, 2), -1.0))
    assert as_list.predict([one, two], verbose=0).tolist() == as_dict.predict({"b": two, "a": one}, verbose=0).tolist()


def test_a_last_axis_of_size_one_is_added_or_removed_as_in_keras():
    model = Model(x := Input((3, 1)), Dense(2)(x))
    assert model(torch.ones(2, 3)).shape == (2, 3, 2)
    ids = Model(x := Input((4,)), Embedding(5, 2)(x))
    assert ids(torch.ones(2, 4, 1)).shape == (2, 4, 2)


# ------------------------------------------------------------------------------------------------------------- masks


def test_the_mask_passes_through_a_model_in_a_model():
    x = Input((None, 3))
    inner = Model(x, LSTM(2, return_sequences=True)(x), name="inner")
    y = Input((None,))
    embed = Embedding(5, 3, mask_zero=True)
    outer = Model(y, GlobalAveragePooling1D()(inner(embed(y))))
    assert inner(embed(IDS)).index.num_steps == 4
    alone = np.stack([outer.predict([row[row > 0]], verbose=0)[0] for row in IDS[:2]])
    assert outer.predict(IDS, verbose=0)[:2] == pytest.approx(alone, abs=1e-6)
    assert np.array_equal(outer.predict(IDS, verbose=0)[2], np.zeros(2))


def test_a_mask_in_the_data_that_the_graph_would_lose_is_refused():
    x = Input((4, 3))
    model = Model(x, Dense(1)(x.sum(1)))
    model(torch.ones(2, 4, 3))
    with pytest.raises(MaskLost, match="data of input 'input_layer'"):
        model(padless.pack(torch.ones(2, 4, 3), lengths=[4, 2]))


def test_a_declared_mask_that_would_be_lost_is_refused_while_the_model_is_built():
    x = Input((None, 3), masked=True)
    with pytest.raises(MaskLost, match="Input 'input_layer'"):
        x.sum(1)


def test_an_explicit_mask_reaches_a_model():
    x = Input((None, 3))
    model = Model(x, LastStep()(x * 2))
    grid = torch.arange(12.0).reshape(1, 4, 3)
    assert model(grid, mask=[[True, False, True, False]]).tolist() == [[12.0, 14.0, 16.0]]
    both = Model([x, y := Input((None, 3))], [LastStep()(x), LastStep()(y)])
    first, second = both([grid, grid], mask=[[[1, 0, 0, 0]], None])
    assert first.tolist() == grid[:, 0].tolist() and second.tolist() == grid[:, 3].tolist()


def test_a_batch_without_real_steps_has_a_result():
    x = Input((None,))
    h, state = GRU(3, return_sequences=True, return_state=True)(Embedding(5, 2, mask_zero=True)(x))
    model = Model(x, [GlobalAveragePooling1D()(h), state, Dense(2)(h)])
    mean, last, steps = model(np.zeros((2, 3), int))
    assert torch.equal(mean, torch.zeros(2, 3)) and torch.equal(last, torch.zeros(2, 3))
    assert steps.values.shape == (0, 2)


# --------------------------------------------------------------------------------------------------- subclassed models


class Tagger(Model):
    def __init__(self, units=4, blocks=2, **kwargs):
        super().__init__(**kwargs)
        self.embed = Embedding(9, units, mask_zero=True)
        self.blocks = [LSTM(units, return_sequences=True) for _ in range(blocks)]
        self.heads = {"one": Dense(3), "two": Dense(1)}
        self.drop = Dropout(0.5)

    def call(self, inputs, training=None, mask=None):
        self.seen = (training, mask)
        h = self.embed(inputs)
        for block in self.blocks:
            h = h + block(h)
        h = self.drop(h, training=training)
        return {name: head(h) for name, head in self.heads.items()}


def test_a_subclass_finds_layers_in_lists_and_dictionaries():
    model = Tagger()
    out = model(IDS)
    assert model.name == "tagger"
    assert [layer.name for layer in model.layers] == ["embedding", "lstm", "lstm_1", "dense", "dense_1", "dropout"]
    assert len(model.get_weights()) == len(model.trainable_weights) == 1 + 3 * 2 + 2 * 2
    assert isinstance(out["one"], Packed) and out["two"].index is out["one"].index
    assert model.get_layer("lstm_1") is model.blocks[1]


def test_layers_appended_to_a_list_attribute_are_found():
    class Tower(Model):
        def __init__(self):
            super().__init__()
            self.stages = []
            for _ in range(3):
                self.stages.append(Dense(2))

        def call(self, inputs):
            for stage in self.stages:
                inputs = stage(inputs)
            return inputs

    tower = Tower()
    tower(torch.ones(1, 2))
    assert len(tower.layers) == 3 and len(list(tower.parameters())) == 6


def test_call_of_a_subclass_receives_training_and_mask():
    model = Tagger()
    model(IDS)
    assert model.seen == (False, None)
    model(IDS, training=True)
    assert model.seen[0] is True
    model(IDS, mask=IDS == 1)
    assert model.seen[1].tolist() == (IDS == 1).tolist()
    model.compile("sgd", {"one": "sparse_categorical_crossentropy", "two": "mse"})
    model.fit(IDS, {"one": IDS % 3, "two": IDS[..., None]}, verbose=0)
    assert model.seen[0] is True
    model.evaluate(IDS, {"one": IDS % 3, "two": IDS[..., None]}, verbose=0)
    assert model.seen[0] is False


def test_a_subclass_with_several_inputs_and_outputs():
    class Pair(Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = Dense(2), Dense(1)

        def call(self, inputs):
            x, y = inputs
            return self.a(x), self.b(y)

    model = Pair()
    model.compile("sgd", ["mse", "mae"], metrics=[["mae"], None])
    x, y = np.ones((5, 3), np.float32), np.ones((5, 4), np.float32)
    history = model.fit([x, y], [np.zeros((5, 2)), np.zeros((5, 1))], verbose=0).history
    assert list(history) == ["loss", "output_1_loss", "output_2_loss", "output_1_mae"]
    assert [p.shape for p in model.predict([x, y], verbose=0)] == [(5, 2), (5, 1)]
    assert [p.shape for p in model.predict([x[:2], y[:2]], verbose=0)] == [(2, 2), (2, 1)]  # two rows, two inputs


def test_a_subclass_may_create_a_graph():
    class Small(Model):
        def __init__(self, units):
            x = Input((None,))
            super().__init__(x, Dense(units)(Embedding(5, 2, mask_zero=True)(x)))

    model = Small(3)
    assert model.name == "small" and model.output_shape == (None, None, 3)
    assert model.predict(IDS, verbose=0).shape == (3, 4, 3)


def test_build_creates_the_weights_of_a_subclass():
    model = Tagger()
    with pytest.raises(NotBuilt):
        list(model.parameters())
    model.build((None, 5))
    assert len(model.get_weights()) == 11
    assert model(IDS)["one"].index.num_steps == 4


# ------------------------------------------------------------------------------------------------ weights and summary


def test_wrong_weights_are_refused_before_a_weight_has_changed():
    model = unequal(padless, padless.layers)
    before = model.get_weights()
    wrong = [w + 1 for w in before]
    wrong[-1] = wrong[-1].reshape(1, -1)
    with pytest.raises(ShapeError, match=rf"Weight {len(before) - 1} "):
        model.set_weights(wrong)
    with pytest.raises(ShapeError, match=f"has {len(before)} weights; got 1"):
        model.set_weights(wrong[:1])
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_weights_of_a_shared_layer_are_listed_once():
    model = unused(padless, padless.layers)
    assert len(model.get_weights()) == 4 and len(list(model.parameters())) == 4


def test_summary_shows_shapes_parameters_and_masks():
    lines = []
    x = Input((None,), name="ids")
    model = Model(x, Dense(2, name="tag")(Bidirectional(LSTM(4), name="both")(Embedding(9, 3, mask_zero=True)(x))))
    model.layers[1].trainable = False
    model.summary(print_fn=lines.append, line_length=110)
    text = "\n".join(lines)
    for expected in (
        "'functional'",
        "ids (InputLayer)",
        "both (Bidirectional)",
        "(None, None, 3)",
        "(None, 2)",
        "Embedding 'embedding'",
        "Total params: 301",
        "Trainable params: 274",
        "Non-trainable params: 27",
    ):
        assert expected in text, text
    assert max(map(len, text.splitlines())) <= 110


def test_summary_of_an_unbuilt_model_says_so():
    lines = []
    Sequential([Dense(2), LSTM(3)]).summary(print_fn=lines.append)
    Tagger().summary(print_fn=lines.append)
    assert all("not built" in text for text in lines) and "tagger" in lines[1]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_the_same_numbers_and_separate_weights(copied):
    model = shallow_and_deep(padless, padless.layers)
    expected = model.predict([IDS, OTHER], verbose=0)
    model.predict([[[1, 2], [1]], [[1, 2, 3], [1]]], verbose=0)  # the model has cached its masks for masked data
    twin = copied(model)
    for weight in model.parameters():
        weight.data += 1
    for a, b in zip(twin.predict([IDS, OTHER], verbose=0), expected, strict=True):
        assert np.array_equal(a, b)


def test_a_model_moves_to_double_precision():
    model = shallow_and_deep(padless, padless.layers).to(torch.float64)
    out = model([IDS, OTHER])
    assert {x.dtype for x in out} == {torch.float64}
    model.compile("sgd", ["mse", "mse"])
    assert np.isfinite(model.fit([IDS, OTHER], [np.ones((3, 2)), np.ones((3, 1))], verbose=0).history["loss"]).all()


# ------------------------------------------------------------------------------------------------------- errors


def test_an_invalid_graph_is_refused():
    x, y = Input((3,)), Input((3,))
    with pytest.raises(ArgumentError, match="not connected.*'input_layer_1'"):
        Model(x, Add()([x, y]))
    with pytest.raises(ArgumentError, match="twice"):
        Model([x, x], Dense(1)(x))
    with pytest.raises(ArgumentError, match="begins at symbols made by Input"):
        Model(h := Dense(2)(x), Dense(1)(h))
    with pytest.raises(ArgumentError, match="got str"):
        Model("x", Dense(1)(x))
    with pytest.raises(ArgumentError, match="got NoneType"):
        Model(x)
    with pytest.raises(ArgumentError, match="'same'.*more than once"):
        Model(x, Dense(1, name="same")(Dense(1, name="same")(x)))
    with pytest.raises(ArgumentError, match="called on a symbol and a parameter"):
        Model(x, Add()([x, torch.nn.Parameter(torch.ones(1, 3))]))


def test_attributes_of_a_graph_are_refused_for_a_model_without_one():
    model = Tagger()
    for name in ("input", "output", "inputs", "outputs", "output_names", "input_shape", "output_shape"):
        with pytest.raises(NotBuilt, match=f"'tagger' has no graph, so `{'(input|output)'}"):
            getattr(model, name)


def test_a_call_with_other_inputs_is_refused():
    a, b = Input((2,), name="a"), Input((2,), name="b")
    model = Model([a, b], Concatenate()([a, b]))
    one = torch.ones(3, 2)
    for wrong, message in (
        (one, r"2 inputs \['a', 'b'\]; got 1"),
        ([one], r"2 inputs \['a', 'b'\]; got 1"),
        ([one, one, one], "got 3"),
        ({"a": one}, r"without \['b'\]"),
        ([one, "text"], "Input 'b' expected an array; got str"),
    ):
        with pytest.raises(ArgumentError, match=message):
            model(wrong)
    with pytest.raises(ShapeError, match=r"Input 'b' expected shape \(None, 2\); got \(3, 5\)"):
        model([one, torch.ones(3, 5)])
    with pytest.raises(TypeError, match="is called as Functional|is called as Model"):
        model()
    with pytest.raises(ArgumentError, match="unknown arguments"):
        Model(a, Dense(1)(a), colour="red")


def test_masking_and_a_user_defined_layer_in_a_graph():
    class Twice(Layer):
        def call(self, inputs):
            return inputs * 2

    x = Input((None, 2))
    model = Model(x, LastStep()(Twice()(Masking(mask_value=-1.0)(x))))
    data = np.array([[[1, 2], [-1, -1], [3, 4], [-1, -1]]], dtype="float32")
    assert model.predict(data, verbose=0).tolist() == [[6.0, 8.0]]
