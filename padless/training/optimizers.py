"""torch.optim with Keras's names, defaults and numbers.

    keras  Adam(1e-3)                                       parameters come later, by `compile` or `build`
    torch  Adam(model.parameters(), learning_rate=1e-3)     parameters first, ready at once

Either way it is a `torch.optim.Optimizer`: learning-rate schedulers, `GradScaler`, hooks and `state_dict` work. Three
numbers differ from torch's: Adam adds epsilon to the root of the uncorrected second moment, RMSprop adds it inside the
root, and SGD's momentum holds the learning rate that each gradient came with. Weight decay is always decoupled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from padless.errors import ArgumentError
from padless.registry import lookup, register
from padless.training.optimizer import Optimizer, fraction, many, parameters_first, tensors_of


@register("optimizer", "sgd")
class SGD(Optimizer, torch.optim.SGD):
    """Gradient descent, with momentum on request.

    With momentum the velocity is `momentum * velocity - learning_rate * gradient`: a change of the learning rate does
    not touch what is already under way.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = SGD(0.1).build([weight])
    >>> (3 * weight).sum().backward()
    >>> optimizer.step(); weight.item()
    0.699999...
    """

    @parameters_first
    def __init__(
        self, learning_rate: float = 0.01, momentum: float = 0.0, nesterov: bool = False,
        weight_decay: float | None = None, clipnorm: float | None = None, clipvalue: float | None = None,
        global_clipnorm: float | None = None, name: str | None = None,
    ) -> None:
        super().__init__(learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, name,
                         momentum=fraction("momentum", momentum), nesterov=nesterov)

    def _start(self, parameters: list[Any]) -> None:
        torch.optim.SGD.__init__(self, parameters, self.learning_rate, self.momentum,
                                 weight_decay=self.weight_decay or 0.0, nesterov=self.nesterov and self.momentum > 0)

    def _advance(self) -> None:
        for group in self.param_groups:
            momentum, rate = group["momentum"], float(group["lr"])
            params, grads, state = self._gradients(group, *(("momentum_buffer",) if momentum else ()))
            if not params:
                continue
            if momentum:
                many._foreach_mul_(state[0], momentum)
                many._foreach_add_(state[0], grads, alpha=-rate)
            if momentum and not group["nesterov"]:
                many._foreach_add_(params, state[0])
                continue
            many._foreach_add_(params, grads, alpha=-rate)
            if momentum:
                many._foreach_add_(params, state[0], alpha=momentum)


@register("optimizer", "adam")
class Adam(Optimizer, torch.optim.Adam):
    """Adam (Kingma and Ba, 2014), with the paper's "epsilon hat": added to the root of the uncorrected second moment.

    `foreach` and `fused` choose torch's kernels; unless told, weights on the CPU take the fused one, which is the fastest.
    """

    @parameters_first
    def __init__(
        self, learning_rate: float = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
        amsgrad: bool = False, weight_decay: float | None = None, clipnorm: float | None = None,
        clipvalue: float | None = None, global_clipnorm: float | None = None, name: str | None = None, *,
        foreach: bool | None = None, fused: bool | None = None,
    ) -> None:
        super().__init__(learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, name,
                         beta_1=fraction("beta_1", beta_1, open=True), beta_2=fraction("beta_2", beta_2, open=True),
                         epsilon=epsilon, amsgrad=amsgrad, foreach=foreach, fused=fused)

    def _start(self, parameters: list[Any]) -> None:
        fused = self.fused
        if fused is None and self.foreach is None:
            fused = all(p.device.type == "cpu" and p.is_floating_point() for p in tensors_of(parameters)) or None
        torch.optim.Adam.__init__(
            self, parameters, self.learning_rate, (self.beta_1, self.beta_2), self.epsilon, self.weight_decay or 0.0,
            self.amsgrad, foreach=self.foreach, fused=fused, decoupled_weight_decay=True,
        )

    def _advance(self) -> None:
        epsilons = [group["eps"] for group in self.param_groups]
        try:
            for group in self.param_groups:  # torch adds eps after it has divided the root by sqrt(1 - beta_2 ** t)
                group["eps"] /= math.sqrt(1 - group["betas"][1] ** group["iterations"])
            step: Any = torch.optim.Adam.step
            (step.__wrapped__ if getattr(step, "hooked", False) else step)(self)  # hooks have run for this step
        finally:
            for group, epsilon in zip(self.param_groups, epsilons, strict=True):
                group["eps"] = epsilon


@register("optimizer", "adamw")
class AdamW(Adam, torch.optim.AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), 0.004 unless given."""

    @parameters_first
    def __init__(
        self, learning_rate: float = 0.001, weight_decay: float = 0.004, beta_1: float = 0.9, beta_2: float = 0.999,
        epsilon: float = 1e-7, amsgrad: bool = False, clipnorm: float | None = None, clipvalue: float | None = None,
        global_clipnorm: float | None = None, name: str | None = None, *, foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        if weight_decay is None:
            raise ArgumentError("`weight_decay` of AdamW must be a number; got None. Without weight decay use Adam.")
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay, clipnorm, clipvalue,
                         global_clipnorm, name, foreach=foreach, fused=fused)


