"""Cache values that are computed from an index, as long as the index exists."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from padless.ragged.index import Index

Value = TypeVar("Value")


class IndexCache(Generic[Value]):
    """Values computed from an index and a key.

    An entry is dropped when its index is deleted. A value must not refer to its index, because the index would then never
    be deleted.

    Threads may share a cache. If two threads miss the same entry, both compute it, and both get the value that was stored
    first. There is no lock, so a process may fork at any time.
    """

    def __init__(self) -> None:
        self._values: WeakKeyDictionary[Index, dict[Hashable, Value]] = WeakKeyDictionary()

    def get(self, index: Index, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Return the value of `key` for an index; `compute` gives it the first time."""
        values = self._values.get(index)
        if values is None:
            values = self._values.setdefault(index, {})
        if key not in values:
            return values.setdefault(key, compute())
        return values[key]

    def __len__(self) -> int:
        """Return the number of indexes that have an entry."""
        return len(self._values)
