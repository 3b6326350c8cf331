"""Slices of time act on the span of each sequence, whatever the padding, its side, and the other sequences."""

import numpy as np
import pytest
import torch

import padless
from padless import Index, Input, Model, Packed, layers, pack
from padless.errors import ArgumentError, MaskError, MaskLost, ShapeError
from padless.ragged.call_context import call_context

RIGHT, LEFT, GAPS = (
    np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]], bool),
    np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]], bool),
    np.array([[0, 1, 0, 1, 0], [1, 0, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 0, 0, 1]], bool),
)


def random_slice(rng):
    """Return a slice with bounds from the same end, or with one or no bound."""
    while True:
        start, stop = (None if rng.random() < 0.3 else int(rng.integers(-9, 10)) for _ in range(2))
        if start is None or stop is None or start >= 0 or stop < 0:
            return slice(start, stop, rng.choice([None, 1, 2, 3]))


def random_mask(rng, width):
    """Return a mask with gaps, or without, of which the first sequence is empty in some."""
    mask = rng.random((rng.integers(1, 4), width)) < rng.choice([0.3, 0.7, 1.0])
    mask[0] &= rng.random() < 0.8
    return mask


def span_of(mask):
    """Return the slice from the first to the last real step of a row."""
    steps = np.flatnonzero(mask)
    return slice(steps[0], steps[-1] + 1) if len(steps) else slice(0)


