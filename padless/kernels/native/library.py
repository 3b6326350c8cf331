"""Load the compiled kernels that fit this processor.

hatch_build.py builds them from the C sources in this folder when padless is installed. The sources are `recurrent.c`,
`attention.c`, `conv.c`, and headers with the matrix products and activations that they share. They are called by
ctypes. Every kernel has a path in torch too, so a missing library costs speed, never a result.

A kernel trusts its arguments. So everything that decides which memory it reads is checked here or by its caller, at
each call.
"""

from __future__ import annotations

import ctypes
import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Buffer, Parameter

from padless._torch_compat import in_dispatch_mode, in_functional_transform
from padless.errors import MaskError
from padless.ragged.index import Index, Ints

FOLDER = Path(__file__).parent
LEVELS = ("avx512", "avx2", "default")  # the fastest first; torch's names for what a processor supports
PLAIN_TYPES = (Tensor, Parameter, Buffer)  # a subclass of Tensor may store its numbers elsewhere


@dataclass(frozen=True)
class Library:
    """The functions of one compiled library.

    Args:
        level: The processor that it was built for, one of `LEVELS`.
        rnn: `rnn(function_number, args, num_parts, parallel_for)`, see recurrent.c.
        conv: `conv(num_windows, args, parallel_for)`, see conv.c.
        attention: `attention(backward, args, num_parts, parallel_for)`, see attention.c.
        attention_scratch_size: `attention_scratch_size(head_size, value_width)`: how many numbers of scratch memory
            `attention` needs for each part.
        activation: `activation(number, num_vectors, x, out)`, for tests, see recurrent.c.
        lanes: The number of float32 in a SIMD vector. Columns of weights are padded to a multiple of it.
        parallel_for: Torch's function that runs a part of the work on each of its threads.
    """

    level: str
    rnn: Callable[..., int]
    conv: Callable[..., int]
    attention: Callable[..., int]
    attention_scratch_size: Callable[[int, int], int]
    activation: Callable[..., None]
    lanes: int
    parallel_for: ctypes.c_void_p

    def run(self, function: Callable[..., int], *arguments: object) -> None:
        """Call one of the functions on torch's threads.

        Raises:
            RuntimeError: If torch could not start its threads.
        """
        if function(*arguments, self.parallel_for):
            raise RuntimeError("The compiled kernels could not start torch's threads.")


@cache
def get_library() -> Library | None:
    """Return the library for this processor, None if there is none.

    Warns:
        RuntimeWarning: Once, if there is a library that cannot be used, because it is damaged or older than its sources.
    """
    library = find_library()
    if isinstance(library, Library):
        return library
    if any(library_path(level).exists() for level in supported_levels()):
        message = f"padless computes without its compiled kernels, which is slower: {library}."
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return None


def require_library() -> Library:
    """Return the library for this processor, for callers that know that it exists.

    Raises:
        RuntimeError: If there is none.
    """
    library = get_library()
    if library is None:
        raise RuntimeError("There is no compiled library; check that get_library() is not None first.")
    return library


def find_library() -> Library | str:
    """Return the fastest library that this processor can run, or the reason why there is none."""
    if not (FOLDER / "recurrent.c").exists():
        return "its source was not installed"
    for level in supported_levels():
        if library_path(level).exists():
            return load_library(level)
    return "it was not built, because there was no C compiler (gcc or clang) when padless was installed"


def supported_levels() -> tuple[str, ...]:
    """Return the levels that this processor can run, the fastest first."""
    capability = torch.backends.cpu.get_cpu_capability().lower()
    return LEVELS[LEVELS.index(capability) :] if capability in LEVELS else LEVELS[-1:]


def library_path(level: str) -> Path:
    """Return the path of the library of a level."""
    return FOLDER / f"_padless_native.{level}.so"


