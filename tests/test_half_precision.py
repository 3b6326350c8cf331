"""Products in half precision on the CPU: the same numbers, in few shapes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import padless
from padless.kernels import half_precision
from padless.layers import Dense, EinsumDense


@given(st.integers(0, 5000))
def test_the_padded_number_of_rows_is_one_of_a_few(rows):
    padded = len(half_precision.pad_rows_to_bucket(torch.ones(rows, 1), torch.bfloat16))
    assert rows <= padded <= rows + rows // 16
    assert padded.bit_length() < 6 or padded % (1 << padded.bit_length() - 6) == 0


def test_added_rows_are_zero():
    x = torch.randn(77, 3)
    for dtype in (torch.float32, torch.bfloat16):
        padded = half_precision.pad_rows_to_bucket(x, dtype)
        assert padded.dtype == dtype and torch.equal(padded[:77], x.to(dtype)) and not padded[77:].any()


def rows_of_products(monkeypatch, run):
    """Return the number of rows of each product in a call."""
    rows, linear = [], torch.nn.functional.linear

    def record(x, *others):
        rows.append(len(x))
        return linear(x, *others)

    with monkeypatch.context() as patched:
        patched.setattr(half_precision.functional, "linear", record)
        run()
    return rows


@pytest.mark.parametrize("use_autocast", [True, False])
@pytest.mark.parametrize(
    "make", [lambda: Dense(5, activation="relu"), lambda: EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de")]
)
def test_layers_multiply_padded_rows_and_give_torchs_numbers(monkeypatch, make, use_autocast):
    layer = make()
    x = padless.pack(torch.randn(3, 30, 8), lengths=[30, 7, 30])
    layer(x)
    if not use_autocast:
        layer.to(torch.bfloat16)
        x = x.to(torch.bfloat16)

    def run():
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=use_autocast):
            outputs = layer(x)
        outputs.values.float().square().sum().backward()
        return [outputs.values, *(p.grad.clone() for p in layer.parameters())]

    results = run()
    assert rows_of_products(monkeypatch, run) == [68]
    with monkeypatch.context() as patched:
        patched.setattr(half_precision, "HALF_DTYPES", ())
        expected = run()
        assert rows_of_products(monkeypatch, run) == [67]
    assert [t.dtype for t in results] == [t.dtype for t in expected] and results[0].dtype == torch.bfloat16
    for a, b in zip(results, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_products_in_float32_are_not_padded(monkeypatch):
    layer, x = Dense(5), padless.pack(torch.randn(3, 30, 8), lengths=[30, 7, 30])
    assert rows_of_products(monkeypatch, lambda: layer(x)) == [67]
