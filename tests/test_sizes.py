"""Layers with weights have any number of features, units, filters and heads: few, odd ones, more than a SIMD vector.

Each layer runs with the compiled kernels, without them, and in float64 with the same weights. Tensors have any strides.
"""

import itertools
from unittest.mock import patch

import numpy as np
import pytest
import torch
from layouts import LAYOUTS, with_layout

from padless import Packed
from padless import layers as L
from padless.kernels.native import library
from padless.ragged.index import Index

pytestmark = pytest.mark.slow

SIZES = (1, 2, 3, 7, 8, 13, 17, 31, 100, 257)
PAIRS = [(size, SIZES[(7 * number + 3) % 10]) for number, size in enumerate(SIZES)]  # each size on both sides
MASK = np.array([[1, 1, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0], [0, 1, 1, 1, 1, 0, 0]], dtype=bool)
LAYERS = {
    "Dense": lambda units, **options: L.Dense(units, **options),
    "EinsumDense": lambda units, **options: L.EinsumDense("btf,fu->btu", (None, units), bias_axes="u", **options),
    "Conv1D": lambda units, **options: L.Conv1D(units, 3, padding="same", **options),
    "Conv1D of one step": lambda units, **options: L.Conv1D(units, 1, **options),
    "Conv1D with strides": lambda units, **options: L.Conv1D(units, 2, strides=2, **options),
    "Conv1D with dilation": lambda units, **options: L.Conv1D(units, 2, dilation_rate=2, padding="causal", **options),
    "Conv1DTranspose": lambda units, **options: L.Conv1DTranspose(units, 3, **options),
    "Conv1DTranspose with strides": lambda units, **options: L.Conv1DTranspose(units, 2, strides=2, **options),
    "SeparableConv1D": lambda units, **options: L.SeparableConv1D(units, 3, **options),
    "DepthwiseConv1D": lambda units, **options: L.DepthwiseConv1D(2, padding="same", **options),
    "LSTM": lambda units, **options: L.LSTM(units, return_sequences=True, **options),
    "GRU": lambda units, **options: L.GRU(units, return_sequences=True, **options),
    "GRU with reset before": lambda units, **options: L.GRU(units, reset_after=False, **options),
    "SimpleRNN": lambda units, **options: L.SimpleRNN(units, return_sequences=True, go_backwards=True, **options),
    "Bidirectional": lambda units, **options: L.Bidirectional(L.GRU(units, **options), dtype=options.get("dtype")),
    "MultiHeadAttention": lambda units, **options: SelfAttention(L.MultiHeadAttention(2, units, **options)),
    "attention with many heads": lambda units, **options: SelfAttention(
        L.MultiHeadAttention(units, 1 + units % 3, value_dim=2, output_shape=units, **options)
    ),
    "GroupQueryAttention": lambda units, **options: SelfAttention(L.GroupQueryAttention(units, 4, 2, **options)),
    "AdditiveAttention": lambda units, **options: SelfAttention(L.AdditiveAttention(**options)),
    "BatchNormalization": lambda units, **options: L.BatchNormalization(**options),
    "LayerNormalization": lambda units, **options: L.LayerNormalization(**options),
    "RMSNormalization": lambda units, **options: L.RMSNormalization(**options),
    "GroupNormalization": lambda units, **options: L.GroupNormalization(-1, **options),
    "PReLU": lambda units, **options: L.PReLU(shared_axes=[1], **options),
}


class SelfAttention(torch.nn.Module):
    """An attention layer whose queries are its values."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, **options):
        """Attend."""
        is_keras_attention = isinstance(self.layer, L.AdditiveAttention)
        return self.layer([x, x]) if is_keras_attention else self.layer(x, x)


def run(layer, values, upstream_layout):
    """Return the outputs and the gradients of values and weights; the gradient of the outputs has another layout."""
    values = values.requires_grad_()
    outputs = layer(Packed(values, Index(MASK)), training=True)
    outputs = outputs.values if isinstance(outputs, Packed) else outputs
    upstream = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1)).to(outputs.dtype)
    if upstream_layout == "expanded":
        upstream = upstream[:1].expand_as(outputs)
    else:
        upstream = with_layout(upstream, upstream_layout)
    weights = [p for p in layer.parameters() if p.requires_grad]
    return [outputs.detach(), *torch.autograd.grad(outputs, [values, *weights], upstream)]


def make(name, units, features, dtype):
    """Return a built layer in a dtype, with weights of float64 that are drawn from a fixed seed."""
    layer = LAYERS[name](units, dtype=dtype)
    torch.manual_seed(0)
    layer(Packed(torch.zeros(int(MASK.sum()), features, dtype=getattr(torch, dtype)), Index(MASK)))
    generator = torch.Generator().manual_seed(0)
    for p in layer.parameters():
        drawn = torch.randn(p.shape, generator=generator, dtype=torch.float64) / max(p.shape[0], 1) ** 0.5
        p.data = drawn.bfloat16().to(p.dtype)
    return layer


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_any_size_is_trained_alike_with_and_without_compiled_kernels(name):
    layouts = itertools.cycle(itertools.product(LAYOUTS, (*LAYOUTS, "expanded")))
    for dtype, (number, (features, units)) in itertools.product(("float32", "bfloat16"), enumerate(PAIRS)):
        if dtype == "bfloat16" and number % 5:
            continue
        layout, upstream_layout = next(layouts)
        exact = torch.randn(int(MASK.sum()), features, generator=torch.Generator().manual_seed(2)).bfloat16()
        expected, by_path = run(make(name, units, features, "float64"), exact.double(), upstream_layout), []
        for available in (library.get_library(), None):
            with patch.object(library, "get_library", lambda available=available: available):
                layer = make(name, units, features, dtype)
                results = run(layer, with_layout(exact.to(getattr(torch, dtype)), layout), upstream_layout)
            by_path.append(results)
            for result, correct in zip(results, expected, strict=True):
                assert result.dtype == getattr(torch, dtype) and result.shape == correct.shape
                bound = {"float32": 2e-5, "bfloat16": 0.1}[dtype] * max(float(correct.abs().max()), 1)
                error = float((result.double() - correct).abs().max())
                assert error <= bound, (features, units, dtype, layout, upstream_layout, available and available.level)
        if dtype == "float32":  # the bound of docs/training.md
            for native, torch_only, correct in zip(*by_path, expected, strict=True):
                difference = float((native - torch_only).abs().max())
                assert difference <= 1e-5 * float(correct.abs().max()), (features, units, layout, difference)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")  # torch's flags set it even where it is not there
@pytest.mark.parametrize("onednn", [True, False])
def test_few_features_and_filters_are_trained_on_each_path_of_torch(onednn):
    """Torch chooses another convolution by the number of threads, by the dtype, and where oneDNN is switched off."""
    names = [name for name in LAYERS if name.endswith(("Conv1D", "Transpose"))]
    sizes, runs = ((1, 1), (2, 1), (1, 2)), (("float32", 1), ("float32", 2), ("bfloat16", 1), ("float64", 1))
    with torch.backends.mkldnn.flags(enabled=onednn):
        for name, (features, units), (dtype, threads) in itertools.product(names, sizes, runs):
            torch.set_num_threads(threads)
            try:
                values = torch.randn(int(MASK.sum()), features).to(getattr(torch, dtype))
                results = run(make(name, units, features, dtype), values, "transposed")
            finally:
                torch.set_num_threads(1)
            assert all(result.isfinite().all() for result in results)
