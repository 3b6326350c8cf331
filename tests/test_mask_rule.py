"""The mask rule: what a user-defined layer receives, what it may do, and which mask its result has."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import padless
from padless import Input, Model, Packed, layers, pack
from padless.errors import ArgumentError, MaskError, MaskLost, ShapeError
from padless.layers import LSTM, Dense, Embedding, Layer, LayerNormalization

IDS = torch.tensor([[1, 2, 0, 3], [0, 4, 1, 0], [0, 0, 0, 0]])
MASK = IDS != 0
OTHER = [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def embedded(ids=IDS, seed=0):
    """Return embedded ids of 3 sequences: one with a gap, one with padding on both sides, an empty one."""
    torch.manual_seed(seed)
    return Embedding(5, 6, mask_zero=True, name="words")(ids)


def grid(x):
    return padless.unpack(x).detach()


def close(a, b):
    torch.testing.assert_close(grid(a), grid(b))


def alone(function, x):
    """Return the results of a layer on one sequence at a time, without padding, concatenated along the steps."""
    return torch.cat([function(sequence[None])[0] for sequence in x.sequences() if len(sequence)])


# ---------------------------------------------------------------------------------------------------- user-defined layers


def test_a_layer_that_splits_its_input_in_time():
    class Halves(Layer):
        def call(self, inputs):
            return torch.split(inputs, 2, dim=1)

        def compute_mask(self, inputs, mask=None):
            return None if mask is None else torch.split(torch.as_tensor(mask), 2, dim=1)

    h = embedded()
    first, second = Halves()(h)
    assert isinstance(first, Packed) and torch.equal(first.mask, MASK[:, :2]) and torch.equal(second.mask, MASK[:, 2:])
    assert torch.equal(first.values, h.unpack()[:, :2][MASK[:, :2]])
    assert not isinstance(Halves()(h.unpack())[0], Packed)
    x = Input((4,))
    model = Model(x, [LSTM(2)(part) for part in Halves()(Embedding(5, 4, mask_zero=True)(x))])
    assert all(node.masked for node in model.layers[2].output) and model(IDS)[1].shape == (3, 2)


def test_a_layer_that_makes_a_mask_from_ids():
    class Words(Layer):
        def build(self, shape):
            self.table = self.add_weight((5, 4), name="table")

        def call(self, inputs):
            return F.embedding(inputs, self.table)

        def compute_mask(self, inputs, mask=None):
            return inputs != 0

    words = Words()
    out = words(IDS)
    assert torch.equal(out.mask, MASK) and torch.equal(out.values, words.table[IDS[MASK]])
    narrowed = words(pack(IDS, mask=IDS < 4))  # on ids that are masked already
    assert torch.equal(narrowed.mask, MASK & (IDS < 4))
    assert Words()(Input((None,), dtype="int64")).masked


def test_compute_mask_can_narrow_and_end_a_mask():
    class Drop(Layer):
        def call(self, inputs):
            return inputs

        def compute_mask(self, inputs, mask=None):
            return torch.as_tensor(mask) & (torch.arange(mask.shape[1]) > 1)

    class End(Layer):
        def call(self, inputs):
            return inputs * 1

        def compute_mask(self, inputs, mask=None):
            return None

    h = embedded()
    assert torch.equal(Drop()(h).mask, MASK & (torch.arange(4) > 1))
    assert torch.equal(End()(h), h.unpack())

    class Wrong(Drop):
        def compute_mask(self, inputs, mask=None):
            return self.given

    for wrong in (torch.ones(3, 5), torch.full((3, 4), 2)):
        layer = Wrong()
        layer.given = wrong
        with pytest.raises(MaskError, match="compute_mask of layer 'wrong"):
            layer(h)


def test_compute_mask_returns_masks_for_a_list_or_dictionary_of_outputs():
    class Both(Layer):
        def call(self, inputs):
            return {"whole": inputs, "sum": inputs.sum(1), "nested": [inputs * 2, inputs * 3]}

        def compute_mask(self, inputs, mask=None):
            return {"whole": mask, "nested": None} if self.named else [mask, None, None, mask]

    h = embedded()
    both = Both()
    both.named = False
    out = both(h)
    assert isinstance(out["whole"], Packed) and isinstance(out["nested"][1], Packed)
    assert not isinstance(out["sum"], Packed) and not isinstance(out["nested"][0], Packed)

    class Few(Both):
        def compute_mask(self, inputs, mask=None):
            return [mask, mask]

    with pytest.raises(MaskError, match="2 masks for 4 outputs"):
        Few()(h)


@pytest.mark.parametrize("how", ["instance", "class"])
def test_a_layer_that_sets_supports_masking_may_use_the_grid(how):
    class Summing(Layer):
        if how == "class":
            supports_masking = True

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            if how == "instance":
                self.supports_masking = True

        def call(self, inputs):
            return inputs.cumsum(1)

    h = embedded()
    layer = Summing()
    assert layer.supports_masking is True
    out = layer(h)
    assert isinstance(out, Packed) and torch.equal(out.unpack()[MASK], h.unpack().cumsum(1)[MASK])

    class Pooling(Summing):
        def call(self, inputs):
            return inputs.sum(1)

    with pytest.raises(MaskLost, match=r"'pool'.*supports_masking = True.*\(3, 4\).*words.*compute_mask"):
        Pooling(name="pool")(h)
    assert not isinstance(layer(h.unpack()), Packed)


class BySum(Layer):
    def call(self, inputs, mask=None):
        e = torch.exp(inputs)
        if mask is not None:
            e = e * mask[..., None]
        return e / e.sum(dim=1, keepdim=True).clamp(min=1e-9)


class ByFill(Layer):
    def call(self, inputs, mask=None):
        if mask is not None:
            inputs = inputs.masked_fill(~mask[..., None], -torch.inf)
        return torch.softmax(inputs, dim=1)


class ByPenalty(Layer):
    def call(self, inputs, mask=None):
        penalty = 0 if mask is None else (1.0 - mask[..., None].to(inputs.dtype)) * -1e9
        return torch.softmax(inputs + penalty, dim=1)


class ByPenaltyAndPlace(Layer):
    """A layer that adds a different number at each step, so that one row for each gap is not enough."""

    def call(self, inputs, mask=None):
        places = torch.zeros_like(mask[..., None].float()) + 1e-3 * torch.arange(mask.shape[1])[:, None]
        inputs = inputs + (places - (1.0 - mask[..., None].float()) * 1e9)
        return torch.softmax(inputs - 1e-3 * torch.arange(mask.shape[1])[:, None], dim=1)


@settings(max_examples=25)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=5)), st.booleans())
@pytest.mark.parametrize("layer", [BySum, ByFill, ByPenalty, ByPenaltyAndPlace])
def test_a_softmax_over_time_counts_real_steps_only(layer, mask, filled):
    x = torch.randn(*mask.shape, 3, generator=torch.Generator().manual_seed(mask.size))
    h = pack(x, mask=mask)
    if filled:
        h = h.with_values(h.values, torch.full((h.index.num_gaps, 3), 5.0))
    out = layer()(h)
    assert isinstance(out, Packed) and out.index is h.index
    wanted = alone(lambda sequence: torch.softmax(sequence, 1), h) if mask.any() else torch.zeros(0, 3)
    torch.testing.assert_close(out.values, wanted, rtol=1e-4, atol=1e-6)
    if layer is not ByPenaltyAndPlace:
        torch.testing.assert_close(layer()(x), torch.softmax(x, 1))  # without a mask there is none


def test_gap_values_with_a_row_for_each_masked_cell_exist_only_inside_the_layer():
    class Placed(Layer):
        def call(self, inputs, mask=None):
            placed = inputs + torch.arange(4.0)[:, None]
            self.seen = placed.unpack()
            return placed

    layer, h = Placed(), embedded()
    out = layer(h)
    torch.testing.assert_close(layer.seen, h.unpack() + torch.arange(4.0)[:, None])  # inside, one row for each masked cell
    assert out.gap_values is None and torch.equal(out.values, layer.seen[MASK])  # outside, one row for each gap, or none


class Mixer(Layer):
    """Attention on the padded grid, in a layer that declares `mask`."""

    def build(self, shape):
        self.query = self.add_weight((shape[-1], shape[-1]), name="query")

    def call(self, inputs, mask=None):
        grid = padless.unpack(inputs)
        scores = (grid @ self.query) @ grid.transpose(1, 2)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, :], -1e9)
        return torch.softmax(scores, -1) @ grid


class Block(Layer):
    """A block as in a transformer: sublayers, residual connections, functions of features."""

    def __init__(self, supports=None, **kwargs):
        super().__init__(**kwargs)
        if supports is not None:
            self.supports_masking = supports
        self.mix, self.first, self.second = Mixer(), LayerNormalization(), LayerNormalization()
        self.up, self.down = Dense(8, activation="gelu"), Dense(6)

    def call(self, inputs):
        x = self.first(inputs + self.mix(inputs))
        return self.second(x + self.down(self.up(x) * 0.5))


class BlockWithMask(Block):
    def call(self, inputs, mask=None):
        return super().call(inputs)


@pytest.mark.parametrize("make", [Block, lambda: Block(supports=True), lambda: Block(supports=False), BlockWithMask])
def test_a_block_of_sublayers_keeps_the_mask(make):
    torch.manual_seed(1)
    one, two = make(), make()
    h = embedded()
    out = two(one(h))
    assert isinstance(out, Packed) and out.index is h.index
    torch.testing.assert_close(out.values, alone(lambda x: two(one(x)), h))
    spoiled = pack(h.unpack().masked_fill(~MASK[..., None], torch.nan), mask=MASK)
    assert torch.equal(spoiled.values, h.values)
    torch.testing.assert_close(two(one(spoiled)).values, out.values)  # gap values here are 0, before they were row 0
    x = Input((None,))
    model = Model(x, LSTM(2)(make()(make()(Embedding(5, 6, mask_zero=True)(x)))))
    torch.testing.assert_close(model(IDS)[:2], model(F.pad(IDS, (2, 3)))[:2])


def test_sublayers_of_a_layer_that_declares_mask_receive_the_mask():
    class Recurrent(Layer):
        def __init__(self):
            super().__init__()
            self.lstm = LSTM(3, return_sequences=True)

        def call(self, inputs, mask=None):
            return self.lstm(inputs + 0.1 * torch.arange(inputs.shape[1]).reshape(1, -1, 1))

    layer, h = Recurrent(), embedded()
    out = layer(h)
    placed = pack(h.unpack() + 0.1 * torch.arange(4.0).reshape(1, -1, 1), like=h)
    torch.testing.assert_close(out.values, layer.lstm(placed).values)


# ---------------------------------------------------------------------------------------------------- mask creation


def test_masking_masks_a_step_only_if_all_its_features_are_the_mask_value():
    x = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]])
    for steps in (x, pack(x)):
        assert layers.Masking()(steps).mask.tolist() == [[True, False, True]]


def test_a_mask_created_on_masked_data_narrows_the_mask():
    x = torch.tensor([[[1.0, 0], [0, 0], [2, 2]], [[0, 0], [3, 0], [4, 0]]])
    out = layers.Masking()(pack(x, mask=[[1, 1, 0], [1, 1, 0]]))
    assert out.mask.tolist() == [[True, False, False], [False, True, False]] and out.values.tolist() == [[1, 0], [3, 0]]
    same = pack(x, mask=[[1, 0, 1], [0, 1, 1]])
    assert layers.Masking()(same).index is same.index  # no step is masked, so the index stays
    ids = pack(IDS, mask=torch.ones(3, 4))
    embed = Embedding(5, 6, mask_zero=True)
    assert torch.equal(embed(ids).mask, MASK) and torch.equal(embed(ids).unpack(), embed(IDS).unpack())
    assert torch.equal(Embedding(5, 6)(pack(IDS, mask=OTHER)).mask, torch.tensor(OTHER).bool())  # also without mask_zero


def test_ids_in_gaps_are_embedded():
    embed = Embedding(5, 6, mask_zero=True)
    ids = pack(torch.tensor([[1, 0, 2], [3, 4, 0]]), mask=[[1, 0, 1], [1, 1, 0]])
    shown = embed(ids.with_values(ids.values, torch.tensor([4, 2]))).unpack()
    assert torch.equal(shown, embed.embeddings[torch.tensor([[1, 4, 2], [3, 4, 2]])])
    assert torch.equal(embed(ids).unpack(), embed.embeddings[torch.tensor([[1, 0, 2], [3, 4, 0]])])  # else row 0


def test_two_embeddings_of_the_same_ids_share_their_steps():
    one, two = embedded(), Embedding(5, 6, mask_zero=True)(IDS)
    assert isinstance(one + two, Packed) and layers.Add()([one, two]).index is one.index


def test_a_mask_of_parts_of_steps_cannot_be_created_on_masked_steps():
    with pytest.raises(ShapeError, match="finer mask first"):
        layers.Masking()(pack(torch.ones(2, 3, 2, 4), lengths=[3, 1]))
    assert layers.Masking()(torch.ones(2, 3, 2, 4)).index.grid == (2, 3, 2)


# ---------------------------------------------------------------------------------------------------- stepwise


class Standard(Layer):
    """A layer that subtracts the mean of each step's features, and records its input."""

    stepwise = True

    def call(self, inputs, training=None):
        self.seen = (tuple(inputs.shape), type(inputs), training)
        return inputs - inputs.mean(dim=2, keepdim=True)


