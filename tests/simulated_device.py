"""A simulated device: its tensors compute on the CPU, and operations that would make the host wait are reported.

Run this file as a script in another process, because torch cannot unregister a device. The arguments are names of
workloads of the benchmarks or of functions below. For each it prints as JSON the operations that wait in the steps of
training and prediction after the first.
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
from on_device import largest_difference
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
    """The module of the device, as torch needs it for autocast."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("simulated", Module())
DEVICE = torch.device("simulated", 0)
aten = torch.ops.aten
# operations that read numbers, or whose result has a shape that depends on numbers
READS_NUMBERS = {
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
operation_counts = [0]  # of the device


class DeviceTensor(torch.Tensor):
    """A tensor of the simulated device, with its numbers in a tensor on the CPU."""

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
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """Run an operation on tensors of which some are on the device, or that creates one there."""
    tensors = [x for x in _pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    host_tensors = [x for x in tensors if not is_on_device(x)]
    on_device = len(host_tensors) < len(tensors)
    target = kwargs.get("device")
    target = None if target is None else torch.device(target)
    moves = func.overloadpacket in (aten._to_copy, aten.copy_)
    operation_counts[0] += on_device
    if on_device and func.overloadpacket in READS_NUMBERS:
        report_wait(f"{func} reads numbers")
    if on_device and any(is_on_device(x) and x.dtype == torch.bool for x in indices(func, args)):
        report_wait(f"{func} counts True")
    if on_device and not moves and any(x.ndim for x in host_tensors):
        report_wait(f"{func} mixes devices")
    if moves:
        check_move(func, args, kwargs, target)
    if target is not None and target.type == DEVICE.type:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = func(*map_inner(args), **map_inner(kwargs))
    if not on_device and (target is None or target.type != DEVICE.type) or target is not None and target.type == "cpu":
        return result
    result = _pytree.tree_map(lambda x: DeviceTensor(x) if isinstance(x, torch.Tensor) else x, result)
    shares_memory = on_device and not any(getattr(x, "pretends", False) for x in tensors)
    return return_and_correct_aliasing(func, args, kwargs, result) if shares_memory else result


def check_move(func, args, kwargs, target):
    """Report a copy to the host, and a copy to the device for which the host waits."""
    if func.overloadpacket is aten.copy_:
        source, target_on_device = is_on_device(args[1]), is_on_device(args[0])
        waits_for_copy = len(args) < 3 or not args[2]
        waits_for_copy = waits_for_copy and bool(args[1].ndim)  # a number is sent with the command
    else:
        source = is_on_device(args[0])
        target_on_device = source if target is None else target.type == DEVICE.type
        waits_for_copy = not kwargs.get("non_blocking")
    if source and not target_on_device:
        report_wait(f"{func} copies numbers to the host")
    elif target_on_device and not source and waits_for_copy:
        report_wait(f"{func} copies numbers to the device and waits")


def indices(func, args):
    if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
        return [x for x in args[1] if x is not None]
    return ()


def is_on_device(x):
    return isinstance(x, DeviceTensor) or getattr(x, "pretends", False)


def map_inner(tree):
    return _pytree.tree_map(lambda x: x.inner if isinstance(x, DeviceTensor) else x, tree)


def report_wait(reason):
    """Record an operation that waits, with the place in the package."""
    frames = [f for f in traceback.extract_stack() if "/padless/" in f.filename]
    places = [f"{f.filename.split('/padless/')[-1]}:{f.lineno} {f.name}" for f in frames[-3:]]
    waits.append(f"{reason}: {' < '.join(reversed(places)) or 'in a backward pass'}")


class CreateOnDevice(TorchDispatchMode):
    """A mode in which tensors can be created on the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def watch(build, x, y, sample_weight=None):
    """Return what waits in a step of training and of prediction, and the difference of losses and outputs from the CPU."""
    padless.utils.set_random_seed(0)
    cpu_model = build()
    padless.utils.set_random_seed(0)
    device_model = build()
    device_model.predict(x, batch_size=4, verbose=0)  # creates the weights
    device_model.set_weights(cpu_model.get_weights() if cpu_model.predict(x, batch_size=4, verbose=0) is not None else [])
    options: dict[str, Any] = {"sample_weight": sample_weight, "batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    history = cpu_model.fit(x, y, **options).history
    expected = cpu_model.predict(x, batch_size=4, verbose=0)
    with ExitStack() as simulation:
        for change in (
            CreateOnDevice(),
            patch.object(api, "_choose_path", choose_cuda_path),
            patch.object(Variable, "assign", assign),
            *map(opaque, CELLS),
        ):
            simulation.enter_context(change)
        device_model.to(DEVICE)
        training, predicting = WaitRecorder(), WaitRecorder()
        device_history = device_model.fit(x, y, callbacks=[training.callback()], **options).history
        outputs = device_model.predict(x, batch_size=4, verbose=0, callbacks=[predicting.callback()])
    loss_difference = max(abs(a - b) for name in history for a, b in zip(history[name], device_history[name], strict=True))
    output_difference = max(float(np.abs(a - b).max()) for a, b in zip(_rows(outputs), _rows(expected), strict=True))
    return {
        "train": training.waits,
        "predict": predicting.waits,
        "results": loss_difference,
        "outputs": output_difference,
        "ran": min(training.num_operations, predicting.num_operations),
    }


def _rows(outputs):
    return [row for row in outputs if len(row)] if isinstance(outputs, list) else [outputs]


# ------------------------------------------------------------------------------------------------ paths of CUDA


def choose_cuda_path(cell, requested, standard, *tensors):
    """Return the name of the path that CUDA would take."""
    return "cudnn" if standard else "reference"


class Opaque(torch.autograd.Function):
    """A packed function of torch as one operation of the device, as in cuDNN."""

    @staticmethod
    def forward(ctx, function, sizes, settings, count, *tensors):
        with torch.enable_grad():
            ctx.leaves = [t.inner.detach().requires_grad_() for t in tensors]
            data, *rest = ctx.leaves
            states = rest[:count] if count > 1 else rest[0]
            ctx.results = function(data, sizes, states, rest[count:], *settings)
        return tuple(DeviceTensor(r.detach()) for r in ctx.results)

    @staticmethod
    def backward(ctx, *grads):
        gradients = torch.autograd.grad(ctx.results, ctx.leaves, [g.inner for g in grads])
        return None, None, None, None, *map(DeviceTensor, gradients)


def opaque(cell):
    """Return a patch that makes the function of a cell one operation."""
    original = cell.function

    def function(data, sizes, states, weights, *settings):
        if not isinstance(data, DeviceTensor):
            return original(data, sizes, states, weights, *settings)
        states = list(states) if isinstance(states, list) else [states]
        return Opaque.apply(original, sizes, settings, len(states), data, *states, *weights)

    return patch.dict(vars(cell), function=function)


def assign(variable, value):
    """Assign the state of a metric: it moves to the device of the value. Replaces `Variable.assign`."""
    new_value = variable._to_tensor(value, variable.shape)
    variable.pretends = isinstance(new_value, DeviceTensor)
    variable.data = map_inner(new_value).to(variable.dtype, copy=True)
    return variable


CELLS = (cudnn.LSTM, cudnn.GRU, cudnn.TANH_RNN, cudnn.RELU_RNN)


class WaitRecorder:
    """Record what waits in each batch but the first."""

    def __init__(self):
        self.waits: list[str] = []
        self.num_operations = 0  # in the last batch

    def callback(self):
        def begin(batch, logs=None):
            waits.clear()
            operation_counts[0] = 0

        def end(batch, logs=None):
            if batch:
                self.waits.extend(w for w in dict.fromkeys(waits) if w not in self.waits)
                self.num_operations = operation_counts[0]

        callback = LambdaCallback(
            on_train_batch_begin=begin, on_train_batch_end=end, on_predict_batch_begin=begin, on_predict_batch_end=end
        )
        callback.raw_logs = True
        return callback


# ------------------------------------------------------------------------------------------------ workloads


def workload(name):
    """Watch a small workload of the benchmarks, with the fused Adam of torch."""
    small = WORKLOADS[name].shrink()

    def build():
        model = models.build(padless, small)
        model.compile(padless.optimizers.Adam(fused=True), model._compiled.loss)
        return model

    return watch(build, *make_data(small))


def tagger(optimizer="sgd", metrics=None, weighted=None, middle=None):
    """Return a function that builds a small tagger of ids, where 0 is padding."""

    def build():
        layers = padless.layers
        model = padless.Sequential(
            [
                layers.Input((None,), dtype="int32"),
                layers.Embedding(9, 6, mask_zero=True),
                *(middle or list)(),
                layers.Dense(3, activation="softmax"),
            ]
        )
        model.compile(
            optimizer() if callable(optimizer) else optimizer,
            "sparse_categorical_crossentropy",
            metrics=metrics and metrics(),
            weighted_metrics=weighted and weighted(),
        )
        return model

    return build


def ids_and_labels(rows=12, width=7):
    random = np.random.default_rng(0)
    ids = random.integers(1, 9, (rows, width)) * (np.arange(width) < random.integers(1, width + 1, rows)[:, None])
    ids[:, 1] = 0  # a gap, or an empty sequence
    return ids, random.integers(0, 3, (rows, width))


def optimizers():
    """Watch every optimizer, and its options."""
    ids, labels = ids_and_labels()
    kinds = padless.optimizers
    names = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam", "Adafactor", "Lion", "Ftrl")
    constructors = {name: partial(getattr(kinds, name)) for name in names if hasattr(kinds, name)}
    constructors |= {
        "clipnorm": partial(kinds.Adam, clipnorm=0.1),
        "global_clipnorm": partial(kinds.Adam, global_clipnorm=0.1),
        "averages": partial(kinds.Adam, use_ema=True, weight_decay=0.01),
    }
    return merge_reports({name: watch(tagger(constructor), ids, labels) for name, constructor in constructors.items()})


def metrics():
    """Watch metrics, and sample weights of rows and of steps."""
    ids, labels = ids_and_labels()
    kinds, random = padless.metrics, np.random.default_rng(1)
    build = tagger(
        metrics=lambda: ["accuracy", kinds.SparseTopKCategoricalAccuracy(2), "sparse_categorical_crossentropy"],
        weighted=lambda: ["accuracy"],
    )

    def binary_classifier():
        model = padless.Sequential(
            [
                padless.layers.Embedding(9, 6, mask_zero=True),
                padless.layers.LSTM(4),
                padless.layers.Dense(1, activation="sigmoid"),
            ]
        )
        model.compile(
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
        return model

    return merge_reports(
        {
            "counts": watch(binary_classifier, ids, labels[:, :1] % 2),
            "rows": watch(build, ids, labels, random.random(len(ids)).astype("float32")),
            "steps": watch(build, ids, labels, random.random(ids.shape).astype("float32")),
        }
    )


def layers():
    """Watch layers that the benchmarks do not use: features, lists, pooling, normalization, positions, attention."""
    kinds = padless.layers
    ids, labels = ids_and_labels()
    lists = [row[row > 0].tolist() for row in ids]
    tags = [row[real > 0].tolist() for row, real in zip(labels, ids, strict=True)]

    def features():
        model = padless.Sequential(
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
        model.compile("adam", "mse")
        return model

    dense = np.random.default_rng(2).normal(size=(*ids.shape, 4)).astype("float32") * (ids > 0)[:, :, None]
    return merge_reports(
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


def merge_reports(reports):
    """Return one report, with the name of the case before each operation that waits."""
    waits_by_phase = {
        phase: [f"{name}: {wait}" for name, report in reports.items() for wait in report[phase]]
        for phase in ("train", "predict")
    }
    return (
        waits_by_phase
        | {key: max(report[key] for report in reports.values()) for key in ("results", "outputs")}
        | {"ran": min(report["ran"] for report in reports.values())}
    )


def cases():
    """Return for each case of the properties what mixes devices, and the difference of its numbers from the CPU.

    The simulation does not support the recurrent cells of torch and the backward pass of `cumsum`.
    """
    report = {}
    for case in (*LAYERS, *MODELS):
        if "-torch" in case.name and case.layer in ("RNN", "Bidirectional", "StackedRNNCells") or case.name == "Lambda-grid":
            continue
        with ExitStack() as simulation:
            for change in (CreateOnDevice(), patch.object(api, "_choose_path", choose_cuda_path), *map(opaque, CELLS)):
                simulation.enter_context(change)
            waits.clear()
            difference = largest_difference(case, DEVICE)
        report[case.name] = {"difference": difference, "mixed": [w for w in dict.fromkeys(waits) if "mixes" in w]}
    return report


def faults():
    """Return what the simulated device reports for operations that make the host wait, one by one."""
    with CreateOnDevice():
        x, ids, on_host = torch.ones(3).to(DEVICE, non_blocking=True), torch.arange(3).to(DEVICE), torch.arange(3)
        operations = {
            "item": lambda: x.sum().item(),
            "bool": lambda: bool((x > 0).all()),
            "float": lambda: float(x[0]),
            "back": lambda: x.cpu(),
            "count": lambda: ids.unique(),
            "nonzero": lambda: x.nonzero(),
            "boolean index": lambda: x[x > 0],
            "boolean index of a result": lambda: x.masked_fill_(x > 0, 1)[x > 0],
            "wait": lambda: on_host.to(DEVICE),
            "mixed": lambda: x[on_host],
            "copy": lambda: x.copy_(torch.ones(3)),
            "fine": lambda: (x.index_select(0, ids) * 2 + torch.ones(()), on_host.to(DEVICE, non_blocking=True)),
        }
        report = {}
        for name, operation in operations.items():
            waits.clear()
            operation()
            report[name] = list(waits)
    return report


if __name__ == "__main__":
    functions = {"optimizers": optimizers, "metrics": metrics, "layers": layers, "cases": cases, "faults": faults}
    print(json.dumps({name: functions[name]() if name in functions else workload(name) for name in sys.argv[1:]}))
