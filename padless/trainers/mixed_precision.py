"""Mixed precision: training under `torch.autocast`, with weights, losses and sums in their own dtype.

- float32: no autocast
- bfloat16: products in bfloat16, which has the range of float32
- float16: products in float16. The loss is scaled before the backward pass, so that small gradients do not become 0.
  A step whose gradients overflow is skipped.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from padless.errors import ArgumentError, unknown_name
from padless.optimizers.base import Optimizer

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
INITIAL_SCALE = 2.0**15  # of the loss in float16, as in Keras


class Precision:
    """The dtype of the forward pass in training, and the scale of the loss that belongs to it.

    `evaluate` and `predict` always run in the dtype of the weights.

    Args:
        autocast: None, "float32", "bfloat16" or "float16", a torch dtype, or a Keras policy such as "mixed_bfloat16".
        scaled: whether the loss is scaled in float16.

    Raises:
        ArgumentError: for another dtype.

    >>> Precision("mixed_bfloat16").dtype
    torch.bfloat16
    """

    def __init__(self, autocast: str | torch.dtype | None = None, scaled: bool = True) -> None:
        name = str(autocast).removeprefix("torch.").removeprefix("mixed_")
        if autocast is not None and name not in ("float32", *DTYPES):
            raise ArgumentError(unknown_name("autocast", autocast, ["float32", *DTYPES]))
        self.dtype = DTYPES.get(name)
        self.scaled = scaled and self.dtype is torch.float16
        self._scaler: torch.amp.GradScaler | None = None

    def context(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which the model runs on this device."""
        return nullcontext() if self.dtype is None else torch.autocast(device.type, self.dtype)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler | None:
        """Return the scaler of the loss, None if the loss is not scaled."""
        if self.scaled and self._scaler is None:
            self._scaler = torch.amp.GradScaler(device.type, init_scale=INITIAL_SCALE)
        return self._scaler

    def backward(self, loss: Tensor, optimizer: torch.optim.Optimizer, retain_graph: bool = False) -> None:
        """Run the backward pass of a loss, scaled as `step` and the optimizer expect."""
        scaler = self.scaler(loss.device)
        if scaler is not None:
            loss = scaler.scale(loss)
        elif isinstance(optimizer, Optimizer):
            loss = optimizer.scale_loss(loss)
        loss.backward(retain_graph=retain_graph)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Make a step of the optimizer; skip it if scaled gradients overflowed."""
        scaler = self._scaler
        if scaler is None or not any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
            optimizer.step()
            return
        scaler.step(optimizer)
        scaler.update()
