"""Run the kernels on tensors of random sizes, dtypes and strides, on masks with gaps and empty sequences.

Outputs and gradients must equal those of the reference in float64. Some cases change the index or a shape first: then
the call must end with an error of padless, before a compiled kernel reads the memory.
"""

import copy
from unittest.mock import patch

import numpy as np
import torch
from layouts import LAYOUTS, with_layout
from recurrent_cases import GATES, STANDARD_CELLS, make_float32_tensors, run_cell

from padless.errors import MaskError, PadlessError, ShapeError
from padless.kernels.attention import native as attention_native
from padless.kernels.attention.api import attend
from padless.kernels.attention.reference import AttentionMask, attend_by_row
from padless.kernels.conv import taps
from padless.kernels.conv.plan import window_layout
from padless.kernels.conv.windows import (
    TransposedWindow,
    Window,
    conv1d,
    conv1d_transpose,
    packed_conv1d,
    packed_conv1d_transpose,
)
from padless.kernels.native import library
from padless.kernels.recurrent import native as recurrent_native
from padless.ragged.index import Index

SIZES = (1, 1, 2, 3, 7, 8, 13, 16, 17, 31, 32, 48, 64, 70, 100)
BOUND = {torch.float32: 2e-4, torch.bfloat16: 0.1, torch.float64: 1e-9}


def run_case(seed):
    """Run one case and return what was compared, or which error refused it."""
    random = np.random.default_rng(seed)
    loaded = [library.load_library(level) for level in library.supported_levels()]
    available = [*(library_ for library_ in loaded if isinstance(library_, library.Library)), None]
    chosen = available[random.integers(len(available))]
    threads = int(random.integers(1, 6))
    case = (_recurrent, _recurrent, _attention, _convolution, _convolution, _forged)[random.integers(6)]
    with (
        patch.object(library, "get_library", lambda: chosen),
        patch.object(torch, "get_num_threads", lambda: threads),
        patch.object(recurrent_native, "CHUNK_NUMBERS", int(random.choice([0, 5000, 1 << 17]))),
    ):
        label = case(random, seed)
    return f"{label}, {chosen.level if chosen else 'without library'}"


def _index(random, rows=None):
    """Draw a mask: few or many rows, any density, gaps, empty rows, no rows, no columns."""
    rows = int(random.choice([0, 1, 1, 2, 3, 5, 9, 20])) if rows is None else rows
    columns = int(random.choice([0, 1, 2, 5, 15, 16, 17, 40, 70]))
    density = random.choice([0.0, 0.3, 0.7, 1.0]) * np.minimum(random.random((rows, 1)) * 2, 1)
    return Index(random.random((rows, columns)) < density)


def _size(random):
    return int(random.choice(SIZES))


def _laid_out(random, tensor):
    """Return the numbers in memory of a random layout."""
    return with_layout(tensor, str(random.choice(LAYOUTS)))


def _upstream(random, outputs):
    """Return a gradient of random numbers and layout, in half of the cases of stride 0."""
    gradient = torch.from_numpy(random.standard_normal(tuple(outputs.shape))).to(outputs.dtype)
    if gradient.numel() and random.random() < 0.3:
        return gradient[:1].expand(gradient.shape)
    return _laid_out(random, gradient)


def _compare(run, reference, tensors, random):
    """Compare results and gradients of two functions of tensors, the second one in float64."""
    leaves = [None if t is None else _laid_out(random, t).requires_grad_() for t in tensors]
    exact = [None if t is None else t.detach().double().requires_grad_() for t in tensors]
    zero = 0 * sum(t.sum() for t in exact if t is not None)  # a batch without rows depends on no tensor
    results, expected = run(leaves), [result + zero for result in reference(exact)]
    upstream = [_upstream(random, result) for result in results]
    found = torch.autograd.grad(results, [t for t in leaves if t is not None], upstream, allow_unused=True)
    correct = torch.autograd.grad(
        expected, [t for t in exact if t is not None], [u.double() for u in upstream], allow_unused=True
    )
    for number, (a, b) in enumerate(zip([*results, *found], [*expected, *correct], strict=True)):
        if a is None or b is None:
            assert (a is None or not a.any()) and (b is None or not b.any()), f"#{number} is None once"
            continue
        assert a.shape == b.shape, f"#{number}: {a.shape}, expected {b.shape}"
        if not b.numel():
            continue
        bound = BOUND[a.dtype] * max(float(b.detach().abs().max()), 1)
        error = float((a.detach().double() - b.detach()).abs().max())
        assert error <= bound, f"#{number} differs by {error}"


def _recurrent(random, seed):
    cell, index, reverse = str(random.choice(STANDARD_CELLS)), _index(random), bool(random.integers(2))
    dtype = (torch.float32, torch.float32, torch.bfloat16, torch.float64)[random.integers(4)]
    features, units = _size(random), _size(random)
    tensors = make_float32_tensors(cell, index, features, units, seed, bias=bool(random.integers(2)))
    tensors[2] = tensors[2].detach() / max(float(torch.linalg.matrix_norm(tensors[2].detach(), 2)), 1)  # no chaos
    if dtype == torch.bfloat16:  # relu grows without a bound, and so does its error
        cell = "simple_rnn" if cell == "relu" else cell
        tensors = [None if t is None else t.detach().bfloat16() for t in tensors]
    _compare(
        lambda x: list(run_cell(cell, index, [None if t is None else t.to(dtype) for t in x], reverse=reverse)),
        lambda x: list(run_cell(cell, index, x, reverse=reverse, path="reference")),
        [None if t is None else t.detach().to(dtype) for t in tensors],
        random,
    )
    return f"{cell} {str(dtype)[6:]}"


