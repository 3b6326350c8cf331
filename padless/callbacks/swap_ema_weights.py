"""Evaluate with the moving averages of the weights."""

from __future__ import annotations

from padless.callbacks.callback import Callback, Logs
from padless.errors import ArgumentError
from padless.optimizers.base import Optimizer
from padless.registry import register


@register("callback")
class SwapEMAWeights(Callback):
    """Evaluate and predict with the moving averages of the weights, and train with the weights.

    The optimizer must have `use_ema=True`.

    Args:
        swap_on_epoch: whether the model has the averages between two epochs. Then callbacks that save the model at the
            end of an epoch save the averages.

    Raises:
        ArgumentError: when training begins, if the optimizer has no averages.
    """

    def __init__(self, swap_on_epoch: bool = False) -> None:
        self.swap_on_epoch = swap_on_epoch

    def on_train_begin(self, logs: Logs = None) -> None:
        self._optimizer()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._use_averages(False)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self.swap_on_epoch:
            self._use_averages(True)

    def on_test_begin(self, logs: Logs = None) -> None:
        self._use_averages(True)

    def on_test_end(self, logs: Logs = None) -> None:
        self._use_averages(False)

    def on_predict_begin(self, logs: Logs = None) -> None:
        self._use_averages(True)

    def on_predict_end(self, logs: Logs = None) -> None:
        self._use_averages(False)

    def _use_averages(self, averages: bool) -> None:
        """Give the model the averages, or its weights."""
        optimizer = self._optimizer()
        if optimizer.built and optimizer.averaged != averages:
            optimizer.swap_averages()

    def _optimizer(self) -> Optimizer:
        """Return the optimizer of the model. Raises `ArgumentError` if it has no averages."""
        optimizer = self.model.optimizer
        if not isinstance(optimizer, Optimizer) or not optimizer.use_ema:
            raise ArgumentError(
                f"SwapEMAWeights needs an optimizer with use_ema=True, such as Adam(use_ema=True); got {optimizer!r}."
            )
        return optimizer
