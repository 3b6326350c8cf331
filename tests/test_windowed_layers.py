"""Convolutions, pooling, cropping, padding and upsampling: each span is computed as a plain input, and masks are mapped."""

import gc
import json
import weakref

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras_parity import KINDS, close, equal_masks, ids_of, keras, mask_of, mask_on, numbers, shown, twins

import padless
from padless import layers as L
from padless.errors import ArgumentError, ShapeError
from padless.kernels.conv.plan import crop_spans, pad_spans, repeat_cells, window_layout
from padless.kernels.conv.windows import (
    TransposedWindow,
    Window,
    packed_average_pool1d,
    packed_conv1d,
    packed_conv1d_transpose,
    packed_max_pool1d,
)
from padless.ragged.index import Index
from padless.ragged.packed import Packed, pack
from padless.registry import lookup

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own
C = 4
MIXED = np.array([[int(c) for c in row] for row in ("000000", "011010", "000000", "000111", "100001")], dtype=bool)
CONVOLUTIONS = {
    "Conv1D": {"filters": 6, "groups": 2},
    "DepthwiseConv1D": {"depth_multiplier": 2},
    "SeparableConv1D": {"filters": 5, "depth_multiplier": 2},
}


@st.composite
def rows(draw):
    """Draw the mask of up to four rows of up to nine steps, with any pattern of padding and gaps."""
    count, width = draw(st.integers(1, 4)), draw(st.integers(0, 9))
    bits = draw(st.lists(st.booleans(), min_size=count * width, max_size=count * width))
    return np.array(bits, dtype=bool).reshape(count, width)


@st.composite
def windows(draw):
    """Draw the arguments of a convolution; a stride and a dilation cannot be combined."""
    stride = draw(st.integers(1, 4))
    dilation = 1 if stride > 1 else draw(st.integers(1, 3))
    return {
        "kernel_size": draw(st.integers(1, 4)),
        "strides": stride,
        "dilation_rate": dilation,
        "padding": draw(st.sampled_from(["valid", "same"])),
    }


def span(row):
    """Return the first real column of a row, and the mask from there to its last real column."""
    real = np.flatnonzero(row)
    return (0, row[:0]) if not len(real) else (int(real[0]), row[real[0] : real[-1] + 1])


