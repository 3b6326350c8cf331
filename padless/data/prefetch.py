"""Batches made ahead of time: while a step runs, a thread reads the next ones.

It pays where reading waits, as for files. Batches of arrays in memory are made in less than a hundredth of a step, and a
thread that makes them takes its time from the cores that compute: measured, there is nothing to win.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

from padless.data.batch import Batch


def prefetch(batches: Iterator[Batch], depth: int = 2) -> Generator[Batch, None, None]:
    """The same batches in the same order, up to `depth` of them made before they are asked for.

    An error of the data comes out where its batch would have, in the thread of whoever asks. However the reading ends
    (exhausted, failed, closed, interrupted), the thread has ended then.

    >>> list(prefetch(iter([1, 2, 3])))
    [1, 2, 3]
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="padless batches")
    try:
        waiting = deque(pool.submit(next, batches, None) for _ in range(depth))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, batches, None))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