@register("optimizer", "rmsprop")
class RMSprop(Optimizer, torch.optim.RMSprop):
    """Gradients divided by the root of their mean square plus epsilon; `centered` takes the mean off first."""

    @parameters_first
    def __init__(
        self, learning_rate: float = 0.001, rho: float = 0.9, momentum: float = 0.0, epsilon: float = 1e-7,
        centered: bool = False, weight_decay: float | None = None, clipnorm: float | None = None,
        clipvalue: float | None = None, global_clipnorm: float | None = None, name: str | None = None,
    ) -> None:
        super().__init__(learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, name,
                         rho=fraction("rho", rho), momentum=fraction("momentum", momentum), epsilon=epsilon,
                         centered=centered)

    def _start(self, parameters: list[Any]) -> None:
        torch.optim.RMSprop.__init__(self, parameters, self.learning_rate, self.rho, self.epsilon,
                                     self.weight_decay or 0.0, self.momentum, self.centered)

    def _advance(self) -> None:
        for group in self.param_groups:
            rho, momentum = group["alpha"], group["momentum"]
            names = ["step", "square_avg", *(["grad_avg"] if group["centered"] else []),
                     *(["momentum_buffer"] if momentum else [])]
            params, grads, state = self._gradients(group, *names)
            if not params:
                continue
            many._foreach_add_(state[0], 1)
            many._foreach_mul_(state[1], rho)
            many._foreach_addcmul_(state[1], grads, grads, 1 - rho)
            roots = many._foreach_add(state[1], group["eps"])
            if group["centered"]:
                many._foreach_lerp_(state[2], grads, 1 - rho)
                many._foreach_addcmul_(roots, state[2], state[2], -1)
            many._foreach_sqrt_(roots)
            moves = many._foreach_div(many._foreach_mul(grads, float(group["lr"])), roots)
            if momentum:
                many._foreach_mul_(state[-1], momentum)
                many._foreach_add_(state[-1], moves)
                moves = state[-1]
            many._foreach_sub_(params, moves)


def get(identifier: Any, parameters: Iterable[Any] | None = None) -> torch.optim.Optimizer:
    """The optimizer that a name, a class, a config or an optimizer means; built, where parameters are given.

    An optimizer made by torch itself is returned as it is. Raises `ArgumentError` for unknown names.

    >>> get("adam").learning_rate
    0.001
    """
    if isinstance(identifier, str):
        optimizer = lookup("optimizer", identifier)()
    elif isinstance(identifier, Mapping) and "class_name" in identifier:
        optimizer = lookup("optimizer", identifier["class_name"]).from_config(identifier.get("config") or {})
    elif isinstance(identifier, type) and issubclass(identifier, Optimizer):
        optimizer = identifier()  # pyright: ignore[reportCallIssue]
    else:
        optimizer = identifier
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ArgumentError(f"{identifier!r} is no optimizer. Expected a name such as 'adam', an optimizer such as "
                            f"Adam(1e-3), or any torch.optim.Optimizer over the model's parameters.")
    if parameters is not None and isinstance(optimizer, Optimizer):
        optimizer.build(parameters)
    return optimizer