def test_a_stepwise_layer_receives_the_real_steps_as_one_row():
    h = embedded()
    layer = Standard()
    out = layer(h, training=True)
    close(out, h.unpack() - h.unpack().mean(2, keepdim=True))  # at masked steps too
    plain = h.with_values(h.values)
    assert layer(plain, training=True).gap_values is None
    assert layer.seen == ((1, 5, 6), torch.Tensor, True)
    layer(h, training=True)
    assert layer.seen == ((1, h.index.num_gaps, 6), torch.Tensor, False)  # the second call, on gap values, does not train
    assert torch.equal(layer(h.unpack()), h.unpack() - h.unpack().mean(2, keepdim=True)) and layer.seen[0] == (3, 4, 6)


def test_a_stepwise_layer_on_empty_sequences():
    h = pack(torch.ones(2, 3, 4), lengths=[0, 0])
    assert Standard()(h).values.shape == (0, 4)


def test_a_stepwise_layer_with_several_inputs():
    class Gate(Layer):
        stepwise = True

        def call(self, inputs, gate, mask=None):
            self.shapes = [tuple(x.shape) for x in (*inputs, gate)]
            self.mask = None if mask is None else mask.clone()
            return [inputs[0] * gate, inputs[1] + gate]

    h, layer = embedded(), Gate()
    for gate in (h.sin(), torch.rand(3, 1, 6), torch.rand(3, 4, 1), torch.rand(1, 1, 6), torch.rand(6)):
        product, total = layer([h, h.cos()], gate)
        wanted = h.unpack() * padless.unpack(gate)
        assert torch.allclose(product.values, wanted[MASK])
        assert torch.allclose(total.values, (h.unpack().cos() + padless.unpack(gate))[MASK])
        assert layer.shapes[2][0] == 1 or gate.ndim == 1
        assert layer.mask.shape[0] == 1
    layer([h, h.cos()], h.sin())
    assert not layer.mask.any()  # the last call was that on gap values
    layer([h, h.cos()], torch.rand(3, 4, 1))
    assert layer.mask.all() and layer.mask.shape == (1, 5)
    other = embedded(torch.tensor([[1, 1, 1, 1]] * 3))
    with pytest.raises(ShapeError, match="step by step.*like=y"):
        layer([h, other], h)
    with pytest.raises(ShapeError, match=r"\(1, 3, 4, 4\)"):
        layer([h, h], torch.rand(1, 3, 4, 4))


