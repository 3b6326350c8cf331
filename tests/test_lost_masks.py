"""An operation that would lose a mask is refused while the model is built, with the layer, the mask source and ways out."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from padless import Input, Model, Sequential
from padless import layers as L
from padless.errors import ArgumentError, MaskLost

FUNCTIONS = {
    "sum": lambda h: h.sum(1),
    "sum of everything": lambda h: h.sum(),
    "sum over the batch": lambda h: h.sum(0),
    "sum over time and features": lambda h: h.sum((1, 2)),
    "mean": lambda h: h.mean(dim=1),
    "torch.mean": lambda h: torch.mean(h, -2),
    "max": lambda h: h.max(dim=1),
    "amax": lambda h: torch.amax(h, 1),
    "argmax": lambda h: h.argmax(1),
    "any": lambda h: (h > 0).any(1),
    "all": lambda h: (h > 0).all(),
    "std": lambda h: h.std(1),
    "var_mean": lambda h: torch.var_mean(h, 1),
    "norm": lambda h: h.norm(),
    "logsumexp": lambda h: torch.logsumexp(h, 1),
    "prod": lambda h: h.prod(1),
    "median": lambda h: h.median(1),
    "[:, -1]": lambda h: h[:, -1],
    "[:, 0]": lambda h: h[:, 0],
    "[0]": lambda h: h[0],
    "[:, [0, 1]]": lambda h: h[:, [0, 1]],
    "[h > 0]": lambda h: h[h > 0],
    "select": lambda h: h.select(1, 0),
    "narrow": lambda h: h.narrow(1, -1, 1),
    "gather": lambda h: torch.gather(h, 1, torch.zeros(1, 1, 4, dtype=torch.long)),
    "unbind": lambda h: h.unbind(1),
    "split": lambda h: torch.split(h, 2, 1),
    "chunk": lambda h: torch.chunk(h, 2, 1),
    "nonzero": lambda h: h.nonzero(),
    "flip": lambda h: torch.flip(h, [1]),
    "roll": lambda h: torch.roll(h, 1, 1),
    "sort": lambda h: h.sort(1),
    "topk": lambda h: h.topk(1, 1),
    "cumsum": lambda h: torch.cumsum(h, 1),
    "diff": lambda h: torch.diff(h, dim=1),
    "softmax": lambda h: torch.softmax(h, 1),
    "log_softmax": lambda h: functional.log_softmax(h, dim=1),
    "transpose": lambda h: h.transpose(1, 2),
    "permute": lambda h: h.permute(0, 2, 1),
    "reshape": lambda h: h.reshape(-1, 4),
    "view": lambda h: h.view(-1, 4),
    "flatten": lambda h: h.flatten(1),
    "squeeze": lambda h: h.squeeze(),
    "unsqueeze": lambda h: h.unsqueeze(1),
    "stack": lambda h: torch.stack([h, h], 1),
    "cat": lambda h: torch.cat([h, h], 1),
    "repeat": lambda h: h.repeat(1, 2, 1),
    "unfold": lambda h: h.unfold(1, 2, 1),
    "bmm": lambda h: torch.bmm(h, h),
    "einsum": lambda h: torch.einsum("btd,bsd->bts", h, h),
    "cdist": lambda h: torch.cdist(h, h),
    "attention": lambda h: functional.scaled_dot_product_attention(h, h, h),
    "conv1d": lambda h: functional.conv1d(h, torch.zeros(4, 4, 1)),
    "avg_pool1d": lambda h: functional.avg_pool1d(h, 2),
    "interpolate": lambda h: functional.interpolate(h, 3),
    "pad": lambda h: functional.pad(h, (0, 0, 1, 1)),
    "batch_norm": lambda h: functional.batch_norm(h, None, None, training=True),
    "mse_loss": lambda h: functional.mse_loss(h, h),
    "tolist": lambda h: h.tolist(),
    "np.sum": lambda h: np.sum(h),
}
MODULES = {
    "Conv1d": lambda: nn.Conv1d(4, 4, 3),
    "Flatten": nn.Flatten,
    "Softmax over time": lambda: nn.Softmax(1),
    "BatchNorm1d": lambda: nn.BatchNorm1d(4),
}
LAYERS = {
    "Reshape": lambda: L.Reshape((-1, 2)),
    "LayerNormalization over time": lambda: L.LayerNormalization(axis=1),
}
SYMBOLS = {
    "Embedding 'words'": lambda: L.Embedding(5, 4, mask_zero=True, name="words")(Input((6,), dtype="int64")),
    "Masking 'steps'": lambda: L.Masking(name="steps")(Input((6, 4))),
    "Input 'given'": lambda: Input((6, 4), masked=True, name="given"),
    "the Embedding before an LSTM": lambda: L.LSTM(4, return_sequences=True)(SYMBOLS["Embedding 'words'"]()),
    "the Embedding before a convolution": lambda: L.Conv1D(4, 2)(SYMBOLS["Embedding 'words'"]()),
    "the Embedding before a sum": lambda: L.Add()([SYMBOLS["Embedding 'words'"](), Input((6, 4))]),
    "the Embedding before attention": lambda: L.MultiHeadAttention(2, 2)(*[SYMBOLS["Embedding 'words'"]()] * 2),
}


class Calls(L.Layer):
    """A layer of one function that does not receive the mask."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