def place(mask, key):
    """Return the row of the mask of a sliced sequence, as DESIGN says: span, width and first column."""
    span, width = span_of(mask), len(range(len(mask))[key])
    cells = mask[span][key]
    begin = min((span.start or 0) // (key.step or 1), width - len(cells))
    row = np.zeros(width, bool)
    row[begin : begin + len(cells)] = cells
    return row


def test_a_slice_of_time_equals_that_of_each_span():
    rng = np.random.default_rng(0)
    for _ in range(600):
        mask, key = random_mask(rng, rng.integers(0, 8)), random_slice(rng)
        grid = torch.tensor(rng.normal(size=(*mask.shape, 2)), requires_grad=True)
        part = pack(grid, mask)[:, key]
        spans = [grid[row, span_of(m)][key][m[span_of(m)][key]] for row, m in enumerate(mask)]
        assert part.shape == (len(mask), len(range(mask.shape[1])[key]), 2)
        np.testing.assert_array_equal(part.index.mask, np.stack([place(m, key) for m in mask]))
        assert torch.equal(part.values, torch.cat(spans))
        weight = torch.arange(1.0, part.values.numel() + 1, dtype=torch.float64).reshape(part.values.shape)
        (found,) = torch.autograd.grad((part.values * weight).sum(), grid, retain_graph=True)
        (expected,) = torch.autograd.grad((torch.cat(spans) * weight).sum(), grid)
        assert torch.equal(found, expected)


def test_padding_and_other_sequences_do_not_change_a_slice():
    rng = np.random.default_rng(1)
    for _ in range(300):
        mask, key = random_mask(rng, 6), random_slice(rng)
        numbers = torch.tensor(rng.normal(size=mask.shape))
        expected = pack(numbers, mask)[:, key].sequences()
        before, after = rng.integers(0, 4, 2)
        poison = torch.full((1, before + 6 + after), torch.nan)
        wide, wide_mask = poison.repeat(len(mask), 1).double(), np.zeros((len(mask), poison.shape[1]), bool)
        wide[:, before : before + 6], wide_mask[:, before : before + 6] = numbers, mask
        wide = torch.cat([wide, torch.zeros_like(poison).double()])
        part = pack(wide, np.concatenate([wide_mask, np.ones((1, poison.shape[1]), bool)]))[:, key]
        assert all(torch.equal(a, b) for a, b in zip(part.sequences(), expected, strict=False))


def test_a_slice_shows_the_gap_values_of_its_cells():
    h = pack(torch.tensor([[9.0, 1, 9, 2, 9, 9]]), mask=[[0, 1, 0, 1, 0, 0]])
    h = h.with_values(h.values, torch.tensor([5.0, 6.0, 7.0]))
    assert h.numpy().tolist() == [[5, 1, 6, 2, 7, 7]]
    assert h[:, 1:].numpy().tolist() == [[0, 0, 2, 7, 7]]  # a gap that joins two gaps shows 0
    assert h[:, 2:].numpy().tolist() == [[5, 2, 7, 7]]
    assert h[:, :1].numpy().tolist() == [[1]]
    assert h[:, ::2].numpy().tolist() == [[1, 2, 7]]
    assert h[:, :-1].numpy().tolist() == [[5, 1, 0, 0, 0]]


@pytest.mark.parametrize("mask", [RIGHT, LEFT, GAPS])
@pytest.mark.parametrize(("key", "cropping"), [(np.s_[:, 1:], (1, 0)), (np.s_[:, :-2], (0, 2)), (np.s_[:, 1:-1], (1, 1))])
def test_a_slice_from_both_ends_is_a_cropping(mask, key, cropping):
    h = pack(torch.randn(4, 5, 3), mask)
    part, cropped = h[key], layers.Cropping1D(cropping)(h)
    assert torch.equal(part.values, cropped.values)
    if part.index.num_steps:
        np.testing.assert_array_equal(part.index.lengths, cropped.index.lengths)


def test_slices_of_sentences_and_words():
    mask = np.array([[[0, 0, 0], [1, 1, 0], [0, 1, 1]], [[1, 0, 1], [0, 0, 0], [0, 0, 0]]], bool)
    words = torch.arange(18.0).reshape(2, 3, 3)
    h = pack(words, mask)
    assert h[:, 1:].values.tolist() == [7, 8] and h[:, 1:].shape == (2, 2, 3)
    assert h[:, :, 1:].values.tolist() == [4, 8, 11] and h[:, :, 1:].shape == (2, 3, 2)
    assert h[:, :1, :-1].values.tolist() == [3, 9] and h[:, :1].index.outer.lengths.tolist() == [1, 1]
    assert h[1:, :, :2].values.tolist() == [9]
    documents = [h[row : row + 1, :, 1:].values for row in range(2)]
    assert torch.equal(torch.cat(documents), h[:, :, 1:].values)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (np.s_[:, 0], r"FirstStep\(\)\(x\)"), (np.s_[:, -1], r"LastStep\(\)\(x\)"),
        (np.s_[:, 2], r"FirstStep\(\)\(x\[:, 2:\]\)"), (np.s_[:, -3, :1], r"LastStep\(\)\(x\[:, :-2\]\)"),
        (np.s_[:, ::-1], "go_backwards"), (np.s_[:, 3:0:-2], "Bidirectional"), (np.s_[:, -3:2], "same end"),
        (np.s_[0], "sequences"),
    ],
)  # fmt: skip
def test_integers_and_negative_steps_name_the_layer(key, words):
    h = pack(torch.randn(4, 5, 3), RIGHT)
    e = layers.Embedding(9, 3, mask_zero=True)(Input((5,)))
    for x in (h, e):
        with pytest.raises(MaskLost, match=words):
            x[key]


def test_a_slice_with_step_zero_is_refused():
    with pytest.raises(ArgumentError, match="step 0"):
        pack(torch.randn(4, 5, 3), RIGHT)[:, ::0]


# ---------------------------------------------------------------------------------------------------- without masked steps


def test_a_result_without_masked_steps_is_read_as_a_tensor():
    x = torch.randn(2, 3, 4, requires_grad=True)
    h = pack(x, np.ones((2, 3), bool))
    assert torch.equal(h[0], x[0]) and torch.equal(h[:, -1], x[:, -1]) and torch.equal(h[1, 2], x[1, 2])
    (gradient,) = torch.autograd.grad(h[:, -1].sum(), x)
    assert gradient[:, -1].eq(1).all() and not gradient[:, :-1].any()


def test_inside_a_call_single_steps_are_refused_even_without_masked_steps():
    class Last(Model):
        def call(self, x):
            return x[:, -1]

    with pytest.raises(MaskLost, match="LastStep"):
        Last()(pack(np.ones((2, 3, 4), np.float32)))


