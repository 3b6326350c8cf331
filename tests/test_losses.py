"""Losses: sums over real steps, the numbers of Keras, and targets and weights in any container."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from padless import losses
from padless.errors import ArgumentError, DataError, MaskError, MaskLost, ShapeError
from padless.losses import LossFunctionWrapper, MaskedLoss, TorchLoss, get
from padless.losses.loss import Loss, WeightedSum
from padless.losses.probabilistic_losses import crossentropy_of_checked_ids
from padless.ragged.packed import Packed, pack
from padless.registry import register
from padless.saving import serialization as saving

keras = pytest.importorskip("keras")
B, T, D = 4, 5, 3

MASKS = {
    "full": np.ones((B, T), bool),
    "right": np.arange(T) < np.array([[5], [2], [3], [1]]),
    "left": np.arange(T) >= np.array([[0], [3], [2], [4]]),
    "gaps": np.array([[1, 0, 1, 1, 0], [0, 1, 0, 0, 1], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]], bool),
    "empty rows": np.array([[0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 0]], bool),
    "nothing": np.zeros((B, T), bool),
}
CASES = [
    ("MeanSquaredError", {}, "numbers"),
    ("MeanAbsoluteError", {}, "numbers"),
    ("BinaryCrossentropy", {}, "chances"),
    ("BinaryCrossentropy", {"from_logits": True, "label_smoothing": 0.2}, "bits"),
    ("CategoricalCrossentropy", {"label_smoothing": 0.1}, "onehot chances"),
    ("CategoricalCrossentropy", {"from_logits": True}, "onehot"),
    ("SparseCategoricalCrossentropy", {}, "ids chances"),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, "ids"),
    ("SparseCategoricalCrossentropy", {"from_logits": True, "ignore_class": 1}, "ids"),
    ("SparseCategoricalCrossentropy", {"ignore_class": -1}, "void chances"),
]
WEIGHTS = {
    "none": None,
    "rows": np.array([0.5, 2.0, 0.0, 1.5], "float32"),
    "rows, as a column": np.array([[0.5], [2.0], [0.0], [1.5]], "float32"),
    "steps": np.random.default_rng(3).uniform(0, 2, (B, T)).astype("float32"),
}


def data(kind, seed=0, shape=(B, T)):
    rng = np.random.default_rng(seed)
    pred = rng.normal(size=(*shape, D)).astype("float32")
    if "chances" in kind:
        pred = 1 / (1 + np.exp(-pred))
        pred.reshape(-1)[:2] = 0, 1  # where Keras clips
    ids = rng.integers(-1 if "void" in kind else 0, D, shape)
    if kind.startswith("onehot"):
        return np.eye(D, dtype="float32")[ids], pred
    if kind in ("chances", "bits"):
        return rng.integers(0, 2, (*shape, D)).astype("float32"), pred
    return (rng.normal(size=(*shape, D)).astype("float32"), pred) if kind == "numbers" else (ids, pred)


def outputs(pred, mask):
    leaf = torch.tensor(pred, requires_grad=True)
    return leaf, pack(leaf, mask=mask)


def expand(weight, batch=B):
    """Return weights (B, T) for Keras: on torch it fails with (B, 1), and it refuses (B,)."""
    return None if weight is None else torch.from_numpy(np.broadcast_to(weight.reshape(batch, -1), (batch, T)).copy())


# -------------------------------------------------------------------------------------------------------- against Keras


def check_batch(name, arguments, reduction, y, pred, mask, weight):
    """Compare the loss of one batch and its gradient with Keras."""
    theirs = torch.tensor(pred, requires_grad=True)
    # a view of the leaf has the mask, so that the leaf itself stays plain
    keras.src.backend.set_keras_mask(view := theirs * 1.0, torch.from_numpy(mask.copy()))
    expected = getattr(keras.losses, name)(**arguments, reduction=reduction)(
        torch.from_numpy(y).float(), view, expand(weight, len(y))
    )
    leaf, packed = outputs(pred, mask)
    loss = getattr(losses, name)(**arguments, reduction=reduction)(y, packed, weight)
    loss = loss.unpack() if isinstance(loss, Packed) else loss
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(leaf.grad, torch.nan_to_num(theirs.grad), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", None])
@pytest.mark.parametrize(("name", "arguments", "kind"), CASES)
def test_loss_of_one_batch_matches_keras(name, arguments, kind, reduction):
    """One batch has the sequences of all masks, the other has no real step; each with every form of weights."""
    mask = np.concatenate(list(MASKS.values()))
    y, pred = data(kind, shape=mask.shape)
    for weight in WEIGHTS.values():
        check_batch(
            name, arguments, reduction, y, pred, mask, None if weight is None else np.concatenate([weight] * len(MASKS))
        )
        check_batch(name, arguments, reduction, y[:B], pred[:B], MASKS["nothing"], weight)


@pytest.mark.parametrize(("name", "arguments", "kind"), CASES)
def test_loss_of_plain_outputs_matches_keras(name, arguments, kind):
    y, pred = data(kind)
    for reduction in ("sum_over_batch_size", "sum", None):
        for weights in ("none", "rows", "steps"):
            expected = getattr(keras.losses, name)(**arguments, reduction=reduction)(
                torch.from_numpy(y).float(), torch.from_numpy(pred), expand(WEIGHTS[weights])
            )
            loss = getattr(losses, name)(**arguments, reduction=reduction)(y, torch.from_numpy(pred), WEIGHTS[weights])
            torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "arguments", "kind"), CASES)
def test_loss_functions_match_keras(name, arguments, kind):
    y, pred = data(kind)
    snake = getattr(losses, name)().name
    torch.testing.assert_close(
        getattr(losses, snake)(y, pred, **arguments),
        getattr(keras.losses, snake)(torch.from_numpy(y).float(), torch.from_numpy(pred), **arguments),
        rtol=1e-5,
        atol=1e-6,
    )


def test_configs_match_keras():
    for name in sorted({name for name, _, _ in CASES}):
        mine, theirs = getattr(losses, name)().get_config(), getattr(keras.losses, name)().get_config()
        assert {key: mine[key] for key in theirs} == theirs
        assert list(mine)[:2] == ["name", "reduction"]


# ----------------------------------------------------------------------------------------------------------- properties


masks = st.lists(st.lists(st.booleans(), min_size=T, max_size=T), min_size=1, max_size=6).map(np.array)


@settings(max_examples=100, deadline=None)
@given(
    mask=masks,
    cut=st.integers(0, 6),
    case=st.sampled_from(CASES),
    weighted=st.booleans(),
    reduction=st.sampled_from(["sum_over_batch_size", "mean_with_sample_weight", "sum"]),
)
@pytest.mark.slow
def test_weighted_sums_of_a_split_add_up_to_that_of_the_whole(mask, cut, case, weighted, reduction):
    name, arguments, kind = case
    y, pred = data(kind, shape=mask.shape)
    weight = np.random.default_rng(1).uniform(0, 2, mask.shape).astype("float32") if weighted else None
    loss = getattr(losses, name)(**arguments, reduction=reduction)

    def of_rows(rows):
        return loss.weighted_sum(
            y[rows], pack(torch.from_numpy(pred[rows]), mask=mask[rows]), None if weight is None else weight[rows]
        )

    whole, parts = of_rows(slice(None)), sum([of_rows(slice(0, cut)), of_rows(slice(cut, None))])
    torch.testing.assert_close(parts.value, whole.value, rtol=1e-5, atol=1e-6)
    assert float(parts.weight) == pytest.approx(float(whole.weight))


@settings(max_examples=100, deadline=None)
@given(
    mask=masks,
    case=st.sampled_from(CASES),
    poison=st.sampled_from([np.nan, np.inf, -7.0]),
    extra=st.integers(0, 3),
    reduction=st.sampled_from(["sum_over_batch_size", "mean_with_sample_weight", "sum"]),
)
@pytest.mark.slow
def test_content_of_masked_steps_changes_no_bit(mask, case, poison, extra, reduction):
    name, arguments, kind = case
    y, pred = data(kind, shape=mask.shape)
    weight = np.random.default_rng(1).uniform(0, 2, mask.shape).astype("float32")
    loss = getattr(losses, name)(**arguments, reduction=reduction)

    def run(y, pred, weight, mask):
        leaf, packed = outputs(pred, mask)
        value = loss(y, packed, weight)
        value.backward()
        return value.detach().numpy(), leaf.grad.numpy()[mask]

    def bad(array):
        array = np.where(mask.reshape(*mask.shape, *(1,) * (array.ndim - 2)), array, poison).astype("float32")
        return np.concatenate([np.full_like(array[:, :1], poison)] * extra + [array], axis=1)

    clean = run(y.astype("float32"), pred, weight, mask)
    dirty = run(bad(y), bad(pred), bad(weight), np.pad(mask, ((0, 0), (extra, 0))))
    assert clean[0].tobytes() == dirty[0].tobytes() and clean[1].tobytes() == dirty[1].tobytes()


@pytest.mark.parametrize("name", ["mse", "mae", "bce", "categorical_crossentropy", "sparse_categorical_crossentropy"])
def test_loss_and_gradient_without_real_steps_are_zero(name):
    for shape in ((0, T, D), (B, T, D), (B, 0, D)):
        leaf = torch.rand(shape, requires_grad=True)
        loss = get(name)
        y = np.zeros(shape[:2] if name.startswith("sparse") else shape)
        value = loss(y, pack(leaf, mask=np.zeros(shape[:2], bool)), np.ones(shape[:1]))
        value.backward()
        assert value.item() == 0 and leaf.grad.abs().sum() == 0
    plain = torch.rand(0, D, requires_grad=True)
    loss(np.zeros(0), plain).backward() if name.startswith("sparse") else loss(np.zeros((0, D)), plain).backward()
    value = get("mse")([[1.0]], torch.ones(1, 1), [0.0])
    assert value.item() == 0
    assert losses.MeanSquaredError(reduction="mean_with_sample_weight")([[1.0]], torch.ones(1, 1), [0.0]).item() == 0


# --------------------------------------------------------------------------------------------- targets in any container


GAPS = MASKS["gaps"]


def test_targets_may_come_in_any_container():
    y, pred = data("numbers")
    y, pred = y[..., :1], pred[..., :1]
    containers = {
        "numpy": y,
        "tensor": torch.from_numpy(y),
        "Packed": pack(y, mask=GAPS),
        "full Packed": pack(y),
        "list": [list(row[m]) for row, m in zip(y, GAPS, strict=True)],
        "tensors": [torch.from_numpy(row[m]) for row, m in zip(y, GAPS, strict=True)],
        "(B, T)": y[..., 0],
    }
    expected = ((y - pred)[GAPS] ** 2).mean()
    for container, targets in containers.items():
        loss = get("mse")(targets, pack(torch.from_numpy(pred), mask=GAPS))
        assert loss.item() == pytest.approx(expected, rel=1e-6), container


def test_targets_of_rank_b_t_1_fit_outputs_of_rank_b_t():
    y, pred = data("numbers")
    packed = pack(torch.from_numpy(pred[..., 0]), mask=GAPS)
    expected = ((y - pred)[..., 0][GAPS] ** 2).mean()
    assert get("mse")(y[..., :1], packed, np.ones((B, T))).item() == pytest.approx(expected, rel=1e-6)
    assert get("mse")(y[..., 0], packed, np.ones(B)).item() == pytest.approx(expected, rel=1e-6)


def test_plain_outputs_take_the_steps_of_packed_targets():
    y, pred = data("numbers")
    got = get("mae")(pack(y, mask=GAPS), torch.from_numpy(pred))
    assert got.item() == pytest.approx(np.abs(y - pred)[GAPS].mean(), rel=1e-6)


def test_rectangular_lists_are_grids_and_lists_of_the_real_lengths_are_sequences():
    packed = pack(torch.zeros(2, 3, 1), lengths=[2, 2])
    assert get("mse")([[1, 1, 9], [1, 1, 9]], packed).item() == 1
    assert get("mse")([[1, 1], [1, 1]], packed).item() == 1
    assert get("mse")([[1.0], [2.0]], torch.zeros(2, 1)).item() == 2.5


def test_float64_and_half_outputs():
    assert get("mse")(np.ones((1, 2)), torch.zeros(1, 2, dtype=torch.float64)).dtype == torch.float64
    assert get("mse")(np.ones((1, 2)), torch.zeros(1, 2, dtype=torch.bfloat16)).dtype == torch.float32
    assert losses.MeanSquaredError(dtype="float64")([[1.0]], torch.zeros(1, 1)).dtype == torch.float64


def test_outer_levels_take_weights_of_every_level():
    mask = np.random.default_rng(0).random((2, 3, 4)) < 0.6
    y, pred = np.random.default_rng(1).normal(size=(2, 2, 3, 4, 1)).astype("float32")
    packed = pack(torch.from_numpy(pred), mask=mask)
    rng = np.random.default_rng(2)
    for shape in ((2,), (2, 1), (2, 1, 1), (2, 3), (2, 3, 1), (2, 3, 4), (2, 1, 4)):
        weight = rng.uniform(1, 2, shape)
        wide = np.broadcast_to(weight.reshape(*shape, *(1,) * (3 - len(shape))), (2, 3, 4))
        expected = ((y - pred)[..., 0] ** 2 * wide)[mask].sum() / mask.sum()
        assert get("mse")(y, packed, weight).item() == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------------------------------------------ sample weights


def test_a_weight_of_rank_one_belongs_to_sequences_also_where_b_is_t():
    y, pred, mask = np.zeros((3, 3, 1)), torch.ones(3, 3, 1), np.tril(np.ones((3, 3), bool))
    weight = np.array([1.0, 10.0, 100.0])
    for packed in (pack(pred, mask=mask), pack(pred, mask=np.ones((3, 3), bool)), pred):
        steps = mask.sum(1) if isinstance(packed, Packed) and not packed.index.full else np.full(3, 3)
        expected = (weight * steps).sum() / steps.sum()
        assert get("mse")(y, packed, weight).item() == pytest.approx(expected)
        assert get("mse")(y, packed, weight[:, None]).item() == pytest.approx(expected)


def test_a_weight_of_another_shape_is_refused():
    y, pred = data("numbers")
    for weight in (np.ones(T), np.ones((B, T + 1)), np.ones((1, T)), np.ones((T, B)), np.ones((B, T, D)), [[1.0]] * 3):
        for y_pred in (pack(pred, mask=GAPS), pred):
            with pytest.raises(ShapeError, match="sample_weight"):
                get("mse")(y, y_pred, weight)


def test_weights_come_as_sequences_too_and_are_left_as_they_were():
    y, pred = data("numbers")
    weight = torch.rand(B, T)
    before, packed = weight.clone(), pack(pred, mask=GAPS)
    expected = get("mse")(y, packed, weight)
    ragged = [list(map(float, row[m])) for row, m in zip(weight.numpy(), GAPS, strict=True)]
    torch.testing.assert_close(get("mse")(y, packed, ragged), expected)
    torch.testing.assert_close(get("mse")(y, packed, pack(weight, mask=GAPS)), expected)
    torch.testing.assert_close(get("mse")(y, packed, 2.0), 2 * get("mse")(y, packed))
    assert torch.equal(weight, before)


def test_weights_of_single_values():
    def squares(y_true, y_pred):
        return (y_true - y_pred) ** 2

    y, pred = data("numbers")
    weight = np.random.default_rng(5).random((B, T, D)).astype("float32")
    got = get(squares).weighted_sum(y, pack(pred, mask=GAPS), weight)
    assert got.weight == GAPS.sum() * D
    assert got.sum.item() == pytest.approx(((y - pred) ** 2 * weight)[GAPS].sum(), rel=1e-5)


# -------------------------------------------------------------------------------------------------- functions and masks


def test_a_scalar_is_the_value_of_each_real_row():
    y, pred = data("numbers")
    term = get(lambda y_true, y_pred: (y_true - y_pred).abs().mean()).weighted_sum(y, pack(pred, mask=GAPS))
    assert term.weight == GAPS.sum() and term.value.item() == pytest.approx(np.abs(y - pred)[GAPS].mean(), rel=1e-6)


def test_a_function_sees_real_rows_as_floats():
    seen = []

    def look(y_true, y_pred):
        seen.append((y_true.shape, y_true.dtype, y_pred.shape))
        return y_pred.sum(-1)

    get(look)(np.ones((B, T), int), pack(torch.zeros(B, T, 1), mask=GAPS))
    n = int(GAPS.sum())
    assert seen == [((n, 1), torch.float32, (n, 1))]


def test_a_function_with_a_mask_gets_grids_without_padding_content_and_empty_sequences():
    mask = MASKS["empty rows"]

    def per_sequence(y_true, y_pred, mask):
        assert y_true.shape == (2, T, D) and mask.dtype == torch.bool and mask.shape == (2, T)
        return ((y_true - y_pred).square().mean(-1) * mask).sum(1) / mask.sum(1)  # 0 / 0 for an empty row

    y, pred = data("numbers")
    y[~mask] = np.nan
    leaf, packed = outputs(np.where(mask[..., None], pred, np.inf).astype("float32"), mask)
    means = np.array([np.square((y - pred)[b][mask[b]]).mean() if mask[b].any() else 0 for b in range(B)])
    for weight, expected in ((None, means.sum() / 2), (np.array([5.0, 2.0, 5.0, 1.0]), means @ [5, 2, 5, 1] / 2)):
        value = get(per_sequence)(y, packed, weight)
        assert value.item() == pytest.approx(expected, rel=1e-6)
    value.backward()
    assert torch.isfinite(leaf.grad).all()
    none = LossFunctionWrapper(per_sequence, reduction=None)(y, packed)
    np.testing.assert_allclose(none.detach().numpy(), means, rtol=1e-6)
    with pytest.raises(ShapeError, match="sample_weight"):
        get(per_sequence)(y, packed, np.ones((B, T)))
    assert get(per_sequence)(y, pack(pred, mask=MASKS["nothing"])).item() == 0


def test_a_loss_of_whole_sequences_gets_zeros_in_gaps_with_gap_values():
    seen = []

    def per_sequence(y_true, y_pred, mask):
        seen.extend((y_true[~mask], y_pred[~mask]))
        return y_pred.sum((1, 2))

    y, pred = (torch.from_numpy(x) for x in data("numbers"))
    packed = pack(pred, mask=MASKS["gaps"])
    shown = packed.with_values(packed.values, torch.full((packed.index.num_gaps, D), 9.0))
    assert get(per_sequence)(y, shown) == get(per_sequence)(y, packed)
    assert len(seen) == 4 and not any(part.any() for part in seen)


def test_a_sequence_loss_without_a_shared_mask_gets_all_targets():
    class Count(Loss):
        relation, targets_share_mask = "sequence", False

        def call(self, y_true, y_pred, mask):
            return mask.sum(1) - y_true.sum(1)

    labels = np.array([[1, 1, 1, 1, 1]] * B)  # as wide as the grid by chance, not on its steps
    assert Count(reduction="sum")(labels, pack(torch.zeros(B, T, D), mask=GAPS)).item() == GAPS.sum() - 5 * B
    assert Count(reduction="sum")(labels, torch.zeros(B, T, D)).item() == 0


def test_the_shape_of_the_values_of_a_function_is_checked():
    with pytest.raises(ShapeError, match="one value per row"):
        get(lambda y_true, y_pred: y_pred[:2, 0])(np.ones((B, T)), pack(torch.zeros(B, T, 1), mask=GAPS))
    with pytest.raises(ShapeError, match="one value for each"):
        get(lambda y_true, y_pred, mask: y_pred[..., 0])(np.ones((B, T, 1)), pack(torch.zeros(B, T, 1), mask=GAPS))


@pytest.mark.parametrize("fn", ["mse", "function", "object"])
def test_masked_loss_with_and_without_weights_and_mask(fn):
    fn = {"mse": "mse", "function": lambda y_true, y_pred: (y_true - y_pred) ** 2, "object": get("mse")}[fn]
    y, pred = data("numbers")
    squares, weight, loss = (y - pred) ** 2, WEIGHTS["steps"], MaskedLoss(fn)
    expected = {
        (False, False): squares.mean(),
        (True, False): (squares * weight[..., None]).mean(),
        (False, True): squares[GAPS].mean(),
        (True, True): (squares * weight[..., None])[GAPS].mean(),
    }
    for (weighted, hidden), number in expected.items():
        for mask in (GAPS, torch.from_numpy(GAPS), GAPS.tolist(), GAPS.astype("float32")):
            got = loss(y, pred, weight if weighted else None, mask if hidden else None)
            assert got.item() == pytest.approx(number, rel=1e-5)
    right = MASKS["right"]
    assert loss(y, pack(pred, mask=right)).item() == pytest.approx(squares[right].mean(), rel=1e-5)
    for targets in (y, pack(y, mask=right)):
        both = loss(targets, pack(pred, mask=right), mask=GAPS)
        assert both.item() == pytest.approx(squares[right & GAPS].mean(), rel=1e-5)
    with pytest.raises(MaskError, match=r"\(4, 4\)"):
        loss(y, pred, mask=GAPS[:, :4])


# -------------------------------------------------------------------------------------------------------- torch modules


@pytest.mark.parametrize("module", ["MSELoss", "L1Loss", "BCEWithLogitsLoss", "SmoothL1Loss"])
def test_torch_modules_of_numbers(module):
    y, pred = data("bits")
    module = getattr(torch.nn, module)(reduction="none")
    expected = module(torch.from_numpy(pred), torch.from_numpy(y))[torch.from_numpy(GAPS)].mean()
    torch.testing.assert_close(get(module)(y.astype(int), pack(pred, mask=GAPS)), expected)


def test_torch_modules_of_classes():
    ids, pred = data("ids")
    module = torch.nn.CrossEntropyLoss(reduction="none", ignore_index=2)
    rows, mask = torch.from_numpy(pred[GAPS]), torch.from_numpy(ids[GAPS])
    expected = torch.nn.functional.cross_entropy(rows, mask, ignore_index=2)
    for y in (ids, ids[..., None], ids.astype("float32")):
        torch.testing.assert_close(get(module)(y, pack(pred, mask=GAPS)), expected)
    torch.testing.assert_close(
        get(torch.nn.CrossEntropyLoss(reduction="none"))(np.eye(D)[ids], pack(pred, mask=GAPS)),
        torch.nn.functional.cross_entropy(rows, torch.eye(D)[mask]),
    )
    torch.testing.assert_close(
        get(torch.nn.CrossEntropyLoss(reduction="none"))(ids, pred),
        get("sparse_categorical_crossentropy").__class__(from_logits=True)(ids, pred),
    )
    with pytest.raises(DataError, match="holds [345]"):
        get(module)(ids + 3, pack(pred, mask=GAPS))


def test_torch_losses_that_average_are_refused():
    with pytest.raises(ArgumentError, match=r"reduction='mean'.*MSELoss\(reduction='none'\)"):
        get(torch.nn.MSELoss())
    with pytest.raises(ArgumentError, match="other way round"):
        get(torch.nn.functional.mse_loss)


# ---------------------------------------------------------------------------------------------------------- invalid data


@pytest.mark.parametrize("from_logits", [True, False])
def test_an_invalid_class_id_is_an_error_at_real_steps_only(from_logits):
    loss = losses.SparseCategoricalCrossentropy(from_logits)
    for value, text in [(3, "3"), (-1, "-1"), (-100, "-100"), (1.5, "1.5"), (np.nan, "nan")]:
        ids, pred = data("ids chances")
        ids = ids.astype("float32")
        expected = loss(ids, pack(pred, mask=GAPS))
        ids[~GAPS] = value
        assert torch.equal(loss(ids, pack(pred, mask=GAPS)), expected)
        ids[0, 0] = value
        with pytest.raises(DataError, match=f"holds {text}"):
            loss(ids, pack(pred, mask=GAPS))
        with pytest.raises(DataError, match=f"holds {text}"):
            losses.sparse_categorical_crossentropy(ids, pred, from_logits)


def test_no_class_id_is_ignored_where_ids_are_not_checked():
    """On an accelerator only the kernels of torch check the ids; by default they would ignore -100."""
    for from_logits in (True, False):
        with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
            crossentropy_of_checked_ids(torch.tensor([-100]), torch.ones(1, D), from_logits, None, -1)


def test_targets_of_other_lengths_are_refused_with_the_row():
    packed = pack(torch.zeros(2, 4, 1), lengths=[2, 3])
    with pytest.raises(ShapeError, match="row 1: length 4 against 3"):
        get("mse")([[1, 1], [1, 1, 1, 1]], packed)
    with pytest.raises(ShapeError, match="row 1: length no such row against 3"):
        get("mse")([[1, 1]], packed)
    with pytest.raises(ShapeError, match="row 0: length 3 against 2"):  # on the same grid, but of other lengths
        get("mse")(pack(np.zeros((2, 4)), lengths=[3, 3]), packed)
    with pytest.raises(ShapeError, match=r"\(2, 5, 1\).*\(2, 4\)"):
        get("mse")(np.zeros((2, 5, 1)), packed)
    with pytest.raises(ShapeError, match="3 examples, the outputs 2"):
        get("mse")(np.zeros((3, 1)), torch.zeros(2, 1))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("mse", (B, T, 2), "same shape"),
        ("bce", (B, T, 1), "same shape"),
        ("categorical_crossentropy", (B, T), "use sparse_categorical_crossentropy"),
        ("sparse_categorical_crossentropy", (B, T, D), "use categorical_crossentropy"),
    ],
)
def test_targets_of_other_features_are_not_broadcast(name, shape, message):
    with pytest.raises(ShapeError, match=message):
        get(name)(np.zeros(shape), pack(torch.ones(B, T, D), mask=GAPS))


def test_an_axis_other_than_a_feature_axis_is_refused():
    loss = losses.CategoricalCrossentropy(axis=-2)
    with pytest.raises(ArgumentError, match="axis=-2"):
        loss(np.ones((B, T, D)), pack(torch.ones(B, T, D), mask=GAPS))
    assert loss(np.ones((B, T, D)), torch.ones(B, T, D)).isfinite()


def test_loss_functions_refuse_packed_outputs():
    with pytest.raises(MaskLost, match="as an object"):
        losses.mean_squared_error(np.zeros((B, T, D)), pack(torch.zeros(B, T, D), mask=GAPS))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: get("msee"), "Did you mean 'mse'"),
        (lambda: get(3), "3 is not a loss"),
        (lambda: get(None), "None is not a loss"),
        (lambda: losses.MeanSquaredError(reduction="avg"), "Unknown reduction 'avg'"),
        (lambda: losses.MeanSquaredError(dtype="float33"), "float33"),
        (lambda: losses.BinaryCrossentropy(label_smoothing=2), "label_smoothing"),
        (lambda: losses.MeanSquaredError(reduction="none").weighted_sum([[1.0]], torch.ones(1, 1)), "no total to train on"),
    ],
)
def test_invalid_arguments_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


# ---------------------------------------------------------------------------------------------------- names and configs


@pytest.mark.parametrize(("name", "arguments", "kind"), CASES)
def test_a_loss_is_restored_from_its_config(name, arguments, kind):
    loss = getattr(losses, name)(**arguments, reduction="sum", name="mine")
    again = saving.deserialize(saving.serialize(loss), "loss")
    assert type(again) is type(loss) and again.get_config() == loss.get_config()
    assert get({"class_name": name, "config": loss.get_config()}).get_config() == loss.get_config()
    y, pred = data(kind)
    assert torch.equal(again(y, pack(pred, mask=GAPS)), loss(y, pack(pred, mask=GAPS)))


@register("loss")
def quantile(y_true, y_pred, q=0.5):
    return torch.maximum(q * (y_true - y_pred), (q - 1) * (y_true - y_pred)).mean(-1)


def test_functions_have_configs_by_name():
    loss = LossFunctionWrapper(quantile, q=0.9)
    again = saving.deserialize(saving.serialize(loss), "loss")
    y, pred = data("numbers")
    assert (
        again.get_config()
        == loss.get_config()
        == {"name": "quantile", "reduction": "sum_over_batch_size", "fn": "quantile", "q": 0.9}
    )
    assert torch.equal(again(y, pred), loss(y, pred)) and not torch.equal(loss(y, pred), get("quantile")(y, pred))
    wrapped = LossFunctionWrapper(losses.mean_squared_error)
    assert saving.deserialize(saving.serialize(wrapped), "loss").fn is losses.mean_squared_error
    with pytest.raises(ArgumentError, match="cannot be saved"):
        saving.serialize(get(torch.nn.MSELoss(reduction="none")))


def test_all_identifiers_of_mse_mean_the_same_loss():
    module = torch.nn.MSELoss(reduction="none")
    ways = [
        "mse",
        "MSE",
        "mean_squared_error",
        "MeanSquaredError",
        losses.MeanSquaredError,
        losses.MeanSquaredError(),
        losses.mean_squared_error,
        module,
    ]
    y, pred = data("numbers")
    assert {round(get(way)(y, pack(pred, mask=GAPS)).item(), 5) for way in ways} == {
        round(float(((y - pred) ** 2)[GAPS].mean()), 5)
    }
    assert all(type(get(way)) is losses.MeanSquaredError for way in ways[:-1]) and type(get(module)) is TorchLoss


def test_weighted_sums_of_reduction_sum_are_added_without_division():
    a, b = (WeightedSum(torch.tensor(2.0), 1.0, adds_weights=False) for _ in range(2))
    assert (a + b).value.item() == 4 and sum([a, b, a]).value.item() == 6
