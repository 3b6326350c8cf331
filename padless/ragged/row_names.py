"""Name the rows of a batch in error messages as the user knows them: by their number in the data, or by file and number."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TypeAlias

RowNames: TypeAlias = "Callable[[int], str]"
"""Return the name of a row of a batch: "row 17", "row 3 of 'part-0.parquet'"."""

_row_names: ContextVar[RowNames | None] = ContextVar("row_names", default=None)


class naming_rows:
    """Set how the rows of a batch are named in the errors that are raised in this context. None keeps the outer names.

    >>> with naming_rows(lambda row: f"row {row + 100}"):
    ...     row_name(2)
    'row 102'
    """

    def __init__(self, names: RowNames | None) -> None:
        self._names = names
        self._token: Token[RowNames | None] | None = None

    def __enter__(self) -> None:
        if self._names is not None:
            self._token = _row_names.set(self._names)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            _row_names.reset(self._token)
            self._token = None


def row_name(row: int) -> str:
    """Return the name of a row of the current batch, "row 2" where nothing else is known.

    >>> row_name(2)
    'row 2'
    """
    names = _row_names.get()
    return f"row {row}" if names is None else names(row)
