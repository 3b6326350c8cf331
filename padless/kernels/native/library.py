"""The compiled kernels: which of them fits this machine, and if none, why.

They are built from the C beside them (`products.h`: products of rows; `scan.c`; `windows.c`; `attend.c`) when the package
is installed (hatch_build.py) and loaded here by ctypes. Everything has a path in torch too, so a missing library costs
speed, never a result.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor
from torch.autograd import forward_ad
from torch.nn import Buffer, Parameter
from torch.utils._python_dispatch import _get_current_dispatch_mode

_PLAIN = (Tensor, Parameter, Buffer)  # others may keep their numbers elsewhere
FOLDER = Path(__file__).parent
LEVELS = ("avx512", "avx2", "default")  # the best one first; torch says up to which the processor goes


@dataclass(frozen=True)
class Library:
    """The functions of one library: `scan(which, job, parts, parallel_for)`, `windows(count, windows, parallel_for)`,
    `attend(backward, job, parts, parallel_for)`, and how many numbers of scratch a part of that one needs.

    Columns come in blocks of `lanes`.
    """

    level: str
    scan: Callable[..., int]
    windows: Callable[..., int]
    attend: Callable[..., int]
    attend_room: Callable[[int, int], int]
    lanes: int
    parallel_for: Any

    def run(self, function: Callable[..., int], *given: Any) -> None:
        """Call one of them, on torch's threads."""
        if function(*given, self.parallel_for):
            raise RuntimeError("The compiled kernels could not start their threads.")


class _ConvArgs(ctypes.Structure):
    """The struct `sliding` of windows.c."""

    _fields_ = [(name, ctypes.c_int64) for name in ("size", "apart", "columns")] + [
        (name, ctypes.c_void_p) for name in ("chosen", "line", "packed", "bias", "to")
    ]


def pack_weight_panels(x: Tensor, lanes: int) -> Tensor:
    """The columns of a matrix in panels of up to four vectors, one after the other: weights as the kernels want them."""
    width = 4 * lanes
    whole = x.shape[1] // width * width
    wide, rest = x[:, :whole].unflatten(1, (-1, width)).transpose(0, 1).reshape(-1), x[:, whole:].reshape(-1)
    return torch.cat([wide, rest]) if len(rest) else wide.contiguous()


def split_by_cost(costs: NDArray[Any], most: int) -> NDArray[np.int64]:
    """Where a list of costs is cut so that each thread has as much of them, in `most` parts at most; both ends too.

    >>> split_by_cost(np.array([3, 1, 1, 1]), 1).tolist()
    [0, 4]
    """
    parts = max(1, min(torch.get_num_threads(), most))
    found = np.searchsorted(np.cumsum(costs) - costs / 2, costs.sum() / parts * np.arange(parts + 1))
    found[-1] = len(costs)
    return found


def under_functional_transform(*tensors: Tensor | None) -> bool:
    """Whether torch.func or a forward-mode derivative is at work, or such a tensor is a batch of what it seems to be.

    They know a function of ours only as the operations of torch that it calls.
    """
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or any(t is not None and (is_legacy_batchedtensor(t) or is_functorch_wrapped_tensor(t)) for t in tensors)
    )


def can_access_memory(*tensors: Tensor | None) -> bool:
    """Whether a kernel may read and write such tensors where they lie, and nobody waits for operations of torch.

    Those who do are compilers, tracers, torch.func, forward-mode derivatives and dispatch modes, which see no kernel.
    """
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if (
        torch.compiler.is_compiling()
        or tracing
        or under_functional_transform(*tensors)
        or _get_current_dispatch_mode() is not None
    ):
        return False
    return all(
        t is None
        or type(t) in _PLAIN
        and t.device.type == "cpu"
        and t.layout is torch.strided
        and not t.is_neg()
        and not t.is_conj()
        for t in tensors
    )


