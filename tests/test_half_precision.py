"""Products in half precision: the same numbers, in few shapes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import padless
from padless.kernels import half_precision
from padless.layers import Dense, EinsumDense


@given(st.integers(0, 5000))
def test_rows_are_filled_up_to_one_of_a_few_numbers(n):
    more = len(half_precision.pad_rows_to_bucket(torch.ones(n, 1), torch.bfloat16))
    assert n <= more <= n + n // 16
    assert more.bit_length() < 6 or more % (1 << more.bit_length() - 6) == 0


def test_what_is_filled_up_with_is_zero():
    x = torch.randn(77, 3)
    for dtype in (torch.float32, torch.bfloat16):
        filled = half_precision.pad_rows_to_bucket(x, dtype)
        assert filled.dtype == dtype and torch.equal(filled[:77], x.to(dtype)) and not filled[77:].any()


def products(monkeypatch, run):
    """How many rows the products of a call have."""
    seen, plain = [], torch.nn.functional.linear

    def linear(x, *others):
        seen.append(len(x))
        return plain(x, *others)

    with monkeypatch.context() as patched:
        patched.setattr(half_precision.functional, "linear", linear)
        run()
    return seen


@pytest.mark.parametrize(
    "make", [lambda: Dense(5, activation="relu"), lambda: EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de")]
)
@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_layers_multiply_in_few_shapes_and_give_what_torch_gives(monkeypatch, make, how):
    layer = make()
    x = padless.pack(torch.randn(3, 30, 8), lengths=[30, 7, 30])
    layer(x)
    if how == "weights":
        layer.to(torch.bfloat16)
        x = x.to(torch.bfloat16)

    def run():
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            made = layer(x)
        made.values.float().square().sum().backward()
        return [made.values, *(p.grad.clone() for p in layer.parameters())]

    ours = run()
    assert products(monkeypatch, run) == [68]
    with monkeypatch.context() as patched:
        patched.setattr(half_precision, "HALF_DTYPES", ())
        theirs = run()
        assert products(monkeypatch, run) == [67]
    assert [t.dtype for t in ours] == [t.dtype for t in theirs] and ours[0].dtype == torch.bfloat16
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_whole_precision_is_left_alone(monkeypatch):
    layer, x = Dense(5), padless.pack(torch.randn(3, 30, 8), lengths=[30, 7, 30])
    assert products(monkeypatch, lambda: layer(x)) == [67]