def _attention(random, seed):
    queries = _index(random)
    causal, other = random.random() < 0.4, random.random() < 0.4
    keys = _index(random, queries.shape[0]) if other and not causal else queries
    groups, repeats = int(random.integers(1, 4)), int(random.integers(1, 4))
    size, width = int(random.choice([1, 3, 8, 16, 32, 48])), int(random.choice([1, 3, 8, 16, 32]))
    generator = torch.Generator().manual_seed(seed)
    shapes = (queries.num_steps, groups * repeats, size), (keys.num_steps, groups, size), (keys.num_steps, groups, width)
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    mask = AttentionMask(causal)
    with patch.object(attention_native, "FEW_KEYS", int(random.choice([32, 1000]))):
        native = attention_native.supports(*tensors, queries, keys, causal)
        _compare(
            lambda x: [attend(*x, queries, keys, mask, 0.25)[0]],
            lambda x: [attend_by_row(*x, queries, keys, mask, 0.25)[0]],
            tensors,
            random,
        )
    return f"attention {'compiled' if native else 'torch'}"


def _convolution(random, seed):
    index, channels, filters = _index(random), _size(random), _size(random)
    dtype = (torch.float32, torch.float32, torch.float64)[random.integers(3)]
    size, stride, dilation = (int(random.integers(1, 4)) for _ in range(3))
    stride, dilation = (stride, 1) if random.integers(2) else (1, dilation)
    transposed = random.random() < 0.4
    if transposed:
        window = TransposedWindow(size, stride, dilation, str(random.choice(["valid", "same"])))
        packed, plain, shape = packed_conv1d_transpose, conv1d_transpose, (size, filters, channels)
    else:
        window = Window(size, stride, dilation, str(random.choice(["valid", "same", "causal"])))
        packed, plain, shape = packed_conv1d, conv1d, (size, channels, filters)
    layout, generator = window_layout(index, window), torch.Generator().manual_seed(seed)
    tensors = [torch.randn(s, generator=generator).to(dtype) for s in ((index.num_steps, channels), shape, (filters,))]

    def by_row(exact):
        """Convolve the span of each row, gaps zero, and keep the outputs that see a real step."""
        values, kernel, bias = exact
        rows = []
        output_index = layout.index_of_outputs(index)
        for row in range(index.shape[0]):
            steps = slice(*index.offsets[row : row + 2])
            columns = index.positions[steps]
            if not len(columns):
                continue
            time = torch.from_numpy(columns - columns[0])
            span = values.new_zeros(int(time[-1]) + 1, channels).index_copy(0, time, values[steps])
            outputs = plain(span[None], window, kernel, bias)[0]
            first = columns[0] * stride if transposed else columns[0] // stride
            if layout.output_index is None:
                first = columns[0]
            kept = output_index.positions[slice(*output_index.offsets[row : row + 2])] - first
            rows.append(outputs[torch.from_numpy(kept)])
        return [torch.cat(rows) if rows else bias[None][:0]]

    _compare(lambda x: [packed(x[0], layout, window, x[1], x[2])], by_row, tensors, random)
    by_taps = taps.supports(torch.empty(1, dtype=dtype), torch.empty(shape, dtype=dtype), 1)
    return f"{'transposed ' * transposed}convolution {'by taps' if by_taps else 'of torch'} {str(dtype)[6:]}"


def _forged(random, seed):
    """Change an index after it was made, or give tensors of another size."""
    index = _index(random, int(random.integers(1, 6)))
    forged, kind = copy.copy(index), str(random.choice(["offsets", "other index", "rows", "states", "kernel"]))
    cell = str(random.choice(STANDARD_CELLS))
    features, units = _size(random), _size(random)
    tensors = [t.detach() for t in make_float32_tensors(cell, index, features, units, seed)]
    if kind == "offsets":
        forged.offsets = index.offsets.copy()
        place = random.integers(len(forged.offsets))
        forged.offsets[place] = random.choice([-(2**62), -1, index.num_steps + 1, 2**40, 2**62, forged.offsets[place]])
    elif kind == "other index":
        forged = Index(np.ones((index.shape[0], index.shape[1] + 1 + int(random.integers(50))), dtype=bool))
    elif kind == "rows":
        tensors[0] = torch.randn(int(random.integers(0, 50)), features)
    elif kind == "states":
        tensors[-1] = torch.randn(int(random.integers(0, 9)), int(random.integers(1, 40)))
    else:
        tensors[2] = torch.randn(int(random.integers(1, 40)), int(random.integers(1, 40)) * GATES[cell])
    try:
        if kind in ("offsets", "other index", "rows") and random.integers(2):
            x = tensors[0].new_zeros(len(tensors[0]), 1, 16)
            native_supports = attention_native.supports(x, x, x, forged, forged, False)
            if not native_supports:
                return "forged index left to torch"
            attend(x, x, x, forged, forged, AttentionMask(), 1.0)
        else:
            run_cell(cell, forged, tensors)
    except (MaskError, ShapeError) as error:
        return f"forged {kind} refused: {type(error).__name__}"
    except Exception as error:
        if library.get_library() is None and not isinstance(error, PadlessError):
            return "forged index refused by torch"  # no compiled kernel is involved
        raise
    return f"forged {kind}: still an index of the values"
