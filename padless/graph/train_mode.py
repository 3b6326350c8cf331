"""Set the mode of torch modules, training or inference, for the time of a call.

The mode of a torch module is an attribute of the module, which all threads share. So two calls that need different
modes of one module run one after the other. Calls in the same mode run at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from padless._threads import run_after_fork
from padless.errors import ConcurrentUse


@dataclass(eq=False)
class _ModeHold:
    """Modules that a thread has set to a mode.

    Attributes:
        thread: the thread.
        training: the mode.
        is_call: whether the modules run now, so that no other thread may change their mode.
        modes_before: for the identity of each module the module and its mode before.
    """

    thread: int
    training: bool
    is_call: bool
    modes_before: dict[int, tuple[nn.Module, bool]]


_holds: list[_ModeHold] = []  # of all threads, in the order in which they began
_condition = threading.Condition(threading.RLock())  # guards `_holds`, and announces that a hold has ended


@contextmanager
def training_mode(training: bool, *modules: nn.Module, is_call: bool = True) -> Iterator[None]:
    """Set the mode of modules and their children in this context, and restore it afterwards.

    The mode is set by `module.train()`, so a module that overrides `train`, such as a frozen one, decides itself.

    Args:
        training: the mode.
        modules: the modules.
        is_call: whether the modules run in this context. Then the context begins when no other thread runs one of them
            in the other mode, and no other thread changes the mode until the end.

    Raises:
        ConcurrentUse: if this thread runs one of the modules already, and another thread runs it in the other mode.
    """
    hold = _begin(training, modules, is_call)
    try:
        yield
    finally:
        _end(hold)


def stored_mode(module: nn.Module) -> bool:
    """Return the attribute `training`, which for a layer is not always the mode of the present call."""
    return bool(vars(module)["training"] if "training" in vars(module) else module.training)


def _begin(training: bool, modules: tuple[nn.Module, ...], is_call: bool) -> _ModeHold:
    inner_modules = {id(inner): inner for module in modules for inner in module.modules()}
    hold = _ModeHold(threading.get_ident(), training, is_call, {})
    with _condition:
        while _holds and _is_blocked(hold, inner_modules):
            if any(other.is_call and other.thread == hold.thread for other in _holds):
                raise ConcurrentUse(
                    f"The module {type(modules[0]).__name__} would run with training={training} inside a call, while "
                    f"another thread runs it with training={not training}. A torch module has one mode for all threads. "
                    f"Give each thread a copy of the module (copy.deepcopy)."
                )
            _condition.wait()
        hold.modes_before = {key: (inner, stored_mode(inner)) for key, inner in inner_modules.items()}
        _holds.append(hold)
        for module in modules:
            module.train(training)
    return hold


def _is_blocked(hold: _ModeHold, modules: dict[int, nn.Module]) -> bool:
    """Return whether another thread runs one of these modules in the other mode."""
    return any(
        other.is_call
        and other.thread != hold.thread
        and other.training != hold.training
        and not other.modes_before.keys().isdisjoint(modules)
        for other in _holds
    )


def _end(hold: _ModeHold) -> None:
    """Restore the modes. A later hold of the same module keeps its mode, and restores the mode of this one later."""
    with _condition:
        position = _holds.index(hold)
        later_holds = _holds[position + 1 :]
        del _holds[position]
        for key, (module, mode) in hold.modes_before.items():
            later = next((other for other in later_holds if key in other.modes_before), None)
            if later is not None:
                later.modes_before[key] = (module, mode)
            elif stored_mode(module) is not mode:
                module.training = mode
        _condition.notify_all()


def _end_holds_of_other_threads() -> None:
    """End the holds of threads that a fork did not copy."""
    global _condition
    _condition = threading.Condition(threading.RLock())
    for hold in [hold for hold in _holds if hold.thread != threading.get_ident()]:
        _end(hold)


run_after_fork(_end_holds_of_other_threads)
