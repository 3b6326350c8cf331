"""Documents of sentences of words: an encoder for each sentence, another for each document, padding on both levels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_parity import close, keras, losing, mask_on, shown, table, twins

import padless
from padless import layers as L
from padless.callbacks import Callback
from padless.errors import DataError, MaskLost, ShapeError
from padless.ragged.index import Index
from padless.ragged.packed import Packed, pack

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own
V, D = 7, 4
DOCUMENTS = np.array(
    [
        [[1, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],  # nothing
        [[0, 0, 4, 5], [0, 0, 0, 0], [0, 6, 0, 2]],  # a sentence without a word in between; words with holes
        [[1, 1, 1, 1], [2, 3, 4, 5], [6, 5, 4, 3]],
    ]
)
REAL = DOCUMENTS != 0
LABELS = np.array([[1.0], [0.0], [2.0], [3.0]])


def sentences(document, spans=False):
    """Return the words of each sentence with a word; with `spans` masked words between them stay."""
    found = [words for words in document if words.any()]
    if spans:
        return [words[words.nonzero()[0][0] : words.nonzero()[0][-1] + 1] for words in found]
    return [words[words != 0] for words in found]


def widened(ids, before, after):
    """Return ids with more sentences and words of padding, on either side."""
    return np.pad(ids, ((0, 0), before, after))


WIDER = [((0, 1), (0, 0)), ((0, 0), (0, 3)), ((2, 0), (1, 0)), ((1, 3), (3, 1))]

SENTENCE = {
    "LSTM": lambda: L.LSTM(3),
    "GRU": lambda: L.GRU(3, go_backwards=True),
    "both ways": lambda: L.Bidirectional(L.SimpleRNN(2)),
    "attention": lambda: L.AttentionPooling1D(3),
    "maximum": lambda: L.GlobalMaxPooling1D(),
    "convolution": lambda: padless.Sequential([L.Conv1D(3, 2, padding="same"), L.GlobalMaxPooling1D()]),
    "block": lambda: padless.Sequential([L.TransformerEncoder(6, 2), L.LastStep()]),
    "model": lambda: _encoder(),
}
DOCUMENT = {
    "LSTM": lambda: L.LSTM(3),
    "attention": lambda: L.AttentionPooling1D(2),
    "block": lambda: padless.Sequential([L.Dense(4), L.TransformerEncoder(6, 2), L.GlobalMaxPooling1D()]),
}


def _encoder():
    x = L.Input((None, D))
    return padless.Model(x, L.LSTM(2)(L.Dense(3, activation="tanh")(x)))


def reader(sentence, document, sizes=(None, None)):
    """A model of documents: ids `(B, S, W)` to a number."""
    x = L.Input(sizes, dtype="int64")
    words = L.Embedding(V, D, mask_zero=True)(x)
    vectors = L.TimeDistributed(SENTENCE[sentence]())(words)
    return padless.Model(x, L.Dense(1)(DOCUMENT[document]()(vectors)))


def parts(model):
    return model.layers[-4:]


def outputs(model, ids):
    """Outputs, and the gradient of their squares for every weight."""
    model.zero_grad()
    found = model(torch.from_numpy(ids))
    found.square().sum().backward()
    return found.detach(), [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in model.trainable_weights]


# ------------------------------------------------------------------------------------------------ properties


@pytest.mark.slow
@pytest.mark.parametrize("sentence", SENTENCE)
def test_a_document_in_a_batch_equals_the_document_alone_without_padding(sentence):
    for document in DOCUMENT:
        model = reader(sentence, document)
        embed, distributed, document_layer, dense = parts(model)
        predictions = model.predict(DOCUMENTS, verbose=0)
        for row, ids in enumerate(DOCUMENTS):
            alone = [embed(torch.from_numpy(words[None])) for words in sentences(ids, sentence == "convolution")]
            alone = [words if not words.index.full else words.unpack() for words in alone]
            vectors = [distributed.layer(words) for words in alone]
            expected = dense(document_layer(torch.stack(vectors, 1))) if vectors else dense.bias[None]
            close(predictions[row : row + 1], expected)


@pytest.mark.slow
@pytest.mark.parametrize("sentence", SENTENCE)
def test_padding_of_words_and_sentences_changes_no_bit(sentence):
    for document in DOCUMENT:
        model = reader(sentence, document)
        model.build((None, None, None))
        base, gradients = outputs(model, DOCUMENTS)
        for before, after in WIDER:
            same, others = outputs(model, widened(DOCUMENTS, before, after))
            assert torch.equal(base, same), document
            assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True)), document
        assert torch.isfinite(base).all() and all(torch.isfinite(g).all() for g in gradients), document


@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(0, 3), st.integers(0, 4), st.integers(0, 99))
def test_the_content_of_masked_words_changes_nothing(batch, count, words, seed):
    random = np.random.default_rng(seed)
    mask = random.random((batch, count, words)) < 0.6
    numbers = torch.randn(batch, count, words, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    layers = [
        L.TimeDistributed(L.Dense(3, dtype="float64")),
        L.TimeDistributed(L.GRU(3, dtype="float64")),
        L.AttentionPooling1D(2, dtype="float64"),
    ]
    results = []
    for content in (0.0, float("nan"), float("inf")):
        x = torch.where(torch.from_numpy(mask)[..., None], numbers, content).requires_grad_()
        h = pack(x, mask=mask)
        for layer in layers:
            h = layer(h)
        h.square().sum().backward()
        assert not x.grad[torch.from_numpy(~mask)].any()
        results.append((h.detach(), x.grad))
    for found in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], found, strict=True))


def test_documents_may_be_permuted():
    model = reader("LSTM", "attention")
    order = [3, 0, 2, 1]
    close(model.predict(DOCUMENTS[order], verbose=0), model.predict(DOCUMENTS, verbose=0)[order])
    close(model.predict(DOCUMENTS, batch_size=1, verbose=0), model.predict(DOCUMENTS, batch_size=4, verbose=0))


# ------------------------------------------------------------------------------------------------ training


def trained(ids, labels, batch_size=4, sizes=(None, None)):
    torch.manual_seed(0)
    padless.clear_session()
    model = reader("GRU", "attention", sizes)
    model.compile("adam", "mse", metrics=["mae"])
    history = model.fit(ids, labels, epochs=3, batch_size=batch_size, shuffle=False, verbose=0).history
    return model, history


def test_training_ignores_padding():
    model, history = trained(DOCUMENTS, LABELS)
    for before, after in WIDER[2:]:
        other, same = trained(widened(DOCUMENTS, before, after), LABELS)
        assert history == same
        assert all(torch.equal(a, b) for a, b in zip(model.weights, other.weights, strict=True))
    assert history["loss"][0] > history["loss"][-1]


def test_evaluation_is_the_mean_over_documents():
    model, _ = trained(DOCUMENTS, LABELS, sizes=(3, 4))
    predicted = model.predict(DOCUMENTS, verbose=0)
    for size in (1, 3, 4):
        loss, error = model.evaluate(DOCUMENTS, LABELS, batch_size=size, verbose=0)
        np.testing.assert_allclose(loss, np.square(predicted - LABELS).mean(), rtol=1e-5)
        np.testing.assert_allclose(error, np.abs(predicted - LABELS).mean(), rtol=1e-5)


def test_empty_documents_have_a_finite_result():
    model, _ = trained(DOCUMENTS, LABELS)
    before = [w.clone() for w in model.weights]
    nothing = 0 * DOCUMENTS
    assert (model.predict(nothing, verbose=0) == model.layers[-1].bias.item()).all()
    model.fit(nothing, LABELS, verbose=0)
    changed = [not torch.equal(a, b) for a, b in zip(before, model.weights, strict=True)]
    assert all(torch.isfinite(w).all() for w in model.weights) and changed[-1]  # the bias of the answer


def test_labels_of_words_and_of_sentences():
    """One output for each word, one for each sentence: the loss is the mean over the real ones."""
    x = L.Input((None, None), dtype="int64")
    words = L.TimeDistributed(L.LSTM(3, return_sequences=True))(L.Embedding(V, D, mask_zero=True)(x))
    model = padless.Model(x, {"words": L.Dense(2)(words), "sentences": L.Dense(1)(L.TimeDistributed(L.LastStep())(words))})
    model.compile("sgd", {"words": "mse", "sentences": "mse"})
    random = np.random.default_rng(0)
    y = {"words": random.normal(size=(*REAL.shape, 2)), "sentences": random.normal(size=(*REAL.shape[:2], 1))}
    y["words"][~REAL] = np.nan
    y["sentences"][~REAL.any(-1)] = np.nan
    found = model.predict(DOCUMENTS, verbose=0)
    wanted = [np.square(found[k] - y[k])[m].mean() for k, m in (("words", REAL), ("sentences", REAL.any(-1)))]
    results = model.evaluate(DOCUMENTS, y, verbose=0, return_dict=True, batch_size=2)
    np.testing.assert_allclose([results["words_loss"], results["sentences_loss"]], wanted, rtol=1e-5)
    np.testing.assert_allclose(results["loss"], sum(wanted), rtol=1e-5)
    history = model.fit(DOCUMENTS, y, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_a_model_of_documents_is_saved_and_loaded(tmp_path):
    model = reader("convolution", "block")
    found = model.predict(DOCUMENTS, verbose=0)
    model.save(tmp_path / "reader.padless")
    again = padless.load_model(tmp_path / "reader.padless")
    assert np.array_equal(again.predict(DOCUMENTS, verbose=0), found)


# ------------------------------------------------------------------------------------------------ layers on two levels


def documents(features=D, seed=0, fill=False):
    """Return packed words."""
    packed = pack(torch.randn(*REAL.shape, features, generator=torch.Generator().manual_seed(seed)), mask=REAL)
    return packed.with_values(packed.values, torch.randn(packed.index.num_gaps, features)) if fill else packed


STEPWISE = {
    "Dense": lambda: L.Dense(2), "LayerNormalization": lambda: L.LayerNormalization(), "ReLU": lambda: L.Activation("relu"),
    "Dropout": lambda: L.Dropout(0.5), "Reshape": lambda: L.Reshape((3, 4, 2, 2)),
    "BatchNormalization": lambda: L.BatchNormalization(),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPWISE)
def test_a_stepwise_layer_needs_no_wrapper(name):
    x, layer = documents(fill=True), STEPWISE[name]()
    output = layer(x)
    assert output.index is x.index
    close(output.values, layer(x.unpack())[torch.from_numpy(REAL)])
    close(output, layer(x.unpack()))  # also the gap values


@pytest.mark.parametrize("name", [n for n in STEPWISE if n != "Reshape"])
def test_a_stepwise_layer_may_be_wrapped(name):
    """Gap values are 0 in a sentence without a word, else what the layer returns for them."""
    x, layer = documents(fill=True), STEPWISE[name]()
    output = L.TimeDistributed(layer)(x)
    assert output.index is x.index
    direct = layer(x)
    close(output.values, direct.values)
    some = torch.from_numpy(REAL.any(-1))
    close(output.unpack()[some], direct.unpack()[some])
    assert not output.unpack()[~some].any()


@pytest.mark.parametrize("merge", [L.Add, L.Multiply, L.Maximum, L.Average, L.Subtract])
def test_merges_of_documents(merge):
    x, y = documents(), documents(seed=1)
    close(merge()([x, y]).values, merge()([x.values, y.values]))
    other = np.random.default_rng(0).random(REAL.shape) < 0.5
    z = pack(torch.randn(*REAL.shape, D), mask=other)
    united = merge()([x, z])
    assert np.array_equal(united.index.mask, REAL | other) and united.num_step_axes == 3
    assert np.array_equal(united.index.outer.mask, (REAL | other).any(-1))
    close(L.Concatenate()([x, y]).values, torch.cat([x.values, y.values], -1))


def test_batch_statistics_are_those_of_real_words():
    x, norm = documents(), L.BatchNormalization(momentum=0.0)
    output = L.TimeDistributed(norm)(x.with_values(x.values, torch.full((x.index.num_gaps, D), 100.0)), training=True)
    close(norm.moving_mean, x.values.mean(0), 1e-4)
    close(output.values.mean(0), torch.zeros(D), 1e-4)


@pytest.mark.parametrize("make", [
    lambda: L.GlobalAveragePooling1D(), lambda: L.AttentionPooling1D(), lambda: L.LastStep(), lambda: L.LSTM(2),
    lambda: L.Bidirectional(L.GRU(2)), lambda: L.MaxPooling1D(),
], ids=["mean", "attention", "last", "LSTM", "both ways", "window"])  # fmt: skip
def test_a_layer_for_sequences_asks_for_time_distributed(make):
    with pytest.raises(ShapeError, match="TimeDistributed"):
        make()(documents())
    x = L.Input((None, None), dtype="int64")
    with pytest.raises(ShapeError, match="TimeDistributed"):
        make()(L.Embedding(V, D, mask_zero=True)(x))


def test_a_layer_with_several_outputs_on_each_sentence():
    x = documents()
    for inner in (L.GRU(3, return_sequences=True, return_state=True), _two()):
        sequences, last = L.TimeDistributed(inner)(x)
        assert sequences.index is x.index and last.index is x.index.outer
        close(last.values, L.TimeDistributed(L.LastStep())(sequences).values)
        layer = L.TimeDistributed(inner)
        if isinstance(inner, L.GRU):
            said = layer.compute_mask(x, x.mask)
            assert torch.equal(said[0], x.mask) and torch.equal(said[1], x.mask.any(-1))
        assert [tuple(s) for s in layer.compute_output_shape((None, 3, None, D))] == [(None, 3, None, 3), (None, 3, 3)]


def _two():
    x = L.Input((None, D))
    h = L.GRU(3, return_sequences=True)(x)
    return padless.Model(x, [h, L.LastStep()(h)])


def test_compute_mask_of_wrapped_layers():
    x = documents()
    for layer, wanted in ((L.LSTM(2), REAL.any(-1)), (L.Dense(2), REAL), (L.Conv1D(2, 3, padding="same"), REAL)):
        td = L.TimeDistributed(layer)
        assert np.array_equal(td.compute_mask(x, x.mask), wanted) and np.array_equal(td(x).mask, wanted)
    embed = L.TimeDistributed(L.Embedding(V, 2, mask_zero=True))
    some = torch.tensor([[True, True, True], [True] * 3, [False, False, True], [True, False, False]])
    assert torch.equal(embed.compute_mask(torch.from_numpy(DOCUMENTS), some), torch.from_numpy(REAL) & some[..., None])
    assert embed.compute_mask(torch.from_numpy(DOCUMENTS)).equal(torch.from_numpy(REAL))
    assert L.TimeDistributed(L.Dense(2)).compute_mask(x.unpack()) is None


def test_a_sentence_too_short_for_a_window_is_masked():
    """The outer mask marks the sentences that have an output step."""
    output = L.TimeDistributed(L.Conv1D(2, 2))(documents())
    assert output.index.outer.mask.tolist() == [[True, False, False], [False] * 3, [True, False, True], [True] * 3]
    with_summary = padless.Sequential([L.Conv1D(2, 2), L.GlobalMaxPooling1D()])
    whole = L.TimeDistributed(with_summary)(documents())
    assert (
        np.array_equal(whole.index.mask, REAL.any(-1)) and not whole.values[1].any()
    )  # such a sentence is real, and its summary is 0


def test_three_levels():
    """Books of chapters of sentences: each wrapper removes one level."""
    mask = np.random.default_rng(1).random((2, 3, 2, 4)) < 0.5
    x = torch.randn(*mask.shape, 2)
    rnn = L.GRU(3)
    output = L.TimeDistributed(L.TimeDistributed(rnn))(pack(x, mask=mask))
    assert output.shape == (2, 3, 2, 3) and np.array_equal(output.index.mask, mask.any(-1))
    places = zip(*np.nonzero(mask.any(-1)), strict=True)
    close(output.values, torch.cat([rnn(x[p][torch.from_numpy(mask[p])][None]) for p in places]))


# ------------------------------------------------------------------------------------------------ the wrapper itself


def test_an_inner_model_takes_batches_of_any_width():
    layer = L.TimeDistributed(padless.Sequential([L.Dense(3), L.LSTM(2)]))
    for width in (3, 5):
        x = pack(torch.randn(2, 2, width, D), mask=np.ones((2, 2, width), dtype=bool))
        close(layer(x).values, layer.layer(x.values.reshape(4, width, D)))
    symbol = layer(L.Embedding(V, D, mask_zero=True)(L.Input((None, None), dtype="int64")))
    assert symbol.shape == (None, None, 2) and symbol.num_step_axes == 2


def test_gap_values_are_not_examples():
    """What gaps show goes through the inner layer without a trace: no loss, no state, no statistics."""
    mask = np.array([[1, 1, 0], [1, 0, 0]], dtype=bool)
    x = pack(torch.randn(2, 3, D), mask=mask)
    shown_ = x.with_values(x.values, torch.full((x.index.num_gaps, D), 50.0))
    losses = []
    for h in (x, shown_):
        dense = L.Dense(2, activity_regularizer="l2", kernel_initializer="ones")
        layer = L.TimeDistributed(dense)
        layer(h, training=True)
        losses.append(sum(layer.losses).item())
    assert losses[0] == losses[1]
    frames = pack(torch.randn(2, 3, 5, D), mask=mask)
    rnn = L.LSTM(2, stateful=True)
    L.TimeDistributed(rnn)(frames.with_values(frames.values, torch.ones(frames.index.num_gaps, 5, D)))
    assert rnn.states[0].shape == (3, 2)


def test_ids_stay_whole_on_their_way_to_an_inner_embedding():
    size = 2**24 + 2  # float32 does not know the last of them
    embed = L.Embedding(size, 1, embeddings_initializer="zeros")
    embed.build(None)
    with torch.no_grad():
        embed.embeddings[-1] = 1
    assert L.TimeDistributed(embed)(torch.tensor([[[size - 1, size - 2]]])).flatten().tolist() == [1, 0]


def test_invalid_inputs_of_the_wrapper_are_refused():
    with pytest.raises(ShapeError, match=r"\(2, 3\)"):
        L.TimeDistributed(L.Dense(2))(torch.ones(2, 3))
    with pytest.raises(ShapeError, match="one input"):
        L.TimeDistributed(L.Add())([torch.ones(2, 3, 4), torch.ones(2, 3, 4)])
    with pytest.raises(MaskLost):  # inside, too
        L.TimeDistributed(L.Permute((2, 1)))(documents())


def test_an_error_of_nested_lists_says_how_to_pack_them():
    documents_ = [[[3, 1], [4]], [], [[5]]]
    model = padless.Sequential([L.Embedding(9, 4, mask_zero=True), L.TimeDistributed(L.LSTM(4)), L.LSTM(2)])
    model.compile("sgd", "mse")
    equal = [[[3, 1], [4, 2]], [[5, 6]]]
    for call in (
        lambda: pack(documents_),
        lambda: model.predict(documents_, verbose=0),
        lambda: model.fit(documents_, np.ones((3, 2)), verbose=0),
        lambda: model.predict(equal, verbose=0),
    ):
        with pytest.raises((ShapeError, DataError), match=r"pack\(x, mask=mask\).*\(batch, sentences, words\)"):
            call()


def test_levels_of_an_index():
    index = Index.from_mask(REAL)
    assert index.outermost is index.outer and index.outermost.outermost is index.outermost
    assert np.array_equal(index.inner.mask, REAL[REAL.any(-1)]) and index.inner is index.inner
    assert np.array_equal(index.inner.lengths, index.lengths[REAL.any(-1).reshape(-1)])
    x = pack(torch.arange(REAL.size).reshape(REAL.shape), mask=REAL)
    assert torch.equal(Packed(x.values, index.inner).unpack(), x.unpack()[torch.from_numpy(REAL.any(-1))])


def _model_with_call():
    class Reader(padless.Model):
        def __init__(self):
            super().__init__()
            self.embed, self.encode = L.Embedding(V, D, mask_zero=True), L.LSTM(3)

        def call(self, inputs):
            return self.encode(self.embed(inputs))

    return Reader()


def _graph():
    x = L.Input((None,), dtype="int64")
    return padless.Model(x, L.Add()([L.LSTM(3)(L.Embedding(V, D, mask_zero=True)(x)) for _ in range(2)]))


READING = {
    "chain": lambda: padless.Sequential([L.Embedding(V, D, mask_zero=True), L.LSTM(3)]),
    "statistics": lambda: padless.Sequential([L.Embedding(V, D, mask_zero=True), L.LSTM(3),
                                              L.BatchNormalization(momentum=0.5)]),
    "noise": lambda: padless.Sequential([L.Embedding(V, D, mask_zero=True), L.LSTM(3), L.Dropout(0.5)]),
    "cost": lambda: padless.Sequential([L.Embedding(V, D, mask_zero=True), L.LSTM(3),
                                        L.Dense(3, bias_initializer="ones", activity_regularizer="l2")]),
    "graph": _graph,
    "call": _model_with_call,
    "nested": lambda: padless.Sequential([READING["chain"](), L.Dense(3)]),
    "floats": lambda: padless.Sequential([
        L.Lambda(lambda x: x[..., None].float()), L.Masking(), L.LSTM(3)]),
}  # fmt: skip


class Steps(Callback):
    """Note the training steps."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_train_batch_begin(self, batch, logs=None):
        self.steps.append(batch)


