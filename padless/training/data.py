"""Whatever `fit` was given becomes batches: the front door of the rooms that read data.

    arrays, lists, Packed  --Examples-->  columns, checked once  --Batching-->  Batch of Tensor | Packed
    loaders, generators    --Stream---->  one small Examples per batch
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from padless.errors import ArgumentError
from padless.ragged.packed import Packed
from padless.training.batch import Batch as Batch
from padless.training.batching import Batching as Batching
from padless.training.examples import Examples as Examples
from padless.training.feed import Feed as Feed
from padless.training.streams import Stream as Stream


def read(x: Any, y: Any = None, sample_weight: Any = None, **structure: Any) -> Examples | Stream:
    """Whatever `fit` was given: Examples, or a Stream where x makes its own batches."""
    array = isinstance(x, Packed | list | tuple | Mapping | str | bytes) or hasattr(x, "__array__")
    if array or not isinstance(x, Iterable):
        return Examples(x, y, sample_weight, **structure)
    if y is not None or sample_weight is not None:
        raise ArgumentError(f"x is a {type(x).__name__}, which makes its own batches: y and sample_weight must come in "
                            f"them, as (x, y, sample_weight), and not as arguments.")
    return Stream(x, **structure)
