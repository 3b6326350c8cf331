"""Torch functions on Packed and on symbols: each rule, the refused functions, and a sweep over all functions of torch.

The expected result is always that of the same function on the padded grid: at real steps and, where there are gap values,
at masked steps.
"""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import get_overridable_functions

import padless
from padless import Index, Input, Model, Packed, layers, pack
from padless.errors import ArgumentError, MaskLost, PadlessError, ShapeError
from padless.ragged.axis_rules import RULES, find_rule, refuse, refuse_loss
from padless.ragged.call_context import call_context, current_call
from padless.ragged.torch_function import call_torch_function

MASK = np.array([[1, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)  # gaps, left, empty, full
REAL = torch.from_numpy(MASK)
B, T = MASK.shape


def packed(*feature_shape, seed=0, dtype=torch.float32, with_gap_values=True):
    """Return a Packed with random values and gap values."""
    index = Index(MASK, mask_source="the test")
    generator = torch.Generator().manual_seed(seed)
    values, gap_values = (torch.randn(n, *feature_shape, generator=generator) for n in (index.num_steps, index.num_gaps))
    if not dtype.is_floating_point:
        values, gap_values = (values * 3).abs().to(dtype), (gap_values * 3).abs().to(dtype)
    return Packed(values.to(dtype), index, gap_values.to(dtype) if with_gap_values else None)


def numbers(*shape, seed=5):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def flat(result):
    return list(result) if isinstance(result, tuple | list) else [result]


def check_grid(results, grids):
    """Compare Packed results with grids: at real steps and, with gap values, at masked steps."""
    results, grids = flat(results), flat(grids)
    assert len(results) == len(grids)
    for result, grid in zip(results, grids, strict=True):
        assert isinstance(result, Packed) and result.index.equals(Index(MASK)), result
        assert tuple(result.shape) == tuple(grid.shape) and result.dtype == grid.dtype
        assert torch.allclose(result.values, grid[REAL], equal_nan=True, atol=1e-6)
        if result.gap_values is not None:
            assert torch.allclose(result.unpack(), grid, equal_nan=True, atol=1e-6)


def by_steps(operand, x):
    """Return an operand without a batch as it combines with x: on a grid each row has it from its first real step."""
    if isinstance(x, Packed) or current_call().may_use_grid:
        return operand
    operand = operand.reshape((1,) * (x.ndim - operand.ndim) + operand.shape)
    return torch.cat([operand.roll(int(first), 1) for first in REAL.int().argmax(1)])


W, MATRIX, ROW, CELL = numbers(4), numbers(4, 5), numbers(B, 1, 4), numbers(1, T, 1)
IDS = torch.arange(4) % 3

# For each rule of the table a call on x (B, T, 4), by the name of the function.
ROWS = {
    # arithmetic and pointwise functions
    "add": lambda x: x + 1, "radd": lambda x: 1 + x, "sub": lambda x: x - W, "rsub": lambda x: W - x,
    "mul": lambda x: x * 2 + 1, "truediv": lambda x: x / 2, "rtruediv": lambda x: 2 / x,
    "floordiv": lambda x: x // 0.7, "mod": lambda x: x % 0.7, "rmod": lambda x: 0.7 % x, "pow": lambda x: x**2,
    "rpow": lambda x: 2**x, "neg": lambda x: -x, "pos": lambda x: +x, "abs": lambda x: abs(x), "tanh": torch.tanh,
    "exp": lambda x: x.exp(), "relu": F.relu, "gelu": F.gelu, "add_two": lambda x: x + x.sin(),
    "maximum": lambda x: torch.maximum(x, x.cos()), "lerp": lambda x: torch.lerp(x, x.cos(), 0.3),
    "clamp": lambda x: x.clamp(min=W), "by_row": lambda x: x * ROW,
    "masked_fill": lambda x: x.masked_fill(x > 0, 7.0), "multiply": lambda x: torch.multiply(x, 3),
    "subtract": lambda x: torch.subtract(x, 3), "divide": lambda x: torch.divide(x, 3), "fix": torch.fix,
    "floor_divide": lambda x: torch.floor_divide(x, 0.7), "greater": lambda x: torch.greater(x, 0),
    "greater_equal": lambda x: torch.greater_equal(x, 0), "less": lambda x: torch.less(x, 0),
    "less_equal": lambda x: torch.less_equal(x, 0), "not_equal": lambda x: torch.not_equal(x, 0),
    "negative": torch.negative, "absolute": torch.absolute, "arctan": torch.arctan, "arctan2": torch.arctan2.__call__,
    "isclose": lambda x: torch.isclose(x, x.abs()), "isreal": torch.isreal, "real": torch.real, "conj": torch.conj,
    "arccos": torch.arccos, "arccosh": torch.arccosh, "arcsin": torch.arcsin, "arcsinh": torch.arcsinh,
    "arctanh": torch.arctanh,
    "complex": lambda x: torch.complex(x, x).imag if isinstance(x, Tensor) else torch.complex(x, x),
    "polar": lambda x: torch.polar(x, x), "imag": lambda x: torch.complex(x, x), "softsign": F.softsign,
    "tanhshrink": F.tanhshrink, "hardswish": F.hardswish, "logsigmoid": F.logsigmoid,
    "log_sigmoid": lambda x: F.logsigmoid(x), "hardshrink": F.hardshrink, "softshrink": F.softshrink,
    "nan_to_num": torch.nan_to_num, "zeros_like": torch.zeros_like, "ones_like": torch.ones_like,
    "full_like": lambda x: torch.full_like(x, 3.0), "clone": torch.clone, "detach": lambda x: x.detach(),
    "contiguous": lambda x: x.contiguous(), "cpu": lambda x: x.cpu(), "float": lambda x: x.float(),
    "double": lambda x: x.double(), "half": lambda x: x.half(), "bfloat16": lambda x: x.bfloat16(),
    "int": lambda x: x.int(), "long": lambda x: x.long(), "short": lambda x: x.short(), "char": lambda x: x.char(),
    "byte": lambda x: x.abs().byte(), "bool": lambda x: x.bool(), "to": lambda x: x.to(torch.float64),
    "type_as": lambda x: x.type_as(numbers(7, 7).double()), "where": lambda x: torch.where(x > 0, x, W),
    "and": lambda x: (x > 0) & (x < 1), "or": lambda x: (x > 0) | (x < -1), "xor": lambda x: (x > 0) ^ (x < 1),
    "rand": lambda x: torch.tensor(True) & (x > 0), "ror": lambda x: torch.tensor(True) | (x > 0),
    "rxor": lambda x: torch.tensor(True) ^ (x > 0), "invert": lambda x: ~(x > 0), "eq": lambda x: x == x.abs(),
    "ne": lambda x: x != 0, "lt": lambda x: x < 0, "le": lambda x: x <= 0, "gt": lambda x: 0 > x,
    "ge": lambda x: 0 >= x,
    # reductions over features
    "sum": lambda x: x.sum(-1), "mean": lambda x: torch.mean(x, dim=-1, keepdim=True),
    "amax": lambda x: x.amax(dim=(2,)), "amin": lambda x: x.amin(2), "prod": lambda x: x.prod(-1),
    "logsumexp": lambda x: torch.logsumexp(x, -1), "all": lambda x: (x > -1).all(-1),
    "any": lambda x: (x > 1).any(dim=-1), "argmax": lambda x: x.argmax(-1),
    "argmin": lambda x: torch.argmin(x, dim=-1), "std": lambda x: x.std(-1), "var": lambda x: x.var(-1, correction=0),
    "count_nonzero": lambda x: torch.count_nonzero(x > 0, -1), "nansum": lambda x: x.nansum(-1),
    "nanmean": lambda x: x.nanmean(-1), "median": lambda x: x.median(-1).values,
    "max": lambda x: torch.max(x, dim=-1)[0], "min": lambda x: torch.min(x, -1).indices,
    "max_pairs": lambda x: torch.max(x, x.cos()), "norm": lambda x: x.norm(dim=-1),
    "axis": lambda x: torch.sum(x, axis=-1), "by_name": lambda x: torch.sum(input=x, dim=-1),
    # along a feature axis
    "softmax": lambda x: torch.softmax(x, -1), "log_softmax": lambda x: F.log_softmax(x, dim=2),
    "softmin": lambda x: F.softmin(x, dim=-1), "cumsum": lambda x: x.cumsum(-1), "cumprod": lambda x: x.cumprod(2),
    "sort": lambda x: x.sort(descending=True).values, "argsort": lambda x: x.argsort(),
    "topk": lambda x: x.topk(2)[0], "glu": lambda x: F.glu(x), "normalize": lambda x: F.normalize(x, dim=-1),
    "index_select": lambda x: x.index_select(-1, IDS), "narrow": lambda x: torch.narrow(x, -1, 1, 2),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=-1), "roll": lambda x: torch.roll(x, 1, -1),
    "einsum": lambda x: torch.einsum("btd,de->bte", x, MATRIX), "tensordot": lambda x: torch.tensordot(x, MATRIX, 1),
    "flip": lambda x: x.flip(-1), "chunk": lambda x: x.chunk(2, -1), "split": lambda x: torch.split(x, 3, dim=-1),
    "tensor_split": lambda x: torch.tensor_split(x, 2, dim=2), "unbind": lambda x: x.unbind(-1),
    "cosine_similarity": lambda x: F.cosine_similarity(x, W, dim=-1),
    "gather": lambda x: torch.gather(x, -1, x.argsort(-1)),
    # shapes of features
    "unsqueeze": lambda x: x.unsqueeze(-1), "squeeze": lambda x: x[..., :1].squeeze(-1),
    "stack": lambda x: torch.stack([x, x], -1), "cat": lambda x: torch.cat([x, x.sin()], dim=-1),
    "concat": lambda x: torch.concat((x, x), 2), "concatenate": lambda x: torch.concatenate([x, x], dim=-1),
    "view": lambda x: x.view(-1, T, 2, 2), "reshape": lambda x: x.reshape((B, T, 2, -1)),
    "unflatten": lambda x: x.unflatten(-1, (2, 2)), "flatten": lambda x: x.unflatten(-1, (2, 2)).flatten(2),
    "transpose": lambda x: x.unflatten(-1, (1, 4)).transpose(2, 3),
    "swapaxes": lambda x: torch.swapaxes(x.unflatten(-1, (1, 4)), -1, -2),
    "permute": lambda x: x.unflatten(-1, (1, 4)).permute(0, 1, 3, 2),
    # products with weights
    "linear": lambda x: F.linear(x, MATRIX.T, numbers(5)), "matmul": lambda x: x @ MATRIX, "matvec": lambda x: x @ W,
    "embedding": lambda x: F.embedding(x.argmax(-1), MATRIX), "one_hot": lambda x: F.one_hot(x.argmax(-1), 4),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.3])), "layer_norm": lambda x: F.layer_norm(x, (4,), W),
    "rms_norm": lambda x: F.rms_norm(x, (4,), W), "rrelu": lambda x: F.rrelu(x),
    # noise in inference
    "dropout": lambda x: F.dropout(x, 0.5, training=False), "alpha_dropout": lambda x: F.alpha_dropout(x, 0.5),
    # slices of features
    "[..., a:b]": lambda x: x[..., :3], "[..., i]": lambda x: x[..., 1], "[:, :, a:b]": lambda x: x[:, :, 1:],
    "[..., None]": lambda x: x[..., None], "[..., list]": lambda x: x[..., [0, 2]],
    "[..., ::2]": lambda x: x[..., ::2], "[..., ids]": lambda x: x[..., np.array([3, 0])], "[...]": lambda x: x[...],
}  # fmt: skip
ROWS["arctan2"] = lambda x: torch.arctan2(x, x.cos())
ROWS["complex"] = ROWS["imag"] = lambda x: torch.complex(x, x)
WITH_MODE = {"dropout", "alpha_dropout", "rrelu"}  # refused on symbols: test_torch_modules.py
RANDOM = {"bernoulli", "rand_like", "randn_like", "randint_like", "normal_like", "empty_like"}
REFUSING = {name for name, rule in RULES.items() if rule in (refuse, refuse_loss)}