class Nonzero(L.MaskCreatingLayer):
    """A user-defined layer that masks id 0 and returns a padded tensor."""

    def real_steps(self, inputs):
        return Index.from_mask((inputs != 0).numpy())

    def call(self, inputs):
        return inputs.float()[..., None]

    def compute_mask(self, inputs, mask=None):
        return inputs != 0


def test_the_mask_of_a_user_defined_mask_creating_layer_is_seen_as_that_of_an_embedding():
    ids = torch.from_numpy(DOCUMENTS)
    inner = padless.Sequential([Nonzero(), L.LSTM(3)])
    result = L.TimeDistributed(inner)(ids)
    assert np.array_equal(result.mask, REAL.any(-1)) and "compute_mask of layer 'nonzero" in result.index.mask_source
    expected = inner(ids.reshape(-1, 4)).reshape(4, 3, 3)[torch.from_numpy(REAL.any(-1))]
    torch.testing.assert_close(result.values, expected)
    torch.testing.assert_close(L.TimeDistributed(Nonzero())(ids).values, ids[ids != 0].float()[:, None])


class FindsWords(L.Dense):
    """A user-defined layer with a method whose name padless once took for the sign of a mask source."""

    def index_of(self, word):
        return len(word)


def test_a_method_named_index_of_does_not_lose_the_mask_of_sentences():
    words = padless.pack(torch.randn(2, 3, 4, 5), mask=REAL[:2])
    results = [
        L.TimeDistributed(layer)(words)
        for layer in (FindsWords(5, kernel_initializer="ones"), L.Dense(5, kernel_initializer="ones"))
    ]
    assert results[0].index.equals(results[1].index) and results[0].index.num_steps == REAL[:2].sum()
    assert torch.equal(results[0].values, results[1].values)


