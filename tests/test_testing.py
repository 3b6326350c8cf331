"""Checks of user-defined layers: a violation is found, and reported with its property and the smallest mask."""

import random

import numpy as np
import pytest
import torch

from padless import Sequential, losses
from padless import layers as L
from padless.errors import ArgumentError
from padless.ragged.packed import Packed, unpack
from padless.testing import (
    PropertyViolation,
    check_layer,
    check_loss,
    check_metric,
    ids,
    labels,
    layer_properties,
    random_masks,
    special_masks,
)
from padless.testing.check import shrink_mask


class Leak(L.Layer):
    """It says `stepwise`, but its steps depend on one another."""

    stepwise = True

    def call(self, inputs):
        return inputs - inputs.mean(1, keepdim=True)


class Grid(L.Layer):
    """It computes on the padded grid and does not use the mask."""

    def call(self, inputs, mask=None):
        return inputs.sum(1) / max(inputs.shape[1], 1)

    def compute_mask(self, inputs, mask=None):
        return None


class Softmax(L.Layer):
    """It computes on the padded grid and uses the mask."""

    def call(self, inputs, mask=None):
        if mask is not None:
            inputs = torch.where(mask[..., None], inputs.unpack(), -1e30)
        return torch.softmax(inputs, 1)

    def compute_mask(self, inputs, mask=None):
        return mask


class Forgetful(L.Layer):
    """Its config lacks an argument."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        return inputs * self.factor

    def get_config(self):
        return {"name": self.name}


class BatchStatistics(L.Layer):
    """Its outputs depend on the other sequences of the batch, as declared."""

    known_violations = {"matches_unpadded": "statistics of the batch", "independent_of_batch": "statistics of the batch"}
    relation = "stepwise"

    def call(self, inputs):
        values = inputs.values if isinstance(inputs, Packed) else inputs
        mean = values.mean() if values.numel() else 0.0
        return inputs - mean


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "start", "example"),
    [
        (Leak(name="leak"), "matches_unpadded: Leak 'leak'", "[[1], [1]]"),
        (Grid(), "matches_unpadded: ", "[[1, 0]]"),
        (Forgetful(2.0), "round_trip: ", "[[1]]"),
    ],
)
def test_a_violation_is_reported_with_the_smallest_mask(layer, start, example):
    with pytest.raises(PropertyViolation) as violation:
        check_layer(layer, (2,))
    assert str(violation.value).startswith(start)
    assert f"Smallest mask: {example}." in str(violation.value) or start.startswith("round_trip")


# ------------------------------------------------------------------------------------------------ wrong layers


def values(x):
    return x.values if isinstance(x, Packed) else x


def replace_values(x, new):
    return x.with_values(new) if isinstance(x, Packed) else new


def mean(x):
    return L.GlobalAveragePooling1D()(x)


def steps_of(x):
    return x.sequences() if isinstance(x, Packed) else list(x)


def columns(x):
    return (
        x.index.tensor("positions", x.device)[:, None] if isinstance(x, Packed) else torch.arange(x.shape[1])[None, :, None]
    )


class Counting(L.Layer):
    """Each call gives more than the one before."""

    relation = "stepwise"
    calls = 0

    def call(self, inputs):
        self.calls += 1
        return inputs * self.calls


class MaskedSum(L.Layer):
    """A sum over real steps that multiplies padding by 0: NaN times 0 is NaN, also in a gradient."""

    def __init__(self, apply_mask, kernel_first=True, **kwargs):
        super().__init__(**kwargs)
        self.apply_mask = apply_mask
        self.kernel_first = kernel_first

    def build(self, shape):
        self.add_weight((shape[-1], 2), name="kernel")

    def call(self, inputs, mask=None):
        x = unpack(inputs) @ self.kernel if self.kernel_first else unpack(inputs)
        x = (x if mask is None else self.apply_mask(mask[..., None], x)).sum(1)
        return x if self.kernel_first else x @ self.kernel

    def compute_mask(self, inputs, mask=None):
        return None


class Detached(L.Layer):
    """Its weight gets no gradient."""

    relation = "stepwise"

    def build(self, shape):
        self.add_weight((shape[-1],), name="scale")

    def call(self, inputs):
        return inputs * self.scale.detach()


class WrongConfig(L.Layer):
    """Its config has another size than the layer."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.add_weight((shape[-1], self.units), name="kernel")

    def call(self, inputs):
        return inputs @ self.kernel

    def get_config(self):
        return {"name": self.name, "units": 3}


class Penalized(L.Layer):
    """Adds a loss that padding makes smaller."""

    def call(self, inputs, mask=None):
        self.add_loss(unpack(inputs).square().sum() / max(inputs.shape[0] * inputs.shape[1], 1))
        return inputs

    def compute_mask(self, inputs, mask=None):
        return mask