def test_every_rule_has_a_case():
    assert set(RULES) - RANDOM - REFUSING - {"cuda"} <= set(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_a_function_on_packed_equals_that_on_the_grid(row):
    function = ROWS[row]
    h = packed(4)
    check_grid(function(h), function(h.unpack()))
    assert all(part.gap_values is not None for part in flat(function(h)))
    without_gap_values = h.with_values(h.values)
    check_grid(function(without_gap_values), function(h.unpack()))
    assert all(part.gap_values is None for part in flat(function(without_gap_values)))


@pytest.mark.parametrize("row", [row for row in ROWS if row not in ("floordiv", "floor_divide", "rmod")])
def test_gradients_equal_those_of_the_grid(row):
    grid = packed(4, dtype=torch.float64).unpack().requires_grad_()
    grid_results = [part[REAL] for part in flat(ROWS[row](grid.float())) if part.requires_grad]
    results = [part.values for part in flat(ROWS[row](pack(grid.float(), mask=MASK))) if part.requires_grad]
    assert len(results) == len(grid_results)
    if results:
        (expected,) = torch.autograd.grad(sum(part.abs().sum() for part in grid_results), grid)
        (gradient,) = torch.autograd.grad(sum(part.abs().sum() for part in results), grid)
        torch.testing.assert_close(gradient[REAL], expected[REAL], equal_nan=True)
        assert not gradient[~REAL].any()


@pytest.mark.parametrize("row", [row for row in ROWS if row not in ("by_row", "reshape", *WITH_MODE)])
def test_a_function_on_symbols_is_recorded(row):
    for masked in (True, False):
        x, data = Input((T, 4), masked=masked), packed(4)
        data = data if masked else data.unpack()
        symbols, expected = flat(ROWS[row](x)), flat(ROWS[row](data))
        for symbol, value in zip(symbols, expected, strict=True):
            assert symbol.masked == masked and symbol.dtype == value.dtype
            assert symbol.shape == (None, *value.shape[1:])
        outputs = flat(Model(x, symbols)(data))
        for output, value in zip(outputs, expected, strict=True):
            assert isinstance(output, Packed) == masked
            assert torch.allclose(padless.unpack(output), padless.unpack(value), equal_nan=True)


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")  # of an empty standard deviation
@pytest.mark.parametrize("row", [row for row in ROWS if row not in ("by_row", "reshape", "view")])
def test_a_batch_without_real_steps_is_valid(row):
    for shape in ((2, 3), (0, 3), (2, 0), (1, 1)):
        h = pack(torch.ones(*shape, 4), mask=np.zeros(shape, bool))
        for part in flat(ROWS[row](h)):
            assert part.values.shape[0] == 0 and part.index is h.index


@pytest.mark.parametrize("row", ["rand_like", "randn_like", "normal_like", "empty_like", "randint_like", "bernoulli"])
def test_noise_keeps_the_mask_and_draws_nothing_for_masked_steps(row):
    function = {"bernoulli": lambda x: torch.bernoulli(x.sigmoid()), "randint_like": lambda x: torch.randint_like(x, 9)}
    if row == "normal_like":
        return  # an operator of torch without a public name
    function = function.get(row, getattr(torch, row, None))
    generator_states = []
    for with_gap_values in (True, False):
        torch.manual_seed(1)
        noise = function(packed(4, with_gap_values=with_gap_values))
        assert isinstance(noise, Packed) and noise.shape == (B, T, 4)
        generator_states.append(torch.get_rng_state())
    assert torch.equal(*generator_states)


@pytest.mark.parametrize("function", [F.dropout, F.alpha_dropout, lambda x: torch.dropout(x, 0.5, True)])
def test_dropout_keeps_the_gap_values(function):
    h = packed(400)
    torch.manual_seed(1)
    dropped = function(h, training=True) if function in (F.dropout, F.alpha_dropout) else function(h)
    torch.manual_seed(1)
    assert torch.equal(dropped.values, F.dropout(h.values, 0.5)) or function is F.alpha_dropout
    assert torch.equal(dropped.gap_values, h.gap_values)


# ---------------------------------------------------------------------------------------------------- operands


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (1, 1, 4), (T, 1), (T, 4), (B, 1, 1), (B, 1, 4), (1, T, 4),
                                   (B, T, 1), (B, T, 4)])  # fmt: skip
