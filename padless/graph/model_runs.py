"""Which methods of which models run in which threads, and which of them exclude each other.

- `predict` and calls of one model run at the same time in any number of threads.
- `evaluate` uses the metrics of the model, so a second `evaluate` waits until the first has ended.
- A method that trains, such as `fit`, changes weights and modes. While it runs, other threads cannot use a layer of its
  model: they get `ConcurrentUse`. The same holds for layers that keep states between batches.
- A method that trains waits until `copy.deepcopy` in another thread has ended.

A thread that works for a run, for example inside `train_step`, belongs to it if it runs in a copy of its context:
`contextvars.copy_context().run(function)`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Concatenate, Literal, NoReturn, ParamSpec, TypeVar

from torch import nn

from padless._threads import cached_property, run_after_fork
from padless._torch_compat import in_backward_pass
from padless.errors import ConcurrentUse

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=nn.Module)
RunKind = Literal["train", "evaluate", "predict", "copy"]


class ModelRun:
    """A method of a model that runs in a thread.

    Args:
        model: the model.
        method: the name of the method.
        kind: what the method does with the model.
        outer: the run in whose context this one began, None if there is none.
        is_stateful: return whether a module keeps states between batches.
    """

    def __init__(
        self, model: nn.Module, method: str, kind: RunKind, outer: ModelRun | None, is_stateful: Callable[[nn.Module], bool]
    ) -> None:
        self.model, self.method, self.kind, self.outer = model, method, kind, outer
        self.thread = threading.current_thread()
        self._is_stateful = is_stateful

    @cached_property
    def stateful(self) -> bool:
        """Whether a layer keeps states between batches."""
        return any(map(self._is_stateful, self.model.modules()))

    def is_part_of(self, other: ModelRun) -> bool:
        """Return whether this run began in the context of the other."""
        run: ModelRun | None = self
        while run is not None and run is not other:
            run = run.outer
        return run is other

    def shared_module(self, model: nn.Module) -> nn.Module | None:
        """Return a module that is used by this run and by a model, None if there is none."""
        if model is self.model:
            return model
        modules = {id(module) for module in self.model.modules()}
        return next((module for module in model.modules() if id(module) in modules), None)

    def excludes(self, other: ModelRun) -> bool:
        """Return whether this run and that of another thread cannot use one model at the same time."""
        if "copy" in (self.kind, other.kind):
            return "train" in (self.kind, other.kind) and self.shared_module(other.model) is not None
        if self.kind == other.kind == "predict" or self.kind != other.kind and "train" not in (self.kind, other.kind):
            return self.stateful and self.shared_module(other.model) is not None
        return self.shared_module(other.model) is not None

    def __str__(self) -> str:
        name = getattr(self.model, "name", type(self.model).__name__)
        method = "A copy" if self.kind == "copy" else f"`{self.method}`"
        return f"{method} of model {name!r} in thread {self.thread.name!r}"


_runs: list[ModelRun] = []
training_runs: list[ModelRun] = []
"""The runs that train, of all threads."""

_condition = threading.Condition(threading.RLock())  # guards both lists, and announces that a run has ended
_run: ContextVar[ModelRun | None] = ContextVar("model run", default=None)


def runs(
    kind: RunKind, is_stateful: Callable[[nn.Module], bool]
) -> Callable[[Callable[Concatenate[M, P], R]], Callable[Concatenate[M, P], R]]:
    """Return a decorator for a method of a model, which checks that no run of another thread excludes the method.

    Args:
        kind: what the method does with the model.
        is_stateful: return whether a module keeps states between batches.
    """

    def decorate(method: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
        @functools.wraps(method)
        def run_method(model: M, /, *args: P.args, **kwargs: P.kwargs) -> R:
            run = ModelRun(model, method.__name__, kind, _run.get(), is_stateful)
            _begin(run)
            token = _run.set(run)
            try:
                return method(model, *args, **kwargs)
            finally:
                _run.reset(token)
                _end(run)

        return run_method

    return decorate


@contextmanager
def copying(module: nn.Module) -> Iterator[None]:
    """Hold off runs of other threads that train a module while it is copied. Raises `ConcurrentUse` if one trains it."""
    outer = _run.get()
    if outer is not None and outer.kind == "copy":  # a layer of the module that is copied
        yield
        return
    run = ModelRun(module, "deepcopy", "copy", outer, lambda _: False)
    _begin(run)
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)
        _end(run)


def _begin(run: ModelRun) -> None:
    """Add a run, if necessary after the end of another one."""
    with _condition:
        while _runs:
            other = next((other for other in _runs if not run.is_part_of(other) and run.excludes(other)), None)
            if other is None:
                break
            is_copied = other.kind == "copy"  # for a short time, and a copy waits for no run
            if not is_copied and ("train" in (run.kind, other.kind) or run.stateful or run.outer is not None):
                _refuse(str(run), other, run.model)
            _condition.wait()
        _runs.append(run)
        if run.kind == "train":
            training_runs.append(run)


def _end(run: ModelRun) -> None:
    with _condition:
        _runs.remove(run)
        if run.kind == "train":
            training_runs.remove(run)
        _condition.notify_all()


def check_no_other_thread_trains(module: nn.Module, use: str = "A call") -> None:
    """Raise `ConcurrentUse` if another thread trains a module that is `module` or in it.

    A backward pass that computes a call again is a part of the training, whatever thread it runs in.

    Args:
        module: the module.
        use: what is done with the module, for the message.
    """
    current = _run.get()
    for run in tuple(training_runs):
        is_part = current is not None and current.is_part_of(run)
        if not is_part and not in_backward_pass() and run.shared_module(module) is not None:
            name = getattr(module, "name", type(module).__name__)
            _refuse(f"{use} of {name!r} in thread {threading.current_thread().name!r}", run, module)


@contextmanager
def exclusive_call(module: nn.Module) -> Iterator[None]:
    """Run a call of a module that keeps states between batches. Raises `ConcurrentUse` if another thread runs one."""
    thread = threading.current_thread()
    other = _exclusive_calls.setdefault(id(module), thread)
    if other is not thread:
        name = getattr(module, "name", type(module).__name__)
        raise ConcurrentUse(
            f"Layer {name!r} is stateful, and the threads {other.name!r} and {thread.name!r} call it at the same time. Row "
            f"i of a batch continues row i of the batch before. Give each thread a copy of the model (copy.deepcopy)."
        )
    try:
        yield
    finally:
        _exclusive_calls.pop(id(module), None)


_exclusive_calls: dict[int, threading.Thread] = {}


def _refuse(call: str, run: ModelRun, model: nn.Module) -> NoReturn:
    shared = run.shared_module(model)
    name = getattr(shared, "name", type(shared).__name__)
    reason = "trains" if run.kind == "train" else "uses"
    raise ConcurrentUse(
        f"{call} cannot begin while {run} runs, which {reason} {name!r}. Both would change weights, "
        f"states, metrics or modes of one object. Wait for the end, or give each thread a copy of the model "
        f"that was made before (copy.deepcopy). A thread that works for `{run.method}` itself runs in its context: "
        f"contextvars.copy_context().run(function)."
    )


# ------------------------------------------------------------------------------------------------ modes


class _ModeScope:
    """The mode of a model and the modules in it, for the calls in a context.

    Attributes:
        model: the model.
        training: the mode, None for the attribute `training` of each module.
        outer: the scope around it.
    """

    def __init__(self, model: nn.Module, training: bool | None, outer: _ModeScope | None) -> None:
        self.model, self.training, self.outer = model, training, outer
        self._modules: dict[int, nn.Module] = {}

    def contains(self, module: nn.Module) -> bool:
        """Return whether a module is the model or in it."""
        if module is self.model:
            return True
        if id(module) not in self._modules:  # it may be newer than the last search
            self._modules = {id(inner): inner for inner in self.model.modules()}
        return id(module) in self._modules


_mode_scope: ContextVar[_ModeScope | None] = ContextVar("mode scope", default=None)


@contextmanager
def mode_scope(model: nn.Module, training: bool | None) -> Iterator[None]:
    """Set the mode of a model and the layers in it for calls in this context; other threads do not see it.

    Args:
        model: the model.
        training: the mode, None for the attribute `training` of each layer.
    """
    token = _mode_scope.set(_ModeScope(model, training, _mode_scope.get()))
    try:
        yield
    finally:
        _mode_scope.reset(token)


def mode_of_run(module: nn.Module) -> bool | None:
    """Return the mode that the innermost `mode_scope` of a module sets, None if none does."""
    scope = _mode_scope.get()
    while scope is not None:
        if scope.contains(module):
            return scope.training
        scope = scope.outer
    return None


def _forget_other_threads() -> None:
    """Forget the runs of threads that a fork did not copy."""
    global _condition
    _condition = threading.Condition(threading.RLock())
    for run_list in (_runs, training_runs):
        run_list[:] = [run for run in run_list if run.thread.is_alive()]
    _exclusive_calls.clear()


run_after_fork(_forget_other_threads)
