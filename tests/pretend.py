"""A pretended device: its tensors compute on the CPU, but say they are elsewhere, and tell on who makes the host wait.

Run as a script in a process of its own, since torch learns of the device once for all. For each name given, a workload of
the benchmarks or a function below, it prints as JSON what waits in a step of training and of prediction after the first.
"""

import json
import sys
import traceback
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from cases import LAYERS, MODELS
from on_device import apart
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

import padless
from benchmarks import models
from benchmarks.workloads import WORKLOADS, make_data
from padless.callbacks import LambdaCallback
from padless.kernels.recurrent import api, cudnn
from padless.metrics.variable import Variable


class Module(_DummyBackendModule):
    """What torch asks of a device that takes part in autocast."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("elsewhere", Module())
DEVICE = torch.device("elsewhere", 0)
aten = torch.ops.aten
# each looks at numbers: at one, or at how many there are of a kind
LOOKS = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.equal,
    aten.masked_select,
    aten.is_nonzero,
    aten.item,
    aten.unique_dim,
    aten._unique2,
    aten.unique_consecutive,
    aten.repeat_interleave,
    aten.bincount,
    aten.histc,
}
waits: list[str] = []
ran = [0]  # operations on the device


class Elsewhere(torch.Tensor):
    """A tensor of the pretended device around one of the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
            requires_grad=False,
        )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"Elsewhere({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """An operation on tensors of which some are elsewhere, or that shall make one there."""
    given = [x for x in _pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    here = [x for x in given if not is_there(x)]
    there = len(here) < len(given)
    target = kwargs.get("device")
    target = None if target is None else torch.device(target)
    moves = func.overloadpacket in (aten._to_copy, aten.copy_)
    ran[0] += there
    if there and func.overloadpacket in LOOKS:
        tell(f"{func} looks at numbers")
    if there and any(is_there(x) and x.dtype == torch.bool for x in indices(func, args)):
        tell(f"{func} counts what is true")
    if there and not moves and any(x.ndim for x in here):
        tell(f"{func} mixes devices")
    if moves:
        look_at_move(func, args, kwargs, target)
    if target is not None and target.type == DEVICE.type:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    found = func(*map_inner(args), **map_inner(kwargs))
    if not there and (target is None or target.type != DEVICE.type) or target is not None and target.type == "cpu":
        return found
    found = _pytree.tree_map(lambda x: Elsewhere(x) if isinstance(x, torch.Tensor) else x, found)
    shared = there and not any(getattr(x, "pretends", False) for x in given)
    return return_and_correct_aliasing(func, args, kwargs, found) if shared else found


def look_at_move(func, args, kwargs, target):
    """Nothing may come back, and what goes there must not be waited for."""
    if func.overloadpacket is aten.copy_:
        source, goal = is_there(args[1]), is_there(args[0])
        patient = len(args) < 3 or not args[2]
        patient = patient and bool(args[1].ndim)  # a number travels with the order
    else:
        source = is_there(args[0])
        goal = source if target is None else target.type == DEVICE.type
        patient = not kwargs.get("non_blocking")
    if source and not goal:
        tell(f"{func} brings numbers back")
    elif goal and not source and patient:
        tell(f"{func} sends numbers and waits")


def indices(func, args):
    if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
        return [x for x in args[1] if x is not None]
    return ()


def is_there(x):
    return isinstance(x, Elsewhere) or getattr(x, "pretends", False)


def map_inner(tree):
    return _pytree.tree_map(lambda x: x.inner if isinstance(x, Elsewhere) else x, tree)


def tell(what):
    """Note what waits, and where in the package."""
    frames = [f for f in traceback.extract_stack() if "/padless/" in f.filename]
    where = [f"{f.filename.split('/padless/')[-1]}:{f.lineno} {f.name}" for f in frames[-3:]]
    waits.append(f"{what}: {' < '.join(reversed(where)) or 'in a backward'}")


class Made(TorchDispatchMode):
    """While this lasts, tensors can be made elsewhere."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def watch(build, x, y, sample_weight=None):
    """The waits of a step of training and of prediction, and how far losses and outputs are from those of the CPU."""
    padless.utils.set_random_seed(0)
    here = build()
    padless.utils.set_random_seed(0)
    there = build()
    there.predict(x, batch_size=4, verbose=0)  # makes the weights
    there.set_weights(here.get_weights() if here.predict(x, batch_size=4, verbose=0) is not None else [])
    how: dict[str, Any] = {"sample_weight": sample_weight, "batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    history = here.fit(x, y, **how).history
    expected = here.predict(x, batch_size=4, verbose=0)
    with ExitStack() as pretended:
        for change in (
            Made(),
            patch.object(api, "_choose_path", choose_cuda_path),
            patch.object(Variable, "assign", assign),
            *map(opaque, CELLS),
        ):
            pretended.enter_context(change)
        there.to(DEVICE)
        training, predicting = Steps(), Steps()
        found = there.fit(x, y, callbacks=[training.callback()], **how).history
        outputs = there.predict(x, batch_size=4, verbose=0, callbacks=[predicting.callback()])
    apart = max(abs(a - b) for name in history for a, b in zip(history[name], found[name], strict=True))
    outputs_apart = max(float(np.abs(a - b).max()) for a, b in zip(_rows(outputs), _rows(expected), strict=True))
    return {
        "train": training.found,
        "predict": predicting.found,
        "results": apart,
        "outputs": outputs_apart,
        "ran": min(training.ran, predicting.ran),
    }


def _rows(outputs):
    return [row for row in outputs if len(row)] if isinstance(outputs, list) else [outputs]


# ------------------------------------------------------------------------------------------------ what CUDA would do


def choose_cuda_path(cell, requested, standard, *tensors):
    """Return the name of the path that CUDA would take."""
    return "cudnn" if standard else "reference"


class Opaque(torch.autograd.Function):
    """One of torch's packed functions as one operation of the device, which is what cuDNN is."""

    @staticmethod
    def forward(ctx, function, sizes, settings, count, *tensors):
        with torch.enable_grad():
            ctx.leaves = [t.inner.detach().requires_grad_() for t in tensors]
            data, *rest = ctx.leaves
            states = rest[:count] if count > 1 else rest[0]
            ctx.results = function(data, sizes, states, rest[count:], *settings)
        return tuple(Elsewhere(r.detach()) for r in ctx.results)

    @staticmethod
    def backward(ctx, *grads):
        found = torch.autograd.grad(ctx.results, ctx.leaves, [g.inner for g in grads])
        return None, None, None, None, *map(Elsewhere, found)


def opaque(cell):
    """The cell with its function as one operation."""
    real = cell.function

    def function(data, sizes, states, weights, *settings):
        if not isinstance(data, Elsewhere):
            return real(data, sizes, states, weights, *settings)
        states = list(states) if isinstance(states, list) else [states]
        return Opaque.apply(real, sizes, settings, len(states), data, *states, *weights)

    return patch.dict(vars(cell), function=function)


def assign(variable, value):
    """What a metric adds up goes to the device of what is added; here it says so."""
    given = variable._fitting(value, variable.shape)
    variable.pretends = isinstance(given, Elsewhere)
    variable.data = map_inner(given).to(variable.dtype, copy=True)
    return variable


CELLS = (cudnn.LSTM, cudnn.GRU, cudnn.TANH_RNN, cudnn.RELU_RNN)


class Steps:
    """What waited between the beginning and the end of each batch but the first."""

    def __init__(self):
        self.found: list[str] = []
        self.ran = 0  # operations in the last batch

    def callback(self):
        def begin(batch, logs=None):
            waits.clear()
            ran[0] = 0

        def end(batch, logs=None):
            if batch:
                self.found.extend(w for w in dict.fromkeys(waits) if w not in self.found)
                self.ran = ran[0]

        made = LambdaCallback(
            on_train_batch_begin=begin, on_train_batch_end=end, on_predict_batch_begin=begin, on_predict_batch_end=end
        )
        made.raw_logs = True
        return made


# ------------------------------------------------------------------------------------------------ what is watched


def workload(name):
    """One of the benchmarks, small, with torch's own Adam in one call as on CUDA."""
    small = WORKLOADS[name].shrink()

    def build():
        model = models.build(padless, small)
        model.compile(padless.optimizers.Adam(fused=True), model._compiled.loss)
        return model

    return watch(build, *make_data(small))


def tagger(optimizer="sgd", metrics=None, weighted=None, middle=None):
    """A small tagger of ids, where 0 is no step."""

    def build():
        layers = padless.layers
        made = padless.Sequential(
            [
                layers.Input((None,), dtype="int32"),
                layers.Embedding(9, 6, mask_zero=True),
                *(middle or list)(),
                layers.Dense(3, activation="softmax"),
            ]
        )
        made.compile(
            optimizer() if callable(optimizer) else optimizer,
            "sparse_categorical_crossentropy",
            metrics=metrics and metrics(),
            weighted_metrics=weighted and weighted(),
        )
        return made

    return build


def ids_and_labels(rows=12, width=7):
    random = np.random.default_rng(0)
    ids = random.integers(1, 9, (rows, width)) * (np.arange(width) < random.integers(1, width + 1, rows)[:, None])
    ids[:, 1] = 0  # a hole, or no step at all
    return ids, random.integers(0, 3, (rows, width))


def optimizers():
    """Every optimizer, with what may be asked of it beside."""
    ids, labels = ids_and_labels()
    kinds = padless.optimizers
    names = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam", "Adafactor", "Lion", "Ftrl")
    made = {name: partial(getattr(kinds, name)) for name in names if hasattr(kinds, name)}
    made |= {
        "clipnorm": partial(kinds.Adam, clipnorm=0.1),
        "global_clipnorm": partial(kinds.Adam, global_clipnorm=0.1),
        "averages": partial(kinds.Adam, use_ema=True, weight_decay=0.01),
    }
    return merged({name: watch(tagger(one), ids, labels) for name, one in made.items()})


def metrics():
    """Metrics, and sample weights of rows and of steps."""
    ids, labels = ids_and_labels()
    kinds, random = padless.metrics, np.random.default_rng(1)
    build = tagger(
        metrics=lambda: ["accuracy", kinds.SparseTopKCategoricalAccuracy(2), "sparse_categorical_crossentropy"],
        weighted=lambda: ["accuracy"],
    )

    def yes_or_no():
        made = padless.Sequential(
            [
                padless.layers.Embedding(9, 6, mask_zero=True),
                padless.layers.LSTM(4),
                padless.layers.Dense(1, activation="sigmoid"),
            ]
        )
        made.compile(
            "adam",
            "binary_crossentropy",
            metrics=[
                kinds.Precision(),
                kinds.Recall(),
                kinds.AUC(num_thresholds=9),
                "accuracy",
                kinds.F1Score(threshold=0.5),
            ],
        )
        return made

    return merged(
        {
            "counts": watch(yes_or_no, ids, labels[:, :1] % 2),
            "rows": watch(build, ids, labels, random.random(len(ids)).astype("float32")),
            "steps": watch(build, ids, labels, random.random(ids.shape).astype("float32")),
        }
    )


def layers():
    """Layers beyond the benchmarks: dense features, sequences as lists, pooling, norms, positions, attention."""
    kinds = padless.layers
    ids, labels = ids_and_labels()
    lists = [row[row > 0].tolist() for row in ids]
    tags = [row[real > 0].tolist() for row, real in zip(labels, ids, strict=True)]

    def features():
        made = padless.Sequential(
            [
                kinds.Input((None, 4)),
                kinds.Masking(),
                kinds.Bidirectional(kinds.GRU(3, return_sequences=True)),
                kinds.LayerNormalization(),
                kinds.SimpleRNN(3, go_backwards=True, return_sequences=True),
                kinds.GlobalAveragePooling1D(),
                kinds.Dense(1),
            ]
        )
        made.compile("adam", "mse")
        return made

    dense = np.random.default_rng(2).normal(size=(*ids.shape, 4)).astype("float32") * (ids > 0)[:, :, None]
    return merged(
        {
            "features": watch(features, dense, dense.sum((1, 2))),
            "lists": watch(tagger(middle=lambda: [kinds.LSTM(4, return_sequences=True)]), lists, tags),
            "window": watch(
                tagger(middle=lambda: [kinds.Conv1D(4, 3, padding="causal"), kinds.BatchNormalization()]), ids, labels
            ),
            "positions": watch(
                tagger(middle=lambda: [kinds.PositionEmbedding(9), kinds.TransformerEncoder(4, 2)]), ids, labels
            ),
        }
    )


def merged(reports):
    """One report, what waited with the name of its case."""
    both = {
        what: [f"{name}: {wait}" for name, report in reports.items() for wait in report[what]]
        for what in ("train", "predict")
    }
    return (
        both
        | {what: max(report[what] for report in reports.values()) for what in ("results", "outputs")}
        | {"ran": min(report["ran"] for report in reports.values())}
    )


def cases():
    """For every case of the laws what mixed devices, and how far its numbers are from those of the CPU.

    Left out is what the pretence is too thin for: torch's own recurrent cells and its backward of `cumsum`.
    """
    found = {}
    for case in (*LAYERS, *MODELS):
        if "-torch" in case.name and case.layer in ("RNN", "Bidirectional", "StackedRNNCells") or case.name == "Lambda-grid":
            continue
        with ExitStack() as pretended:
            for change in (Made(), patch.object(api, "_choose_path", choose_cuda_path), *map(opaque, CELLS)):
                pretended.enter_context(change)
            waits.clear()
            far = apart(case, DEVICE)
        found[case.name] = {"apart": far, "mixed": [w for w in dict.fromkeys(waits) if "mixes" in w]}
    return found


def faults():
    """What the pretended device says of things that would make the host wait, one by one."""
    with Made():
        x, ids, here = torch.ones(3).to(DEVICE, non_blocking=True), torch.arange(3).to(DEVICE), torch.arange(3)
        tries = {
            "item": lambda: x.sum().item(),
            "bool": lambda: bool((x > 0).all()),
            "float": lambda: float(x[0]),
            "back": lambda: x.cpu(),
            "count": lambda: ids.unique(),
            "nonzero": lambda: x.nonzero(),
            "by truth": lambda: x[x > 0],
            "write by truth": lambda: x.masked_fill_(x > 0, 1)[x > 0],
            "wait": lambda: here.to(DEVICE),
            "mixed": lambda: x[here],
            "copy": lambda: x.copy_(torch.ones(3)),
            "fine": lambda: (x.index_select(0, ids) * 2 + torch.ones(()), here.to(DEVICE, non_blocking=True)),
        }
        found = {}
        for name, attempt in tries.items():
            waits.clear()
            attempt()
            found[name] = list(waits)
    return found


if __name__ == "__main__":
    own = {"optimizers": optimizers, "metrics": metrics, "layers": layers, "cases": cases, "faults": faults}
    print(json.dumps({name: own[name]() if name in own else workload(name) for name in sys.argv[1:]}))