@pytest.mark.parametrize("function", [torch.add, lambda x, y: y - x, lambda x, y: torch.where(y > 0, x, y)])
def test_a_plain_operand_broadcasts_against_the_grid(shape, function):
    h, y = packed(4), numbers(*shape)
    varies_in_time = len(shape) > 1 and shape[-2] == T
    of_all_sequences = varies_in_time and (len(shape) < 3 or shape[0] == 1)
    on_grid = by_steps(y, h.unpack()) if of_all_sequences else y
    result = function(h, y)
    check_grid(result, function(h.unpack(), on_grid))
    assert (result.gap_values is None) == varies_in_time
    check_grid(h * y.numpy(), h.unpack() * on_grid)


@pytest.mark.parametrize("shape", [(MASK.sum(), 4), (B, 4), (2, 1, 4), (B + 1, T, 4), (B, T + 1, 4)])
def test_an_operand_that_does_not_broadcast_against_the_grid_is_refused(shape):
    with pytest.raises(ShapeError, match=r"does not broadcast against the grid.*like=packed"):
        packed(4) + torch.ones(*map(int, shape))


def test_a_plain_operand_with_an_outer_level():
    mask = np.array([[[1, 0], [1, 1]], [[0, 0], [0, 1]]], bool)
    h = pack(numbers(2, 2, 2, 3), mask=mask)
    for shape in ((3,), (2, 2, 2, 1), (2, 1, 1, 3), (2, 2, 1, 1)):
        y = numbers(*shape)
        assert torch.equal((h * y).values, (h.unpack() * y)[torch.from_numpy(mask)])