# ---------------------------------------------------------------------------------------------------- what follows a slice

FOLLOWING = {
    "conv": layers.Conv1D(4, 2, strides=2),
    "same": layers.Conv1D(4, 3, padding="same"),
    "causal": layers.Conv1D(4, 3, padding="causal"),
    "pool": layers.AveragePooling1D(2),
    "lstm": layers.LSTM(4, return_sequences=True),
    "both ways": layers.Bidirectional(layers.GRU(4, return_sequences=True)),
    "last": layers.LSTM(4),
    "mean": layers.GlobalAveragePooling1D(),
    "up": layers.UpSampling1D(2),
    "positions": layers.PositionEmbedding(20),
    "norm": layers.LayerNormalization(),
}


@pytest.mark.parametrize("name", FOLLOWING)
@pytest.mark.parametrize("key", [np.s_[:, 1:], np.s_[:, :-1], np.s_[:, ::2], np.s_[:, -3:], np.s_[:, 1:4:2]])
def test_a_layer_after_a_slice_sees_each_sequence_alone(name, key):
    layer, ids = FOLLOWING[name], np.random.default_rng(3).integers(1, 9, (4, 5))
    embed = layers.Embedding(9, 4, mask_zero=True)
    x = Input((None,))
    model = Model(x, layer(embed(x)[key]))
    for mask in (RIGHT, LEFT, GAPS):
        result = model(ids * mask)
        for row, m in enumerate(mask):
            alone = (ids * mask)[row, span_of(m)][None]
            if not alone.shape[1]:
                continue
            expected = model(alone)
            if isinstance(result, Packed):
                torch.testing.assert_close(result.sequences()[row], expected.values, rtol=1e-5, atol=1e-6)
            else:
                torch.testing.assert_close(result[row], expected[0], rtol=1e-5, atol=1e-6)


def test_causal_attention_after_a_slice_sees_the_steps_before():
    h = pack(torch.randn(4, 5, 3), LEFT)
    layer = layers.MultiHeadAttention(1, 3)
    part = h[:, 1:]
    result = layer(part, part, use_causal_mask=True)
    for row, length in enumerate(part.index.lengths):
        alone = part[row : row + 1]
        expected = layer(pack(alone.values[None]), pack(alone.values[None]), use_causal_mask=True) if length else alone
        torch.testing.assert_close(result.sequences()[row], expected.values, atol=1e-6, rtol=1e-5)


def test_symbols_have_the_shape_of_the_slice():
    x = Input((None,))
    e = layers.Embedding(9, 3, mask_zero=True)(x)
    assert e[:, 1:].shape == (None, None, 3) and e[:, :4].shape == (None, 4, 3) and e[:, ::2].shape == (None, None, 3)
    fixed = layers.Embedding(9, 3, mask_zero=True)(Input((7,)))
    assert fixed[:, 1:].shape == (None, 6, 3) and fixed[:, ::2].shape == (None, 4, 3) and fixed[:, :-1].masked
    model = Model(x, e[:, :-1])
    assert model(np.array([[1, 2, 3, 0], [4, 0, 0, 0]])).lengths.tolist() == [2, 0]
    assert [row.shape for row in model.predict([[1, 2, 3], [4]], verbose=0)] == [(2, 3), (0, 3)]


# ---------------------------------------------------------------------------------------------------- plain tensors


