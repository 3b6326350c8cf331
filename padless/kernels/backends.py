"""Report what computes on this machine."""

from __future__ import annotations

import torch

from padless.kernels.native.library import Library, find_library


def backends() -> dict[str, str]:
    """Return what computes on this machine, and what is missing and why.

    >>> sorted(backends())
    ['cuda', 'cudnn', 'native kernels', 'torch']
    """
    return {
        "torch": f"yes: {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "native kernels": _native_kernels(),
        "cuda": f"yes: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no: torch finds no CUDA device",
        "cudnn": _cudnn(),
    }


def _native_kernels() -> str:
    """Report the compiled kernels."""
    library = find_library()
    if isinstance(library, Library):
        return f"yes: {library.level}, for float32 and bfloat16 on the CPU"
    return f"no: {library}"


def _cudnn() -> str:
    """Report whether cuDNN computes the recurrent layers."""
    if not torch.cuda.is_available():
        return "no: torch finds no CUDA device"
    if not torch.backends.cudnn.is_available():
        return "no: this torch was built without it"
    if not torch.backends.cudnn.enabled:
        return "no: torch.backends.cudnn.enabled is False"
    return f"yes: {torch.backends.cudnn.version()}, for LSTM, GRU and SimpleRNN with any mask"