def test_an_operand_without_a_batch_counts_the_steps_of_each_level():
    mask = np.array([[[1, 0], [1, 1]], [[0, 0], [0, 1]]], bool)
    h = pack(torch.zeros(2, 2, 2), mask=mask)
    assert (h + torch.tensor([1, 2])).values.tolist() == [1, 1, 2, 1]  # words of a sentence
    assert (h + torch.tensor([[1], [2]])).values.tolist() == [1, 2, 2, 1]  # sentences of a document
    assert (h + torch.tensor([[[1, 2]], [[3, 4]]])).values.tolist() == [1, 1, 2, 3]  # words, for each document
    assert (h + torch.tensor([[[1], [2]], [[3], [4]]])).values.tolist() == [1, 2, 2, 4]  # a grid is read by columns


def test_operands_must_have_the_same_real_steps():
    h = packed(4)
    again = pack(h.unpack(), mask=MASK.copy())
    check_grid(h + again, h.unpack() * 2)
    other = pack(torch.ones(B, T, 4), mask=~MASK)
    with pytest.raises(MaskLost, match=r"(?s)different steps.*the test.*the given mask.*Add, Multiply.*like=y"):
        h + other
    with pytest.raises(ShapeError, match=r"\(4, 5, 4\).*\(4, 5\)"):
        h + h[..., 0]
    check_grid(h + h[..., 0][..., None], h.unpack() + h.unpack()[..., :1])