def test_a_stepwise_layer_whose_output_has_another_shape_is_refused():
    class Pooling(Layer):
        stepwise = True

        def call(self, inputs):
            return inputs.sum(1)

    with pytest.raises(ShapeError, match=r"'pool' is stepwise.*\(1, 5\).*\(1, 6\)"):
        Pooling(name="pool")(embedded())


def test_relation_and_stepwise_are_not_inherited_by_another_call():
    class Mixing(Dense):
        def call(self, inputs):
            return super().call(inputs) - inputs.mean(dim=1, keepdim=True)

    class Louder(Standard):
        def call(self, inputs, training=None):
            return inputs.sum(1)

    for layer in (Mixing(4, name="mine"), Louder(name="mine")):
        with pytest.raises(MaskLost, match="inside layer 'mine'.*words"):
            layer(embedded())

    class Mild(Dense):
        def call(self, inputs):
            return super().call(inputs).relu() + 1

    assert isinstance(Mild(3)(embedded()), Packed)


@pytest.mark.parametrize("layer", [lambda: layers.Activation(lambda x: torch.softmax(x, dim=1)),
                                   lambda: LayerNormalization(axis=1)])  # fmt: skip
def test_built_in_stepwise_layers_refuse_functions_that_mix_steps(layer):
    with pytest.raises(MaskLost, match="time"):
        layer()(embedded())