def looked_at(steps, size, stride, dilation, padding):
    """Return for each output of a span the positions in its window, by Keras's definition; some are outside the span."""
    reach = (size - 1) * dilation + 1
    count = max(0, (steps - reach) // stride + 1) if padding == "valid" else -(-steps // stride)
    total = max(0, (count - 1) * stride + reach - steps)
    left = {"valid": 0, "causal": reach - 1, "same": total // 2}[padding]
    return [[j * stride - left + tap * dilation for tap in range(size)] for j in range(count)]


def grids(mask, content=float("nan")):
    """Return numbers at real steps, and `content` at the others."""
    x = torch.from_numpy(np.random.default_rng(5).normal(size=(*mask.shape, C)))
    return torch.where(torch.from_numpy(mask)[..., None], x, content)


def doubled(layer, steps=9):
    """Build the layer in float64, with random weights and a bias that is not 0."""
    layer.build((None, steps, C))
    layer.to(torch.float64)
    generator = torch.Generator().manual_seed(3)
    for weight in layer.parameters():
        weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return layer


def expect(outputs, placed):
    """Check that the real steps are those of `placed`, a list of (column, numbers) for each row, and that gaps show 0."""
    grid = np.zeros(tuple(outputs.shape))
    mask = np.zeros(grid.shape[:2], dtype=bool)
    for row, steps in enumerate(placed):
        for column, value in steps:
            grid[row, column], mask[row, column] = value, True
    np.testing.assert_array_equal(outputs.mask.numpy(), mask)
    np.testing.assert_allclose(shown(outputs), grid, rtol=1e-9, atol=1e-9)


def alone(layer, x, row):
    """Apply the layer to the span of a row as a plain input, with zeros at masked steps."""
    first, part = span(row)
    bare = torch.where(torch.from_numpy(part)[:, None], x[first : first + len(part)], 0.0)
    return first, part, layer(bare[None])[0].detach().numpy()


# ------------------------------------------------------------------------------------------------ spans


@pytest.mark.parametrize("name", CONVOLUTIONS)
@given(mask=rows(), arguments=windows(), causal=st.booleans())
@example(MIXED, {"kernel_size": 3, "strides": 2, "padding": "same", "dilation_rate": 1}, True)
@example(MIXED, {"kernel_size": 2, "strides": 1, "padding": "valid", "dilation_rate": 3}, False)
@settings(max_examples=60)
def test_convolution_equals_plain_convolution_of_each_span(name, mask, arguments, causal):
    if causal and name == "Conv1D":
        arguments = {**arguments, "padding": "causal"}
    layer = doubled(getattr(L, name)(**CONVOLUTIONS[name], **arguments))
    size, stride, dilation, padding = (
        arguments["kernel_size"],
        arguments["strides"],
        arguments["dilation_rate"],
        (arguments["padding"]),
    )
    x, placed = grids(mask), []
    for row, real in enumerate(mask):
        first, part, values = alone(layer, x[row], real)
        places = looked_at(len(part), size, stride, dilation, padding)
        assert len(places) == len(values)
        keeps = stride == 1 and padding != "valid"
        placed.append(
            [
                (first // stride + j, values[j])
                for j, seen in enumerate(places)
                if (part[j] if keeps else any(0 <= p < len(part) and part[p] for p in seen))
            ]
        )
    outputs = layer(pack(x, mask))
    expect(outputs, placed)
    assert outputs.shape == tuple(layer.compute_output_shape(tuple(x.shape))) == layer(x).shape
    assert torch.equal(layer.compute_mask(x, torch.from_numpy(mask)), outputs.mask)


@pytest.mark.parametrize("name", ["MaxPooling1D", "AveragePooling1D"])
@given(mask=rows(), size=st.integers(1, 4), stride=st.none() | st.integers(1, 5), padding=st.sampled_from(["valid", "same"]))
@example(MIXED, 3, 2, "same")
@settings(max_examples=60)
def test_pooling_ignores_masked_steps_inside_a_span(name, mask, size, stride, padding):
    layer = getattr(L, name)(size, stride, padding)
    stride = size if stride is None else stride
    x, placed = grids(mask), []
    for row, real in enumerate(mask):
        first, part = span(real)
        steps = []
        for j, seen in enumerate(looked_at(len(part), size, stride, 1, padding)):
            kept = [x[row, first + p].numpy() for p in seen if 0 <= p < len(part) and part[p]]
            if kept and (part[j] if stride == 1 and padding == "same" else True):
                steps.append((first // stride + j, (np.max if "Max" in name else np.mean)(kept, axis=0)))
        placed.append(steps)
    outputs = layer(pack(x, mask))
    expect(outputs, placed)
    assert outputs.shape == tuple(layer.compute_output_shape(tuple(x.shape))) == layer(x).shape
    assert torch.equal(layer.compute_mask(x, torch.from_numpy(mask)), outputs.mask)


@given(mask=rows(), arguments=windows(), extra=st.none() | st.integers(0, 3))
@example(MIXED, {"kernel_size": 3, "strides": 1, "padding": "valid", "dilation_rate": 1}, None)
@example(MIXED, {"kernel_size": 2, "strides": 3, "padding": "same", "dilation_rate": 1}, 2)
@settings(max_examples=80)
def test_transposed_convolution_equals_plain_one_of_each_span(mask, arguments, extra):
    stride = arguments["strides"]
    extra = extra if extra is None or extra < stride else None
    layer = doubled(L.Conv1DTranspose(3, output_padding=extra, **arguments))
    counting = doubled(L.Conv1DTranspose(1, output_padding=extra, use_bias=False, **arguments))
    counting.kernel.data = torch.ones_like(counting.kernel)
    x, placed = grids(mask), []
    stretch = layer.window
    for row, real in enumerate(mask):
        first, part, values = alone(layer, x[row], real)
        if not len(part):
            assert not len(values)
        each, whole = (
            counting(torch.from_numpy(p.astype(float))[None, :, None].expand(1, -1, C))[0, :, 0] > 0
            for p in (part, np.ones_like(part))
        )
        steps = []
        for j in range(len(values)):
            before = min((j + stretch.left_crop) // stride, len(part) - 1)  # the last step that begins there
            real_one = part[j] if stretch.keeps_mask else each[j] or not whole[j] and part[before]
            if real_one:
                steps.append((first * stride + j, values[j]))
        placed.append(steps)
    outputs = layer(pack(x, mask))
    expect(outputs, placed)
    assert outputs.shape == tuple(layer.compute_output_shape(tuple(x.shape))) == layer(x).shape
    assert torch.equal(layer.compute_mask(x, torch.from_numpy(mask)), outputs.mask)


@given(mask=rows(), left=st.integers(0, 3), right=st.integers(0, 3))
@settings(max_examples=40)
def test_cropping_and_padding_apply_to_each_span(mask, left, right):
    x = grids(mask)
    shorter, longer = [], []
    for row, real in enumerate(mask):
        first, part = span(real)
        steps = [(p, x[row, first + p].numpy()) for p in range(len(part)) if part[p]]
        shorter.append([(first + p - left, v) for p, v in steps if left <= p < len(part) - right])
        zeros = [*range(left), *range(left + len(part), left + len(part) + right)] if len(part) else []
        longer.append([(first + p + left, v) for p, v in steps] + [(first + p, 0.0) for p in zeros])
    for layer, placed in ((L.Cropping1D((left, right)), shorter), (L.ZeroPadding1D((left, right)), longer)):
        outputs = layer(pack(x, mask))
        expect(outputs, placed)
        assert outputs.shape == tuple(layer.compute_output_shape(tuple(x.shape))) == layer(x).shape
        assert torch.equal(layer.compute_mask(x, torch.from_numpy(mask)), outputs.mask)


@given(mask=rows(), size=st.integers(1, 3))
@settings(max_examples=20)
def test_upsampling_repeats_the_mask(mask, size):
    x = grids(mask, 0.0)
    outputs = L.UpSampling1D(size)(pack(x, mask))
    np.testing.assert_array_equal(outputs.numpy(), np.repeat(x.numpy(), size, axis=1))
    np.testing.assert_array_equal(outputs.mask.numpy(), np.repeat(mask, size, axis=1))


# ------------------------------------------------------------------------------------------------ padding has no effect


LAYERS = {
    "strides": lambda: L.Conv1D(6, 3, strides=2, padding="same"),
    "valid": lambda: L.Conv1D(6, 2, strides=3),
    "causal": lambda: L.Conv1D(6, 3, padding="causal", dilation_rate=2),
    "depthwise": lambda: L.DepthwiseConv1D(3, strides=2),
    "separable": lambda: L.SeparableConv1D(6, 3, padding="same"),
    "transpose": lambda: L.Conv1DTranspose(6, 3, strides=2),
    "max": lambda: L.MaxPooling1D(3, 2, "same"),
    "average": lambda: L.AveragePooling1D(2),
    "cropping": lambda: L.Cropping1D((1, 2)),
    "padding": lambda: L.ZeroPadding1D((2, 1)),
    "repeating": lambda: L.UpSampling1D(2),
}


@pytest.mark.parametrize("name", LAYERS)
@given(mask=rows(), left=st.integers(0, 3), right=st.integers(0, 3), content=st.sampled_from([float("nan"), 1e30]))
@settings(max_examples=12)
def test_padding_and_its_content_change_no_bit(name, mask, left, right, content):
    layer = doubled(LAYERS[name]())
    results = []
    for around, number in (((0, 0), 0.0), ((left, right), content)):
        wide = np.pad(mask, ((0, 0), around))
        x = torch.nn.functional.pad(grids(mask, number), (0, 0, *around), value=number).requires_grad_()
        outputs = layer(pack(x, wide))
        outputs.values.square().sum().backward()
        found = x.grad[torch.from_numpy(wide)]
        results.append([outputs.values, outputs.lengths, found, *(w.grad.clone() for w in layer.parameters())])
        assert torch.equal(x.grad[~torch.from_numpy(wide)], torch.zeros(int((~wide).sum()), C, dtype=torch.float64))
        layer.zero_grad()
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", LAYERS)
def test_rows_are_independent_of_each_other(name):
    layer = doubled(LAYERS[name]())
    mask = np.random.default_rng(1).random((5, 8)) < 0.6
    order = [3, 0, 4, 2, 1]
    x = grids(mask)
    close(layer(pack(x[order], mask[order])), shown(layer(pack(x, mask)))[order], 1e-12)


def test_cost_does_not_depend_on_the_width_of_the_grid():
    for mask in (mask_of("left"), mask_of("holes")):
        wide = np.pad(mask, ((0, 0), (500, 500)))
        for what in (Window(3, 2), Window(3, padding="same"), TransposedWindow(3, 2)):
            assert window_layout(Index(wide), what).line_length == window_layout(Index(mask), what).line_length < 50


# ------------------------------------------------------------------------------------------------ empty inputs


@pytest.mark.parametrize("name", LAYERS)
def test_empty_inputs_work_forward_and_backward(name):
    for shape in [(3, 5), (3, 1), (3, 0), (0, 5)]:
        layer = doubled(LAYERS[name]())
        for mask in (np.zeros(shape, dtype=bool), None):
            x = grids(np.ones(shape, dtype=bool)).requires_grad_()
            outputs = layer(x if mask is None else pack(x, mask))
            assert tuple(outputs.shape) == tuple(layer.compute_output_shape((*shape, C)))
            values = outputs if mask is None else outputs.values
            values.sum().backward()
            assert torch.isfinite(values).all()
            assert all(torch.isfinite(w.grad).all() for w in [x, *layer.parameters()])
            layer.zero_grad()


def test_sequence_shorter_than_the_window_gives_no_step():
    x = pack([[[1.0], [2.0], [3.0]], [[4.0], [5.0]], [[6.0]], []])
    outputs = L.Conv1D(1, 3, kernel_initializer="ones")(x)
    assert outputs.lengths.tolist() == [1, 0, 0, 0] and outputs.values.tolist() == [[6.0]]
    assert L.Conv1D(1, 3)(torch.ones(2, 2, 1)).shape == (2, 0, 1)


# ------------------------------------------------------------------------------------------------ masks


def test_unchanged_mask_is_the_same_index_object():
    x = pack(grids(mask_of("holes")), mask_of("holes"))
    for layer in (
        L.Conv1D(2, 3, padding="same"),
        L.Conv1D(2, 3, padding="causal", dilation_rate=2),
        L.Conv1D(2, 1),
        L.DepthwiseConv1D(3, padding="same"),
        L.SeparableConv1D(2, 3, padding="same"),
        L.Conv1DTranspose(2, 3, padding="same"),
        L.MaxPooling1D(3, 1, "same"),
        L.AveragePooling1D(2, 1, "same"),
    ):
        assert layer(x).index is x.index
    one, two = (layer(x) for layer in (L.Conv1D(2, 3), L.Conv1D(2, 3)))
    assert one.index is two.index and one.index is not x.index  # branches can be added without comparing
    assert L.MaxPooling1D(3, 1)(x).index is not L.Conv1D(2, 3, strides=2)(x).index


@pytest.mark.slow
def test_layout_is_freed_with_its_index():
    index = Index(mask_of("holes"))
    for what in (Window(3, 2), Window(3, padding="same"), TransposedWindow(3, padding="same")):
        assert window_layout(index, what) is window_layout(index, what)
    crop_spans(index, 1, 1), pad_spans(index, 1, 1), repeat_cells(index, 1)
    gone = weakref.ref(index)
    del index
    gc.collect()
    assert gone() is None


def test_gaps_show_zero_and_gap_values_are_not_read():
    x = pack(grids(mask_of("holes")), mask_of("holes"))
    x = x.with_values(x.values, torch.full((x.index.num_gaps, C), float("nan"), dtype=torch.float64))
    for make in LAYERS.values():
        outputs = doubled(make())(x)
        assert outputs.gap_values is None and (outputs.unpack()[~outputs.mask] == 0).all()


def test_window_without_real_steps_gives_no_step():
    mask = [[1, 1, 0, 0, 0, 1]]
    x = torch.arange(6.0)[None, :, None]
    assert L.MaxPooling1D(2)(pack(x, mask)).mask.tolist() == [[True, False, True]]
    assert L.Conv1D(1, 2)(pack(x, mask)).mask.tolist() == [[True, True, False, False, True]]
    assert L.Conv1DTranspose(1, 1, strides=2)(pack(x, mask)).mask.int().tolist() == [[1, 1, 1, 1, *[0] * 6, 1, 1]]


def test_mask_reaches_later_layers_and_the_loss():
    ids = ids_of("right")
    x = L.Input((None,), name="ids", dtype="int64")
    h = L.Embedding(7, 3, mask_zero=True)(x)
    h = L.MaxPooling1D(2)(L.Conv1D(4, 3, padding="same", activation="relu")(h))
    steps = L.Dense(1)(L.LSTM(2, return_sequences=True)(h))
    model = padless.Model(x, [steps, L.GlobalAveragePooling1D()(steps)])
    assert steps.shape == (None, None, 1) and steps.masked
    model.compile("sgd", ["mse", "mse"])
    targets = [np.zeros((4, 2, 1), "float32"), np.zeros((4, 1), "float32")]
    wide = np.pad(ids, ((0, 0), (0, 2)))
    one = model.evaluate(ids, targets, verbose=0)
    two = model.evaluate(wide, [np.zeros((4, 3, 1), "float32"), targets[1]], verbose=0)
    np.testing.assert_allclose(one, two, rtol=1e-6)
    model.fit(ids, targets, epochs=1, batch_size=2, verbose=0)
    steps, whole = model.predict(wide, verbose=0)
    again = model.predict(ids, verbose=0)
    assert steps.shape == (4, 3, 1)
    close(steps[:, :2], again[0], 1e-6)
    close(whole, again[1], 1e-6)


def test_mask_source_and_targets_follow_a_changed_mask():
    x = L.Input((None, C), masked=True, name="x")
    once = L.Conv1D(2, 3, padding="same")(x)
    assert once.mask_source == x.mask_source != L.UpSampling1D(2)(once).mask_source
    model = padless.Sequential([L.Input((None, C), masked=True), L.MaxPooling1D(2), L.Dense(1)])
    model.compile("sgd", "mse")
    sequences = [numbers(n, C) for n in (5, 2, 1)]
    model.fit(sequences, [numbers(n // 2, 1) for n in (5, 2, 1)], verbose=0)
    assert [len(row) for row in model.predict(sequences, verbose=0)] == [2, 1, 0]


def test_symbolic_length_is_open_or_exact():
    for masked in [True, False]:
        x = L.Input((None, C), masked=masked)
        assert L.Conv1D(2, 3, strides=4, padding="same")(x).shape == (None, None, 2)  # both probes give 8 steps
        assert L.MaxPooling1D(64)(x).shape == (None, None, C)
        fixed = L.Input((9, C), masked=masked)
        assert L.Conv1D(2, 3, strides=2)(fixed).shape == (None, 4, 2)
        assert L.Conv1D(2, 3, strides=2)(fixed).masked is masked
        with pytest.raises(ShapeError, match="too short"):
            L.Conv1D(2, 10)(fixed)
        with pytest.raises(ShapeError, match="too short"):
            L.Cropping1D(5)(fixed)


def test_user_defined_subclass_may_call_super():
    class Residual(L.Conv1D):
        def call(self, inputs):
            return inputs + super().call(inputs)

    x = pack(grids(mask_of("holes")).float(), mask_of("holes"))
    assert Residual(C, 3, padding="same")(x).index is x.index


def test_time_distributed_convolution_of_sequences_of_sequences():
    mask = np.random.default_rng(2).random((2, 3, 7)) < 0.5
    x = pack(torch.randn(2, 3, 7, C), mask)
    conv = L.Conv1D(2, 3, padding="same")
    outputs = L.TimeDistributed(conv)(x)
    np.testing.assert_array_equal(outputs.mask.numpy(), mask)
    flat = conv(pack(x.unpack().reshape(6, 7, C), mask.reshape(6, 7)))
    close(outputs.unpack().reshape(6, 7, 2), flat)
    with pytest.raises(ShapeError, match="TimeDistributed"):
        conv(x)


# ------------------------------------------------------------------------------------------------ gradients, dtypes


KERNELS = {
    "convolve": lambda v, i, k, b: packed_conv1d(v, window_layout(i, SAME), SAME, k, b, 2),
    "strided": lambda v, i, k, b: packed_conv1d(v, window_layout(i, STRIDED), STRIDED, k, b, 2),
    "transpose": lambda v, i, k, b: packed_conv1d_transpose(
        v, window_layout(i, TransposedWindow(3, 2)), TransposedWindow(3, 2), k, b
    ),
    "maximum": lambda v, i, k, b: packed_max_pool1d(v, window_layout(i, STRIDED), STRIDED),
    "average": lambda v, i, k, b: packed_average_pool1d(v, window_layout(i, STRIDED), STRIDED),
}
SAME, STRIDED = Window(3, 1, 2, "same"), Window(3, 2, 1, "same")


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_gradcheck_of_kernels(name):
    index = Index(mask_of("holes"))
    shape = (3, 4, C) if name == "transpose" else (3, C // 2, 4)
    inputs = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((index.num_steps, C), shape, (4,))]
    inputs = inputs if name not in ("maximum", "average") else inputs[:1]
    assert torch.autograd.gradcheck(lambda v, k=None, b=None: KERNELS[name](v, index, k, b), inputs)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_runs_in_bfloat16_and_float64(name):
    for dtype in [torch.bfloat16, torch.float64]:
        layer = doubled(LAYERS[name]())
        x, mask = grids(mask_of("holes")), mask_of("holes")
        exact = layer(pack(x, mask))
        layer.to(dtype)
        x = x.to(dtype).requires_grad_()
        outputs = layer(pack(x, mask))
        assert outputs.dtype == dtype == layer(x.detach()).dtype
        np.testing.assert_allclose(shown(Packed(outputs.values.double(), outputs.index)), shown(exact), atol=0.1, rtol=0.1)
        outputs.values.sum().backward()
        assert x.grad.dtype == dtype and torch.isfinite(x.grad).all()


def test_gradient_of_equal_maxima_goes_to_the_first():
    x = torch.zeros(1, 4, 1, requires_grad=True)
    L.MaxPooling1D(2)(pack(x, [[1, 1, 1, 1]])).values.sum().backward()
    assert x.grad.reshape(-1).tolist() == [1, 0, 1, 0]


def test_max_pooling_accepts_integers():
    assert L.MaxPooling1D(2)(pack([[[-5], [-7]], [[-9]]])).values.tolist() == [[-5]]


# ------------------------------------------------------------------------------------------------ Keras


PARITY = {
    "Conv1D": [
        {},
        {"strides": 2},
        {"padding": "same", "strides": 3},
        {"padding": "causal", "dilation_rate": 2},
        {"padding": "CAUSAL", "strides": 2},
        {"padding": "same", "dilation_rate": 2, "activation": "tanh"},
    ],
    "DepthwiseConv1D": [{}, {"padding": "same", "strides": 2}, {"strides": 2, "dilation_rate": 2}],
    "SeparableConv1D": [{}, {"padding": "same", "strides": 2, "use_bias": False}, {"dilation_rate": 2}],
    "Conv1DTranspose": [
        {},
        {"strides": 2},
        {"padding": "same", "strides": 2},
        {"padding": "same", "strides": 3},
        {"padding": "same", "dilation_rate": 2},
        {"strides": 3, "output_padding": 1},
        {"padding": "same", "strides": 3, "output_padding": 2},
    ],
    "MaxPooling1D": [{}, {"pool_size": 3, "strides": 2, "padding": "same"}, {"pool_size": 4, "strides": 1}],
    "AveragePooling1D": [{"pool_size": 2}, {"pool_size": 3, "strides": 1, "padding": "same"}],
    "Cropping1D": [{}, {"cropping": 2}, {"cropping": (0, 3)}],
    "ZeroPadding1D": [{}, {"padding": 2}, {"padding": (0, 3)}],
    "UpSampling1D": [{}, {"size": 3}],
}
CASES = [(name, given) for name, every in PARITY.items() for given in every]


def made(name, given):
    first = {**CONVOLUTIONS, "Conv1DTranspose": {"filters": 3}}.get(name, {})
    more = {**first, "kernel_size": 3} if "Conv" in name else {}
    return lambda lib: getattr(lib.layers, name)(**more, **given)


@pytest.mark.parametrize(("name", "given"), CASES, ids=lambda x: str(x))
def test_plain_inputs_match_keras(name, given):
    for steps in [6, 7]:
        mine, theirs = twins(made(name, given), (None, steps, C))
        x, y = (torch.from_numpy(numbers(2, steps, C)).requires_grad_() for _ in range(2))
        a, b = mine(x), theirs(y)
        close(a, b)
        assert tuple(mine.compute_output_shape((2, steps, C))) == tuple(theirs.compute_output_shape((2, steps, C)))
        assert [n for n, _ in mine.named_parameters()] == [w.name for w in theirs.weights]
        weights = torch.from_numpy(numbers(*a.shape))
        (a * weights).sum().backward()
        (b * weights).sum().backward()
        close(x.grad, y.grad)
        for u, v in zip(mine.trainable_weights, theirs.trainable_weights, strict=True):
            close(u.grad, v.value.grad)
        close(mine(pack(x, np.ones((2, steps)))), b)


@pytest.mark.parametrize("name", ["Conv1D", "DepthwiseConv1D", "MaxPooling1D", "ZeroPadding1D"])
def test_channels_first_matches_keras(name):
    given = {"data_format": "channels_first"}
    mine, theirs = twins(made(name, given), (None, C, 6))
    x = numbers(2, C, 6)
    close(mine(torch.from_numpy(x)), theirs(x))
    assert tuple(mine.compute_output_shape((2, C, 6))) == tuple(theirs.compute_output_shape((2, C, 6)))
    with pytest.raises(ArgumentError, match="channels_first"):
        mine(pack(torch.ones(2, C, C), np.ones((2, C))))


@pytest.mark.parametrize("name", PARITY)
def test_config_has_the_arguments_of_keras(name):
    mine, theirs = (made(name, PARITY[name][0])(lib).get_config() for lib in (padless, keras))
    not_here = {"lora_rank", "lora_alpha", "quantization_config", "batch_input_shape"}
    assert list(mine)[:3] == ["name", "trainable", "dtype"]
    assert set(theirs) - not_here - set(mine) - {"activity_regularizer"} == set()
    again = type(getattr(L, name)).__call__(getattr(L, name), **json.loads(json.dumps(mine)))
    assert again.get_config() == json.loads(json.dumps(mine))


@pytest.mark.parametrize("given", [{"padding": "causal"}, {"padding": "causal", "strides": 2}, {}], ids=str)
def test_right_padding_matches_keras_at_real_steps(given):
    mine, theirs = twins(made("Conv1D", given), (None, 5, C))
    x, mask = numbers(4, 5, C), mask_of("right")
    outputs = mine(pack(x, mask))
    real = outputs.mask.numpy()
    close(torch.from_numpy(shown(outputs)[real]), torch.from_numpy(shown(theirs(x))[real]))
    if given == {"padding": "causal"}:
        np.testing.assert_array_equal(real, mask)


def test_aliases_of_keras_exist():
    for alias in ["Convolution1D", "SeparableConvolution1D", "Convolution1DTranspose", "MaxPool1D", "AvgPool1D"]:
        assert lookup("layer", alias).__name__ == getattr(keras.layers, alias).__name__


# Lines of docs/differences.md, with both numbers


def test_mask_of_windows():
    ids = ids_of("right")
    for name, arguments in (("Conv1D", {"padding": "same"}), ("MaxPooling1D", {}), ("ZeroPadding1D", {})):
        mine, theirs = twins(made(name, arguments), (None, 5, C))
        x = [
            lib.layers.Embedding(7, C, mask_zero=True, weights=[numbers(7, C)])(torch.from_numpy(ids))
            for lib in (padless, keras)
        ]
        with pytest.warns(UserWarning, match="does not support masking"):
            expected = theirs(x[1])
        outputs = mine(x[0])
        assert mask_on(expected) is None and isinstance(outputs, Packed)
        equal_masks(mask_on(outputs), mine.compute_mask(x[0], torch.from_numpy(ids != 0)))


def test_padding_in_windows():
    mine, theirs = twins(made("Conv1D", {"padding": "same"}), (None, 5, C))
    x, mask = numbers(1, 5, C), np.array([[0, 1, 1, 1, 0]])
    inner = shown(theirs(x[:, 1:4]))
    close(torch.from_numpy(shown(mine(pack(x, mask)))[:, 1:4]), torch.from_numpy(inner))
    assert not np.allclose(shown(theirs(x))[:, 1:4], inner, atol=1e-3)  # Keras lets the padding in


def test_strides_over_left_padding():
    mine, theirs = twins(made("Conv1D", {"strides": 2}), (None, 6, C))
    x = numbers(1, 5, C)
    moved = np.concatenate([np.zeros((1, 1, C), "float32"), x], axis=1)
    alone = shown(theirs(x))
    close(mine(pack(moved, [[0, 1, 1, 1, 1, 1]])), torch.from_numpy(alone))
    assert not np.allclose(shown(theirs(moved)), alone, atol=1e-3)  # one step of padding shifts the clock


def test_sequences_too_short_for_a_window():
    x = numbers(1, 2, C)
    with pytest.raises(ValueError, match="zero or negative"):
        keras.layers.Conv1D(2, 3)(x)
    assert L.Conv1D(2, 3)(torch.from_numpy(x)).shape == (1, 0, 2)


def test_average_of_what_padding_adds():
    x = torch.tensor([[[1.0], [2.0], [3.0]]])
    assert shown(keras.layers.AveragePooling1D(4, 1, "same")(x))[0, 0, 0] == 1.75  # on torch; 2 on JAX and TensorFlow
    assert L.AveragePooling1D(4, 1, "same")(x)[0, 0, 0].item() == 2.0


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L.Conv1D(0, 3), "filters"),
        (lambda: L.Conv1D(4, 0), "kernel_size"),
        (lambda: L.Conv1D(4, (3, 3)), r"got \(3, 3\)"),
        (lambda: L.Conv1D(4, 3, strides=0), "strides"),
        (lambda: L.Conv1D(4, 3, strides=2, dilation_rate=2), "not both"),
        (lambda: L.Conv1D(4, 3, groups=3), "multiple of groups=3"),
        (lambda: L.Conv1D(4, 3, padding="full"), "causal, same, valid"),
        (lambda: L.DepthwiseConv1D(3, padding="causal"), "same, valid"),
        (lambda: L.Conv1DTranspose(4, 3, strides=2, output_padding=2), "below its strides"),
        (lambda: L.MaxPooling1D(2, data_format="last"), "channels_last"),
        (lambda: L.Cropping1D(-1), "at least 0, or 2 of them"),
        (lambda: L.UpSampling1D(1.5), "size"),
    ],
)
def test_invalid_arguments_raise(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_wrong_inputs_raise():
    with pytest.raises(ShapeError, match=r"\(batch, steps, features\)"):
        L.Conv1D(4, 3)(torch.ones(2, 5))
    with pytest.raises(ShapeError, match=r"\(batch, steps, features\)"):
        L.MaxPooling1D(2)(torch.ones(2, 5, 3, 3))
    with pytest.raises(ShapeError, match="multiple of that; got 3"):
        L.Conv1D(4, 3, groups=2)(torch.ones(2, 5, 3))
    with pytest.raises(ShapeError, match="must be known"):
        L.Conv1D(4, 3).build((None, 5, None))
    conv = L.Conv1D(4, 3)
    conv(torch.ones(2, 5, 3))
    with pytest.raises(ShapeError, match="built for 3 features; got an input with 2"):
        conv(pack(torch.ones(2, 5, 2), np.ones((2, 5))))


def test_compute_mask_matches_the_mask_of_the_output():
    for kind in KINDS:
        mask = torch.from_numpy(mask_of(kind))
        layer = L.Conv1D(2, 2, strides=2)
        assert layer.compute_mask(None, None) is None
        assert torch.equal(layer.compute_mask(None, mask), layer(pack(torch.ones(4, 5, C), mask)).mask)


@pytest.mark.parametrize("layer", [lambda: L.Conv1DTranspose(16, 3), lambda: L.Conv1D(17, 3)])
@pytest.mark.parametrize("channels", [16, 17])
def test_backward_under_autocast_has_the_dtype_of_the_forward_pass(layer, channels):
    layer, x = layer(), torch.randn(1, 9, channels, requires_grad=True)
    made = layer(padless.pack(x, lengths=[9])).values.sum()
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(made, x, retain_graph=True)
    (expected,) = torch.autograd.grad(made, x)
    torch.testing.assert_close(found, expected)