def test_a_plain_tensor_and_a_slice_are_combined_where_columns_and_steps_agree():
    y = torch.arange(20.0).reshape(4, 5)
    for mask, keys in (
        (RIGHT, [np.s_[:, 1:], np.s_[:, :-1], np.s_[:, :3], np.s_[:, ::2]]),
        (LEFT, [np.s_[:, 1:], np.s_[:, :-1]]),
    ):
        for key in keys:
            part = pack(y, mask)[key]
            assert torch.equal((part * 0 + y[key]).values, part.values), key
            assert torch.equal(pack(y[key], like=part).values, part.values)
    for mask, key in ((RIGHT, np.s_[:, -2:]), (LEFT, np.s_[:, :3]), (LEFT, np.s_[:, ::3]), (GAPS, np.s_[:, :-1])):
        part, plain = pack(y, mask)[key], y[key]
        for use in (
            lambda p, q: p + q, lambda p, q: torch.cat([p[..., None], q[..., None]], -1), lambda p, q: pack(q, like=p),
            lambda p, q: layers.Add()([p, q]), lambda p, q: padless.losses.MeanSquaredError()(q[..., None], p[..., None]),
            lambda p, q: padless.losses.MeanSquaredError()(p[..., None], p[..., None], sample_weight=q),
            lambda p, q: layers.Dense(2)(p[..., None]) + q[..., None],
        ):  # fmt: skip
            with pytest.raises(MaskError, match=r"(?s)cut by columns.*Pack the whole array"):
                use(part, plain)
        assert torch.equal((part + pack(y, mask)[key]).values, 2 * part.values)
        assert torch.equal(pack(part.unpack(), mask=part.mask).values, part.values)


def test_windows_and_unions_remember_that_a_slice_moved_steps():
    part = pack(torch.randn(4, 5, 3), LEFT)[:, :4]
    after = [
        layers.AveragePooling1D(2)(part),
        layers.UpSampling1D(2)(part),
        layers.ZeroPadding1D(1)(part),
        part[:2],
        layers.Concatenate(axis=1)([part, part]),
        layers.Add()([part, pack(torch.ones(4, 4, 3), RIGHT[:, :4])]),
    ]
    for h in after:
        with pytest.raises(MaskError, match="cut by columns"):
            h + torch.ones(h.shape)


# ------------------------------------------------------------------------------------------------ operands without a batch


@pytest.mark.parametrize("mask", [RIGHT, LEFT, GAPS])
def test_an_operand_without_a_batch_counts_steps(mask):
    h, positions = pack(torch.zeros(4, 5), mask), torch.arange(5.0)
    for row, steps in enumerate((h + positions).sequences()):
        alone = pack(torch.zeros(1, 5)[:, span_of(mask[row])], mask[row : row + 1, span_of(mask[row])])
        assert torch.equal(steps, (alone + positions[: alone.shape[1]]).values)
    assert torch.equal((h + positions[None]).values, (h + positions).values)
    assert torch.equal((positions * h.long()).values, (h.long() * positions).values)


def test_a_batch_of_one_with_an_operand_of_one_row_is_not_guessed():
    h = pack(torch.zeros(1, 3, 2), [[0, 1, 1]])
    assert (h + torch.tensor([[1.0], [2], [3]])).values[:, 0].tolist() == [1, 2]
    with pytest.raises(MaskError, match=r"(?s)batch of one.*x \+ positions.*like=x"):
        h + torch.ones(1, 3, 1)
    assert (layers.Add()([h, torch.tensor([[[1.0], [2], [3]]])])).values[:, 0].tolist() == [2, 3]  # inputs have a batch
    right = pack(torch.zeros(1, 3, 2), [[1, 1, 0]])
    assert (right + torch.tensor([[[1.0], [2], [3]]])).values[:, 0].tolist() == [1, 2]


# ---------------------------------------------------------------------------------------------------- layers on the grid


