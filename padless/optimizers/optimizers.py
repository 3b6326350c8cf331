"""torch.optim with Keras's names, defaults and numbers.

    keras  Adam(1e-3)                                       parameters come later, by `compile` or `build`
    torch  Adam(model.parameters(), learning_rate=1e-3)     parameters first, ready at once

Either way it is a `torch.optim.Optimizer`: learning-rate schedulers, `GradScaler`, hooks and `state_dict` work. Where the
numbers differ from torch's they are Keras's: Adam adds epsilon to the root of the uncorrected second moment, RMSprop and
Adagrad add it inside the root, SGD's momentum holds the learning rate that each gradient came with, Nadam's momentum fades
with every step, Adafactor's squares have epsilon. Weight decay is always decoupled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Unpack

import torch

from padless.errors import ArgumentError
from padless.optimizers import schedules as schedules
from padless.optimizers.base import Optimizer, Rate, Shared, fraction, many, parameters_first, tensors_of, torch_step
from padless.registry import lookup, register


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
        self, learning_rate: Rate = 0.01, momentum: float = 0.0, nesterov: bool = False, **shared: Unpack[Shared]
    ) -> None:
        super().__init__(learning_rate, shared, momentum=fraction("momentum", momentum), nesterov=nesterov)

    def _start(self, parameters: list[Any]) -> None:
        torch.optim.SGD.__init__(
            self,
            parameters,
            self.learning_rate,
            self.momentum,
            weight_decay=self.weight_decay or 0.0,
            nesterov=self.nesterov and self.momentum > 0,
        )

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

    `foreach` and `fused` choose torch's kernels; unless told, weights on the CPU and on CUDA take the fused ones.
    """

    @parameters_first
    def __init__(
        self,
        learning_rate: Rate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            learning_rate,
            shared,
            beta_1=fraction("beta_1", beta_1, open=True),
            beta_2=fraction("beta_2", beta_2, open=True),
            epsilon=epsilon,
            amsgrad=amsgrad,
            foreach=foreach,
            fused=fused,
        )

    def _start(self, parameters: list[Any]) -> None:
        fused = self.fused
        if fused is None and self.foreach is None:
            fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in tensors_of(parameters)) or None
        torch.optim.Adam.__init__(
            self,
            parameters,
            self.learning_rate,
            (self.beta_1, self.beta_2),
            self.epsilon,
            self.weight_decay or 0.0,
            self.amsgrad,
            foreach=self.foreach,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def _advance(self) -> None:
        epsilons = [group["eps"] for group in self.param_groups]
        try:
            for group in self.param_groups:  # torch adds eps after it has divided the root by sqrt(1 - beta_2 ** t)
                group["eps"] /= math.sqrt(1 - group["betas"][1] ** group["iterations"])
            torch_step(torch.optim.Adam, self)
        finally:
            for group, epsilon in zip(self.param_groups, epsilons, strict=True):
                group["eps"] = epsilon


@register("optimizer", "adamw")
class AdamW(Adam, torch.optim.AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), 0.004 unless given."""

    @parameters_first
    def __init__(
        self,
        learning_rate: Rate = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
        **shared: Unpack[Shared],  # pyright: ignore[reportGeneralTypeIssues] - in front
    ) -> None:
        if weight_decay is None:
            raise ArgumentError("`weight_decay` of AdamW must be a number; got None. Without weight decay use Adam.")
        given: Any = {**shared, "weight_decay": weight_decay}  # pyright sees no wrapper that gives it by name
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, foreach=foreach, fused=fused, **given)


@register("optimizer", "rmsprop")
class RMSprop(Optimizer, torch.optim.RMSprop):
    """Gradients divided by the root of their mean square plus epsilon; `centered` takes the mean off first."""

    @parameters_first
    def __init__(
        self,
        learning_rate: Rate = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            learning_rate,
            shared,
            rho=fraction("rho", rho),
            momentum=fraction("momentum", momentum),
            epsilon=epsilon,
            centered=centered,
        )

    def _start(self, parameters: list[Any]) -> None:
        torch.optim.RMSprop.__init__(
            self,
            parameters,
            self.learning_rate,
            self.rho,
            self.epsilon,
            self.weight_decay or 0.0,
            self.momentum,
            self.centered,
        )

    def _advance(self) -> None:
        for group in self.param_groups:
            rho, momentum = group["alpha"], group["momentum"]
            names = [
                "step",
                "square_avg",
                *(["grad_avg"] if group["centered"] else []),
                *(["momentum_buffer"] if momentum else []),
            ]
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
            rate = float(group["lr"])
            if not momentum:
                many._foreach_addcdiv_(params, grads, roots, -rate)
                continue
            many._foreach_mul_(state[-1], momentum)
            many._foreach_addcdiv_(state[-1], grads, roots, rate)
            many._foreach_sub_(params, state[-1])


@register("optimizer", "adagrad")
class Adagrad(Optimizer, torch.optim.Adagrad):
    """Gradients divided by the root of the sum of all their squares (Duchi et al., 2011), which begins at 0.1."""

    @parameters_first
    def __init__(
        self,
        learning_rate: Rate = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        **shared: Unpack[Shared],
    ) -> None:
        if not initial_accumulator_value >= 0:
            raise ArgumentError(f"`initial_accumulator_value` must be at least 0; got {initial_accumulator_value!r}.")
        super().__init__(learning_rate, shared, initial_accumulator_value=initial_accumulator_value, epsilon=epsilon)

    def _start(self, parameters: list[Any]) -> None:
        torch.optim.Adagrad.__init__(
            self, parameters, self.learning_rate, 0.0, self.weight_decay or 0.0, self.initial_accumulator_value, self.epsilon
        )

    def _advance(self) -> None:
        for group in self.param_groups:
            params, grads, (steps, sums) = self._gradients(group, "step", "sum")
            if params:
                many._foreach_add_(steps, 1)
                many._foreach_addcmul_(sums, grads, grads)
                roots = many._foreach_add(sums, group["eps"])
                many._foreach_sqrt_(roots)
                many._foreach_addcdiv_(params, grads, roots, -float(group["lr"]))


@register("optimizer", "adadelta")
class Adadelta(Optimizer, torch.optim.Adadelta):
    """Steps as large as the root mean square of the steps before (Zeiler, 2012)."""

    @parameters_first
    def __init__(
        self, learning_rate: Rate = 0.001, rho: float = 0.95, epsilon: float = 1e-7, **shared: Unpack[Shared]
    ) -> None:
        super().__init__(learning_rate, shared, rho=fraction("rho", rho), epsilon=epsilon)

    def _start(self, parameters: list[Any]) -> None:
        torch.optim.Adadelta.__init__(self, parameters, self.learning_rate, self.rho, self.epsilon, self.weight_decay or 0.0)

    def _advance(self) -> None:
        for group in self.param_groups:
            params, grads, (steps, squares, moved) = self._gradients(group, "step", "square_avg", "acc_delta")
            if params:
                rho, epsilon = group["rho"], group["eps"]
                many._foreach_add_(steps, 1)
                many._foreach_mul_(squares, rho)
                many._foreach_addcmul_(squares, grads, grads, 1 - rho)
                moves, roots = many._foreach_add(moved, epsilon), many._foreach_add(squares, epsilon)
                many._foreach_sqrt_(moves)
                many._foreach_sqrt_(roots)
                many._foreach_mul_(moves, grads)
                many._foreach_div_(moves, roots)
                many._foreach_mul_(moved, rho)
                many._foreach_addcmul_(moved, moves, moves, 1 - rho)
                many._foreach_add_(params, moves, alpha=-float(group["lr"]))


@register("optimizer", "adamax")
class Adamax(Optimizer, torch.optim.Adamax):
    """Adam with the largest gradient, fading, in place of the second moment (Kingma and Ba, 2014, section 7)."""

    @parameters_first
    def __init__(
        self,
        learning_rate: Rate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            learning_rate,
            shared,
            beta_1=fraction("beta_1", beta_1, open=True),
            beta_2=fraction("beta_2", beta_2, open=True),
            epsilon=epsilon,
        )

    def _start(self, parameters: list[Any]) -> None:
        torch.optim.Adamax.__init__(
            self, parameters, self.learning_rate, (self.beta_1, self.beta_2), self.epsilon, self.weight_decay or 0.0
        )

    def _advance(self) -> None:
        for group in self.param_groups:
            params, grads, (steps, means, norms) = self._gradients(group, "step", "exp_avg", "exp_inf")
            if params:
                (beta_1, beta_2), rate = group["betas"], float(group["lr"])
                many._foreach_add_(steps, 1)
                many._foreach_lerp_(means, grads, 1 - beta_1)
                many._foreach_mul_(norms, beta_2)
                many._foreach_maximum_(norms, many._foreach_abs(grads))
                many._foreach_addcdiv_(
                    params, means, many._foreach_add(norms, group["eps"]), -rate / (1 - beta_1 ** group["iterations"])
                )


@register("optimizer", "nadam")
class Nadam(Optimizer, torch.optim.NAdam):
    """Adam with Nesterov's momentum (Dozat, 2015)."""

    @parameters_first
    def __init__(
        self,
        learning_rate: Rate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            learning_rate,
            shared,
            beta_1=fraction("beta_1", beta_1, open=True),
            beta_2=fraction("beta_2", beta_2, open=True),
            epsilon=epsilon,
        )

    def _start(self, parameters: list[Any]) -> None:  # Keras's momentum fades with every step, torch's every 250
        torch.optim.NAdam.__init__(
            self,
            parameters,
            self.learning_rate,
            (self.beta_1, self.beta_2),
            self.epsilon,
            self.weight_decay or 0.0,
            momentum_decay=1.0,
            decoupled_weight_decay=True,
        )

    def _advance(self) -> None:
        torch_step(torch.optim.NAdam, self)


@register("optimizer", "adafactor")
class Adafactor(Optimizer, torch.optim.Adafactor):
    """Second moments of matrices as a column times a row, and steps relative to the weights (Shazeer and Stern, 2018)."""

    @parameters_first
    def __init__(
        self,
        learning_rate: Rate = 0.001,
        beta_2_decay: float = -0.8,
        epsilon_1: float = 1e-30,
        epsilon_2: float = 1e-3,
        clip_threshold: float = 1.0,
        relative_step: bool = True,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            learning_rate,
            shared,
            beta_2_decay=beta_2_decay,
            epsilon_1=epsilon_1,
            epsilon_2=epsilon_2,
            clip_threshold=clip_threshold,
            relative_step=relative_step,
        )

    def _start(self, parameters: list[Any]) -> None:
        torch.optim.Adafactor.__init__(
            self,
            parameters,
            self.learning_rate,
            self.beta_2_decay,
            (self.epsilon_1, self.epsilon_2),
            weight_decay=self.weight_decay or 0.0,
        )

    def _advance(self) -> None:
        for group in self.param_groups:
            params, grads, (steps,) = self._gradients(group, "step")
            if params:
                many._foreach_add_(steps, 1)
            for p, grad in zip(params, grads, strict=True):
                self._move(group, p, grad)

    def _move(self, group: dict[str, Any], p: torch.Tensor, grad: torch.Tensor) -> None:
        step, state, floor = group["iterations"], self.state[p], self.epsilon_2
        keep = 1 - step ** group["beta2_decay"]
        squares = grad.square() + self.epsilon_1
        if p.ndim > 1:
            rows = _faded(state, "row_var", squares.mean(-1, keepdim=True), keep)
            columns = _faded(state, "col_var", squares.mean(-2, keepdim=True), keep)
            variance = rows / rows.mean(-2, keepdim=True) * columns
        else:
            variance = _faded(state, "variance", squares, keep)
        move = grad / variance.sqrt()
        move /= (_rms(move) / self.clip_threshold).clamp_min(1)
        rate = min(float(group["lr"]), step**-0.5)
        p.sub_(move * (_rms(p).clamp_min(floor) * rate))


def _faded(state: dict[str, Any], name: str, new: torch.Tensor, keep: float) -> torch.Tensor:
    """The running mean under this name, with one more."""
    state[name] = new * (1 - keep) if name not in state else state[name].mul_(keep).add_(new, alpha=1 - keep)
    return state[name]


def _rms(values: torch.Tensor) -> torch.Tensor:
    return values.square().mean().sqrt()


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
        raise ArgumentError(
            f"{identifier!r} is no optimizer. Expected a name such as 'adam', an optimizer such as "
            f"Adam(1e-3), or any torch.optim.Optimizer over the model's parameters."
        )
    if parameters is not None and isinstance(optimizer, Optimizer):
        optimizer.build(parameters)
    return optimizer