def test_dropout_with_noise_shape_shares_its_pattern_along_time():
    h = pack(torch.ones(6, 5, 8), lengths=[5, 3, 0, 1, 2, 4])
    torch.manual_seed(0)
    out = layers.Dropout(0.5, noise_shape=(None, 1, None))(h, training=True)
    rows = [sequence for sequence in out.sequences() if len(sequence)]
    assert all(torch.equal(row, row[:1].expand_as(row)) for row in rows)  # the same for all steps of a sequence
    assert len({tuple(row[0].tolist()) for row in rows}) > 1  # but not for all sequences


# ---------------------------------------------------------------------------------------------------- sequences of sequences


@settings(max_examples=25)
@given(arrays(bool, array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=3)))
def test_time_distributed_runs_on_the_inner_sequences_with_a_real_step(mask):
    x = torch.randn(*mask.shape, 4, generator=torch.Generator().manual_seed(mask.size))
    h = pack(x, mask=mask)
    lstm, dense = LSTM(2, return_sequences=True), Dense(2)
    sequences = layers.TimeDistributed(lstm)(h)
    assert torch.equal(sequences.mask, torch.from_numpy(mask))
    torch.testing.assert_close(layers.TimeDistributed(dense)(h).values, dense(x)[mask])
    lasts = layers.TimeDistributed(layers.LastStep())(sequences)
    assert torch.equal(lasts.mask, torch.from_numpy(mask.any(-1)))
    wanted = [lstm(x[i, j][mask[i, j]][None])[0, -1] for i, j in zip(*mask.any(-1).nonzero(), strict=True)]
    torch.testing.assert_close(lasts.values, torch.stack(wanted) if wanted else torch.zeros(0, 2))


