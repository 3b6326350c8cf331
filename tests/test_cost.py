"""The cost is that of the real steps: padding adds no floating-point operation, however much there is and wherever.

Two numbers are counted, in the forward and the backward pass, also inside autograd functions: the multiplications of matrix
products, and the floats that operations write. No test here measures time.
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

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def without_native_kernels(monkeypatch):
    """Use the paths in torch, because torch's counters do not see the compiled kernels."""
    monkeypatch.setattr(library, "get_library", lambda: None)


LENGTHS = [6, 0, 3, 1]
NUM_STEPS, LONGEST = sum(LENGTHS), max(LENGTHS)
OPERANDS = {"mm": (0, 1), "addmm": (1, 2), "addmm_": (1, 2), "bmm": (0, 1), "baddbmm": (1, 2)}  # of matrix products
VIEWS = set("view t expand slice select as_strided split split_with_sizes unsqueeze squeeze detach alias".split())
VIEWS |= set("transpose permute _unsafe_view unbind".split())
WITHOUT_NUMBERS = VIEWS | {"empty", "empty_like", "new_empty"}


class Count(TorchDispatchMode):
    """Count the multiplications of matrix products, and the floats that operations write."""

    def __init__(self):
        super().__init__()
        self.multiplications = self.floats_written = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in OPERANDS:
            left, right = (args[k] for k in OPERANDS[name])
            self.multiplications += left.numel() * right.shape[-1]
        if name not in WITHOUT_NUMBERS:
            tensors = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
            self.floats_written += sum(x.numel() for x in tensors if x.is_floating_point())
        return result

    @property
    def cost(self):
        return self.multiplications, self.floats_written


def make_mask(width, columns_of):
    """Return a mask of a width; `columns_of` gives the columns of the real steps of a row."""
    mask = np.zeros((len(LENGTHS), width), dtype=bool)
    for row, length in enumerate(LENGTHS):
        mask[row, columns_of(length)] = True
    return mask