def test_labels_are_checked_before_training_on_the_mask_of_a_user_defined_layer():
    steps = []
    model = padless.Sequential([Nonzero(), L.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    labels = np.array([[0, 1, 7], [0, 7, 1]])  # the 7 of the second row is at a real step
    with pytest.raises(DataError, match="holds 7 at a real step"):
        model.fit(np.array([[1, 2, 0], [3, 4, 0]]), labels, batch_size=1, verbose=0, callbacks=[Steps(steps)])
    assert not steps
    model.fit(np.array([[1, 2, 0]]), labels[:1], verbose=0, callbacks=[Steps(steps)])
    assert steps == [0]


def test_a_layer_with_a_method_index_of_keeps_the_mask_of_the_sentences():
    class Encoder(L.Layer):
        def __init__(self):
            super().__init__()
            self.embed, self.encode = L.Embedding(V, D, mask_zero=True), L.LSTM(3)

        def index_of(self, word):
            return word

        def call(self, inputs):
            return self.encode(self.embed(inputs))

    assert np.array_equal(L.TimeDistributed(Encoder())(torch.from_numpy(DOCUMENTS)).mask, REAL.any(-1))


def test_a_call_that_catches_every_exception_does_not_change_the_masks():
    class Careful(L.Embedding):
        def call(self, inputs):
            try:
                return super().call(inputs)
            except Exception:
                return super().call(inputs)

    inner = padless.Sequential([Careful(V, D, mask_zero=True), L.LSTM(3)])
    assert np.array_equal(L.TimeDistributed(inner)(torch.from_numpy(DOCUMENTS)).mask, REAL.any(-1))


@pytest.mark.slow
@pytest.mark.parametrize("name", READING)
def test_the_masks_created_in_an_encoder_decide_which_sentences_are_real(name):
    layer = L.TimeDistributed(READING[name]())
    symbol = layer(L.Input((None, None), dtype="int64"))
    assert symbol.num_step_axes == 2 and symbol.shape == (None, None, 3)
    found = []
    for before, after in [((0, 0), (0, 0)), *WIDER]:
        torch.manual_seed(0)
        ids = torch.from_numpy(widened(DOCUMENTS, before, after))
        outputs = layer(ids, training=True)
        assert np.array_equal(outputs.index.mask, ids.ne(0).any(-1))
        found.append((outputs.values, L.GlobalAveragePooling1D()(outputs), sum(layer.losses) * len(ids)))
        marked = pack(
            ids, mask=np.ones(ids.shape[:2], dtype=bool)
        )  # an explicit mask cannot make a sentence without a word real
        assert np.array_equal(layer(marked).index.mask, outputs.index.mask)
        assert np.array_equal(layer.compute_mask(ids), outputs.index.mask)
    for other in found[1:]:
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(found[0], other, strict=True))


def test_a_mask_narrowed_inside_removes_sentences():
    x = torch.randn(2, 3, 4, D)
    x[0, 1] = x[1, 0, 2:] = 0
    layer = L.TimeDistributed(padless.Sequential([L.Masking(), L.LSTM(2)]))
    wanted = [[True, False, True], [True, True, True]]
    assert layer(x).mask.tolist() == wanted
    assert layer(pack(x, mask=np.ones((2, 3, 4), dtype=bool))).mask.tolist() == wanted


def test_an_encoder_without_a_mask_keeps_every_sentence():
    layer = L.TimeDistributed(padless.Sequential([L.Embedding(V, D), L.LSTM(2)]))
    assert layer(torch.from_numpy(DOCUMENTS)).shape == (4, 3, 2)
    assert not layer(L.Input((None, None), dtype="int64")).masked


def test_training_an_encoder_that_creates_the_mask_ignores_padding():
    histories = []
    for before, after in [((0, 0), (0, 0)), *WIDER]:
        torch.manual_seed(0)
        padless.clear_session()
        model = padless.Sequential([L.TimeDistributed(READING["statistics"]()), L.GlobalAveragePooling1D(), L.Dense(1)])
        model.compile("adam", "mse")
        ids = widened(DOCUMENTS, before, after)
        histories.append(model.fit(ids, LABELS, epochs=3, batch_size=2, shuffle=False, verbose=0).history["loss"])
    assert all(h == histories[0] for h in histories)


# ------------------------------------------------------------------------------------------------ docs/differences.md


def test_sentences_without_a_word():
    """In Keras a sentence of padding is a real step for an encoder that contains an Embedding."""
    layers = [lib.layers.TimeDistributed(lib.Sequential([
        lib.layers.Embedding(V, 1, mask_zero=True, weights=[table()[:, :1]]),
        lib.layers.GRU(2, kernel_initializer="ones", recurrent_initializer="ones", bias_initializer="ones"),
    ])) for lib in (padless, keras)]  # fmt: skip
    a, b = (layer(torch.from_numpy(DOCUMENTS)) for layer in layers)
    assert np.array_equal(mask_on(a), REAL.any(-1)) and mask_on(b) is None
    wider = [layer(torch.from_numpy(widened(DOCUMENTS, (0, 3), (0, 0)))) for layer in layers]
    means = [
        [lib.layers.GlobalAveragePooling1D()(h) for h in pair]
        for lib, *pair in ((padless, a, wider[0]), (keras, b, wider[1]))
    ]
    assert torch.equal(*means[0]) and not torch.allclose(*means[1])
    full = torch.from_numpy(DOCUMENTS[3:])
    close(layers[0](full), layers[1](full))


def test_encoder_of_sentences():
    """Keras's TimeDistributed passes a mask of words to the layer over sentences, which raises an error."""
    mine, theirs = twins(lambda lib: lib.layers.TimeDistributed(lib.layers.LSTM(2)), (None, 3, 4, D))
    results = []
    for lib, layer in ((padless, mine), (keras, theirs)):
        embed = lib.layers.Embedding(V, D, mask_zero=True, weights=[table()[:, :1].repeat(D, 1)])
        results.append(layer(embed(torch.from_numpy(DOCUMENTS))))
    close(*results)
    assert mask_on(results[0]).shape == (4, 3) and mask_on(results[1]).shape == (4, 3, 4)
    with losing(), pytest.raises((RuntimeError, ValueError, IndexError)):
        keras.layers.LSTM(2)(results[1])
    assert shown(L.LSTM(2)(results[0])).shape == (4, 2)
