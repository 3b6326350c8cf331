"""Share objects between threads: a lock that survives `fork`, and values that are computed once without a lock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")


class ForkSafeLock:
    """A reentrant lock that a forked process can take, whatever another thread did when the process forked.

    A fork copies a lock that another thread holds, but not the thread. So the new process could never take the lock.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._owner: int | None = None  # the thread that holds the lock
        self._depth = 0  # how many times its owner has taken it
        run_after_fork(self._renew)

    def __enter__(self) -> None:
        self._lock.acquire()
        self._owner = threading.get_ident()
        self._depth += 1

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
        self._lock.release()

    def _renew(self) -> None:
        """Replace a lock that a thread of the parent process holds."""
        if self._owner != threading.get_ident():
            self._lock, self._owner, self._depth = threading.RLock(), None, 0


def run_after_fork(function: Callable[[], None]) -> None:
    """Run a function in each process that this one forks; on Windows there is no fork."""
    if os.name == "posix":
        os.register_at_fork(after_in_child=function)


class cached_property(Generic[T]):
    """A property that is computed once, like `functools.cached_property`.

    That of Python 3.11 holds one lock for all objects while it computes, so a process that forks meanwhile would wait
    forever. This one has no lock: threads may compute a value twice, and all get the one that was stored first.

    Example:
        >>> class Square:
        ...     @cached_property
        ...     def area(self) -> int:
        ...         return 4
        >>> Square().area
        4
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute = compute
        self.name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Self | T:
        if instance is None:
            return self
        return instance.__dict__.setdefault(self.name, self.compute(instance))