def test_a_layer_on_the_grid_slices_columns():
    h = pack(torch.arange(10.0).reshape(2, 5), [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    with call_context("a layer that reads the grid", may_use_grid=True):
        same = h[:, 1:]
        other = h[:, :-1]
        backwards = h[:, ::-1]
    assert isinstance(same, Packed) and same.values.tolist() == [1, 2, 6, 7, 8, 9]
    assert isinstance(other, torch.Tensor) and torch.equal(other, h.unpack()[:, :-1])
    assert isinstance(backwards, torch.Tensor) and torch.equal(backwards, h.unpack().flip(1))


# ------------------------------------------------------------------------------------------------ losses of the next step


def next_step_loss_alone(logits, ids, mask):
    """Return the mean loss of each real step for the next real step, sequence by sequence."""
    losses = []
    for row, m in enumerate(mask):
        steps = np.flatnonzero(m)
        for now, following in zip(steps[:-1], steps[1:], strict=True):
            losses.append(torch.nn.functional.cross_entropy(logits[row, now], ids[row, following]))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("mask", [RIGHT, LEFT, GAPS])
def test_the_loss_of_shifted_slices_pairs_consecutive_real_steps(mask):
    loss = padless.losses.SparseCategoricalCrossentropy(from_logits=True)
    grid, ids = torch.randn(4, 5, 7, requires_grad=True), torch.randint(0, 7, (4, 5))
    expected = next_step_loss_alone(grid, ids, mask)
    (expected_gradient,) = torch.autograd.grad(expected, grid)
    logits, packed_ids = pack(grid, mask), pack(ids, mask)
    found = loss(packed_ids[:, 1:], logits[:, :-1])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, grid)[0], expected_gradient)
    if mask is GAPS:
        with pytest.raises(MaskError, match="cut by columns"):
            loss(ids[:, 1:], logits[:, :-1])
    else:
        torch.testing.assert_close(loss(ids[:, 1:], logits[:, :-1]), expected)
    with pytest.raises((ShapeError, MaskError)):
        loss(packed_ids[:, 1:], logits[:, :4])  # a row keeps its last step and has no next one


@pytest.mark.parametrize("mask", [RIGHT, LEFT, GAPS])
def test_fit_of_a_sliced_output_learns_no_padding(mask):
    ids = np.random.default_rng(0).integers(1, 7, (4, 5)) * mask
    x = Input((None,))
    model = Model(x, layers.Dense(7)(layers.Embedding(7, 4, mask_zero=True)(x)[:, :-1]))
    model.compile(padless.optimizers.SGD(0.0), padless.losses.SparseCategoricalCrossentropy(from_logits=True))
    logits = model.layers[-1](model.layers[1](ids)).unpack()
    expected = next_step_loss_alone(logits, torch.from_numpy(ids), mask).item()
    targets = [row[row > 0][1:] for row in ids]
    assert model.evaluate(ids, targets, verbose=0) == pytest.approx(expected, rel=1e-5)
    assert model.fit(ids, targets, batch_size=1, verbose=0).history["loss"][0] == pytest.approx(expected, rel=1e-5)
    if mask is GAPS:
        weights = model.get_weights()
        with pytest.raises(MaskError, match="cut by columns"):
            model.fit(ids, ids[:, 1:], verbose=0)
        assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    else:
        assert model.evaluate(ids, ids[:, 1:], verbose=0) == pytest.approx(expected, rel=1e-5)


def test_an_index_says_whether_columns_agree():
    h = pack(torch.zeros(4, 5), LEFT)
    assert h.index.columns_agree and h[:, 1:].index.columns_agree and not h[:, :2].index.columns_agree
    assert h[:, :99] is h and not h[:, :2][:, :99].index.columns_agree
    assert Index(LEFT).columns_agree


# ---------------------------------------------------------------------------------------------------- whole sequences

MOVES = {
    "index_select": lambda x: torch.index_select(x, 0, torch.tensor([3, 0, 3])),
    "by name": lambda x: x.index_select(dim=0, index=torch.tensor([1])),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 0),
    "repeats": lambda x: torch.repeat_interleave(x, torch.tensor([0, 2, 1, 1]), dim=0),
    "split": lambda x: torch.split(x, 3),
    "sections": lambda x: x.split([1, 3], dim=-x.ndim),
    "chunk": lambda x: x.chunk(3),
    "tensor_split": lambda x: torch.tensor_split(x, (1, 2)),
    "flip": lambda x: x.flip(0),
    "flip list": lambda x: torch.flip(x, [0]),
    "roll": lambda x: torch.roll(x, 1, 0),
    "narrow": lambda x: x.narrow(0, 1, 2),
    "cat": lambda x: torch.cat([x, x.sin()]),
    "cat by name": lambda x: torch.cat(tensors=(x.sin(), x[1:3], x), dim=-x.ndim),
    "concat": lambda x: torch.concat([x], axis=0),
}


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("mask", [RIGHT, GAPS])
def test_whole_sequences_are_moved_with_their_mask(name, mask):
    grid = torch.randn(4, 5, 3)
    h = pack(grid, mask)
    h = Packed(h.values, h.index, torch.randn(h.index.num_gaps, 3))
    results, grids, masks = (
        MOVES[name](x) for x in (h, h.unpack(), torch.from_numpy(mask)[..., None].expand(4, 5, 3).double())
    )
    results, grids, masks = (list(x) if isinstance(x, tuple | list) else [x] for x in (results, grids, masks))
    for result, expected, marks in zip(results, grids, masks, strict=True):
        assert isinstance(result, Packed) and torch.equal(result.mask, marks[..., 0] != 0)
        assert torch.equal(result.unpack(), expected)