def test_a_plain_tensor_with_the_shape_of_the_grid_can_be_joined():
    h, y = packed(4), numbers(B, T, 2)
    check_grid(torch.cat([h, y], -1), torch.cat([h.unpack(), y], -1))
    check_grid(torch.stack([numbers(B, T, 4), h], 2), torch.stack([numbers(B, T, 4), h.unpack()], 2))
    empty = pack(torch.ones(1, 1, 4), mask=[[0]])
    assert torch.cat([empty, torch.ones(1, 1, 2)], -1).shape == (1, 1, 6)
    for wrong in (numbers(B, 1, 2), numbers(4), [1.0]):
        with pytest.raises(ShapeError, match="joined"):
            torch.cat([h, wrong], -1) if isinstance(wrong, Tensor) else call_torch_function(torch.cat, ([h, wrong], -1), {})


def test_ids_of_gather_have_the_shape_of_the_grid():
    h, ids = packed(4), torch.randint(0, 4, (B, T, 2))
    check_grid(torch.gather(h, -1, ids), torch.gather(h.unpack(), -1, ids))
    check_grid(h.gather(dim=2, index=pack(ids, mask=MASK)), torch.gather(h.unpack(), -1, ids))
    with pytest.raises(ShapeError):
        torch.gather(h, -1, ids[REAL])
    with pytest.raises(MaskLost, match="time"):
        torch.gather(h, 1, ids)
    with pytest.raises(MaskLost):
        torch.gather(numbers(B, T, 4), -1, pack(ids, mask=MASK))


def test_cosine_similarity_of_packed_and_plain_operands():
    h, y = packed(4), numbers(B, T, 4)
    check_grid(F.cosine_similarity(h, y, dim=-1), F.cosine_similarity(h.unpack(), y, dim=-1))
    check_grid(F.cosine_similarity(y, h, dim=-1), F.cosine_similarity(y, h.unpack(), dim=-1))
    check_grid(torch.cosine_similarity(x1=h, x2=h.sin(), dim=-1), F.cosine_similarity(h.unpack(), h.unpack().sin(), dim=-1))
    with pytest.raises(MaskLost, match="time"):
        F.cosine_similarity(h, y)


# ---------------------------------------------------------------------------------------------------- slices


@pytest.mark.parametrize("key", [np.s_[1:3], np.s_[:2, ..., 0], np.s_[:], np.s_[2:2], np.s_[::-1], [2, 0, 2], [],
                                 torch.tensor([-1, 0]), np.array([1]), [True, False, False, True],
                                 REAL[:, 0], ([3, 0], ..., slice(2))])  # fmt: skip
def test_whole_sequences_are_chosen_with_their_mask(key):
    h = packed(4)
    first = torch.as_tensor(key) if isinstance(key, list) and not key else key
    key = first.long() if isinstance(first, Tensor) and not len(first) else key
    rows = key[0] if isinstance(key, tuple) else key
    part = h[key]
    np.testing.assert_array_equal(part.index.mask, MASK[rows])
    np.testing.assert_array_equal(part.numpy(), h.numpy()[key])
    assert "the test" in part.index.mask_source


def test_booleans_that_are_not_one_for_each_sequence_are_refused():
    with pytest.raises(ShapeError, match="3 booleans.*4 sequences"):
        packed(4)[[True, False, True]]


def test_gaps_that_a_slice_joins_show_zeros():
    h = pack(torch.tensor([[1.0, 9, 2, 9, 9]]), mask=[[1, 0, 1, 0, 0]])
    h = h.with_values(h.values, torch.tensor([5.0, 6.0]))
    assert h[:, 1::2].numpy().tolist() == [[0, 0]] and h[:, 3:].numpy().tolist() == [[6, 6]]
    with call_context("a layer that reads the grid", may_use_grid=True):
        assert h[:, 1::2].unpack().tolist() == [[5, 6]]


@pytest.mark.parametrize(
    "key",
    [0, (slice(None), -1), (slice(None), 0, slice(None)), None, (slice(None), None), True,
     (slice(None), torch.tensor([1])), REAL, (Ellipsis, 0, slice(None))],
)  # fmt: skip
def test_a_key_that_selects_single_steps_is_refused(key):
    with pytest.raises(MaskLost, match=r"(First|Last)Step.*sequences"):
        packed(4)[key]


def test_boolean_keys_and_several_index_tensors_are_refused():
    h = packed(4, 3)
    with pytest.raises(MaskLost, match="several|Several"):
        h[..., torch.tensor([0, 1]), torch.tensor([0, 1])]
    with pytest.raises(MaskLost, match="Boolean"):
        h[h > 0]
    with pytest.raises(MaskLost):
        numbers(B, T)[packed() > 0]


# ---------------------------------------------------------------------------------------------------- refusals

