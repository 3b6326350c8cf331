"""Read batches in a thread while a training step runs.

It pays where reading waits, as for files. A batch of arrays in memory takes less than a hundredth of a training step, and a
thread that makes it takes time from the cores that compute. Measured, there is nothing to gain.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

from padless.data.batch import Batch


def prefetch(batches: Iterator[Batch], depth: int = 2) -> Generator[Batch, None, None]:
    """Yield the same batches in the same order. A thread reads up to `depth` of them before they are needed.

    An error of the data is raised in place of its batch, in the calling thread. The thread has ended when the generator has:
    exhausted, failed, closed or interrupted.

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
