"""`pad_sequences`, `to_categorical` and `set_random_seed` give Keras's results."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import padless
from padless.errors import ArgumentError, DataError
from padless.utils import pad_sequences, set_random_seed, to_categorical

keras = pytest.importorskip("keras")
sides = st.sampled_from(["pre", "post"])


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(st.lists(st.integers(-9, 9), max_size=5), min_size=1, max_size=5),
    maxlen=st.none() | st.integers(1, 6),
    padding=sides,
    truncating=sides,
    value=st.sampled_from([0.0, -1, 7]),
    dtype=st.sampled_from(["int32", "float64"]),
)
def test_pad_sequences_is_that_of_keras(rows, maxlen, padding, truncating, value, dtype):
    kwargs = dict(maxlen=maxlen, padding=padding, truncating=truncating, value=value, dtype=dtype)
    ours, theirs = pad_sequences(rows, **kwargs), keras.utils.pad_sequences(rows, **kwargs)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape


def test_pad_sequences_of_vectors_and_text():
    rows = [[[1.0, 2.0]], [], [[3.0, 4.0], [5.0, 6.0]]]
    np.testing.assert_array_equal(pad_sequences(rows, dtype="float32"), keras.utils.pad_sequences(rows, dtype="float32"))
    text = [["a"], ["b", "c"]]
    np.testing.assert_array_equal(
        pad_sequences(text, dtype=object, value="-"), keras.utils.pad_sequences(text, dtype=object, value="-")
    )


@pytest.mark.parametrize("x", [[0, 2, 1], [[0], [3]], [[0, 1], [2, 2]], np.array([1.0, 0.0]), [[[1]]]])
@pytest.mark.parametrize("classes", [None, 5])
def test_to_categorical_is_that_of_keras(x, classes):
    np.testing.assert_array_equal(to_categorical(x, classes), keras.utils.to_categorical(x, classes))
    assert to_categorical(x, classes).dtype == keras.utils.to_categorical(x, classes).dtype


def test_to_categorical_of_a_tensor_is_a_tensor():
    found = to_categorical(torch.tensor([[1], [0]]), 3)
    assert found.tolist() == [[0, 1, 0], [1, 0, 0]] and found.dtype == torch.float32


def test_a_seed_is_for_all_generators():
    def drawn():
        set_random_seed(7)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert drawn() == drawn()
    with pytest.raises(ArgumentError, match="-1"):
        set_random_seed(-1)


@pytest.mark.parametrize(("call", "kind", "message"), [
    (lambda: pad_sequences([[1]], padding="left"), ArgumentError, "padding 'left'"),
    (lambda: pad_sequences([[1]], truncating="mid"), ArgumentError, "truncating 'mid'"),
    (lambda: pad_sequences([1, 2]), DataError, "1 in it is not a sequence"), (lambda: pad_sequences(3), DataError, "got 3"),
    (lambda: pad_sequences([[1]], value="x"), ArgumentError, "'x' does not fit dtype='int32'"),
    (lambda: pad_sequences([[[1, 2]], [[3]]]), DataError, r"Sequence 1 has steps of shape \(1,\)"),
    (lambda: to_categorical([0, 5], 3), DataError, "class 5.*0 to 2"),
    (lambda: to_categorical([-1, 2]), DataError, "class -1"),
    (lambda: to_categorical(["a"]), DataError, "'a'"),
])  # fmt: skip
def test_bad_sequences_classes_and_arguments_raise(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_utils_has_keras_names():
    assert padless.utils.custom_object_scope and padless.utils.pad_sequences is pad_sequences
