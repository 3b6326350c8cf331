"""The properties of every public layer, loss, metric and model of the registry."""

import functools

import numpy as np
import pytest
import torch
from cases import ABSTRACT, LAYERS, LOSSES, METRICS, MODELS, VALUE_METRICS, Leaky
from hypothesis import given, settings
from hypothesis import strategies as st

from padless import layers as L
from padless.graph.symbolic import leaves
from padless.layers.base.mask_rule import call_spec_of
from padless.models import Model
from padless.ragged.packed import pack
from padless.registry import entries
from padless.testing import check, layer_properties, model_properties, normal, special_masks
from padless.testing.harness import LayerHarness
from padless.testing.loss_properties import ObjectiveHarness
from padless.testing.model_properties import TrainingHarness

MASKS = special_masks()
TINY = ["no columns", "no step", "one step", "T = 1"]
MIXED = np.array([[int(c) for c in row] for row in ("00000", "11000", "10110", "00011", "01100", "11111")], dtype=bool)
MATRIX_MASKS = {**{name: MASKS[name] for name in TINY}, "mixed": MIXED}  # small, for every case
CASES = {case.name: case for case in (*LAYERS, *MODELS)}


@functools.cache
def harness_of(name):
    """Return the harness of a case, which is created once."""
    return CASES[name].harness()


def cases_with(property_name):
    """Return the cases that must have a property."""
    return [case for case in CASES.values() if property_name not in case.known_violations]