def test_words_of_sentences_are_masked_on_both_levels():
    documents = torch.tensor([[[1, 2], [3, 0]], [[0, 0], [4, 0]]])
    embed = Embedding(5, 6, mask_zero=True)
    for ids in (documents, pack(documents, mask=[[1, 1], [1, 1]]), pack(documents, mask=documents != 0)):
        out = layers.TimeDistributed(embed)(ids)
        assert torch.equal(out.mask, documents != 0) and out.index.outer.mask.tolist() == [[True, True], [False, True]]
        assert torch.equal(out.values, embed.embeddings[documents[documents != 0]])
    with pytest.raises(ShapeError, match="TimeDistributed"):
        LSTM(2)(out)


# ---------------------------------------------------------------------------------------------------- explicit masks

WAYS = {
    "list": OTHER, "bool": np.array(OTHER, bool), "int": np.array(OTHER), "float": np.array(OTHER, np.float32),
    "torch": torch.tensor(OTHER), "packed": pack(torch.ones(3, 4, dtype=torch.bool), mask=OTHER),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_an_explicit_mask_replaces_that_of_the_input_and_passes(way):
    h, mask = embedded(), WAYS[way]
    lstm, pool = LSTM(3, return_sequences=True), layers.GlobalAveragePooling1D()
    expected = lstm(pack(h.unpack(), mask=OTHER))
    state = [torch.zeros(3, 3), torch.zeros(3, 3)]
    for x in (h, h.unpack()):
        for out in (lstm(x, mask=mask), lstm(x, None, mask), lstm(x, initial_state=state, mask=mask), lstm(x, state, mask)):
            assert isinstance(out, Packed) and torch.equal(out.mask, torch.tensor(OTHER).bool())
            torch.testing.assert_close(out.values, expected.values)
        for layer in (Dense(3), layers.Activation("relu"), layers.Dropout(0.5), Standard(), layers.Masking(9.0)):
            assert torch.equal(layer(x, mask=mask).mask, torch.tensor(OTHER).bool())  # `call` does not declare `mask`
        torch.testing.assert_close(pool(x, mask=mask), pool(pack(h.unpack(), mask=OTHER)))


def test_an_explicit_mask_may_mark_more_steps_than_that_of_the_input():
    h = embedded()
    out = LSTM(2, return_sequences=True)
    wider = torch.ones(3, 4, dtype=torch.bool)
    torch.testing.assert_close(
        out(h, mask=wider).values, out(h.unpack(), mask=wider).values
    )  # padding is row 0 of the table
    with pytest.raises(MaskError, match="step 2 of row 0.*the input has no value there.*words"):
        out(h.with_values(h.values), mask=wider)


@pytest.mark.parametrize("wrong", [np.ones((3, 5)), np.ones((2, 4)), np.ones(3), np.full((3, 4), 2)])
def test_an_explicit_mask_that_does_not_fit_is_refused(wrong):
    for x in (embedded(), embedded().unpack()):
        with pytest.raises(MaskError):
            Dense(3)(x, mask=wrong)
    with pytest.raises(MaskError, match=r"\(3,\).*no steps"):
        Dense(3, dtype="float32")(torch.ones(3), mask=[[1]])


def test_mask_none_keeps_the_mask_of_the_input():
    h = embedded()
    for layer in (Dense(3), LSTM(3, return_sequences=True), BySum(), Block()):
        assert torch.equal(layer(h, mask=None).mask, MASK)
    assert torch.equal(LSTM(3, return_sequences=True)(h, None, None).mask, MASK)


def test_initial_state_does_not_change_the_mask():
    h, lstm = embedded(), LSTM(3, return_sequences=True)
    state = [torch.ones(3, 3), torch.zeros(3, 3)]
    out = lstm(h, initial_state=state)
    for row, (found, sequence) in enumerate(zip(out, h, strict=True)):
        if len(sequence):
            own = [x[row : row + 1] for x in state]
            torch.testing.assert_close(found, lstm(sequence[None], initial_state=own)[0])


# ---------------------------------------------------------------------------------------------------- several arguments


class Seen(Layer):
    def call(self, query, value=None, key=None, query_mask=None, value_mask=None, key_mask=None, mask=None):
        self.masks = {"query": query_mask, "value": value_mask, "key": key_mask, "mask": mask}
        return query


def same_mask(found, wanted):
    return found is None if wanted is None else found is not None and torch.equal(found, torch.as_tensor(wanted).bool())


def test_each_argument_has_its_mask_and_mask_is_that_of_the_first():
    h, other = embedded(), pack(torch.ones(3, 4, 2), mask=OTHER)
    seen = Seen()
    out = seen(h, other, key=torch.ones(3, 4, 2))
    assert torch.equal(out.mask, MASK)
    for name, wanted in (("query", MASK), ("value", OTHER), ("key", None), ("mask", MASK)):
        assert same_mask(seen.masks[name], wanted), name
    seen(h.unpack(), other)
    assert same_mask(seen.masks["mask"], None) and same_mask(seen.masks["value"], OTHER)
    seen(h)
    assert same_mask(seen.masks["query"], MASK) and same_mask(seen.masks["mask"], MASK)


def test_explicit_masks_of_arguments():
    h, seen = embedded(), Seen()
    out = seen(h, h, value_mask=OTHER, query_mask=np.array(OTHER))
    assert torch.equal(out.mask, torch.tensor(OTHER).bool()) and same_mask(seen.masks["mask"], OTHER)
    assert same_mask(seen.masks["value"], OTHER) and same_mask(seen.masks["key"], None)
    seen(h, h.unpack(), mask=OTHER)  # the mask of the first argument
    assert same_mask(seen.masks["query"], OTHER) and same_mask(seen.masks["value"], None)


def test_other_arguments_that_end_in_mask_are_data():
    class Attending(Layer):
        def call(self, inputs, attention_mask=None):
            self.given = attention_mask
            return inputs

    layer, given = Attending(), torch.ones(3, 4, 4)
    layer(embedded(), attention_mask=given)
    assert layer.given is given
    with pytest.raises(MaskLost):  # such a layer may not use the grid

        class Mixing(Attending):
            def call(self, inputs, attention_mask=None):
                return inputs.sum(1)

        Mixing()(embedded())


@pytest.mark.parametrize("nest", [lambda a, b: [a, b], lambda a, b: (a, b), lambda a, b: {"a": a, "b": b}])
def test_nested_inputs_have_nested_masks(nest):
    class Nested(Layer):
        def call(self, inputs, mask=None):
            self.mask = mask
            return inputs

    h, plain, layer = embedded(), torch.ones(3, 4, 2), Nested()
    layer(nest(h, plain))
    assert type(layer.mask) is type(nest(0, 0))
    found = list(layer.mask.values()) if isinstance(layer.mask, dict) else layer.mask
    assert same_mask(found[0], MASK) and found[1] is None
    layer(nest(h, plain), mask=nest(None, OTHER))
    found = list(layer.mask.values()) if isinstance(layer.mask, dict) else layer.mask
    assert same_mask(found[0], MASK) and same_mask(found[1], OTHER)
    with pytest.raises(MaskError, match="must be a (list|dictionary)"):
        layer(nest(h, plain), mask=torch.ones(3, 4))


def test_merging_layers_accept_a_list_of_masks():
    x = torch.ones(3, 4, 2)
    total = layers.Add()([x, x], mask=[torch.tensor(OTHER), None])
    assert torch.equal(total.mask, torch.tensor(OTHER).bool()) and (total.values == 2).all()


# ---------------------------------------------------------------------------------------------------- kinds of data


def test_arrays_and_lists_are_data_and_plain_tensors_stay_plain():
    dense = Dense(3)
    x = np.ones((2, 3, 4))
    assert dense(x).dtype == torch.float32 and not isinstance(dense(x), Packed)
    out = dense([[[1.0] * 4, [2.0] * 4], [[3.0] * 4]])
    assert isinstance(out, Packed) and out.lengths.tolist() == [2, 1] and out.dtype == torch.float32
    assert not isinstance(dense([[[1.0] * 4], [[3.0] * 4]]), Packed)  # a rectangular list is an array
    assert dense(np.broadcast_to(np.float32(1), (2, 3, 4))).shape == (2, 3, 3)
    assert dense(np.ones((2, 3, 4), np.float32)[:, ::-1]).shape == (2, 3, 3)


def test_an_error_of_wrong_arguments_names_the_signature():
    with pytest.raises(TypeError, match=r"'d' is called as Dense\(\)\(inputs\)"):
        Dense(3, name="d")(torch.ones(1, 2), foo=1)
    with pytest.raises(ArgumentError, match="training"):
        LSTM(3)(torch.ones(1, 2, 3), training=torch.ones(1))


def test_supports_masking_is_true_for_layers_that_handle_the_mask():
    class Plain(Layer):
        def call(self, inputs):
            return inputs

    class Taking(Layer):
        def call(self, inputs, mask=None):
            return inputs

    class Computing(Plain):
        def compute_mask(self, inputs, mask=None):
            return mask

    assert not Plain().supports_masking and not Taking().supports_masking and Computing().supports_masking
    assert Dense(2).supports_masking and LSTM(2).supports_masking
    layer = Plain()
    layer.supports_masking = True
    assert layer.supports_masking and not Plain().supports_masking
    assert torch.equal(Plain().compute_mask(None, MASK), MASK) and Plain().compute_mask(IDS) is None
