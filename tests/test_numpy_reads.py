"""NumPy and foreign code do not take a Packed apart: no function gets a grid without its gradient and mask in silence."""

import keras
import numpy as np
import pytest
import torch

import padless
from padless import Input, Model, layers, pack
from padless.errors import MaskLost, PadlessError

MASK = [[1, 1, 0], [1, 1, 1]]

# Ways in which code that does not know a Packed may read one.
READS = {
    "numpy": lambda x: x.numpy(),
    "asarray": np.asarray,
    "array": lambda x: np.array(x),
    "copy": lambda x: np.array(x, copy=True),
    "ufunc": np.tanh,
    "concatenate": lambda x: np.concatenate([x, x]),
    "stack": lambda x: np.stack([x]),
    "mean": np.mean,
    "sum": np.sum,
    "reshape": lambda x: np.reshape(x, (-1,)),
    "where": lambda x: np.where(x, 1, 0),
    "float array": lambda x: np.array(x, float),
    "keras tanh": keras.ops.tanh,
    "keras convert": keras.ops.convert_to_tensor,
    "keras mean": keras.ops.mean,
    "keras to numpy": keras.ops.convert_to_numpy,
    "keras stack": lambda x: keras.ops.stack([x, x]),
    "keras relu": keras.activations.relu,
    "as_tensor": torch.as_tensor,
    "tensor": torch.tensor,
    "from_numpy": torch.from_numpy,
    "tolist": lambda x: x.tolist(),
    "item": lambda x: x.item(),
    "float": float,
    "int": int,
    "bool": bool,
    "dlpack": torch.from_dlpack,
    "numpy dlpack": np.from_dlpack,
    "interface": lambda x: x.__array_interface__,
    "FloatTensor": torch.FloatTensor,
    "complex": complex,
    "index": lambda x: [1, 2][x],
    "memory": memoryview,
    "data": lambda x: x.data,
    "storage": lambda x: x.untyped_storage(),
    "pointer": lambda x: x.data_ptr(),
}
ERRORS = (PadlessError, TypeError, AttributeError, ValueError, RuntimeError, BufferError)


def packed(requires_grad=False):
    return pack(torch.ones(2, 3, 4, requires_grad=requires_grad), MASK)


class Reads(layers.Layer):
    """A layer that reads its input in some way."""

    def __init__(self, read):
        super().__init__()
        self.read = read

    def call(self, x):
        self.read(x)
        return x


@pytest.mark.parametrize("name", READS)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own
def test_foreign_code_cannot_read_a_packed_inside_a_call(name):
    read = READS[name]
    for x in (packed(), pack(np.ones((2, 3, 4), np.float32))):  # with masked steps, and without
        with pytest.raises(ERRORS), torch.no_grad():
            Reads(read)(x)
    with pytest.raises(ERRORS):
        layers.Lambda(lambda x: read(x) if read(x) is None else x)(packed())
    with pytest.raises(ERRORS):
        Model(h := Input((3, 4)), Reads(read)(layers.Masking()(h)))


@pytest.mark.parametrize("name", READS)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_foreign_code_cannot_read_a_packed_that_requires_a_gradient(name):
    with pytest.raises(ERRORS):
        READS[name](packed(requires_grad=True))


@pytest.mark.parametrize("name", [name for name in READS if name != "storage"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_foreign_code_cannot_read_a_symbol(name):
    with pytest.raises(ERRORS):
        READS[name](Input((3, 4)))


def test_the_error_names_the_layer_and_the_ways_out():
    with pytest.raises(MaskLost, match=r"(?s)layer 'scores'.*the given mask.*torch functions.*\.values.*detach\(\)\.numpy"):
        layers.Lambda(lambda x: keras.ops.tanh(x), name="scores")(packed())
    with pytest.raises(MaskLost, match="gradients are required"):
        np.asarray(packed(requires_grad=True))


def test_a_result_outside_of_calls_is_an_explicit_read():
    h = packed()
    grid = h.unpack().numpy()
    assert np.array_equal(h.numpy(), grid) and np.array_equal(np.asarray(h), grid)
    assert np.array_equal(np.array(h, np.float64), grid) and np.asarray(h, np.int64).dtype == np.int64
    with torch.no_grad():
        assert np.array_equal(layers.Dense(2)(h).numpy().shape, (2, 3, 2))
    assert packed(requires_grad=True).detach().numpy().shape == (2, 3, 4)


def test_a_training_step_cannot_read_its_outputs_by_numpy():

    model = padless.Sequential(
        [layers.Embedding(9, 3, mask_zero=True), layers.Lambda(lambda x: torch.tanh(torch.as_tensor(np.tanh(x))))]
    )
    model.compile("sgd", "mse")
    ids = np.array([[1, 2, 0], [3, 4, 5]])
    for run in (
        lambda: model.fit(ids, ids, verbose=0),
        lambda: model.predict(ids, verbose=0),
        lambda: model.evaluate(ids, ids, verbose=0),
    ):
        with pytest.raises((MaskLost, TypeError)):
            run()