def windows(
    line: Tensor, weights: Tensor, bias: Tensor | None, count: int, apart: int, chosen: Tensor | None
) -> Tensor | None:
    """`count` windows over the numbers of `line`, each beginning `apart` after the last one, times `weights`.

    With `chosen` only those of these numbers. None where the compiled kernels are not there, or are not for such tensors.
    """
    native = library()
    fits = can_access_memory(line, weights, bias) and all(
        t is None or t.dtype == torch.float32 for t in (line, weights, bias)
    )
    if native is None or native.lanes < 8 or not fits or weights.shape[1] % native.lanes:
        return None
    wanted = count if chosen is None else len(chosen)
    line, packed, to = line.contiguous(), pack_weight_panels(weights, native.lanes), line.new_empty(wanted, weights.shape[1])
    bias = None if bias is None else bias.contiguous()
    chosen = None if chosen is None else chosen.contiguous()
    places = [None if t is None else t.data_ptr() for t in (chosen, line, packed, bias, to)]
    job = _ConvArgs(weights.shape[0], apart, weights.shape[1], *places)
    native.run(native.windows, wanted, ctypes.byref(job))
    return to


@cache
def library() -> Library | None:
    """The compiled kernels for this processor, None if there are none."""
    found = find()
    return found if isinstance(found, Library) else None


def require_library() -> Library:
    """The same, for those who have asked before."""
    found = library()
    if found is None:
        raise RuntimeError("The compiled kernels are not there; ask `compiled.library` first.")
    return found


def backends() -> dict[str, str]:
    """What computes on this machine, and what is not there and why.

    >>> sorted(backends())
    ['compiled scan', 'cuda', 'cudnn', 'torch']
    """
    found = find()
    cuda = f"yes: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no: torch finds no CUDA device"
    return {
        "torch": f"yes: {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "compiled scan": f"yes: {found.level}, for float32 and bfloat16 on the CPU"
        if isinstance(found, Library)
        else f"no: {found}",
        "cuda": cuda,
        "cudnn": _cudnn(),
    }


def _cudnn() -> str:
    """Whether the recurrent layers are cuDNN's."""
    if not torch.cuda.is_available():
        return "no: torch finds no CUDA device"
    if not torch.backends.cudnn.is_available():
        return "no: this torch was built without it"
    if not torch.backends.cudnn.enabled:
        return "no: torch.backends.cudnn.enabled is False"
    return f"yes: {torch.backends.cudnn.version()}, for LSTM, GRU and SimpleRNN over any mask"


def usable() -> tuple[str, ...]:
    """The levels that this processor can run, the best one first."""
    capability = torch.backends.cpu.get_cpu_capability().lower()
    return LEVELS[LEVELS.index(capability) :] if capability in LEVELS else LEVELS[-1:]


def find() -> Library | str:
    """The best library, or why there is none."""
    if not (FOLDER / "recurrent.c").exists():
        return "its source was not installed"
    for level in usable():
        if (FOLDER / f"_padless_native.{level}.so").exists():
            return load(level)
    return "it was not built, for want of a C compiler (gcc or clang) when padless was installed"


def load(level: str) -> Library | str:
    """One library, or why it cannot be used."""
    path = FOLDER / f"_padless_native.{level}.so"
    texts = b"".join(source.read_bytes() for source in sorted(FOLDER.glob("*.[ch]")))
    mark = hashlib.sha256(texts).hexdigest()[:16]
    try:
        own, of_torch = ctypes.CDLL(str(path)), ctypes.CDLL(str(_torch()))
        own.padless_scan_source.restype = ctypes.c_char_p
        if own.padless_scan_source().decode() != mark:
            return f"{path.name} was built from another source; run `python hatch_build.py`, or install padless again"
        own.padless_windows.argtypes = [ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
        own.padless_scan.argtypes = [ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
        own.padless_attend.argtypes = own.padless_scan.argtypes
        own.padless_attend_room.argtypes, own.padless_attend_room.restype = [ctypes.c_int64] * 2, ctypes.c_int64
        own.padless_scan_lanes.restype = ctypes.c_int64
        threads = ctypes.cast(of_torch.torch_parallel_for, ctypes.c_void_p)
        return Library(
            level,
            own.padless_scan,
            own.padless_windows,
            own.padless_attend,
            own.padless_attend_room,
            own.padless_scan_lanes(),
            threads,
        )
    except (OSError, AttributeError) as why:
        return f"{path.name} could not be loaded: {why}"


def _torch() -> Path:
    """Torch's own library, already loaded: its thread pool is the one to use."""
    folder = Path(torch.__file__).parent / "lib"
    return next(path for name in ("libtorch_cpu.so", "libtorch_cpu.dylib") if (path := folder / name).exists())
