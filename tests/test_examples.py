"""The examples reach their accuracy, and padding has no influence on them."""

import numpy as np
import pytest
import torch

import padless
from examples import classify, documents, irregular_series, language_model, siamese, sparse_codes, tagger


@pytest.mark.slow
def test_siamese_reaches_its_accuracy(capsys):
    assert siamese.main(epochs=4) > 0.85
    assert "unseen pairs" in capsys.readouterr().out


def test_siamese_results_do_not_depend_on_padding_and_batch_size():
    model = siamese.Siamese(siamese.build_encoder(6))
    model.compile("sgd")
    (first, second), matches = siamese.make_pairs(20)
    expected = model.evaluate([first, second], matches, verbose=0, return_dict=True)
    assert list(expected) == ["loss", "accuracy"]
    wide = [np.pad(first, ((0, 0), (3, 2))), np.pad(second, ((0, 0), (0, 4)))]
    for size in (1, 7, 20):
        assert model.evaluate(wide, matches, batch_size=size, verbose=0, return_dict=True) == pytest.approx(
            expected, rel=1e-5
        )
    history = model.fit([first, second], matches, validation_data=([first, second], matches), verbose=0).history
    assert sorted(history) == ["accuracy", "loss", "val_accuracy", "val_loss"]


def test_the_penalty_makes_codes_sparse(capsys):
    results = sparse_codes.main(epochs=2)
    assert results[0.2][1] > results[0.0][1] + 0.1
    assert "of the code is zero" in capsys.readouterr().out


def test_the_penalty_is_the_mean_over_real_steps():
    torch.manual_seed(0)
    model = sparse_codes.SparseCodes(1.0)
    x, y = sparse_codes.make_examples(6)
    model.compile(padless.optimizers.SGD(0.0), "binary_crossentropy", metrics=["binary_crossentropy"])
    loss, crossentropy = model.evaluate(x, y, verbose=0)
    assert loss - crossentropy == pytest.approx(model.encode(padless.pack(x)).values.mean().item(), rel=1e-4)


@pytest.mark.slow
def test_documents_reaches_its_accuracy(capsys):
    assert documents.main(epochs=4) > 0.75
    assert "unseen functions" in capsys.readouterr().out


def test_a_document_does_not_depend_on_padding_on_both_levels():
    model = documents.DocumentClassifier(8)
    ids = np.random.default_rng(0).integers(0, 9, (3, 4, 5))
    wide = np.pad(ids, ((0, 0), (2, 1), (1, 3)))
    assert model.predict(wide, verbose=0) == pytest.approx(model.predict(ids, verbose=0), abs=1e-6)


@pytest.mark.slow
def test_the_perplexity_does_not_depend_on_the_batch_size(capsys):
    values = language_model.main(epochs=1)
    assert values == [pytest.approx(values[-1], rel=1e-5)] * 4 and values[0] < 30  # of 90 symbols


def test_missing_steps_of_a_series_are_masked(capsys):
    assert irregular_series.main(epochs=3) < 0.08
    x, _ = irregular_series.make_series(5)
    model = irregular_series.build_model(4)
    expected = model.predict(irregular_series.pack_measured(x), verbose=0)
    for row in range(5):
        measured = x[row][~np.isnan(x[row, :, 0])]
        assert model.predict([measured], verbose=0) == pytest.approx(expected[row : row + 1], abs=1e-6)


@pytest.mark.slow
def test_classify_and_tagger_reach_their_accuracy(capsys):
    assert classify.main(epochs=3) > 0.75
    assert tagger.main(epochs=1) > 0.6
