"""Training that has gone wrong: stopped, with the place where it did."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from padless._torch_compat import pytree
from padless.callbacks.callback import Callback, Logs
from padless.registry import register


@register("callback")
class TerminateOnNaN(Callback):
    """Stop training at the first batch whose loss is NaN or infinite; with `raise_error`, by a RuntimeError.

    The message names the epoch, the batch, the step in all, and the first layer whose output was not finite, with its
    weights that were not finite before: then the gradients of an earlier step were the cause. It costs one look at each
    layer's output, and nothing is fetched from the device before the loss is.
    """

    kept = ("_steps",)

    def __init__(self, raise_error: bool = False) -> None:
        self.raise_error = raise_error
        self._epoch, self._steps = 0, 0
        self._seen: list[tuple[str, nn.Module, Tensor, Tensor | None]] = []
        self._watching: list[Any] = []

    def on_train_begin(self, logs: Logs = None) -> None:
        self._steps = 0
        self._stop_watching()
        if isinstance(self.model, nn.Module):
            self._watching = [
                inner.register_forward_hook(self._look(name, inner), always_call=False)
                for name, inner in self.model.named_modules()
                if name
            ]

    def on_train_end(self, logs: Logs = None) -> None:
        self._stop_watching()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._seen.clear()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._steps += 1
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(loss):
            return
        where = f"step {self._steps} (batch {batch} of epoch {self._epoch + 1})"
        message = f"The loss at {where} is {loss}. {self._cause()}"
        self._stop_watching()
        if self.raise_error:
            raise RuntimeError(message)
        print(f"{message} Training stops.")
        self.model.stop_training = True

    def _look(self, name: str, module: nn.Module) -> Any:
        def look(_: nn.Module, given: Any, output: Any) -> None:
            if module.training or torch.is_grad_enabled():
                found = [_finite(leaf) for leaf in pytree.tree_leaves(output) if _is_float(leaf)]
                finite = torch.stack(found).all() if found else None
                if finite is None or (finite.device.type == "cpu" and finite):
                    return
                own = [_finite(weight) for weight in module.parameters()]
                self._seen.append((name, module, finite, torch.stack(own).all() if own else None))

        return look

    def _cause(self) -> str:
        """The first layer whose output was not finite: inner ones end before those that hold them."""
        for name, module, finite, weights in self._seen:
            if not finite:
                called = getattr(module, "name", None) or name
                cause = f"The first layer whose output was not finite is {called!r} ({type(module).__name__})"
                if weights is not None and not weights:
                    return f"{cause}; its weights were not finite before: the gradients of an earlier step were too large."
                return f"{cause}; its weights were finite. Look at its inputs, or train more slowly."
        return "The outputs of all layers were finite: look at the loss and its targets."

    def _stop_watching(self) -> None:
        for hook in self._watching:
            hook.remove()
        self._watching = []
        self._seen.clear()


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _finite(values: Tensor) -> Tensor:
    return values.detach().isfinite().all()