REFUSED = {
    "sum": lambda x: x.sum(), "sum over time": lambda x: x.sum(1), "sum over time and batch": lambda x: x.sum((0, 1)),
    "mean": lambda x: torch.mean(x, dim=1), "mean of features and time": lambda x: x.mean((1, 2)),
    "all dims": lambda x: x.sum(dim=()), "max": lambda x: x.max(), "softmax over time": lambda x: torch.softmax(x, 1),
    "softmax of batch": lambda x: F.softmax(x, dim=0), "cumsum": lambda x: x.cumsum(1), "last": lambda x: x[:, -1],
    "row": lambda x: x[0], "flatten": lambda x: x.flatten(1), "reshape": lambda x: x.reshape(-1, 4),
    "reshape across": lambda x: x.reshape(x.shape[0], -1), "view": lambda x: x.view(-1),
    "view dtype": lambda x: x.view(torch.int32), "transpose": lambda x: x.transpose(1, 2),
    "permute": lambda x: x.permute(0, 2, 1), "flip": lambda x: x.flip(1), "roll": lambda x: x.roll(1, 1),
    "sort": lambda x: x.sort(1), "cat": lambda x: torch.cat([x, x], 1),
    "stack": lambda x: torch.stack([x, x]), "stack on time": lambda x: torch.stack([x, x], 1),
    "unsqueeze": lambda x: x.unsqueeze(1), "squeeze": lambda x: x.squeeze(), "unbind": lambda x: x.unbind(1),
    "split": lambda x: x.split(2, 1), "chunk": lambda x: x.chunk(2, 1), "from left": lambda x: numbers(T, T) @ x,
    "each step": lambda x: x.unflatten(-1, (2, 2)) @ x.unflatten(-1, (2, 2)),
    "batched": lambda x: x @ numbers(1, 4, 5), "bmm": lambda x: torch.bmm(x, x),
    "einsum": lambda x: torch.einsum("btd,bsd->bts", x, x), "mse": lambda x: F.mse_loss(x, x),
    "mse none": lambda x: F.mse_loss(x, x, reduction="none"), "l1": lambda x: F.l1_loss(x, x.sin()),
    "bce": lambda x: F.binary_cross_entropy_with_logits(x, x.sigmoid()),
    "ce": lambda x: F.cross_entropy(x, numbers(4, 4)), "nll": lambda x: F.nll_loss(x, torch.zeros(4)),
    "kl": lambda x: F.kl_div(x, x), "huber": lambda x: F.huber_loss(x, x),
    "poisson": lambda x: F.poisson_nll_loss(x, x), "conv": lambda x: F.conv1d(x, numbers(3, 5, 1)),
    "pool": lambda x: F.max_pool1d(x, 2), "pad": lambda x: F.pad(x, (0, 0, 1, 0)),
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "layer norm over time": lambda x: F.layer_norm(x, x.shape[1:]), "normalize": lambda x: F.normalize(x),
    "where": lambda x: torch.where(x > 0), "nonzero": lambda x: torch.nonzero(x), "unique": lambda x: x.unique(),
    "item": lambda x: x.item(), "tolist": lambda x: x.tolist(), "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x), "expand": lambda x: x.expand(2, 4, 5, 4),
    "repeat": lambda x: x.repeat(1, 2, 1), "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "std": lambda x: x.std(unbiased=False), "std of flag": lambda x: torch.std(x, True),
    "prelu": lambda x: F.prelu(x, numbers(T)), "one hot": lambda x: F.one_hot(x.argmax(-1)),
    "channels": lambda x: F.dropout1d(x), "feature dropout": lambda x: F.feature_alpha_dropout(x, training=True),
    "numpy ops": lambda x: x.t(), "ids of steps": lambda x: F.embedding(IDS, x),
    "weights": lambda x: F.linear(numbers(2, 4), x), "too many axes": lambda x: x + numbers(1, B, T, 4),
    "masked_select": lambda x: torch.masked_select(x, x > 0), "index_select": lambda x: x.index_select(1, IDS),
    "var_mean": lambda x: torch.var_mean(x), "norm": lambda x: x.norm(), "trace": lambda x: x.trace(),
    "glu over time": lambda x: F.glu(x, 1), "argmax": lambda x: x.argmax(),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_function_that_mixes_steps_is_refused_with_the_ways_out(name):
    with pytest.raises(MaskLost) as caught:
        REFUSED[name](packed(4))
    message = str(caught.value)
    ways = ("GlobalAveragePooling1D", "DropMask()", "unpack()", "padless.pack(y, like=x)", "take `mask` in `call`")
    for part in ("the test", *ways):
        assert part in message
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, ValueError)
    has_mode = name in ("batch norm", "channels", "feature dropout")
    error, text = (ArgumentError, "depends on the mode") if has_mode else (MaskLost, "created by Input")
    with pytest.raises(error, match=text):  # while a model is built, too
        REFUSED[name](Input((T, 4), batch_size=B, masked=True))


