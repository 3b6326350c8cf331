"""Convolutions by the compiled kernel: every library of this processor equals torch."""

from unittest.mock import patch

import pytest
import torch
from recurrent_cases import assert_close

import padless
from padless.kernels.conv import native, taps
from padless.kernels.native import library

pytestmark = pytest.mark.skipif(library.get_library() is None, reason=padless.backends()["native kernels"])
LEVELS = [level for level in library.supported_levels() if library.library_path(level).exists() and level != "default"]


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("num_taps", "channels", "filters"), [(5, 17, 48), (1, 16, 80), (3, 130, 16)])
def test_outputs_and_gradients_equal_those_of_torch(level, num_taps, channels, filters):
    loaded = library.load_library(level)
    assert isinstance(loaded, library.Library)
    for stride, num_windows in ((1, 200), (3, 7), (2, 1)):
        torch.manual_seed(0)
        line = torch.randn((num_windows - 1) * stride + num_taps + 1, channels, requires_grad=True)
        kernel = (torch.randn(num_taps, channels, filters) / channels).requires_grad_()
        bias = torch.randn(filters, requires_grad=True)
        for window_numbers in (None, torch.randperm(num_windows)[: num_windows // 2 + 1]):
            results = []
            for available in (loaded, None):
                with patch.object(library, "get_library", lambda available=available: available):
                    arguments = line, kernel, num_windows, (stride, 1)
                    outputs = taps.conv_by_taps(*arguments, bias, window_numbers)
                    gradients = torch.autograd.grad(outputs.square().sum(), (line, kernel, bias))
                    without_bias = taps.conv_by_taps(*arguments, None, window_numbers)
                    results.append((outputs, *gradients, without_bias))
            assert_close(*results, rtol=1e-4, atol=1e-4)


def test_other_tensors_and_compilers_are_left_to_torch(monkeypatch):
    line, weights = torch.randn(9, 4), torch.randn(4, 16)
    assert native.supports(line, weights, None)
    assert not native.supports(line, weights[:, :15], None)
    assert not native.supports(line.double(), weights.double(), None)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not native.supports(line, weights, None)
