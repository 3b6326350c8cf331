"""Run functions in threads that switch as often as possible, and report a deadlock as a failure."""

import faulthandler
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def run_in_threads(functions: Sequence[Callable[[], T]], seconds: float = 60.0) -> list[T | BaseException]:
    """Run each function in a separate thread; all begin together.

    Returns:
        For each function its result or the error that it raised.

    Raises:
        TimeoutError: a thread has not ended after `seconds`; the stacks of all threads are printed.
    """
    results: list[T | BaseException] = [RuntimeError("The thread has no result.")] * len(functions)
    start = threading.Barrier(len(functions))

    def run(number: int) -> None:
        start.wait()
        try:
            results[number] = functions[number]()
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(n,), name=f"worker {n}", daemon=True) for n in range(len(functions))]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds)
    finally:
        sys.setswitchinterval(interval)
    if any(thread.is_alive() for thread in threads):
        faulthandler.dump_traceback(all_threads=True)
        raise TimeoutError(f"The threads {[t.name for t in threads if t.is_alive()]} wait for each other.")
    return results
