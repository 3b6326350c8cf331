"""Build the same layers and models in padless and in Keras, with the same weights, and compare the results.

A case is written once, as a function of the library: `lambda lib: lib.layers.LSTM(3)`. Masks come in five kinds.
"""

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import padless

keras = pytest.importorskip("keras")

B, T, D, V = 4, 5, 3, 7
MASKS = {
    "none": [[1, 1, 1, 1, 1]] * 4,
    "right": [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]],
    "left": [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [0, 1, 1, 1, 1], [0, 0, 0, 1, 1]],
    "holes": [[1, 0, 1, 0, 1], [0, 1, 0, 0, 1], [1, 1, 0, 1, 0], [0, 1, 1, 0, 0]],
    "empty": [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 1, 1]],
}
KINDS = list(MASKS)
LIBRARIES = (padless, keras)


def mask_of(kind):
    return np.array(MASKS[kind], dtype=bool)


def ids_of(kind, seed=0):
    """Return ids whose zeros are the masked steps of this kind."""
    ids = np.random.default_rng(seed).integers(1, V, (B, T))
    return np.where(mask_of(kind), ids, 0)


def all_ids(seed=0):
    """Return one batch with rows of every kind."""
    return np.concatenate([ids_of(kind, seed) for kind in KINDS])


def table(width=D, seed=1):
    return np.random.default_rng(seed).normal(size=(V, width)).astype("float32")


def numbers(*shape, seed=2):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def embed(lib, ids, width=D, weights=None):
    """Return embedded ids with the mask of the library, and the Embedding."""
    layer = lib.layers.Embedding(V, width, mask_zero=True, weights=[table(width) if weights is None else weights])
    return layer(torch.from_numpy(ids)), layer


def twins(make, *shapes):
    """Return the layers that `make` returns for padless and for Keras, with the same weights; built if shapes are given."""
    mine, theirs = make(padless), make(keras)
    if shapes:
        mine.build(*shapes)
        theirs.build(*shapes)
    same_weights(mine, theirs)
    return mine, theirs


def twin_models(build):
    """Return the models that `build` returns for padless and for Keras, with the same weights."""
    mine, theirs = build(padless), build(keras)
    same_weights(mine, theirs)
    return mine, theirs


def same_weights(mine, theirs):
    """Give both layers the same weights, which differ from the initial ones, biases included."""
    rng = np.random.default_rng(3)
    weights = [rng.normal(size=w.shape, scale=0.6).astype("float32") for w in mine.get_weights()]
    mine.set_weights(weights)
    theirs.set_weights(weights)


def flat(result):
    """Return the outputs of any nest as a list."""
    if isinstance(result, list | tuple):
        return [leaf for part in result for leaf in flat(part)]
    if isinstance(result, dict):
        return [leaf for key in sorted(result) for leaf in flat(result[key])]
    return [result]


def grid(x):
    """Return the padded grid of a result as a tensor."""
    return x.unpack() if isinstance(x, padless.Packed) else x


def shown(x):
    """Return the padded grid of a result as an array."""
    return grid(x).detach().numpy() if not isinstance(x, np.ndarray) else x


def mask_on(x):
    """Return the mask of a result, or None."""
    if isinstance(x, padless.Packed):
        return x.mask.numpy()
    found = getattr(x, "_keras_mask", None)
    return None if found is None else found.numpy()


def set_mask(x, mask):
    """Replace the mask of a result of Keras."""
    x._keras_mask = torch.from_numpy(np.ascontiguousarray(mask))


def close(mine, theirs, tolerance=1e-5, what=""):
    mine, theirs = shown(mine), shown(theirs)
    assert mine.shape == theirs.shape, (what, mine.shape, theirs.shape)
    np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance, err_msg=what)


def equal_masks(mine, theirs):
    """Check that both masks are equal, or both None."""
    assert (mine is None) == (theirs is None), (mine, theirs)
    if mine is not None:
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


def gradients(layer):
    """Return the gradients of all weights in Keras's order; zeros for a weight without a gradient."""
    weights = [w if isinstance(w, torch.Tensor) else w.value for w in layer.trainable_weights]
    return [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]


def compare(mine, theirs, layers=(), masks=True, tolerance=1e-5):
    """Compare two results: grids at every position, masks, and the gradients of all weights, also from masked positions."""
    mine, theirs = flat(mine), flat(theirs)
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        close(a, b, tolerance)
        if masks:
            equal_masks(mask_on(a), mask_on(b))
    if layers:
        for results in (mine, theirs):
            grids = [grid(x) for x in results]
            sum((x * torch.from_numpy(numbers(*x.shape, seed=n))).sum() for n, x in enumerate(grids)).backward()
        for a, b in layers:
            for number, (ga, gb) in enumerate(zip(gradients(a), gradients(b), strict=True)):
                close(ga, gb, tolerance, f"gradient {number} of {b.name}")


@contextmanager
def losing():
    """Ignore the warning of Keras about a lost mask."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not support masking.*")
        yield
