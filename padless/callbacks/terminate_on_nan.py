"""Stop training when the loss is NaN, and name the layer that caused it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from padless._torch_compat import pytree
from padless.callbacks.callback import Callback, Logs
from padless.registry import register
from padless.saving import state_checks as checks


class _LayerCall(NamedTuple):
    """A call of a layer whose output may not be finite."""

    path: str  # of the layer in the model
    layer: nn.Module
    output_is_finite: Tensor
    weights_are_finite: Tensor | None  # None for a layer without weights


@register("callback")
class TerminateOnNaN(Callback):
    """Stop training after the first batch whose loss is NaN or infinite.

    The message names the epoch, the batch, the number of the step, and the first layer whose output was not finite. It
    says whether the weights of this layer were finite; if not, the gradients of an earlier step were the cause. The cost
    is a check of each layer's output. Nothing waits for the device before the loss is read.

    Args:
        raise_error: whether to raise a RuntimeError, else a message is printed and training ends.
    """

    state_attributes = ("_steps",)
    state_checks = {"_steps": checks.integer}

    def __init__(self, raise_error: bool = False) -> None:
        self.raise_error = raise_error
        self._epoch, self._steps = 0, 0
        self._calls: list[_LayerCall] = []  # of the current batch
        self._hooks: list[RemovableHandle] = []

    def on_train_begin(self, logs: Logs = None) -> None:
        self._steps = 0
        self._remove_hooks()
        if isinstance(self.model, nn.Module):
            self._hooks = [
                layer.register_forward_hook(self._checker(path, layer)) for path, layer in self.model.named_modules() if path
            ]

    def on_train_end(self, logs: Logs = None) -> None:
        self._remove_hooks()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._calls.clear()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._steps += 1
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(loss):
            return
        position = f"step {self._steps} (batch {batch} of epoch {self._epoch + 1})"
        message = f"The loss at {position} is {loss}. {self._cause()}"
        self._remove_hooks()
        if self.raise_error:
            raise RuntimeError(message)
        print(f"{message} Training stops.")
        self.model.stop_training = True

    def _checker(self, path: str, layer: nn.Module) -> Callable[[nn.Module, object, object], None]:
        """Return a forward hook that records calls of a layer whose output may not be finite."""

        def check(_: nn.Module, inputs: object, output: object) -> None:
            if not layer.training and not torch.is_grad_enabled():
                return
            checks = [_all_finite(leaf) for leaf in pytree.tree_leaves(output) if _is_float(leaf)]
            if not checks:
                return
            output_is_finite = torch.stack(checks).all()
            if output_is_finite.device.type == "cpu" and output_is_finite:
                return
            weight_checks = [_all_finite(weight) for weight in layer.parameters()]
            weights_are_finite = torch.stack(weight_checks).all() if weight_checks else None
            self._calls.append(_LayerCall(path, layer, output_is_finite, weights_are_finite))

        return check

    def _cause(self) -> str:
        """Return a sentence on the first layer whose output was not finite; inner layers come before outer ones."""
        for call in self._calls:
            if call.output_is_finite:
                continue
            name = getattr(call.layer, "name", call.path)  # layers of padless and Keras have a name, others a path
            cause = f"The first layer whose output was not finite is {name!r} ({type(call.layer).__name__})"
            if call.weights_are_finite is not None and not call.weights_are_finite:
                return f"{cause}; its weights were not finite before: the gradients of an earlier step were too large."
            return f"{cause}; its weights were finite. Check its inputs, or use a lower learning rate."
        return "The outputs of all layers were finite. Check the loss and its targets."

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._calls.clear()


def _is_float(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _all_finite(values: Tensor) -> Tensor:
    return values.detach().isfinite().all()
