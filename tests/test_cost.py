"""The cost is that of the real steps: padding, however much and wherever, adds no floating-point operation.

Counted are the multiplications of matrix products and every number of floating type that an operation writes; also
inside autograd functions, forward and backward. Nothing here measures time.
"""

import numpy as np
import pytest
import torch
from cases import LAYERS, MODELS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from padless import layers as L
from padless.graph.symbolic import leaves
from padless.kernels.native import library
from padless.layers.base.layer import Layer
from padless.models import Model
from padless.ragged.packed import Packed, computing_gap_values, pack


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    """The native kernels is out of sight of torch's counters; it takes what the path in torch takes."""
    monkeypatch.setattr(library, "get_library", lambda: None)


ROWS = [6, 0, 3, 1]  # the real steps of each row
N, LONGEST = sum(ROWS), max(ROWS)
PRODUCTS = {"mm": (0, 1), "addmm": (1, 2), "addmm_": (1, 2), "bmm": (0, 1), "baddbmm": (1, 2)}
LAYOUT = {
    "view",
    "t",
    "expand",
    "slice",
    "select",
    "as_strided",
    "split",
    "split_with_sizes",
    "unsqueeze",
    "squeeze",
    "detach",
    "alias",
    "transpose",
    "permute",
    "_unsafe_view",
    "unbind",
    "empty",
    "empty_like",
    "new_empty",
}


class Count(TorchDispatchMode):
    """Counts multiplications of matrix products and the floats that operations write."""

    def __init__(self):
        super().__init__()
        self.products = self.written = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            left, right = (args[k] for k in PRODUCTS[name])
            self.products += left.numel() * right.shape[-1]
        if name not in LAYOUT:
            self.written += sum(
                x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor) and x.is_floating_point()
            )
        return result


