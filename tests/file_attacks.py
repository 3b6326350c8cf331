"""Files that ask for memory or time by a number in the config. `test_file_resources.py` runs this program.

Each line of the output is a list: the name of an attack, its time in seconds, the growth of the resident memory in MiB, and
the end. The end is "loaded" or the name of an error.
"""

import copy
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

import padless
from padless import Input, Model, Sequential, layers
from padless.registry import register
from padless.saving import safetensors_io
from padless.saving.serialization import serialize

BIG = 10**9


@register("layer")
class Greedy(padless.layers.Layer):
    """A user-defined layer that creates a tensor itself."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        self.table = torch.nn.Parameter(torch.randn(size))

    def build(self, input_shape):
        self.register_buffer("more", torch.ones(self.size).expand(3, -1).clone())

    def call(self, inputs):
        return inputs + self.table.sum() + self.more.sum()

    def get_config(self):
        return {**super().get_config(), "size": self.size}


@register("layer", "WrappedLinear")
class WrappedLinear(torch.nn.Linear):
    """A torch module that a file can name."""

    def get_config(self):
        return {"in_features": self.in_features, "out_features": self.out_features}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def changed(model, **changes):
    """Return the config of a model with other values for some keys, wherever they are."""

    def walk(value):
        if isinstance(value, dict):
            for key in list(value):
                if key in changes:
                    value[key] = changes[key]
                else:
                    walk(value[key])
            if "batch_shape" in value and "batch_shape" in changes:
                value.pop("shape", None)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    config = json.loads(json.dumps(serialize(model, "layer")))
    walk(config)
    return config


def graph(function, shape=(None, 3), **options):
    """Return the model of a function of one input."""
    x = Input(shape, **options)
    return Model(x, function(x))


def sized(function, size, **options):
    """Return the config of a graph whose number 1237 is replaced."""
    return json.loads(json.dumps(serialize(graph(function, **options), "layer")).replace("1237", str(size)))


def nested(layer, depth):
    """Return the config of a TimeDistributed in itself."""
    config = serialize(graph(layer, (None, 3)), "layer")
    entry = config["config"]["layers"][-1]
    for number in range(depth):
        inner = {name: value for name, value in entry.items() if name != "inbound_nodes"}
        entry = {
            **entry,
            "config": {**entry["config"], "name": f"outer_{number}", "layer": inner},
            "name": f"outer_{number}",
        }
    config["config"]["layers"][-1] = entry
    return config


def nested_sequential(depth):
    """Return the config of a Sequential in itself."""
    bottom = config = serialize(Sequential([Input((None, 3)), layers.Dense(2)]), "layer")
    for number in range(depth):
        inner = [bottom["config"]["layers"][0], config]
        config = {**bottom, "config": {**bottom["config"], "name": f"outer_{number}", "layers": inner}}
    return config


def doubled(times):
    """Return the config of a graph that joins a tensor with itself again and again."""
    config = json.loads(json.dumps(serialize(graph(lambda x: torch.cat([x, x], -1)), "layer")))
    first, cat = config["config"]["layers"]
    names = [first["name"], *(f"cat_{number}" for number in range(times))]
    config["config"]["layers"] = [first]
    for before, name in zip(names, names[1:], strict=False):
        node = json.loads(json.dumps(cat).replace(json.dumps(first["name"]), json.dumps(before)))
        config["config"]["layers"].append({**node, "name": name, "config": {**node["config"], "name": name}})
    config["config"]["output_layers"] = json.loads(
        json.dumps(config["config"]["output_layers"]).replace(json.dumps(cat["name"]), json.dumps(names[-1]))
    )
    return config


def subclass():
    """Return the config of a model with a user-defined call, for a huge input."""
    config = serialize(Reader(), "layer")
    return {**config, "build_config": {"inputs": [{"shape": [2, BIG, BIG], "dtype": "float32"}]}}


@register("layer")
class Reader(Model):
    """A model with a user-defined call that reads values."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs) * float(inputs.max())