@st.composite
def masks(draw):
    """Draw a mask of up to 5 rows and 7 columns, one of four times a special one."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(list(MASKS.values())))
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    cells = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    return np.array(cells, dtype=bool).reshape(rows, columns)


# ------------------------------------------------------------------------------------------------ complete cases


def test_every_public_layer_has_a_case():
    public = {cls.__name__ for cls in entries("layer").values() if cls.__module__.startswith("padless.")}
    assert public - ABSTRACT == {case.layer for case in CASES.values()}


def test_every_class_with_a_call_declares_its_relation():
    for cls in entries("layer").values():
        if cls.__module__.startswith("padless."):
            assert call_spec_of(cls).relation == cls.relation, f"{cls.__name__} defines `call` without a relation"


def test_every_public_loss_and_metric_has_a_case():
    for kind, cases in (("loss", LOSSES), ("metric", METRICS)):
        public = {obj.__name__ for obj in entries(kind).values() if obj.__module__.startswith("padless.")}
        assert public - VALUE_METRICS - {"TorchLoss"} == {case.layer for case in cases} - {"TorchLoss"}


def test_known_violations_have_reasons():
    for case in CASES.values():
        check.checked_properties(check.LAYER_PROPERTIES, case.known_violations)
        assert "round_trip" not in case.known_violations


# ------------------------------------------------------------------------------------------------ layers


def check_masks(names, check_property, case):
    """Check a property with some of the masks; an error has the name of the mask."""
    for name in names:
        try:
            check_property(harness_of(case.name), MATRIX_MASKS[name])
        except Exception as error:
            error.add_note(f"with the mask {name!r}")
            raise


@pytest.mark.slow
@pytest.mark.parametrize("case", cases_with("matches_unpadded"), ids=lambda c: c.name)
def test_matches_unpadded(case):
    check_masks(MATRIX_MASKS, layer_properties.matches_unpadded, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases_with("gradients"), ids=lambda c: c.name)
def test_gradients(case):
    check_masks(["no step", "mixed"], layer_properties.gradients, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases_with("ignores_padding"), ids=lambda c: c.name)
def test_ignores_padding(case):
    check_masks(["no step", "one step", "mixed"], layer_properties.ignores_padding, case)  # the second is N = 1 and T = 1


@pytest.mark.slow
@pytest.mark.parametrize("case", cases_with("deterministic"), ids=lambda c: c.name)
def test_deterministic(case):
    check_masks(["no step", "mixed"], layer_properties.deterministic, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases_with("independent_of_batch"), ids=lambda c: c.name)
def test_independent_of_batch(case):
    layer_properties.independent_of_batch(harness_of(case.name), MIXED)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=lambda c: c.name)
def test_round_trip(case):
    layer_properties.round_trip(harness_of(case.name), MIXED)


@pytest.mark.slow
@given(st.sampled_from(cases_with("matches_unpadded")), masks(), st.integers(0, 99))
@settings(max_examples=100)
def test_matches_unpadded_of_any_layer_with_any_mask(case, mask, seed):
    layer_properties.matches_unpadded(harness_of(case.name), mask, seed)


@pytest.mark.slow
@given(st.sampled_from(cases_with("ignores_padding")), masks(), st.integers(0, 99))
@settings(max_examples=100)
def test_ignores_padding_of_any_layer_with_any_mask(case, mask, seed):
    layer_properties.ignores_padding(harness_of(case.name), mask, seed)


@pytest.mark.slow
@given(st.sampled_from(cases_with("independent_of_batch")), masks(), st.integers(0, 99))
@settings(max_examples=100)
def test_independent_of_batch_of_any_layer_with_any_mask(case, mask, seed):
    layer_properties.independent_of_batch(harness_of(case.name), mask, seed)


@pytest.mark.slow
@given(st.sampled_from(list(CASES.values())), masks(), st.integers(0, 99))
@settings(max_examples=100)
def test_round_trip_of_any_layer_with_any_mask(case, mask, seed):
    layer_properties.round_trip(harness_of(case.name), mask, seed)


@pytest.mark.parametrize("name", ["LSTM-states", "GRU-states", "SimpleRNN-backwards-sequences", "Dense", "Add"])
def test_ignores_padding_in_single_precision(name):
    case = next(case for case in LAYERS if case.name == name)
    single = LayerHarness.from_layer(case.make, case.inputs, dtype=torch.float32, **case.options)
    layer_properties.ignores_padding(single, MIXED)
    layer_properties.matches_unpadded(single, MIXED)


# ------------------------------------------------------------------------------------------------ merging different masks

MERGES = {
    "Add": lambda x: sum(x),
    "Multiply": lambda x: torch.stack(x).prod(0),
    "Average": lambda x: torch.stack(x).mean(0),
    "Maximum": lambda x: torch.stack(x).amax(0),
    "Minimum": lambda x: torch.stack(x).amin(0),
}


def merged(layer, present):
    """Return the merge of one step; None stands for an input without the step."""
    if isinstance(layer, L.Subtract | L.Concatenate):
        full = [torch.zeros_like(next(p for p in present if p is not None)) if x is None else x for x in present]
        return full[0] - full[1] if isinstance(layer, L.Subtract) else torch.cat(full, -1)
    return MERGES[type(layer).__name__]([x for x in present if x is not None])


@pytest.mark.slow
@given(st.sampled_from([*MERGES, "Subtract", "Concatenate"]), st.data(), st.integers(0, 99))
@settings(max_examples=100)
def test_a_merge_uses_the_inputs_that_have_the_step(name, data, seed):
    count = 2 if name == "Subtract" else 3
    first = data.draw(masks())
    grids = [first, *(np.random.default_rng(seed + n).random(first.shape) < 0.6 for n in range(1, count))]
    layer = getattr(L, name)()
    values = [torch.randn(*first.shape, 3, dtype=torch.float64) for _ in grids]
    output = layer([pack(v, m) for v, m in zip(values, grids, strict=True)])
    union = np.logical_or.reduce(grids)
    assert np.array_equal(output.index.mask, union)
    said = layer.compute_mask(values, [torch.from_numpy(m) for m in grids])
    assert np.array_equal(np.asarray(said), union)
    for row, column, value in zip(output.index.rows, output.index.positions, output.values, strict=True):
        present = [v[row, column] if m[row, column] else None for v, m in zip(values, grids, strict=True)]
        torch.testing.assert_close(value, merged(layer, present))


@pytest.mark.slow
@given(st.sampled_from([*MERGES, "Subtract", "Concatenate"]), masks(), st.integers(0, 99))
@settings(max_examples=40)
def test_merges_of_different_masks_have_the_properties(name, mask, seed):
    case = next(case for case in LAYERS if case.name == name)
    grids = [mask, *(np.random.default_rng(seed + n).random(mask.shape) < 0.6 for n in range(1, len(case.inputs)))]
    layer_properties.ignores_padding(harness_of(case.name), grids, seed)
    layer_properties.independent_of_batch(harness_of(case.name), grids, seed)


# ------------------------------------------------------------------------------------------------ gap values


def pack_with_gap_values(mask, features=3, seed=1):
    """Return packed random numbers with random gap values."""
    generator = torch.Generator().manual_seed(seed)
    packed = pack(torch.randn(*mask.shape, features, generator=generator), mask)
    return packed.with_values(packed.values, torch.randn(packed.index.num_gaps, features, generator=generator))


@given(masks())
@settings(max_examples=30)
def test_stepwise_layers_compute_gap_values_from_gap_values(mask):
    h = pack_with_gap_values(mask)
    for layer in (
        L.Dense(2),
        L.LayerNormalization(),
        L.Activation("softmax"),
        L.TimeDistributed(L.Dense(2)),
        L.Dropout(0.5),
        L.Reshape((-1, 3, 1)),
    ):
        torch.testing.assert_close(layer(h).unpack(), layer(h.unpack()))
    torch.testing.assert_close(L.Add()([h, h]).unpack(), 2 * h.unpack())
    torch.testing.assert_close(L.Concatenate()([h, h]).unpack(), torch.cat([h.unpack()] * 2, -1))


@given(masks(), st.booleans())
@settings(max_examples=30)
def test_gap_values_of_recurrent_layers_are_the_output_before_the_gap(mask, backwards):
    h = pack_with_gap_values(mask)
    output = L.GRU(2, return_sequences=True, go_backwards=backwards)(h)
    grid, real = output.unpack(), output.mask
    for row in range(mask.shape[0]):
        before = torch.zeros(2)
        for step in range(mask.shape[1]):
            if not real[row, step]:
                assert torch.equal(grid[row, step], before)
            before = grid[row, step]
    both = L.Bidirectional(L.GRU(2, return_sequences=True))(h)
    assert not both.unpack()[~both.mask].any()


# ------------------------------------------------------------------------------------------------ empty sequences


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("cls", [L.SimpleRNN, L.GRU, L.LSTM])
def test_output_of_an_empty_sequence_is_zero_and_its_state_the_initial_state(cls, backwards):
    mask = np.array([[0, 0, 0], [1, 0, 1], [0, 0, 0]], dtype=bool)
    given = [torch.randn(3, 2) for _ in range(2 if cls is L.LSTM else 1)]
    for rows in ([0, 1, 2], [0, 2]):
        first = [state[rows] for state in given]
        layer = cls(2, return_state=True, go_backwards=backwards)
        output, *states = layer(pack(torch.randn(len(rows), 3, 4), mask[rows]), initial_state=first)
        empty = [number for number, row in enumerate(rows) if row != 1]
        assert not output[empty].any()
        assert all(torch.equal(state[empty], begin[empty]) for state, begin in zip(states, first, strict=True))


@pytest.mark.slow
@given(masks(), st.sampled_from(["SimpleRNN", "GRU", "LSTM", "user cell", "stacked"]))
@settings(max_examples=30)
def test_go_backwards_equals_reversed_steps(mask, kind):
    cells = {"user cell": lambda: Leaky(2), "stacked": lambda: [L.LSTMCell(2), L.GRUCell(4)]}
    more = {"return_sequences": True, "return_state": True}
    forward = getattr(L, kind)(2, **more) if hasattr(L, kind) else L.RNN(cells[kind](), **more)
    x = torch.randn(*mask.shape, 3)
    output, *states = forward(pack(x.flip(1), mask[:, ::-1]))
    rnn = L.RNN(forward.cell, go_backwards=True, **more)
    back, *ended = rnn(pack(x, mask))
    assert torch.equal(back.values, output.values) and np.array_equal(back.index.mask, output.index.mask)
    for mine, theirs in zip(leaves(ended), leaves(states), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("layer", [L.GlobalAveragePooling1D(), L.FirstStep(), L.LastStep()])
def test_a_summary_of_an_empty_sequence_is_zero(layer):
    assert not layer(pack(torch.ones(2, 3, 4), lengths=[0, 0])).any()


# ------------------------------------------------------------------------------------------------ two levels


@pytest.mark.slow
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=25)
def test_time_distributed_runs_each_sentence_alone(batch, sentences, words, seed):
    random = np.random.default_rng(seed)
    mask = random.random((batch, sentences, words)) < 0.5
    x = torch.randn(batch, sentences, words, 3)
    for layer in (L.TimeDistributed(L.LSTM(2)), L.TimeDistributed(L.GRU(2, return_sequences=True))):
        output = layer(pack(x, mask))
        noise = torch.where(torch.from_numpy(mask)[..., None], x, float("nan"))
        assert torch.equal(layer(pack(noise, mask)).values, output.values)
        alone = [
            layer.layer(x[b, s][torch.from_numpy(mask[b, s])][None])[0]
            for b in range(batch)
            for s in range(sentences)
            if mask[b, s].any()
        ]
        expected = torch.stack(alone) if alone and alone[0].ndim == 1 else torch.cat(alone) if alone else None
        if expected is not None:
            torch.testing.assert_close(output.values, expected)
        assert np.array_equal(output.index.mask, mask if output.num_step_axes == 3 else mask.any(-1))


# ------------------------------------------------------------------------------------------------ losses and metrics

SCORED = [
    (case, ObjectiveHarness(case.make, case.outputs, case.targets, kind))
    for case in (*LOSSES, *METRICS)
    for kind in case.weights
]


def check_objective(name, case, harness, mask, seed=0):
    """Check a property unless it is a known violation; an error has the name of the case and the mask."""
    if name not in case.known_violations:
        try:
            check.OBJECTIVE_PROPERTIES[name](harness, mask, seed)
        except Exception as error:
            error.add_note(f"case {case.name!r}, mask {mask.astype(int).tolist()}")
            raise


@pytest.mark.slow
@pytest.mark.parametrize("name", check.OBJECTIVE_PROPERTIES)
def test_properties_of_every_loss_and_metric(name):
    for number, (case, harness) in enumerate(SCORED):
        if number % 3 == 0 or case.layer == "MeanSquaredError":  # each form of weights in some cases
            check_objective(name, case, harness, MIXED)
    for case, harness in SCORED[::5]:
        for mask in TINY:
            check_objective(name, case, harness, MASKS[mask])


@pytest.mark.slow
@pytest.mark.parametrize("name", check.OBJECTIVE_PROPERTIES)
def test_properties_of_any_loss_and_metric_with_any_mask(name):
    @given(st.sampled_from(SCORED), masks(), st.integers(0, 99))
    @settings(max_examples=200)
    def run(scored, mask, seed):
        check_objective(name, *scored, mask, seed)

    run()


# ------------------------------------------------------------------------------------------------ models


def training_harness(case):
    """Return a harness that trains a model, or its first output if it has two."""
    harness = harness_of(case.name)
    layer = harness.layer if case.name == "Sequential" else Model(harness.layer.input, harness.layer.output[0])
    return TrainingHarness(LayerHarness(layer, harness.inputs, harness.creates_mask), (normal(2),), "mse", ["mae", "mse"])


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["no step", "T = 1", "mixed"])
@pytest.mark.parametrize("case", MODELS, ids=lambda c: c.name)
def test_properties_of_models_in_training(case, mask):
    model_properties.training_ignores_padding(training_harness(case), MATRIX_MASKS[mask])
    model_properties.model_independent_of_split(training_harness(case), MATRIX_MASKS[mask])
    model_properties.model_round_trip(harness_of(case.name), MATRIX_MASKS[mask])


@pytest.mark.slow
@given(st.sampled_from(MODELS), masks(), st.integers(0, 99))
@settings(max_examples=30)
def test_training_loss_does_not_depend_on_the_split(case, mask, seed):
    model_properties.model_independent_of_split(training_harness(case), mask, seed)


# ------------------------------------------------------------------------------------------------ the core


@given(masks(), st.integers(0, 2))
def test_unpack_undoes_pack_on_the_mask(mask, features):
    x = torch.randn(*mask.shape, *(2, 3)[:features], requires_grad=True)
    packed = pack(x, mask)
    real = torch.from_numpy(mask)
    assert torch.equal(packed.unpack()[real], x[real])
    assert not packed.unpack()[~real].any()
    assert torch.equal(packed.mask, real)
    packed.unpack().sum().backward()
    assert torch.equal(x.grad[real], torch.ones_like(x)[real])
    assert not x.grad[~real].any()


@given(masks())
def test_index_has_the_steps_and_gaps_of_the_mask(mask):
    packed = pack(np.arange(mask.size).reshape(mask.shape), mask)
    index = packed.index
    assert [part.tolist() for part in packed.sequences()] == [
        [mask.shape[1] * b + t for t in range(mask.shape[1]) if mask[b, t]] for b in range(mask.shape[0])
    ]
    gaps = [
        (b, t) for b in range(mask.shape[0]) for t in range(mask.shape[1]) if not mask[b, t] and (t == 0 or mask[b, t - 1])
    ]
    assert [divmod(cell, max(mask.shape[1], 1)) for cell in index.first_cell_of_gap.tolist()] == gaps
    before = [-1 if t == 0 else int(mask.reshape(-1)[: b * mask.shape[1] + t].sum()) - 1 for b, t in gaps]
    assert index.step_before_gap.tolist() == before
    order = index.time_major_order(torch.device("cpu"))
    assert order.to_packed[order.to_time_major].tolist() == list(range(index.num_steps))
    assert order.inverse_rows[order.rows].tolist() == list(range(mask.shape[0]))
