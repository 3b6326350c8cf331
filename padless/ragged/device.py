"""Copy tensors to a device without waiting, and remember what the host still has of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakTensorKeyDictionary

from padless._torch_compat import write_count


class _HostCopy(NamedTuple):
    """The tensor on the host from which a tensor on a device was copied."""

    tensor: Tensor
    host_version: int  # torch counts the writes to each tensor
    device_version: int


# The key is the tensor on the device: when it is deleted, its entry is, too. Single reads and writes of a dictionary
# are safe in several threads, so there is no lock.
_host_copies: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def to_device(x: Tensor | NDArray[Any], device: torch.device | str) -> Tensor:
    """Copy a tensor or an array to a device; the host does not wait for the copy.

    A copy to CUDA uses pinned memory, because the driver may wait for a copy from other memory.

    Args:
        x: the numbers. An array is shared on the CPU, not copied, if it is contiguous.
        device: the device of the result.

    Returns:
        A tensor on `device`; `x` itself if it is a tensor on that device already.

    Example:
        >>> to_device(np.arange(3), "cpu")
        tensor([0, 1, 2])
    """
    tensor = torch.from_numpy(np.ascontiguousarray(x)) if isinstance(x, np.ndarray) else x
    target = torch.device(device)
    if target.type == "cpu" or tensor.device.type != "cpu":
        return tensor.to(target)
    if target.type == "cuda":
        is_shared = tensor.is_pinned()  # then `pin_memory` returns it, and its owner may write to it during the copy
        tensor = torch.empty_like(tensor, pin_memory=True).copy_(tensor) if is_shared else tensor.pin_memory()
    return tensor.to(target, non_blocking=target.type != "mps")  # MPS may read after `tensor` is freed


def memory_of(x: Tensor) -> tuple[str, int]:
    """Return what identifies the memory of a tensor; all views of one memory have the same.

    Two tensors may share one NumPy array, so on the CPU it is the address. Other tensors may have no address.
    """
    storage = x.untyped_storage()
    return (
        ("address", storage.data_ptr()) if type(x) in (Tensor, nn.Parameter) else ("storage", StorageWeakRef(storage).cdata)
    )


def to_host(x: Tensor) -> Tensor:
    """Copy a tensor to the CPU, detached. The host waits if the tensor is on another device."""
    return x.detach().cpu()


def to_device_keep_host_copy(x: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor to a device as `to_device`, and keep `x`, so that `host_copy` of the result returns `x`."""
    copied = to_device(x, device)
    has_versions = not (x.is_inference() or copied.is_inference())
    if x.device.type == "cpu" and copied is not x and has_versions:
        _host_copies[copied] = _HostCopy(x, write_count(x), write_count(copied))
    return copied


def host_copy(x: Tensor) -> Tensor:
    """Return the tensor on the host from which `x` was copied, without waiting for the device.

    Returns:
        The tensor given to `to_device_keep_host_copy`. Or `x` itself, if there is none or if one of the two was
        written to after the copy.

    Example:
        >>> x = torch.arange(3)
        >>> host_copy(x) is x, host_copy(to_device_keep_host_copy(x, "cpu")) is x
        (True, True)
    """
    copy: _HostCopy | None = _host_copies.get(x)
    if copy is None or (copy.host_version, copy.device_version) != (write_count(copy.tensor), write_count(x)):
        return x
    return copy.tensor