def layouts():
    """The same real steps with a little padding, and with ten times as much: right, left, in holes."""

    def grid(width, place):
        mask = np.zeros((len(ROWS), width), dtype=bool)
        for row, length in enumerate(ROWS):
            mask[row, place(width, length)] = True
        return mask

    wide = 10 * LONGEST
    right, left = (lambda w, n: np.arange(n)), (lambda w, n: np.arange(w - n, w))
    holes = lambda w, n: np.arange(n) * (w // LONGEST)  # noqa: E731
    return {"little": grid(LONGEST, right), "right": grid(wide, right), "left": grid(wide, left), "holes": grid(wide, holes)}


MASKS = layouts()


def numbers(draw, seed=0):
    """The real steps: the same, wherever they stand."""
    return draw(torch.Generator().manual_seed(seed), (1, N))[0]


def entered(subject, mask):
    """The subject's inputs, packed before anything is counted."""
    index = pack(np.zeros(mask.shape), mask).index
    rows = [numbers(draw, k) for k, draw in enumerate(subject.inputs)]
    rows = [r.to(subject.dtype).requires_grad_() if r.is_floating_point() else r for r in rows]
    packed = [Packed(r, index) for r in rows]
    more = {
        name: [torch.ones(mask.shape[0], *shape, dtype=subject.dtype) for shape in shapes]
        for name, shapes in subject.rows.items()
    }
    return (packed if len(packed) > 1 else packed[0]), more


def spent(subject, mask):
    """Multiplications and written floats of one pass forward and backward."""
    inputs, more = entered(subject, mask)
    subject.layer.zero_grad(set_to_none=True)
    subject.forget()
    with computing_gap_values(False):
        subject.layer(inputs, **more, training=subject.training)  # derived parts of the index are kept from here on
        with Count() as count:
            outputs = leaves(subject.layer(inputs, **more, training=subject.training))
            total = sum((x.values if isinstance(x, Packed) else x).sum() for x in outputs)
            if total.requires_grad:
                total.backward()
    return count.products, count.written


GRID = {"DropMask", "Flatten", "Lambda-grid", "TorchModuleWrapper-grid"}  # they make the grid, that is what they are for
PACKED = [case for case in (*LAYERS, *MODELS) if not {case.layer, case.name} & GRID and not case.options.get("creates_mask")]


@pytest.mark.parametrize("case", PACKED, ids=lambda c: c.name)
def test_ten_times_the_padding_costs_nothing(case):
    subject = case.harness()
    little = spent(subject, MASKS["little"])
    spans = getattr(subject.layer, "relation", None) == "window"  # its clock runs through the holes of a row
    for name in ("right", "left") if spans else ("right", "left", "holes"):
        assert spent(subject, MASKS[name]) == little, name


def test_the_count_sees_inside_autograd_functions():
    x = torch.randn(2, 5, 3, requires_grad=True)
    layer = L.LSTM(4, return_sequences=True)
    layer(x)
    with Count() as forward:
        output = layer(x)
    assert forward.products == 10 * 3 * 16 + 10 * 4 * 16  # inputs and states, each step once
    with Count() as backward:
        output.sum().backward()
    assert backward.products == 2 * forward.products


def test_torch_counts_the_same_operations_for_dense():
    layer = L.Dense(2)
    for mask in MASKS.values():
        h = pack(torch.randn(*mask.shape, 3, requires_grad=True), mask)
        layer(h)
        with FlopCounterMode(display=False) as flops:
            layer(h).values.sum().backward()
        assert flops.get_total_flops() == 3 * 2 * N * 3 * 2  # forward, and two products backward, 2 per multiplication


def test_the_count_would_see_a_layer_that_works_on_the_grid():
    class OnGrid(L.Layer):
        def call(self, inputs, mask=None):
            return inputs.unpack().tanh()

    with Count() as little:
        OnGrid()(pack(np.zeros((*MASKS["little"].shape, 3), "float32"), MASKS["little"]))
    with Count() as much:
        OnGrid()(pack(np.zeros((*MASKS["right"].shape, 3), "float32"), MASKS["right"]))
    assert much.written > 5 * little.written


# ------------------------------------------------------------------------------------------------ training


def tagger(zero=True):
    x = L.Input((None,))
    h = L.Bidirectional(L.LSTM(4, return_sequences=True))(L.Embedding(7, 3, mask_zero=zero)(x))
    h = L.Add()([L.Dense(8)(h), L.LayerNormalization()(h)])
    model = Model(x, L.Dense(5)(L.Dropout(0.1)(h)))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def examples(mask):
    """Ids and labels, the same at the real steps of any layout."""
    ids, labels = np.zeros(mask.shape, dtype=np.int64), np.zeros(mask.shape, dtype=np.int64)
    ids[mask] = 1 + np.arange(N) % 6
    labels[mask] = np.arange(N) % 5
    return ids, labels


def watched(model, entries):
    """Notes of each layer behind the birth what enters it."""

    def note(layer, args, kwargs):
        entries.extend((layer.name, x) for x in leaves((args, kwargs)) if isinstance(x, Packed))

    return [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in model.modules() if isinstance(layer, Layer)]


@pytest.mark.parametrize("verb", ["fit", "evaluate", "train_on_batch"])
def test_training_with_ten_times_the_padding_costs_nothing(verb):
    model = tagger()
    costs = []
    for mask in MASKS.values():
        ids, labels = examples(mask)
        options = {"shuffle": False} if verb == "fit" else {}
        options = options if verb == "train_on_batch" else {**options, "verbose": 0}
        getattr(model, verb)(ids, labels, **options)
        with Count() as count:
            getattr(model, verb)(ids, labels, **options)
        costs.append((count.products, count.written))
    assert costs[0][0] > 0
    assert costs == costs[:1] * len(costs)


def test_only_real_steps_enter_the_layers_and_nobody_carries_what_gaps_show():
    model = tagger()
    for mask in MASKS.values():
        entries = []
        model.predict(examples(mask)[0], verbose=0)
        hooks = watched(model, entries)
        model.fit(*examples(mask), verbose=0)
        for hook in hooks:
            hook.remove()
        assert {name for name, _ in entries} >= {"bidirectional", "dense", "add", "layer_normalization", "dropout"}
        assert {len(x.values) for _, x in entries} == {N}
        assert all(x.gap_values is None for _, x in entries)
        assert model.real_steps == N


def test_a_reader_of_the_grid_behind_makes_gaps_shown():
    x = L.Input((4,))
    h = L.Dense(2)(L.Embedding(7, 3, mask_zero=True)(x))
    model = Model(x, L.Dense(1)(L.Flatten()(h)))
    model.compile("sgd", "mse")
    entries = []
    watched(model, entries)
    model.fit(np.array([[1, 0, 2, 0]]), np.ones((1, 1)), verbose=0)
    assert entries and all(x.gap_values is not None for _, x in entries)
