"""From the host to a device: nobody waits, and what the host still holds of it is not fetched back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(x: Tensor | NDArray[Any], device: torch.device | str) -> Tensor:
    """The same numbers on a device; the host goes on at once.

    To CUDA they leave from pinned memory, since from any other the driver may wait.

    >>> to_device(np.arange(3), "cpu")
    tensor([0, 1, 2])
    """
    tensor = torch.from_numpy(np.ascontiguousarray(x)) if isinstance(x, np.ndarray) else x
    goal = torch.device(device)
    if goal.type == "cpu" or tensor.device.type != "cpu":
        return tensor.to(goal)
    if goal.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(goal, non_blocking=goal.type != "mps")  # MPS reads later what may be gone by then


def to_device_keep_host_copy(x: Tensor, device: torch.device | str) -> Tensor:
    """The same, and `known` finds what the host has of it."""
    sent = to_device(x, device)
    if x.device.type == "cpu" and sent is not x and not (x.is_inference() or sent.is_inference()):
        sent._known = (x, (x._version, sent._version))  # pyright: ignore[reportAttributeAccessIssue]
    return sent


def host_copy(x: Tensor) -> Tensor:
    """The numbers of a tensor on the host, if they came from there and torch has written to neither since; else itself.

    >>> x = torch.arange(3)
    >>> host_copy(x) is x, host_copy(to_device_keep_host_copy(x, "cpu")) is x
    (True, True)
    """
    kept, versions = getattr(x, "_known", (x, None))
    return kept if versions is None or versions == (kept._version, x._version) else x
