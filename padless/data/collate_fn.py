"""Examples one by one, as a Dataset gives them, put together to a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from padless.data.columns import column
from padless.data.tables import LABELS, WEIGHTS
from padless.errors import DataError


def collate(examples: Sequence[Any], sequences: bool = True) -> Any:
    """A batch of examples, each x, `(x, y)` or `(x, y, sample_weight)` or a dictionary: for `DataLoader(collate_fn=...)`.

    What has axes in x is a sequence and becomes a `Packed`, whatever the lengths; with `sequences=False` what is equally
    long in all examples becomes an array, as targets and weights do. Inside an example a tuple or dictionary holds
    parts, a list is a sequence. Raises `DataError` for examples of different forms.

    >>> from torch.utils.data import DataLoader
    >>> data = [([1, 2, 3], 0), ([4], 1)]
    >>> x, y = next(iter(DataLoader(data, batch_size=2, collate_fn=collate)))
    >>> x.numpy().tolist(), y.tolist()
    ([[1, 2, 3], [4, 0, 0]], [0, 1])
    """
    return regrouped(examples, lambda what, rows, axes: column(what, rows, axes and sequences).whole())


def regrouped(examples: Sequence[Any], leaf: Callable[[str, list[Any], bool], Any]) -> Any:
    """Examples of parts as parts of examples; `leaf` is told of each its name, its rows, and whether it is an input."""
    if not len(examples):
        raise DataError("A batch of 0 examples cannot be collated. Expected at least one.")
    if not isinstance(examples[0], tuple):
        return _put("x", examples, leaf, True)
    if not 1 <= len(examples[0]) <= 3:
        raise DataError(
            f"An example must be x, (x, y) or (x, y, sample_weight); got {len(examples[0])} parts. Several "
            f"inputs go into one tuple or dict: ((a, b), y)."
        )
    parts = zip(*(_alike("The examples", e, examples[0]) for e in examples), strict=True)
    return tuple(_put(name, part, leaf, name == "x") for name, part in zip(("x", "y", WEIGHTS), parts, strict=False))


def _put(what: str, given: Sequence[Any], leaf: Callable[[str, list[Any], bool], Any], is_input: bool) -> Any:
    first = given[0]
    if isinstance(first, Mapping):
        parts = [_alike(what, one, first) for one in given]
        return {
            key: _put(f"{what}[{key!r}]", [one[key] for one in parts], leaf, is_input and key not in (*LABELS, WEIGHTS))
            for key in first
        }
    if isinstance(first, tuple):
        parts = zip(*(_alike(what, one, first) for one in given), strict=True)
        return tuple(_put(f"{what}[{n}]", part, leaf, is_input) for n, part in enumerate(parts))
    return leaf(what, list(given), is_input)


def _alike(what: str, one: Any, first: Any) -> Any:
    """An example of the same form as the first."""
    same = (
        isinstance(one, Mapping) and set(one) == set(first)
        if isinstance(first, Mapping)
        else (isinstance(one, tuple) and len(one) == len(first))
    )
    if not same:
        raise DataError(f"{what} differ in form: the first is {_form(first)}, another {_form(one)}. Expected all alike.")
    return one


def _form(one: Any) -> str:
    if isinstance(one, Mapping):
        return f"a dict of {sorted(one)}"
    return f"a tuple of {len(one)}" if isinstance(one, tuple) else f"one {type(one).__name__}"
