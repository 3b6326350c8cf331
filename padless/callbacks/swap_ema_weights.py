"""The moving averages of the weights, where an optimizer keeps them."""

from __future__ import annotations

from typing import Any

from padless.callbacks.callback import Callback, Logs
from padless.errors import ArgumentError
from padless.registry import register


@register("callback")
class SwapEMAWeights(Callback):
    """Evaluate and predict with the averages that an optimizer with `use_ema=True` keeps, and train on the weights.

    With `swap_on_epoch` the averages are the model's weights also between one epoch's end and the next one's beginning, so
    that callbacks which save at the end of an epoch save them.
    """

    def __init__(self, swap_on_epoch: bool = False) -> None:
        self.swap_on_epoch = swap_on_epoch

    def on_train_begin(self, logs: Logs = None) -> None:
        self._optimizer()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._show(False)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self.swap_on_epoch:
            self._show(True)

    def on_test_begin(self, logs: Logs = None) -> None:
        self._show(True)

    def on_test_end(self, logs: Logs = None) -> None:
        self._show(False)

    def on_predict_begin(self, logs: Logs = None) -> None:
        self._show(True)

    def on_predict_end(self, logs: Logs = None) -> None:
        self._show(False)

    def _show(self, averages: bool) -> None:
        optimizer = self._optimizer()
        if optimizer.built and optimizer.averaged != averages:
            optimizer.swap_averages()

    def _optimizer(self) -> Any:
        optimizer = getattr(self.model, "optimizer", None)
        if not getattr(optimizer, "use_ema", False):
            raise ArgumentError(
                f"SwapEMAWeights needs an optimizer with use_ema=True, such as Adam(use_ema=True); got {optimizer!r}."
            )
        return optimizer
