"""A model file takes the memory that its arrays have: numbers in the config ask for nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import padless
from padless import Input, Model, Sequential, layers, load_model
from padless.errors import ArgumentError, ShapeError
from padless.registry import register
from padless.saving import safetensors_io
from padless.saving.serialization import serialize

pytestmark = pytest.mark.slow

MAX_SECONDS, MAX_MEBIBYTES = 5, 64  # loose: other programs may run


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the program limits its address space")
def test_numbers_in_a_config_take_neither_memory_nor_time():
    program = Path(__file__).with_name("file_attacks.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, env=environment).stdout
    results = [json.loads(line) for line in output.splitlines()]
    assert len(results) > 80
    bad = [
        (name, seconds, mebibytes, end)
        for name, seconds, mebibytes, end in results
        if seconds > MAX_SECONDS or mebibytes > MAX_MEBIBYTES or end.startswith("unclean")
    ]
    assert not bad


@register("layer")
class Table(layers.Layer):
    """A user-defined layer with a small table that is not in the file, a large one that is, and a random one."""

    def __init__(self, rows=70_000, **kwargs):
        super().__init__(**kwargs)
        self.rows = rows
        self.register_buffer("scale", torch.arange(3.0), persistent=False)

    def build(self, input_shape):
        self.large = torch.nn.Parameter(torch.randn(self.rows, 3))
        self.tied = self.large
        self.register_buffer("counter", torch.ones(3, dtype=torch.int64))

    def call(self, inputs):
        return inputs * self.scale + self.large[:2].sum(0) + self.counter

    def get_config(self):
        return {**super().get_config(), "rows": self.rows}


def model_with_table():
    x = Input((None, 3))
    shared = layers.Dense(3)
    return Model(x, shared(Table()(shared(x))))


def test_loaded_model_is_the_saved_one_and_trains(tmp_path):
    model = model_with_table()
    model.layers[1].trainable = False
    model.save(tmp_path / "m")
    state = torch.get_rng_state()
    loaded = load_model(tmp_path / "m")
    assert torch.equal(state, torch.get_rng_state())
    data = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    assert np.array_equal(model.predict(data, verbose=0), loaded.predict(data, verbose=0))
    table = next(layer for layer in loaded.layers if isinstance(layer, Table))
    assert table.tied is table.large and isinstance(table.large, torch.nn.Parameter) and table.large.is_leaf
    assert [w.requires_grad for w in loaded.weights] == [w.requires_grad for w in model.weights]
    assert all(weight.device.type == "cpu" for weight in loaded.weights)
    loaded.compile("adam", "mse")
    before = table.large.detach().clone()
    loaded.fit(data, data, verbose=0)
    assert not torch.equal(before[:2], table.large[:2]) and torch.equal(before[2:], table.large[2:])


def test_initializers_do_not_run_while_a_file_is_read(tmp_path):
    calls = []

    @register("initializer")
    def counted(shape, dtype=torch.float32):
        calls.append(shape)
        return torch.zeros(shape, dtype=dtype)

    Sequential([Input((None, 3)), layers.Dense(2, kernel_initializer=counted)]).save(tmp_path / "m")
    calls.clear()
    load_model(tmp_path / "m")
    assert not calls


def test_weight_larger_than_the_file_is_refused_before_it_exists(tmp_path):
    config = serialize(Sequential([Input((None, 3)), layers.Dense(4)], name="m"), "layer")
    config["config"]["layers"][1]["config"]["units"] = 400_000_000
    safetensors_io.write(tmp_path / "m", {}, config)
    assert (tmp_path / "m").stat().st_size < 2000
    with pytest.raises(ShapeError, match="more numbers than the file has"):
        load_model(tmp_path / "m")


def test_large_tensor_that_is_not_in_the_file_is_refused(tmp_path):
    @register("layer")
    class Hidden(layers.Layer):
        def build(self, input_shape):
            self.table = torch.zeros(10**8)

        def call(self, inputs):
            return inputs + self.table[0]

    config = serialize(Sequential([Input((None, 3)), layers.Dense(3)]), "layer")
    config["config"]["layers"][1] = {"class_name": "Hidden", "config": {"name": "hidden"}}
    safetensors_io.write(tmp_path / "m", {}, config)
    with pytest.raises(ArgumentError, match="has no array"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool])
def test_weights_of_another_kind_of_numbers_change_nothing(tmp_path, dtype):
    model = Sequential([Input((None, 3)), layers.Dense(2, use_bias=False), layers.Dense(2, name="last")])
    arrays = {name: weight.detach().clone() for name, weight in model._named_weights().items()}
    arrays["last/bias"] = arrays["last/bias"].to(dtype)
    safetensors_io.write(tmp_path / "w", arrays)
    before = model.get_weights()
    with pytest.raises(ArgumentError, match="same kind of numbers"):
        model.load_weights(tmp_path / "w")
    assert all(map(np.array_equal, before, model.get_weights()))


def test_weights_of_another_float_dtype_are_converted(tmp_path):
    model = Sequential([Input((None, 3)), layers.Dense(2)])
    arrays = {name: weight.detach().double() + 1 for name, weight in model._named_weights().items()}
    safetensors_io.write(tmp_path / "w", arrays)
    model.load_weights(tmp_path / "w")
    assert torch.equal(model.weights[1].double(), arrays[f"{model.layers[0].name}/bias"])


@register("layer")
class ValueReader(Model):
    """A model whose call reads values and builds layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.Dense(300), layers.Dense(2)

    def call(self, inputs):
        h = self.first(inputs)
        return self.second(h * (1 + h.abs().max().item()))


def test_subclassed_model_that_reads_values_is_loaded(tmp_path):
    model = ValueReader()
    data = torch.rand(2, 5, 300)
    expected = model(data)
    model.save(tmp_path / "m")
    assert torch.equal(load_model(tmp_path / "m")(data), expected)


def test_weights_are_created_on_meta_in_the_context_of_torch():
    before = torch.get_rng_state()
    with torch.device("meta"):
        model = Sequential([Input((None, 3)), layers.Dense(400_000_000), layers.LSTM(2)])
    assert all(weight.is_meta for weight in model.weights) and model.output_shape == (None, 2)
    assert torch.equal(before, torch.get_rng_state())


def test_limit_ends_with_the_load(tmp_path):
    Sequential([Input((None, 3), masked=True), layers.UpSampling1D(2)]).save(tmp_path / "m")
    load_model(tmp_path / "m")
    wide = padless.pack(torch.ones(1, 600_000, 1), lengths=[600_000])
    assert layers.UpSampling1D(2)(wide).shape == (1, 1_200_000, 1)