def load_library(level: str) -> Library | str:
    """Return the library of a level, or the reason why it cannot be used."""
    path = library_path(level)
    sources = b"".join(source.read_bytes() for source in sorted(FOLDER.glob("*.[ch]")))
    source_hash = hashlib.sha256(sources).hexdigest()[:16]
    try:
        native, torch_native = ctypes.CDLL(str(path)), ctypes.CDLL(str(_torch_library()))
        native.padless_source.restype = ctypes.c_char_p
        if native.padless_source().decode() != source_hash:
            return f"{path.name} was built from another source; run `python hatch_build.py`, or install padless again"
        native.padless_rnn.argtypes = [ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
        native.padless_attention.argtypes = [ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
        native.padless_conv.argtypes = [ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
        native.padless_attention_scratch_size.argtypes = [ctypes.c_int64, ctypes.c_int64]
        native.padless_attention_scratch_size.restype = ctypes.c_int64
        native.padless_activation.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
        native.padless_activation.restype = None
        native.padless_lanes.restype = ctypes.c_int64
        return Library(
            level=level,
            rnn=native.padless_rnn,
            conv=native.padless_conv,
            attention=native.padless_attention,
            attention_scratch_size=native.padless_attention_scratch_size,
            activation=native.padless_activation,
            lanes=native.padless_lanes(),
            parallel_for=ctypes.cast(torch_native.torch_parallel_for, ctypes.c_void_p),
        )
    except (OSError, AttributeError) as error:
        return f"{path.name} could not be loaded: {error}"


def _torch_library() -> Path:
    """Return the path of torch's own library, which is loaded already; the kernels run on its threads."""
    folder = Path(torch.__file__).parent / "lib"
    return next(path for name in ("libtorch_cpu.so", "libtorch_cpu.dylib") if (path := folder / name).exists())


def can_access_memory(*tensors: Tensor | None) -> bool:
    """Return whether a compiled kernel may read and write the memory of these tensors.

    A kernel must not run under compilers, tracers, torch.func, forward-mode differentiation and dispatch modes. They replace
    or record the operations of torch, and a compiled kernel is not one of them. It must not run either on tensors that are
    not plain numbers in the memory of the CPU.
    """
    if (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage] - documented as torch.jit.is_tracing
        or in_functional_transform(*tensors)
        or in_dispatch_mode()
    ):
        return False
    return all(
        t is None
        or type(t) in PLAIN_TYPES
        and t.device.type == "cpu"
        and t.layout is torch.strided
        and not t.is_neg()
        and not t.is_conj()
        and t.data_ptr() % t.element_size() == 0  # a tensor made from bytes may begin anywhere
        for t in tensors
    )


def check_offsets(index: Index, num_rows: int, name: str) -> Ints:
    """Return the offsets of an index, checked: a kernel that gets them reads rows of `values` only.

    An index is right when it is made, but its arrays can be changed.

    Args:
        index: The real steps.
        num_rows: The number of rows of the values.
        name: The name of the values, for the message.

    Raises:
        MaskError: If the sequences do not divide the rows among them.

    >>> check_offsets(Index(np.ones((2, 3), dtype=bool)), 6, "values").tolist()
    [0, 3, 6]
    """
    offsets = np.ascontiguousarray(index.offsets, dtype=np.int64)
    num_sequences = index.shape[0]
    if offsets.shape != (num_sequences + 1,) or offsets[0] or offsets[-1] != num_rows or (np.diff(offsets) < 0).any():
        raise MaskError(
            f"The {num_sequences} sequences of {index!r} must have the {num_rows} rows of {name} one after another; "
            f"their offsets are {offsets.tolist() if offsets.size < 20 else offsets}. The arrays of an index must not be "
            f"changed. Make an index from a mask: padless.pack(x, mask)."
        )
    return offsets


def pack_weight_panels(weights: Tensor, lanes: int) -> Tensor:
    """Copy a matrix into panels, the format of weights in gemm.h.

    Args:
        weights: The matrix, `(K, columns)`; columns is a multiple of `lanes`.
        lanes: The number of float32 in a SIMD vector.

    Returns:
        The panels of four vectors of columns each, `(K, 4 * lanes)`, one after another in a flat tensor. The last
        panel has the remaining columns.
    """
    panel_width = 4 * lanes
    in_full_panels = weights.shape[1] // panel_width * panel_width
    full_panels = weights[:, :in_full_panels].unflatten(1, (-1, panel_width)).transpose(0, 1).reshape(-1)
    last_panel = weights[:, in_full_panels:].reshape(-1)
    return torch.cat([full_panels, last_panel]) if len(last_panel) else full_panels.contiguous()


def split_by_cost(costs: NDArray[np.number], max_parts: int) -> NDArray[np.int64]:
    """Split a list of tasks into parts of nearly equal cost.

    Args:
        costs: The cost of each task.
        max_parts: Make no more parts than this.

    Returns:
        The first task of each part, and the number of tasks.

    >>> split_by_cost(np.array([3, 1, 1, 1]), 2).tolist()
    [0, 1, 4]
    """
    num_parts = max(1, max_parts)
    part_offsets = np.searchsorted(np.cumsum(costs) - costs / 2, costs.sum() / num_parts * np.arange(num_parts + 1))
    part_offsets[-1] = len(costs)
    return part_offsets