def test_the_message_names_the_layer_and_the_mask_source():
    class Mixing(layers.Layer):
        def call(self, inputs):
            return inputs.sum(1)

    h = layers.Embedding(5, 4, mask_zero=True, name="words")(torch.tensor([[1, 2, 0]]))
    with pytest.raises(
        MaskLost, match=r"`sum` inside layer 'mine'.*created by Embedding 'words'.*Axis 1 of the grid is time"
    ):
        Mixing(name="mine")(h)
    with pytest.raises(MaskLost, match="a torch loss|A torch loss"):
        F.mse_loss(h, h)


def test_an_open_axis_of_a_symbol_has_no_size():
    x = Input((None, 4))
    with pytest.raises(ArgumentError, match="Write -1 for it"):
        x.reshape(x.shape[0], -1, 2, 2)
    assert x.size() == (None, None, 4) and x.dim() == 3
    for function in (lambda: torch.numel(x), lambda: x.numel()):
        with pytest.raises(PadlessError, match="a symbol has no such size yet"):
            function()


@pytest.mark.parametrize("axis", [3, -4, "time", 1.0])
def test_an_axis_that_does_not_exist_is_named(axis):
    with pytest.raises(ShapeError, match=f"Axis {axis!r}.*{(B, T, 4)!r}".replace("(", r"\(").replace(")", r"\)")):
        packed(4).sum(axis)


def test_without_features_there_is_no_feature_axis():
    h = packed()
    for function in (
        lambda x: F.linear(x, numbers(5, T)),
        lambda x: x @ numbers(T, 5),
        lambda x: x.sum(-1),
        lambda x: F.glu(x),
        lambda x: F.layer_norm(x, (T,)),
        lambda x: x.softmax(-1),
        lambda x: x.sort(),
    ):
        with pytest.raises(MaskLost):
            function(h)


def test_a_shape_with_other_features_is_refused_without_real_steps_too():
    with pytest.raises(ShapeError, match="4 numbers"):
        pack(torch.ones(2, 3, 4), mask=np.zeros((2, 3))).reshape(2, 3, 5)


def test_wrong_arguments_are_a_type_error():
    for function in (lambda x: x.reshape(), lambda x: x.permute(), lambda x: x @ 2, lambda x: x.gather()):
        with pytest.raises(TypeError):
            function(packed(4))


# ------------------------------------------------------------------------------------------------ in place, sweeps

IN_PLACE = [
    lambda x, y: x.add_(1), lambda x, y: x.relu_(), lambda x, y: torch.relu_(x), lambda x, y: x.clamp_(min=0),
    lambda x, y: x.zero_(), lambda x, y: y.add_(x), lambda x, y: y.copy_(x), lambda x, y: torch.add(x, 1, out=y),
    lambda x, y: torch.sum(x, -1, out=y), lambda x, y: call_torch_function(Tensor.__iadd__, (y, x), {}),
    lambda x, y: x.requires_grad_(), lambda x, y: x.bernoulli_(), lambda x, y: x.masked_fill_(x > 0, 1),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(IN_PLACE)))
def test_functions_that_write_in_place_are_refused(number):
    h, y = packed(4), numbers(B, T, 4)
    h_before, y_before = h.values.clone(), y.clone()
    with pytest.raises(ArgumentError, match="in place|into `out`"):
        IN_PLACE[number](h, y)
    assert torch.equal(h.values, h_before) and torch.equal(y, y_before)
    x = Input((T, 4))
    with pytest.raises(ArgumentError):
        IN_PLACE[number](x, h)


def test_augmented_assignment_returns_a_new_packed():
    h = old = packed(4)
    before = h.values.clone()
    h += 1
    assert torch.equal(h.values, before + 1) and torch.equal(old.values, before)


def test_in_place_modules_return_a_new_packed():
    h = layers.Embedding(5, 4, mask_zero=True)(torch.tensor([[1, 2, 0]]))
    before = h.values.detach().clone()
    for module in (torch.nn.ReLU(inplace=True), torch.nn.Dropout(0.5, inplace=True), torch.nn.LeakyReLU(inplace=True)):
        assert isinstance(module(h), Packed) and torch.equal(h.values, before)
    assert isinstance(torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.LayerNorm(2), torch.nn.GELU())(h), Packed)


def test_functions_about_dtype_and_device_return_plain_results():
    h = packed(4)
    assert h.is_floating_point() and not torch.is_complex(h) and h.element_size() == 4
    assert h.new_zeros(3).tolist() == [0, 0, 0] and h.new_tensor([1]).dtype == torch.float32


def test_comparison_with_none_is_that_of_python():
    h = packed(4)
    assert (h == None) is False and (h != None) is True  # noqa: E711
    assert len({h, h}) == 1