def test_joined_batches_may_have_different_masks_but_all_have_one():
    first, second = pack(torch.ones(2, 3), [[1, 1, 0], [1, 0, 0]]), pack(torch.zeros(1, 3), [[0, 0, 1]])
    assert torch.cat([first, second]).mask.tolist() == [[True, True, False], [True, False, False], [False, False, True]]
    with pytest.raises(MaskLost, match=r"pack\(tensor, mask\)"):
        torch.cat([first, torch.ones(1, 3)])
    with pytest.raises(ShapeError, match="all axes but the first"):
        torch.cat([first, second[:, :2]])


def test_moves_along_time_are_refused():
    h = pack(torch.randn(4, 5, 3), RIGHT)
    for move in (
        lambda x: x.flip(1),
        lambda x: x.split(2, 1),
        lambda x: torch.roll(x, 1, 1),
        lambda x: torch.cat([x, x], 1),
        lambda x: x.repeat_interleave(2),
        lambda x: x.index_select(1, torch.tensor([0])),
        lambda x: x.flip(0, 1),
    ):
        with pytest.raises(MaskLost):
            move(h)
    assert torch.equal(h.narrow(1, 1, 3).values, h[:, 1:4].values)
    with pytest.raises(ShapeError, match="5 columns"):
        h.narrow(1, 3, 3)


def test_features_are_selected_repeated_and_rolled():
    h = pack(torch.randn(4, 5, 3), RIGHT)
    for function in (lambda x: x.index_select(-1, torch.tensor([2, 0])), lambda x: x.repeat_interleave(2, -1),
                     lambda x: torch.roll(x, 1, -1), lambda x: x.narrow(2, 1, 2), lambda x: x.flip(-1)):  # fmt: skip
        assert torch.equal(function(h).values, function(h.unpack())[torch.from_numpy(RIGHT)])


def test_symbols_are_moved_with_their_mask():
    e = layers.Embedding(9, 3, mask_zero=True)(Input((None,)))
    both = torch.cat([e, e * 2])
    assert both.masked and both.shape == (None, None, 3)
    assert torch.flip(e, [0]).masked and e.repeat_interleave(2, 0).masked


# ---------------------------------------------------------------------------------------------------- sums of products

PRODUCTS = {
    "btd,de->bte": (4, 5),
    "btd,ed->bte": (5, 4),
    "btd,d->bt": (4,),
    "btd,bd->bt": (4, 4),
    "btd,btd->bt": (4, 5, 4),
    "btd,b->btd": (4,),
    "...d,de->...e": (4, 5),
    "abd,de": (4, 5),
    "btd,bsd->bts": (4, 2, 4),
    "btd,btd->btd": (4, 5, 4),
    "b t d , d e -> b t e": (4, 5),
    "btd,def->btfe": (4, 2, 3),
}


@pytest.mark.parametrize("equation", PRODUCTS)
@pytest.mark.parametrize("mask", [RIGHT, GAPS])
def test_einsum_of_single_steps_keeps_the_mask(equation, mask):
    grid, other = torch.randn(4, 5, 4, requires_grad=True), torch.randn(*PRODUCTS[equation], requires_grad=True)
    h, real = pack(grid, mask), torch.from_numpy(mask)
    result, expected = torch.einsum(equation, h, other), torch.einsum(equation, grid, other)[real]
    assert isinstance(result, Packed) and tuple(result.shape) == tuple(torch.einsum(equation, grid, other).shape)
    torch.testing.assert_close(result.values, expected)
    for found, wanted in zip(
        torch.autograd.grad(result.values.sum(), [grid, other]),
        torch.autograd.grad(expected.sum(), [grid, other]),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)