WIDE = 10 * LONGEST
MASKS = {  # of the same real steps
    "narrow": make_mask(LONGEST, np.arange),
    "right": make_mask(WIDE, np.arange),
    "left": make_mask(WIDE, lambda length: np.arange(WIDE - length, WIDE)),
    "gaps": make_mask(WIDE, lambda length: np.arange(length) * (WIDE // LONGEST)),
}


def packed_inputs(harness, mask):
    """Return the inputs of a layer, packed before anything is counted, and its arguments for each sequence."""
    index = pack(np.zeros(mask.shape), mask).index
    steps = [draw(torch.Generator().manual_seed(k), (1, NUM_STEPS))[0] for k, draw in enumerate(harness.inputs)]
    steps = [x.to(harness.dtype).requires_grad_() if x.is_floating_point() else x for x in steps]
    packed = [Packed(x, index) for x in steps]
    arguments = {
        name: [torch.ones(mask.shape[0], *shape, dtype=harness.dtype) for shape in shapes]
        for name, shapes in harness.sequence_arguments.items()
    }
    return (packed if len(packed) > 1 else packed[0]), arguments


def cost_of_layer(harness, mask):
    """Return the cost of a forward and a backward pass."""
    inputs, arguments = packed_inputs(harness, mask)
    harness.layer.zero_grad(set_to_none=True)
    with computing_gap_values(False):
        harness.call(inputs, arguments)  # from here on, what the index derives from its mask is cached
        with Count() as count:
            outputs = leaves(harness.call(inputs, arguments))
            total = sum((x.values if isinstance(x, Packed) else x).sum() for x in outputs)
            if total.requires_grad:
                total.backward()
    return count.cost


GRID_LAYERS = {"DropMask", "Flatten", "Lambda-grid", "TorchModuleWrapper-grid"}  # their purpose is the padded grid
CASES = [
    case for case in (*LAYERS, *MODELS) if not {case.layer, case.name} & GRID_LAYERS and not case.options.get("creates_mask")
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ten_times_the_padding_costs_nothing(case):
    harness = case.harness()
    cost = cost_of_layer(harness, MASKS["narrow"])
    for name in ("right", "left") if harness.layer.relation == "window" else ("right", "left", "gaps"):
        assert cost_of_layer(harness, MASKS[name]) == cost, name  # windows also slide over gaps


def test_operations_inside_autograd_functions_are_counted():
    x = torch.randn(2, 5, 3, requires_grad=True)
    layer = L.LSTM(4, return_sequences=True)
    layer(x)
    with Count() as forward:
        output = layer(x)
    assert forward.multiplications == 10 * 3 * 16 + 10 * 4 * 16  # inputs and states, each step once
    with Count() as backward:
        output.sum().backward()
    assert backward.multiplications == 2 * forward.multiplications


def test_torch_counts_the_same_operations_for_dense():
    layer = L.Dense(2)
    for mask in MASKS.values():
        h = pack(torch.randn(*mask.shape, 3, requires_grad=True), mask)
        layer(h)
        with FlopCounterMode(display=False) as flops:
            layer(h).values.sum().backward()
        assert flops.get_total_flops() == 3 * 2 * NUM_STEPS * 3 * 2  # three products, two operations for each multiplication


def test_a_layer_that_works_on_the_grid_would_be_noticed():
    class OnGrid(L.Layer):
        def call(self, inputs, mask=None):
            return inputs.unpack().tanh()

    costs = []
    for mask in (MASKS["narrow"], MASKS["right"]):
        with Count() as count:
            OnGrid()(pack(np.zeros((*mask.shape, 3), "float32"), mask))
        costs.append(count.floats_written)
    assert costs[1] > 5 * costs[0]


# Training


def make_tagger():
    x = L.Input((None,))
    h = L.Bidirectional(L.LSTM(4, return_sequences=True))(L.Embedding(7, 3, mask_zero=True)(x))
    h = L.Add()([L.Dense(8)(h), L.LayerNormalization()(h)])
    model = Model(x, L.Dense(5)(L.Dropout(0.1)(h)))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def ids_and_labels(mask):
    """Return ids and labels, the same at the real steps of any mask."""
    ids, labels = np.zeros(mask.shape, dtype=np.int64), np.zeros(mask.shape, dtype=np.int64)
    ids[mask] = 1 + np.arange(NUM_STEPS) % 6
    labels[mask] = np.arange(NUM_STEPS) % 5
    return ids, labels


def record_inputs(model, records):
    """Record the packed inputs of each layer as (name of the layer, input), and return the hooks."""

    def record(layer, args, kwargs):
        records.extend((layer.name, x) for x in leaves((args, kwargs)) if isinstance(x, Packed))

    layers = [layer for layer in model.modules() if isinstance(layer, Layer)]
    return [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]


def test_training_and_evaluation_with_ten_times_the_padding_cost_nothing():
    options = {"fit": {"shuffle": False, "verbose": 0}, "evaluate": {"verbose": 0}, "train_on_batch": {}}
    for method in ("fit", "evaluate", "train_on_batch"):
        model, costs = make_tagger(), []
        for mask in MASKS.values():
            run = getattr(model, method)
            run(*ids_and_labels(mask), **options[method])
            with Count() as count:
                run(*ids_and_labels(mask), **options[method])
            costs.append(count.cost)
        assert costs[0][0] > 0 and len(set(costs)) == 1, method


def test_layers_get_real_steps_only_and_no_gap_values():
    model = make_tagger()
    for mask in MASKS.values():
        records = []
        model.predict(ids_and_labels(mask)[0], verbose=0)
        hooks = record_inputs(model, records)
        model.fit(*ids_and_labels(mask), verbose=0)
        for hook in hooks:
            hook.remove()
        assert {name for name, _ in records} >= {"bidirectional", "dense", "add", "layer_normalization", "dropout"}
        assert {len(x.values) for _, x in records} == {NUM_STEPS}
        assert all(x.gap_values is None for _, x in records)
        assert model.real_steps == NUM_STEPS


def test_layers_get_gap_values_if_a_later_layer_reads_the_grid():
    x = L.Input((4,))
    h = L.Dense(2)(L.Embedding(7, 3, mask_zero=True)(x))
    model = Model(x, L.Dense(1)(L.Flatten()(h)))
    model.compile("sgd", "mse")
    records = []
    record_inputs(model, records)
    model.fit(np.array([[1, 0, 2, 0]]), np.ones((1, 1)), verbose=0)
    assert records and all(x.gap_values is not None for _, x in records)
