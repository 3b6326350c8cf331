"""The examples learn what they say, and padding has no part in it."""

import numpy as np
import pytest
import torch

import padless
from examples import classify, documents, irregular_series, language_model, siamese, sparse_codes, tagger


def test_pairs_are_told_apart(capsys):
    assert siamese.main(epochs=4) > 0.85
    assert "unseen pairs" in capsys.readouterr().out


def test_a_siamese_model_measures_its_pairs_whatever_their_padding():
    model = siamese.Siamese(siamese.encoder(6))
    model.compile("sgd")
    (first, second), same = siamese.pairs(20)
    expected = model.evaluate([first, second], same, verbose=0, return_dict=True)
    assert list(expected) == ["loss", "right"]
    wide = [np.pad(first, ((0, 0), (3, 2))), np.pad(second, ((0, 0), (0, 4)))]
    for size in (1, 7, 20):
        assert model.evaluate(wide, same, batch_size=size, verbose=0, return_dict=True) == pytest.approx(expected, rel=1e-5)
    history = model.fit([first, second], same, validation_data=([first, second], same), verbose=0).history
    assert sorted(history) == ["loss", "right", "val_loss", "val_right"]


def test_what_add_loss_asks_for_is_paid(capsys):
    found = sparse_codes.main(epochs=2)
    assert found[0.2][1] > found[0.0][1] + 0.1
    assert "of the code zero" in capsys.readouterr().out


def test_the_price_is_that_of_real_steps_only():
    torch.manual_seed(0)
    model = sparse_codes.SparseCodes(1.0)
    x, y = sparse_codes.examples(6)
    model.compile(padless.optimizers.SGD(0.0), "binary_crossentropy", metrics=["binary_crossentropy"])
    loss, crossentropy = model.evaluate(x, y, verbose=0)
    assert loss - crossentropy == pytest.approx(model.coded(padless.pack(x)).values.mean().item(), rel=1e-4)


def test_documents_are_read(capsys):
    assert documents.main(epochs=4) > 0.75
    assert "unseen functions" in capsys.readouterr().out


def test_a_document_is_the_same_with_more_padding_on_both_levels():
    model = documents.Reader(8)
    ids = np.random.default_rng(0).integers(0, 9, (3, 4, 5))
    wide = np.pad(ids, ((0, 0), (2, 1), (1, 3)))
    assert model.predict(wide, verbose=0) == pytest.approx(model.predict(ids, verbose=0), abs=1e-6)


def test_the_perplexity_is_that_of_the_text(capsys):
    found = language_model.main(epochs=1)
    assert found == [pytest.approx(found[-1], rel=1e-5)] * 4 and found[0] < 30  # of 90 symbols


def test_holes_in_a_series_are_no_steps(capsys):
    assert irregular_series.main(epochs=3) < 0.08
    x, _ = irregular_series.series(5)
    model, known = irregular_series.speedometer(4), irregular_series.known
    expected = model.predict(known(x), verbose=0)
    for row in range(5):
        there = x[row][~np.isnan(x[row, :, 0])]
        assert model.predict([there], verbose=0) == pytest.approx(expected[row : row + 1], abs=1e-6)


def test_lines_are_classified_and_their_words_tagged(capsys):
    assert classify.main(epochs=3) > 0.75
    assert tagger.main(epochs=1) > 0.6
