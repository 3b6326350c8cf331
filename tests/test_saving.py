"""Configs and files of models: the same model is restored, and an invalid file changes nothing."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import padless
from padless import Input, Model, Sequential, load_model
from padless.errors import ArgumentError, DataError, NotBuilt, ShapeError
from padless.layers import (
    GRU,
    LSTM,
    Add,
    Bidirectional,
    Concatenate,
    Dense,
    Dropout,
    Embedding,
    LastStep,
    Layer,
    Masking,
    TorchModuleWrapper,
)
from padless.registry import register
from padless.saving import safetensors_io as archive

IDS = np.array([[1, 2, 0, 3], [4, 0, 0, 0], [0, 0, 0, 0]])


@register("layer")
class Scale(Layer):
    """A user-defined layer in the style of Keras."""

    def __init__(self, by, **kwargs):
        super().__init__(**kwargs)
        self.by = by

    def build(self, input_shape):
        self.scale = self.add_weight((input_shape[-1],), initializer="ones", name="scale")

    def call(self, inputs):
        return inputs * self.scale * self.by

    def get_config(self):
        return {**super().get_config(), "by": self.by}


# --------------------------------------------------------------------------------------------------------- the graphs


def chain():
    x = Input((None,), name="ids")
    h = Bidirectional(LSTM(3, return_sequences=True, kernel_regularizer="l2"))(Embedding(5, 3, mask_zero=True)(x))
    return Model(x, Dense(2, activation="softmax", kernel_constraint="max_norm")(Dropout(0.1)(h)), name="chain")


def functions():
    x = Input((None,))
    h = LSTM(4, return_sequences=True)(Embedding(5, 3, mask_zero=True)(x))
    h = torch.tanh(h * 2 + 1) - h / 3.0
    h = 1.0 - h[..., 1:3] ** 2
    return Model(x, Dense(2)(torch.cat([h, h.abs()], dim=-1)).float())


def shared():
    a, b = Input((None,), name="a"), Input((None,), name="b")
    embed, scan = Embedding(5, 3, mask_zero=True), GRU(3, return_state=True, return_sequences=True)
    _, state = scan(embed(a))
    steps, last = scan(embed(b), initial_state=state)
    return Model([a, b], [Dense(2)(steps), Concatenate()([last, state])])


def named():
    a, b = Input((3,), name="a"), Input((3,), name="b")
    return Model({"x": a, "y": b}, {"sum": Add()([Dense(2)(a), Dense(2)(b)]), "left": a[:, :2]})


def explicit_mask():
    x, mask = Input((None, 2)), Input((None,), dtype="bool")
    return Model([x, mask], LastStep()(LSTM(3, return_sequences=True)(x, mask=mask)))


def nested():
    x = Input((None, 3))
    inner = Model(x, LSTM(3, return_sequences=True)(x), name="inner")
    y = Input((None,))
    head = Sequential([Dense(2), Dense(1)], name="head")
    return Model(y, head(inner(inner(Embedding(5, 3, mask_zero=True)(y)))))


def stacked():
    return Sequential([Input((None,)), Embedding(5, 3, mask_zero=True), LSTM(3, go_backwards=True), Dense(1)], name="stack")


def built_by_data():
    model = Sequential([Masking(mask_value=-1.0), Dense(2), Scale(3.0)])
    model(np.ones((2, 3, 4), np.float32))
    return model


GRAPHS = [chain, functions, shared, named, explicit_mask, nested, stacked, built_by_data]


def data_for(model):
    rng = np.random.default_rng(0)

    def array(symbol):
        shape = (3, *(4 if size is None else size for size in symbol.shape[1:]))
        if symbol.dtype == torch.bool:
            return rng.integers(0, 2, shape).astype(bool)
        return rng.integers(0, 5, shape) if symbol.ndim == 2 else rng.normal(size=shape).astype("float32")

    values = [array(symbol) for symbol in model.inputs]
    if isinstance(model.input, dict):
        return dict(zip(model.input, values, strict=True))
    return values if len(values) > 1 else values[0]


def same(first, second, data):
    a, b = first.predict(data, verbose=0), second.predict(data, verbose=0)
    if isinstance(a, dict):
        assert list(a) == list(b)
        a, b = list(a.values()), list(b.values())
    pairs = zip(a, b, strict=True) if isinstance(a, list) else [(a, b)]
    return type(a) is type(b) and all(np.array_equal(p, q) for p, q in pairs)


@pytest.mark.parametrize("make", GRAPHS)
def test_config_as_json_restores_the_model(make):
    model = make()
    text = json.dumps(model.get_config(), allow_nan=False)
    padless.clear_session()
    Dense(1), Input((1,)), Input((1,)) * 2  # automatic names of this session must not change those of the config
    twin = type(model).from_config(json.loads(text))
    assert twin.get_config() == json.loads(text)
    assert [layer.name for layer in twin.layers] == [layer.name for layer in model.layers]
    twin.set_weights(model.get_weights())
    assert same(model, twin, data_for(model))


@pytest.mark.parametrize("make", GRAPHS)
def test_save_and_load_model_give_the_same_outputs(make, tmp_path):
    model = make()
    for weight in model.weights:
        weight.data.uniform_(-1, 1)
    model.save(tmp_path / "model.safetensors")
    padless.clear_session()
    assert same(model, load_model(tmp_path / "model.safetensors"), data_for(model))


@pytest.mark.parametrize("make", GRAPHS)
def test_save_weights_and_load_weights_restore_the_weights(make, tmp_path):
    model = make()
    before = model.get_weights()
    model.save_weights(tmp_path / "weights.safetensors")
    model.set_weights([w + 1 for w in before])
    model.load_weights(os.fspath(tmp_path / "weights.safetensors"))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_safetensors_reads_a_file_of_weights(tmp_path):
    from safetensors.numpy import load_file

    model = chain()
    model.save_weights(tmp_path / "w.safetensors")
    arrays = load_file(tmp_path / "w.safetensors")
    assert len(arrays) == len(model.get_weights())
    assert np.array_equal(arrays["embedding/embeddings"], model.get_weights()[0])
    assert np.array_equal(arrays["dense/kernel"], model.get_layer("dense").get_weights()[0])


class Blocks(Model):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.blocks = [Dense(units), Scale(2.0)]

    def call(self, inputs):
        for block in self.blocks:
            inputs = block(inputs)
        return inputs

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_a_subclass_of_model_saves_weights_and_config(tmp_path):
    data = np.ones((2, 3), np.float32)
    model, twin = Blocks(4), Blocks(4)
    with pytest.raises(NotBuilt):
        model.save_weights(tmp_path / "w.safetensors")
    model(data), twin(data)
    model.save_weights(tmp_path / "w.safetensors")
    twin.load_weights(tmp_path / "w.safetensors")
    assert same(model, twin, data)
    restored = Blocks.from_config(model.get_config())
    assert (restored.units, restored.name) == (4, "blocks")


def test_a_saved_subclass_needs_its_class_in_custom_objects(tmp_path):
    data = np.ones((2, 3), np.float32)
    model = Blocks(4)
    model(data)
    model.save(tmp_path / "blocks.safetensors")
    with pytest.raises(ArgumentError, match="Unknown layer 'Blocks'.*custom_objects"):
        load_model(tmp_path / "blocks.safetensors")
    assert same(model, load_model(tmp_path / "blocks.safetensors", custom_objects={"Blocks": Blocks}), data)


def test_user_defined_layers_are_found_in_custom_objects(tmp_path):
    class Shift(Layer):
        def __init__(self, by=1.0, **kwargs):
            super().__init__(**kwargs)
            self.by = by

        def call(self, inputs):
            return inputs + self.by

    x = Input((3,))
    model = Model(x, Shift(by=2.0)(x))
    model.save(tmp_path / "m.safetensors")
    with pytest.raises(ArgumentError, match="Unknown layer 'Shift'"):
        load_model(tmp_path / "m.safetensors")
    for twin in (
        load_model(tmp_path / "m.safetensors", custom_objects={"Shift": Shift}),
        Model.from_config(model.get_config(), custom_objects={"Shift": Shift}),
    ):
        assert twin.layers[1].by == 2.0 and same(model, twin, np.ones((2, 3), np.float32))
    stack = Sequential([Shift(by=3.0)])
    assert Sequential.from_config(stack.get_config(), custom_objects={"Shift": Shift}).layers[0].by == 3.0


def test_a_restored_layer_is_trainable_as_before(tmp_path):
    model = chain()
    model.layers[1].trainable = False
    twin = Model.from_config(model.get_config())
    assert [layer.trainable for layer in twin.layers] == [layer.trainable for layer in model.layers]
    assert len(twin.trainable_weights) == len(model.trainable_weights)


def test_a_function_without_a_registered_name_cannot_be_saved():
    x = Input((3,))
    with pytest.raises(ArgumentError, match="cannot be saved.*registered name"):
        Model(x, Dense(2, activation=lambda h: h * 2)(x)).get_config()


# ------------------------------------------------------------------------------------------------------- invalid files


def write_weights(tmp_path, model):
    path = tmp_path / "other.safetensors"
    model.save_weights(path)
    return path


def test_an_invalid_file_changes_no_weight(tmp_path):
    model = chain()
    before = model.get_weights()
    good = write_weights(tmp_path, model)

    arrays, _ = archive.read(good)
    swapped = {name: a.T.contiguous() if name == "dense/kernel" else a + 1 for name, a in arrays.items()}
    archive.write(tmp_path / "shape", swapped)
    archive.write(tmp_path / "less", {name: a + 1 for name, a in arrays.items() if name != "dense/bias"})
    archive.write(tmp_path / "more", {"extra": torch.zeros(1), **{name: a + 1 for name, a in arrays.items()}})
    (tmp_path / "text").write_text("not a model")
    (tmp_path / "cut").write_bytes(good.read_bytes()[:-10])

    for name, kind, message in (
        ("shape", ShapeError, r"'dense/kernel' of model 'chain' has shape \(6, 2\).*\(2, 6\)"),
        ("less", ArgumentError, r"missing \['dense/bias'\]"),
        ("more", ArgumentError, r"unknown \['extra'\]"),
        ("text", DataError, "not a complete safetensors file"),
        ("cut", DataError, "not a complete safetensors file"),
        ("none", FileNotFoundError, "does not exist"),
    ):
        whole = (load_model,) if name in ("text", "cut", "none") else ()
        for load in (model.load_weights, *whole):
            with pytest.raises(kind, match=message):
                load(tmp_path / name)
        assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)), name
    with pytest.raises(ArgumentError, match="weights without a config"):
        load_model(good)


def test_an_error_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    model = chain()
    path = write_weights(tmp_path, model)
    old = path.read_bytes()
    model.set_weights([w + 1 for w in model.get_weights()])
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        model.save_weights(path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file is left


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        chain().save(tmp_path / "none" / "model.safetensors")


def test_parameters_with_shared_storage_are_saved(tmp_path):
    """Two parameters with one storage, as in a tied embedding."""

    class Tied(Model):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Linear(3, 3, bias=False)
            self.two = torch.nn.Linear(3, 3, bias=False)
            self.two.weight = torch.nn.Parameter(self.one.weight.data.view(3, 3))

        def call(self, inputs):
            return self.two(self.one(inputs))

    model, twin = Tied(), Tied()
    model.save_weights(tmp_path / "tied.safetensors")
    twin.load_weights(tmp_path / "tied.safetensors")
    assert torch.equal(model.two.weight, twin.two.weight)


def test_weights_are_loaded_into_a_model_with_other_layer_names(tmp_path):
    def make(units=3):
        return Sequential([Embedding(7, 2), Dense(units), Dense(units), Bidirectional(GRU(2))])

    first, second = make(), make()
    for model in (first, second):
        model(torch.ones(1, 4, dtype=torch.long))
    first.save_weights(tmp_path / "weights")
    second.load_weights(tmp_path / "weights")
    assert {w.name for w in first.layers} != {w.name for w in second.layers}
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        assert np.array_equal(ours, theirs)
    other = Sequential([Embedding(7, 2), Dense(3), Bidirectional(GRU(2))])
    other(torch.ones(1, 4, dtype=torch.long))
    with pytest.raises(ArgumentError, match="unknown"):
        other.load_weights(tmp_path / "weights")


# ------------------------------------------------------------------------------------------------ files of older versions

GOLDEN = Path(__file__).parent / "golden" / "0.1.0"  # models, inputs and outputs that padless 0.1.0 has written


@pytest.mark.parametrize(("name", "inputs", "outputs"), [("functional", "ids", "tags"), ("sequential", "steps", "summary")])
def test_models_that_version_0_1_0_saved_give_the_same_outputs(name, inputs, outputs):
    """Embedding with mask_zero, LSTM and Dense; Masking, Bidirectional GRU and Conv1D in a Sequential."""
    with np.load(GOLDEN / "expected.npz") as expected:
        model = load_model(GOLDEN / f"{name}.safetensors")
        assert type(model) is (Sequential if name == "sequential" else Model)
        np.testing.assert_allclose(model.predict(expected[inputs], verbose=0), expected[outputs], rtol=1e-5, atol=1e-6)


def test_renamed_arguments_in_files_of_version_0_1_0_are_understood():
    """The file has a Softmax whose mask of single numbers is an input of the model."""
    model = load_model(GOLDEN / "softmax_mask.safetensors")
    scores, mask = np.array([[1.0, 2.0, 3.0]], dtype=np.float32), np.array([[True, False, True]])
    expected = np.exp([1.0, -np.inf, 3.0]) / np.exp([1.0, 3.0]).sum()
    np.testing.assert_allclose(model.predict([scores, mask], verbose=0)[0], expected, rtol=1e-6)
    assert TorchModuleWrapper.from_config({"module": nn.Identity(), "relation": "grid"}).relation == "padded_grid"