class WrongMask(L.Layer):
    """Attention whose mask is that of the wrong input."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = L.Attention()

    def call(self, inputs, mask=None):
        return unpack(self.attention(inputs))

    def compute_mask(self, inputs, mask=None):
        return None if mask is None else mask[1]


class ColumnsInGaps(L.Layer):
    """Its gap values are the columns at which gaps begin."""

    relation = "stepwise"

    def call(self, inputs):
        if not isinstance(inputs, Packed):
            return inputs
        begin = inputs.index.tensor("first_cell_of_gap", inputs.device).to(inputs.dtype)
        return inputs.with_values(inputs.values, begin[:, None].expand(-1, inputs.shape[-1]))


def change_in_place(inputs):
    with torch.no_grad():
        values(inputs).mul_(2)
    return inputs


def layer(relation, call, mask=True, shape=None, **body):
    """Return a layer class of one function; with `mask` False it removes the mask, `shape` is its compute_output_shape."""
    if not mask:
        body["compute_mask"] = lambda self, inputs, mask=None: None
    if shape is not None:
        body["compute_output_shape"] = lambda self, input_shape: shape(input_shape)
    return type("Wrong", (L.Layer,), {"relation": relation, "call": lambda self, inputs: call(inputs), **body})


def layer_with_mask(call, compute_mask):
    """Return a layer class of a function that takes the mask, and its compute_mask."""
    return type(
        "Wrong",
        (L.Layer,),
        {
            "call": lambda self, inputs, mask=None: call(inputs, mask),
            "compute_mask": lambda self, inputs, mask=None: compute_mask(mask),
        },
    )


WRONG = {
    "statistics of the batch": (
        layer("stepwise", lambda x: x - (values(x).mean() if values(x).numel() else 0)),
        "matches_unpadded",
        "independent_of_batch",
    ),
    "the step before, also of another sequence": (
        type("Wrong", (L.Layer,), {"stepwise": True, "call": lambda self, inputs: torch.cumsum(inputs, 1)}),
        "matches_unpadded",
        "independent_of_batch",
    ),
    "the column": (
        layer("stepwise", lambda x: replace_values(x, values(x) + columns(x))),
        "matches_unpadded",
        "ignores_padding",
    ),
    "the width of the grid": (layer("stepwise", lambda x: x * x.shape[1]), "matches_unpadded", "ignores_padding"),
    "the number of sequences": (
        layer("reduce", lambda x: mean(x) * x.shape[0], False),
        "matches_unpadded",
        "independent_of_batch",
    ),
    "the number of the row": (
        layer("reduce", lambda x: mean(x) + torch.arange(x.shape[0])[:, None], False),
        "matches_unpadded",
        "independent_of_batch",
    ),
    "all sequences in one": (layer("reduce", lambda x: unpack(x).sum((0, 1))[None], False), "matches_unpadded", ""),
    "the mask ignored": (
        layer("reduce", lambda x: unpack(x).sum(1) / max(x.shape[1], 1), False),
        "matches_unpadded",
        "ignores_padding",
    ),
    "only right padding": (layer("reduce", lambda x: unpack(x)[:, :1].sum(1), False), "matches_unpadded", "ignores_padding"),
    "the gap values": (layer_with_mask(lambda x, mask: unpack(x).sum(1), lambda mask: None), "ignores_padding", ""),
    "NaN times 0": (lambda: MaskedSum(torch.mul, kernel_first=False), "ignores_padding", ""),
    "NaN times 0 in a gradient": (lambda: MaskedSum(lambda mask, x: torch.where(mask, x, 0)), "ignores_padding", ""),
    "another number each time": (layer("stepwise", lambda x: x * random.random()), "deterministic", "matches_unpadded"),
    "another number each call": (Counting, "deterministic", "matches_unpadded"),
    "inputs changed in place": (layer("stepwise", change_in_place), "deterministic", ""),
    "gap values changed in place": (
        layer("stepwise", lambda x: x if getattr(x, "gap_values", None) is None or x.gap_values.zero_() is None else x),
        "deterministic",
        "",
    ),
    "another mask than its outputs have": (
        layer_with_mask(lambda x, mask: x * 1, lambda mask: None if mask is None else mask.roll(1, 1)),
        "matches_unpadded",
        "ignores_padding",
    ),
    "compute_mask without a mask": (layer("stepwise", lambda x: x, False), "matches_unpadded", ""),
    "another shape than compute_output_shape": (
        layer("reduce", mean, False, lambda input_shape: tuple(input_shape)),
        "matches_unpadded",
        "",
    ),
    "a wrong gradient": (layer("stepwise", lambda x: x + (x * x - x).detach()), "gradients", ""),
    "a weight without a gradient": (Detached, "gradients", ""),
    "an empty sequence is NaN": (
        layer("reduce", lambda x: torch.stack([s.mean(0) for s in steps_of(x)]), False),
        "matches_unpadded",
        "",
    ),
    "an empty sequence is an error": (
        layer("reduce", lambda x: torch.stack([s.amax(0) for s in steps_of(x)]), False),
        "deterministic",
        "matches_unpadded",
    ),
    "an added loss that depends on the width": (Penalized, "matches_unpadded", "ignores_padding"),
    "gap values that depend on columns": (ColumnsInGaps, "ignores_padding", ""),
    "a config of another size": (lambda: WrongConfig(2), "round_trip", ""),
    "no config": (lambda: MaskedSum(torch.mul, kernel_first=False, name="no_config"), "ignores_padding", "round_trip"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_layer_is_found_with_the_violated_properties(fault):
    make, property_name, other = WRONG[fault]
    with pytest.raises(PropertyViolation) as violation:
        check_layer(make, (2,), num_masks=3)
    first, _, others = str(violation.value).partition("It also violates: ")
    assert first.startswith(f"{property_name}: ") and other in others, violation.value
    assert "Smallest mask: [[" in first


@pytest.mark.slow
def test_a_mask_of_the_wrong_input_is_found_with_separate_masks():
    check_layer(WrongMask(), [(2,), (2,)], num_masks=1)  # with one mask for both the error has no effect
    with pytest.raises(PropertyViolation, match=r"matches_unpadded: .*Smallest masks: \[\[\[0\]\], \[\[1\]\]\]"):
        check_layer(WrongMask(), [(2,), (2,)], separate_masks=True, num_masks=1)
    check_layer(L.Attention(), [(2,), (2,)], separate_masks=True, num_masks=1)


def test_gradients_at_masked_steps_are_found():
    reads = layer_with_mask(lambda x, mask: unpack(x).sum(1), lambda mask: None)
    with pytest.raises(PropertyViolation, match=r"matches_unpadded: .*Smallest mask: \[\[0\]\]") as violation:
        check_layer(Sequential([L.Embedding(5, 2, mask_zero=True), reads()]), ids(5), creates_mask=True, num_masks=1)
    assert "ignores_padding" in str(violation.value)


def test_each_side_is_padded_by_one_and_three_columns_in_each_form():
    for forms in (("packed", "mask"), ("mask_created",)):
        variants = list(layer_properties.padding_variants(*forms))
        for form in forms:
            assert {(1, 0), (3, 0), (0, 1), (0, 3)} <= {(left, right) for left, right, f, *_ in variants if f == form}
        assert {str(number) for *_, number, _ in variants} == set(map(str, layer_properties.PADDING_NUMBERS))


@pytest.mark.slow
def test_a_layer_that_uses_the_mask_of_the_grid_passes():
    check_layer(Softmax(), (2,))


@pytest.mark.slow
def test_a_layer_with_known_violations_passes():
    check_layer(BatchStatistics(), (2,))
    with pytest.raises(PropertyViolation, match="matches_unpadded"):
        check_layer(type("Silent", (BatchStatistics,), {"known_violations": {}})(), (2,))


def test_a_known_violation_needs_a_property_and_a_reason():
    with pytest.raises(ArgumentError, match="reason"):
        check_layer(L.Dense(2), known_violations={"matches_unpadded": ""})
    with pytest.raises(ArgumentError, match="Did you mean 'matches_unpadded'"):
        check_layer(L.Dense(2), known_violations={"matches_unpaded": "no"})


@pytest.mark.slow
def test_a_check_does_not_change_the_layer():
    layer = L.Dense(2)
    before = layer(torch.ones(1, 2, 3))
    check_layer(layer, num_masks=1)
    assert layer(torch.ones(1, 2, 3)).equal(before)
    assert layer.kernel.dtype == torch.float32


def test_a_check_does_not_change_the_random_state():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    check_layer(L.Dropout(0.5), num_masks=1)
    assert torch.rand(3).equal(expected)


class MeanOverWidth(losses.Loss):
    """A loss that divides by the width of the grid."""

    def call(self, y_true, y_pred, mask):
        return ((y_true - y_pred).square().sum(-1) * mask).sum(-1) / mask.shape[1]


@pytest.mark.slow
def test_losses_and_metrics_are_checked():
    check_loss("mse", num_masks=1)
    check_metric(lambda y_true, y_pred: (y_true - y_pred).abs().mean(-1), num_masks=1)
    with pytest.raises(PropertyViolation, match="matches_unpadded"):
        check_loss(MeanOverWidth())


def test_labels_are_class_ids():
    assert set(labels(3)(torch.Generator().manual_seed(0), (4, 50)).unique().tolist()) == {0, 1, 2}


def test_special_masks_have_empty_sequences_single_steps_and_both_paddings():
    masks = special_masks().values()
    steps = {int(mask.sum()) for mask in masks}
    assert {0, 1} <= steps
    assert any(mask.shape[1] == 1 for mask in masks) and any(mask.shape[1] == 0 for mask in masks)
    assert any(mask.any() and not mask.any(1).all() for mask in masks)  # an empty row and others
    for name, first in (("right", True), ("left", False)):
        lengths = special_masks()[name].sum(1)
        width = special_masks()[name].shape[1]
        assert (
            special_masks()[name] == [[(t < n) if first else (t >= width - n) for t in range(width)] for n in lengths]
        ).all()
    assert len(list(random_masks(5))) == 5


def test_shrinking_returns_a_smallest_mask():
    def check(mask):
        if mask.any(1).sum() > 1:
            raise PropertyViolation("two rows")

    mask, _ = shrink_mask(check, special_masks()["gaps"], PropertyViolation("two rows"))
    assert mask.astype(int).tolist() == [[1], [1]]
    assert isinstance(mask, np.ndarray)