def assert_refused(build, *words):
    """Assert that `build` raises MaskLost with all of these words and the ways out."""
    with pytest.raises(MaskLost) as lost:
        build()
    for word in (*words, "Ways out", "DropMask()", "unpack()", "padless.pack(y, like="):
        assert re.search(re.escape(word), str(lost.value)), (word, str(lost.value))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_that_mixes_steps_is_refused_on_symbols_and_inside_a_layer(function):
    mix = FUNCTIONS[function]
    if function == "batch_norm":  # not recorded at all, because it depends on the mode
        with pytest.raises(ArgumentError, match="TorchModuleWrapper"):
            mix(SYMBOLS["Embedding 'words'"]())
    else:
        assert_refused(lambda: mix(SYMBOLS["Embedding 'words'"]()), "Embedding 'words'")
    assert_refused(
        lambda: Calls(mix, name="mine")(SYMBOLS["Embedding 'words'"]()),
        "inside layer 'mine'",
        "Embedding 'words'",
    )


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_the_mask_source_is_named_after_later_layers_too(symbol):
    mask_source = "Embedding 'words'" if symbol.startswith("the Embedding") else symbol
    for function in ("sum", "[:, -1]", "flip"):
        assert_refused(lambda f=FUNCTIONS[function]: f(SYMBOLS[symbol]()), mask_source)
        assert_refused(
            lambda f=FUNCTIONS[function]: Calls(f, name="mine")(SYMBOLS[symbol]()),
            mask_source,
            "inside layer 'mine'",
        )


def test_two_mask_sources_are_both_named():
    words, tags = (
        L.Embedding(5, 4, mask_zero=True, name=name)(Input((size,), dtype="int64"))
        for name, size in (("words", 6), ("tags", 5))
    )
    assert_refused(lambda: torch.flip(L.Concatenate(axis=1)([words, tags]), [1]), "Embedding 'words'", "Embedding 'tags'")


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_that_would_lose_a_mask_is_refused(layer):
    with pytest.raises(MaskLost, match=r"(?s)Embedding 'words'"):
        LAYERS[layer]()(SYMBOLS["Embedding 'words'"]())


@pytest.mark.parametrize("function", ["sum", "[:, -1]", "transpose", "flip", "flatten", "conv1d"])
def test_a_sequential_model_refuses_a_lost_mask(function):
    def stack(*first_layers):
        return [
            *first_layers,
            L.Embedding(5, 4, mask_zero=True, name="words"),
            Calls(FUNCTIONS[function], name="mine"),
        ]

    assert_refused(lambda: Sequential(stack(Input((6,), dtype="int64"))), "inside layer 'mine'", "Embedding 'words'")
    assert_refused(lambda: Sequential(stack()).build((None, 6)), "inside layer 'mine'", "Embedding 'words'")
    model = Sequential(stack())
    model.compile("sgd", "mse")
    with pytest.raises(MaskLost, match="inside layer 'mine'"):  # known with the data, before the first step
        model.fit(np.array([[1, 2, 0]]), np.zeros((1, 4)), verbose=0)


@pytest.mark.parametrize("module", MODULES)
def test_a_torch_module_that_mixes_steps_is_refused(module):
    with pytest.raises(MaskLost, match=r"(?s)Embedding 'words'.*Ways out"):
        L.TorchModuleWrapper(MODULES[module]())(SYMBOLS["Embedding 'words'"]())


def test_a_mask_that_is_lost_in_an_inner_model_is_refused_where_it_is_called():
    x = Input((6, 4))
    inner = Model(x, torch.flip(x, [1]), name="inner")  # without a mask it is legal
    with pytest.raises(MaskLost, match="Embedding 'words'"):
        inner(SYMBOLS["Embedding 'words'"]())


def test_without_a_mask_nothing_is_refused():
    for function in ("sum", "[:, -1]", "flip", "transpose", "softmax", "einsum"):
        h = FUNCTIONS[function](Input((6, 4)))
        assert not h.masked


def test_the_ways_out_of_the_message_work():
    h = SYMBOLS["Embedding 'words'"]()
    for layer in (L.GlobalAveragePooling1D(), L.LastStep(), L.FirstStep(), L.DropMask()):
        assert not layer(h).masked
    assert not torch.flip(L.DropMask()(h), [1]).masked


def test_a_reshape_that_moves_steps_is_refused_on_an_open_length():
    x = Input((None, 4), masked=True, name="x")
    for target in ((-1, 8), (8, -1), (16,)):
        with pytest.raises(MaskLost, match="created by"):
            L.Reshape(target)(x)
    assert L.Reshape((-1, 2, 2))(x).shape == (None, None, 2, 2)
    assert L.Reshape((-1, 8))(Input((None, 4))).shape == (None, None, 8)