# Arguments to try on every function of torch; `c(n)` is the n-th Packed, or its grid.
VARIANTS = [
    lambda c: (c(0),), lambda c: (c(0), 2), lambda c: (c(0), -1), lambda c: (c(0), c(1)),
    lambda c: (c(0), numbers(B, T, 4)), lambda c: (numbers(B, T, 4), c(0)), lambda c: (c(0), W),
    lambda c: (c(0), by_steps(CELL, c(0))), lambda c: (c(0), ROW), lambda c: (c(0), 2, -1), lambda c: (c(0), -1, 2),
    lambda c: (c(0), 0.5), lambda c: (c(0), (4,)), lambda c: (c(0), c(1), c(2)), lambda c: (c(0), 1, 2),
    lambda c: ([c(0), c(1)], -1), lambda c: ([c(0), c(1)],), lambda c: (c(0), 1),
]  # fmt: skip
SAMPLES = {dtype: [(h, h.unpack()) for h in (packed(4, seed=seed, dtype=dtype) for seed in range(3))]
           for dtype in (torch.float32, torch.int64)}  # fmt: skip
MOVE_SEQUENCES = {"index_select", "narrow", "repeat_interleave", "roll", "flip", "cat", "concat", "concatenate", "split",
                  "chunk", "tensor_split"}  # fmt: skip
DRAWS = RANDOM | {"dropout", "alpha_dropout", "rrelu", "cuda"}


def check_moved(results, grids):
    """Compare Packed whose sequences were moved with grids."""
    for result, grid in zip(flat(results), flat(grids), strict=True):
        assert isinstance(result, Packed) and torch.allclose(result.unpack(), grid, equal_nan=True, atol=1e-6)


def functions_with_a_rule():
    """Yield the overridable functions of torch with a rule, without random and in-place functions."""
    for functions in get_overridable_functions().values():
        for function in functions:
            name = getattr(function, "__name__", "")
            if name and name not in {*DRAWS, "__getitem__"} and find_rule(name) is not None:
                if not name.endswith("_") or name.endswith("__"):
                    yield name, function


def results_on_packed_and_grid(function, arguments, dtype):
    """Return the results of a function on Packed and on their grids; None if padless or torch refuses the call."""
    samples = SAMPLES[dtype]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            results = call_torch_function(function, arguments(lambda seed: samples[seed][0]), {})
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, AssertionError, PadlessError):
            return None
        dims = function is torch.flip and isinstance(arguments(lambda seed: 0)[1], int)  # padless accepts `flip(x, -1)`, too
        function = Tensor.flip if dims else function
        grid_results = function(*arguments(lambda seed: samples[seed][1]))
    return None if results is NotImplemented else (results, grid_results)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_no_function_of_torch_returns_a_wrong_packed(dtype):
    """If any function of torch returns a Packed, it equals the result on the grid."""
    names = set()
    for name, function in functions_with_a_rule():
        for arguments in VARIANTS:
            results = results_on_packed_and_grid(function, arguments, dtype)
            if results is not None and any(isinstance(part, Packed) for part in flat(results[0])):
                moved = name in MOVE_SEQUENCES and not all(part.index.equals(Index(MASK)) for part in flat(results[0]))
                (check_moved if moved else check_grid)(*results)
                names.add(name)
    assert len(names) > (200 if dtype == torch.float32 else 100)


@pytest.mark.slow
def test_in_a_layer_that_reads_the_grid_masked_steps_are_exact_too():
    """Each result, Packed or plain, equals that on the grid, with a gap value for each masked cell where necessary."""
    names = set()
    with call_context("a layer that reads the grid", may_use_grid=True):
        for name, function in functions_with_a_rule():
            for arguments in VARIANTS[:-1]:
                results = results_on_packed_and_grid(function, arguments, torch.float32)
                if results is None or not isinstance(results[1], Tensor | tuple | list):
                    continue
                for result, grid in zip(flat(results[0]), flat(results[1]), strict=True):
                    is_discontinuous = any(part in name for part in ("mod", "remainder", "floor"))  # sensitive to rounding
                    assert is_discontinuous or torch.allclose(padless.unpack(result), grid, equal_nan=True, atol=1e-6), name
                names.add(name)
    assert len(names) > 200


# Functions that torch refuses for the grid of this test, too.
IMPOSSIBLE = {"attention", "nll", "ce", "view dtype", "item", "tolist", "trace", "channels", "feature dropout",
              "too many axes", "ids of steps", "numpy ops", "glu over time", "batch norm", "conv", "bmm", "weights",
              "index_select", "from left"}  # fmt: skip


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("name", [name for name in REFUSED if name not in IMPOSSIBLE])
def test_in_a_layer_that_receives_the_mask_refused_functions_act_on_the_grid(name):
    h = packed(4)
    with call_context("a layer that reads the grid", may_use_grid=True):
        results = REFUSED[name](h)
    for result, expected in zip(flat(results), flat(REFUSED[name](h.unpack())), strict=True):
        assert not isinstance(result, Packed)
        if isinstance(expected, Tensor):
            torch.testing.assert_close(result, expected, equal_nan=True)
        else:
            assert result == expected
