"""Lower precision while training: the model runs under torch's autocast, weights, losses and sums stay as they are.

float32   as everywhere
bfloat16  products in bfloat16, which has the range of float32
float16   products in float16; the loss is scaled up for `backward`, so that small gradients do not vanish, and a
          step whose gradients overflow is skipped
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from padless.errors import ArgumentError, unknown_name

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Precision:
    """The dtype that training runs in, and the scaling of the loss that goes with it.

    `autocast` is None, "bfloat16" or "float16" (or torch's dtype); Keras's names of policies are taken too. Only
    training runs in it: what is evaluated and predicted is so in the dtype of the weights.

    >>> Precision("mixed_bfloat16").dtype
    torch.bfloat16
    """

    def __init__(self, autocast: Any = None, scaled: bool = True) -> None:
        name = str(autocast).removeprefix("torch.").removeprefix("mixed_")
        if autocast is not None and name not in ("float32", *DTYPES):
            raise ArgumentError(unknown_name("autocast", autocast, ["float32", *DTYPES]))
        self.dtype = DTYPES.get(name)
        self.scaled = scaled and self.dtype is torch.float16
        self._scaler: torch.amp.GradScaler | None = None

    def context(self, device: torch.device) -> AbstractContextManager[Any]:
        """Where the model runs."""
        return nullcontext() if self.dtype is None else torch.autocast(device.type, self.dtype)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler | None:
        """What scales the loss; None where nothing is scaled."""
        if self.scaled and self._scaler is None:
            self._scaler = torch.amp.GradScaler(device.type, init_scale=2.0**15)  # Keras begins here
        return self._scaler

    def backward(self, loss: Tensor, optimizer: Any, **how: Any) -> None:
        """Bring the gradient of a loss to the weights, scaled as the optimizer will expect it."""
        scaler = self.scaler(loss.device)
        if scaler is not None:
            loss = scaler.scale(loss)
        elif hasattr(optimizer, "scale_loss"):
            loss = optimizer.scale_loss(loss)
        loss.backward(**how)

    def step(self, optimizer: Any) -> None:
        """One step of the optimizer; none where scaled gradients have overflowed."""
        scaler = self._scaler
        if scaler is None or not any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
            optimizer.step()
            return
        scaler.step(optimizer)
        scaler.update()