def attacks():
    """Return a function that makes a config, by the name of the attack."""
    conv, same = layers.Conv1D, {"padding": "same"}
    one = {
        "Dense": (layers.Dense(4), {"units": 400_000_000}),
        "Dense of many digits": (layers.Dense(4), {"units": 10**30}),
        "LSTM": (layers.LSTM(4), {"units": 10**6}),
        "Bidirectional": (layers.Bidirectional(layers.LSTM(4)), {"units": 10**6}),
        "RNN of cells": (layers.RNN(layers.StackedRNNCells([layers.LSTMCell(2)])), {"units": BIG}),
        "TimeDistributed": (layers.TimeDistributed(layers.Dense(2)), {"units": 10**11}),
        "UpSampling1D": (layers.UpSampling1D(2), {"size": BIG}),
        "ZeroPadding1D": (layers.ZeroPadding1D(2), {"padding": [BIG, BIG]}),
        "Cropping1D": (layers.Cropping1D(1), {"cropping": [BIG, BIG]}),
        "kernel": (conv(2, 3), {"kernel_size": [BIG]}),
        "causal kernel": (conv(2, 3, padding="causal"), {"kernel_size": [10**7]}),
        "strides": (conv(2, 3, strides=2), {"strides": [BIG]}),
        "dilation": (conv(2, 3, dilation_rate=2), {"dilation_rate": [BIG]}),
        "same dilation": (conv(2, 3, dilation_rate=2, **same), {"dilation_rate": [BIG]}),
        "causal dilation": (conv(2, 3, dilation_rate=2, padding="causal"), {"dilation_rate": [BIG]}),
        "filters": (conv(2, 3), {"filters": BIG}),
        "depth multiplier": (layers.SeparableConv1D(2, 3), {"depth_multiplier": BIG}),
        "transposed strides": (layers.Conv1DTranspose(2, 3, strides=2), {"strides": [BIG]}),
        "output padding": (
            layers.Conv1DTranspose(2, 3, strides=2, output_padding=1),
            {"output_padding": [BIG - 1], "strides": [BIG]},
        ),
        "MaxPooling1D": (layers.MaxPooling1D(2), {"pool_size": BIG}),
        "same MaxPooling1D": (layers.MaxPooling1D(2, **same), {"pool_size": 10**7}),
        "AveragePooling1D": (layers.AveragePooling1D(2, **same), {"pool_size": 10**8, "strides": 1}),
        "GroupNormalization": (layers.GroupNormalization(3), {"groups": BIG}),
        "PositionEmbedding": (layers.PositionEmbedding(9), {"sequence_length": 10**10}),
        "Normalization": (layers.Normalization(mean=1.0, variance=1.0), {"batch_shape": [None, 9, BIG]}),
        "BatchNormalization": (layers.BatchNormalization(), {"batch_shape": [None, 9, BIG]}),
        "GaussianNoise": (layers.GaussianNoise(0.1), {"batch_shape": [None, 10**5, BIG]}),
        "EinsumDense": (layers.EinsumDense("abc,cd->abd", (None, 4)), {"output_shape": [None, 10**12]}),
        "labels of EinsumDense": (layers.EinsumDense("abc,cd->abd", (None, 4)), {"equation": "ab" * 10**5 + ",c->a"}),
        "steps of a plain input": (layers.LSTM(2), {"batch_shape": [None, BIG, 3]}),
        "features": (layers.Dense(2), {"batch_shape": [None, 9, 10**12]}),
        "steps": (layers.Dense(2), {"batch_shape": [None, 10**12, 3]}),
        "Greedy": (Greedy(4), {"size": BIG}),
        "torch module": (layers.TorchModuleWrapper(WrappedLinear(3, 4)), {"out_features": BIG}),
    }
    found = {}
    for name, (layer, changes) in one.items():
        for masked in (False, True):
            if not (masked and name.startswith(("Greedy", "Normalization"))):
                copied = copy.deepcopy(layer)
                found[f"{name}{', masked' * masked}"] = lambda layer=copied, changes=changes, masked=masked: changed(
                    graph(layer, (7, 3), masked=masked), **changes
                )
    attention = layers.MultiHeadAttention(2, 2)
    found |= {
        "heads": lambda: changed(graph(lambda x: attention(x, x)), num_heads=10**5, key_dim=10**5),
        "scores": lambda: changed(graph(lambda x: layers.Attention()([x, x])), batch_shape=[None, 10**6, 3]),
        "Embedding": lambda: changed(
            graph(layers.Embedding(4, 3, mask_zero=True), (None,)), input_dim=10**12, output_dim=10**6
        ),
        "ids": lambda: changed(graph(layers.Embedding(4, 3, mask_zero=True), (7,)), batch_shape=[None, BIG]),
        "ConvLSTM1D": lambda: changed(graph(layers.ConvLSTM1D(2, 3), (None, 5, 3)), filters=BIG),
        "RepeatVector": lambda: changed(graph(layers.RepeatVector(2), (3,)), n=BIG),
        "RepeatVector and LSTM": lambda: changed(graph(lambda x: layers.LSTM(2)(layers.RepeatVector(2)(x)), (3,)), n=BIG),
        "Reshape": lambda: changed(graph(layers.Reshape((3, 1)), (3,)), target_shape=[BIG, BIG]),
        "Permute": lambda: changed(graph(layers.Permute((2, 1)), (3, 4)), dims=list(range(1, 10**5))),
        "many cells": lambda: changed(
            graph(layers.RNN([layers.LSTMCell(2)])),
            cell=serialize(layers.StackedRNNCells([layers.LSTMCell(64) for _ in range(300)]), "layer"),
        ),
        "doubled": lambda: doubled(40),
        "tile": lambda: sized(lambda x: torch.tile(x, (1, 1, 1237)), 10**12),
        "expand": lambda: sized(lambda x: torch.relu(x[..., None].expand(-1, -1, -1, 1237)), 10**12),
        "repeat_interleave": lambda: sized(lambda x: torch.repeat_interleave(x, 1237, -1), 10**12),
        "pad": lambda: sized(lambda x: torch.nn.functional.pad(x, (1237, 1237)), 10**12),
        "one_hot": lambda: sized(lambda x: torch.nn.functional.one_hot(x, 1237), 10**11, shape=(None,), dtype="int64"),
        "nested TimeDistributed": lambda: nested(layers.TimeDistributed(layers.Dense(2)), 28),
        "nested Sequential": lambda: nested_sequential(18),
        "subclass": subclass,
    }
    return found


def largest_memory():
    """Return the largest resident memory so far in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    """Run the attacks one after the other, with a limit of memory for the whole program."""
    torch.set_num_threads(1)
    graph(lambda x: torch.relu(layers.Conv1D(2, 3)(x).repeat(1, 1, 2)), (BIG, 3))  # torch imports modules at first use
    names = attacks()
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for number, (name, make) in enumerate(names.items()):
            paths[name] = Path(folder) / str(number)
            safetensors_io.write(paths[name], {}, make())
        address_space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (address_space + (256 << 20),) * 2)
        for name, path in paths.items():
            before, start = largest_memory(), time.perf_counter()
            try:
                padless.load_model(path, custom_objects={})
                end = "loaded"
            except padless.errors.PadlessError as error:
                end = type(error).__name__
            except BaseException as error:
                end = f"unclean: {type(error).__name__}: {error}"
            print(json.dumps([name, time.perf_counter() - start, largest_memory() - before, end]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