def test_einsum_of_several_packed_and_of_positions():
    grid = torch.randn(4, 5, 4)
    h, real = pack(grid, LEFT), torch.from_numpy(LEFT)
    torch.testing.assert_close(torch.einsum("btd,btd->bt", h, h.sin()).values, (grid * grid.sin()).sum(-1)[real])
    torch.testing.assert_close(torch.einsum("bt,btd->btd", h[..., 0], h).values, (grid[..., :1] * grid)[real])
    torch.testing.assert_close(torch.einsum("td,btd->bt", torch.ones(5, 4), h).values, grid.sum(-1)[real])
    positions = torch.arange(5.0)
    torch.testing.assert_close(torch.einsum("btd,t->btd", h, positions).values, (h * positions[:, None]).values)


@pytest.mark.parametrize(
    "equation", ["btd,de->be", "btd,de->tbe", "btd,de", "btd,tde->bde", "btd->bd", "btd->", "bbd,de->bde"]
)
def test_einsum_that_mixes_steps_is_refused(equation):
    h = pack(torch.randn(4, 5, 5), RIGHT)
    operands = [torch.randn(5, 5), torch.randn(4, 5, 5), torch.randn(5, 5, 5)] if "," in equation else []
    other = [x for x in operands if x.ndim == len(equation.split("->")[0].split(",")[1])][:1] if operands else []
    with pytest.raises(MaskLost):
        torch.einsum(equation, h, *other)


def test_tensordot_of_features_keeps_the_mask():
    grid, real = torch.randn(4, 5, 3, 4), torch.from_numpy(GAPS)
    h = pack(grid, GAPS)
    for dims, shape in ((1, (4, 2)), (2, (3, 4, 2)), (([2], [1]), (5, 3)), (([-1, 2], [0, 1]), (4, 3))):
        other = torch.randn(shape)
        torch.testing.assert_close(torch.tensordot(h, other, dims).values, torch.tensordot(grid, other, dims)[real])
    for dims in (3, ([1], [0]), ([0], [0])):
        with pytest.raises(MaskLost):
            torch.tensordot(h, torch.randn(5, 3, 4), dims)
    with pytest.raises(MaskLost, match="right"):
        torch.tensordot(torch.randn(2, 4), h, ([1], [3]))


# ---------------------------------------------------------------------------------------------------- the next step


def test_pairs_of_consecutive_real_steps():
    for ids, mask in (
        ([[5, 6, 7], [8], []], None), (np.array([[5, 6, 7], [8, 0, 0], [0, 0, 0]]), None),
        (np.array([[5, 0, 6, 7], [0, 0, 0, 8], [0, 0, 0, 0]]), None), (pack([[5, 6, 7], [8], []]), None),
        (torch.tensor([[9, 5, 6, 7], [8, 1, 1, 1], [1, 1, 1, 1]]), [[0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]),
    ):  # fmt: skip
        inputs, targets = padless.utils.next_step_pairs(ids, mask)
        assert [row.tolist() for row in inputs] == [[5, 6], [], []]
        assert [row.tolist() for row in targets] == [[6, 7], [], []]
    assert padless.utils.next_step_pairs([[3, 0, 2]], mask_zero=False)[1][0].tolist() == [0, 2]
    assert padless.utils.next_step_pairs(np.ones((1, 3, 2)))[0][0].shape == (2, 2)


def test_fit_of_pairs_learns_no_padding():
    ids = np.random.default_rng(0).integers(1, 7, (4, 5)) * GAPS
    model = padless.Sequential([layers.Embedding(7, 4, mask_zero=True), layers.Dense(7)])
    model.compile("sgd", padless.losses.SparseCategoricalCrossentropy(from_logits=True))
    expected = next_step_loss_alone(model(ids).unpack(), torch.from_numpy(ids), GAPS).item()
    assert model.evaluate(*padless.utils.next_step_pairs(ids), verbose=0) == pytest.approx(expected, rel=1e-5)
