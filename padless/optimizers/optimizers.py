"""The optimizers of torch.optim with Keras's names, arguments, defaults and numbers.

- as in Keras: `Adam(1e-3)`; the parameters come later, from `compile` or `build`
- as in torch: `Adam(model.parameters(), learning_rate=1e-3)`; the optimizer is ready at once

Each optimizer is a `torch.optim.Optimizer`, so learning-rate schedulers, `GradScaler`, hooks and `state_dict` work.
Where the numbers of torch and Keras differ, they are Keras's:

- Adam adds epsilon to the root of the uncorrected second moment. RMSprop and Adagrad add epsilon inside the root.
- The momentum of SGD contains the learning rate that each gradient had.
- The momentum of Nadam decays with each step. The squares of Adafactor contain epsilon.
- Weight decay is always decoupled from the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch.optim.optimizer import ParamsT

from padless._torch_compat import torch_foreach
from padless.errors import ArgumentError
from padless.optimizers import schedules as schedules
from padless.optimizers.base import (
    LearningRate,
    Optimizer,
    ParamGroup,
    SharedArguments,
    check_fraction,
    flatten_parameters,
    parameters_first,
    torch_step,
)
from padless.registry import lookup, register


@register("optimizer", "sgd")
class SGD(Optimizer, torch.optim.SGD):
    """Gradient descent, with or without momentum.

    The velocity is `momentum * velocity - learning_rate * gradient`, so a new learning rate does not change the velocity.

    Args:
        learning_rate: a number, or a function of the number of steps so far.
        momentum: the factor of the previous velocity, from 0 to 1.
        nesterov: whether to use the momentum of Nesterov.
        **shared: the arguments of `Optimizer`.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = SGD(0.1).build([weight])
        >>> (3 * weight).sum().backward()
        >>> optimizer.step(); weight.item()
        0.699999...
    """

    momentum: float
    nesterov: bool

    @parameters_first
    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **shared: Unpack[SharedArguments],
    ) -> None:
        super().__init__(learning_rate, shared, momentum=check_fraction("momentum", momentum), nesterov=nesterov)

    def _init_torch(self, parameters: ParamsT) -> None:
        torch.optim.SGD.__init__(
            self,
            parameters,
            self.learning_rate,
            self.momentum,
            weight_decay=self.weight_decay or 0.0,
            nesterov=self.nesterov and self.momentum > 0,
        )

    def _update_parameters(self) -> None:
        for group in self.param_groups:
            momentum, rate = group["momentum"], float(group["lr"])
            if not momentum:
                params, grads, _ = self._decay_and_collect(group)
                if params:
                    torch_foreach._foreach_add_(params, grads, alpha=-rate)
                continue
            params, grads, (velocities,) = self._decay_and_collect(group, "momentum_buffer")
            if not params:
                continue
            torch_foreach._foreach_mul_(velocities, momentum)
            torch_foreach._foreach_add_(velocities, grads, alpha=-rate)
            if group["nesterov"]:
                torch_foreach._foreach_add_(params, grads, alpha=-rate)
                torch_foreach._foreach_add_(params, velocities, alpha=momentum)
            else:
                torch_foreach._foreach_add_(params, velocities)


@register("optimizer", "adam")
class Adam(Optimizer, torch.optim.Adam):
    """Adam (Kingma and Ba, 2014), with the "epsilon hat" of the paper.

    Epsilon is added to the root of the uncorrected second moment.

    Args:
        learning_rate: a number, or a function of the number of steps so far.
        beta_1: the decay of the first moment, from 0 to below 1.
        beta_2: the decay of the second moment, from 0 to below 1.
        epsilon: a number that keeps the divisor above 0.
        amsgrad: whether to divide by the maximum of the second moments.
        foreach: whether to use torch's kernels for lists of tensors.
        fused: whether to use torch's fused kernels. By default they are used on the CPU and on CUDA.
        **shared: the arguments of `Optimizer`.
    """

    beta_1: float
    beta_2: float
    epsilon: float
    amsgrad: bool
    foreach: bool | None
    fused: bool | None

    @parameters_first
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
        **shared: Unpack[SharedArguments],
    ) -> None:
        super().__init__(
            learning_rate,
            shared,
            beta_1=check_fraction("beta_1", beta_1, below_one=True),
            beta_2=check_fraction("beta_2", beta_2, below_one=True),
            epsilon=epsilon,
            amsgrad=amsgrad,
            foreach=foreach,
            fused=fused,
        )

    def _init_torch(self, parameters: ParamsT) -> None:
        fused = self.fused
        if fused is None and self.foreach is None:
            tensors = flatten_parameters(parameters)
            fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in tensors) or None
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

    def _update_parameters(self) -> None:
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
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), 0.004 by default.

    Args:
        learning_rate: a number, or a function of the number of steps so far.
        weight_decay: the part of the weights, times the learning rate, that each step removes.
        beta_1: the decay of the first moment, from 0 to below 1.
        beta_2: the decay of the second moment, from 0 to below 1.
        epsilon: a number that keeps the divisor above 0.
        amsgrad: whether to divide by the maximum of the second moments.
        foreach: whether to use torch's kernels for lists of tensors.
        fused: whether to use torch's fused kernels. By default they are used on the CPU and on CUDA.
        **shared: the arguments of `Optimizer`.
    """

    @parameters_first
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
        **shared: Unpack[SharedArguments],  # pyright: ignore[reportGeneralTypeIssues] - has weight_decay, too
    ) -> None:
        if weight_decay is None:
            raise ArgumentError("`weight_decay` of AdamW must be a number; got None. Without weight decay use Adam.")
        shared["weight_decay"] = weight_decay
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, foreach=foreach, fused=fused, **shared)


@register("optimizer", "rmsprop")
class RMSprop(Optimizer, torch.optim.RMSprop):
    """Divide gradients by the root of their mean square plus epsilon.

    Args:
        learning_rate: a number, or a function of the number of steps so far.
        rho: the decay of the mean square, from 0 to 1.
        momentum: the factor of the previous move, from 0 to 1.
        epsilon: a number that keeps the divisor above 0.
        centered: whether to subtract the square of the mean gradient.
        **shared: the arguments of `Optimizer`.
    """

    rho: float
    momentum: float
    epsilon: float
    centered: bool

    @parameters_first
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **shared: Unpack[SharedArguments],
    ) -> None:
        super().__init__(
            learning_rate,
            shared,
            rho=check_fraction("rho", rho),
            momentum=check_fraction("momentum", momentum),
            epsilon=epsilon,
            centered=centered,
        )

    def _init_torch(self, parameters: ParamsT) -> None:
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

    def _update_parameters(self) -> None:
        for group in self.param_groups:
            rho, momentum, rate = group["alpha"], group["momentum"], float(group["lr"])
            names = ["step", "square_avg"]
            names += ["grad_avg"] if group["centered"] else []
            names += ["momentum_buffer"] if momentum else []
            params, grads, states = self._decay_and_collect(group, *names)
            if not params:
                continue
            state = dict(zip(names, states, strict=True))
            torch_foreach._foreach_add_(state["step"], 1)
            torch_foreach._foreach_mul_(state["square_avg"], rho)
            torch_foreach._foreach_addcmul_(state["square_avg"], grads, grads, 1 - rho)
            roots = torch_foreach._foreach_add(state["square_avg"], group["eps"])
            if group["centered"]:
                torch_foreach._foreach_lerp_(state["grad_avg"], grads, 1 - rho)
                torch_foreach._foreach_addcmul_(roots, state["grad_avg"], state["grad_avg"], -1)
            torch_foreach._foreach_sqrt_(roots)
            if not momentum:
                torch_foreach._foreach_addcdiv_(params, grads, roots, -rate)
                continue
            torch_foreach._foreach_mul_(state["momentum_buffer"], momentum)
            torch_foreach._foreach_addcdiv_(state["momentum_buffer"], grads, roots, rate)
            torch_foreach._foreach_sub_(params, state["momentum_buffer"])


@register("optimizer", "adagrad")
class Adagrad(Optimizer, torch.optim.Adagrad):
    """Divide gradients by the root of the sum of all their squares (Duchi et al., 2011).

    Args:
        learning_rate: a number, or a function of the number of steps so far.
        initial_accumulator_value: the sum at the beginning.
        epsilon: a number that keeps the divisor above 0.
        **shared: the arguments of `Optimizer`.
    """

    initial_accumulator_value: float
    epsilon: float

    @parameters_first
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        **shared: Unpack[SharedArguments],
    ) -> None:
        if not initial_accumulator_value >= 0:
            raise ArgumentError(f"`initial_accumulator_value` must be at least 0; got {initial_accumulator_value!r}.")
        super().__init__(learning_rate, shared, initial_accumulator_value=initial_accumulator_value, epsilon=epsilon)

    def _init_torch(self, parameters: ParamsT) -> None:
        torch.optim.Adagrad.__init__(
            self, parameters, self.learning_rate, 0.0, self.weight_decay or 0.0, self.initial_accumulator_value, self.epsilon
        )

    def _update_parameters(self) -> None:
        for group in self.param_groups:
            params, grads, (steps, sums) = self._decay_and_collect(group, "step", "sum")
            if params:
                torch_foreach._foreach_add_(steps, 1)
                torch_foreach._foreach_addcmul_(sums, grads, grads)
                roots = torch_foreach._foreach_add(sums, group["eps"])
                torch_foreach._foreach_sqrt_(roots)
                torch_foreach._foreach_addcdiv_(params, grads, roots, -float(group["lr"]))


@register("optimizer", "adadelta")
class Adadelta(Optimizer, torch.optim.Adadelta):
    """Make steps as large as the root mean square of the previous steps (Zeiler, 2012).

    Args:
        learning_rate: a number, or a function of the number of steps so far.
        rho: the decay of the mean squares, from 0 to 1.
        epsilon: a number that keeps the roots above 0.
        **shared: the arguments of `Optimizer`.
    """

    rho: float
    epsilon: float

    @parameters_first
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        rho: float = 0.95,
        epsilon: float = 1e-7,
        **shared: Unpack[SharedArguments],
    ) -> None:
        super().__init__(learning_rate, shared, rho=check_fraction("rho", rho), epsilon=epsilon)

    def _init_torch(self, parameters: ParamsT) -> None:
        torch.optim.Adadelta.__init__(self, parameters, self.learning_rate, self.rho, self.epsilon, self.weight_decay or 0.0)

    def _update_parameters(self) -> None:
        for group in self.param_groups:
            params, grads, state = self._decay_and_collect(group, "step", "square_avg", "acc_delta")
            steps, squared_grads, squared_moves = state
            if params:
                rho, epsilon = group["rho"], group["eps"]
                torch_foreach._foreach_add_(steps, 1)
                torch_foreach._foreach_mul_(squared_grads, rho)
                torch_foreach._foreach_addcmul_(squared_grads, grads, grads, 1 - rho)
                moves = torch_foreach._foreach_add(squared_moves, epsilon)
                roots = torch_foreach._foreach_add(squared_grads, epsilon)
                torch_foreach._foreach_sqrt_(moves)
                torch_foreach._foreach_sqrt_(roots)
                torch_foreach._foreach_mul_(moves, grads)
                torch_foreach._foreach_div_(moves, roots)
                torch_foreach._foreach_mul_(squared_moves, rho)
                torch_foreach._foreach_addcmul_(squared_moves, moves, moves, 1 - rho)
                torch_foreach._foreach_add_(params, moves, alpha=-float(group["lr"]))


@register("optimizer", "adamax")
class Adamax(Optimizer, torch.optim.Adamax):
    """Adam with the decaying maximum of gradients as second moment (Kingma and Ba, 2014, section 7).

    Args:
        learning_rate: a number, or a function of the number of steps so far.
        beta_1: the decay of the first moment, from 0 to below 1.
        beta_2: the decay of the second moment, from 0 to below 1.
        epsilon: a number that keeps the divisor above 0.
        **shared: the arguments of `Optimizer`.
    """

    beta_1: float
    beta_2: float
    epsilon: float

    @parameters_first
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **shared: Unpack[SharedArguments],
    ) -> None:
        super().__init__(
            learning_rate,
            shared,
            beta_1=check_fraction("beta_1", beta_1, below_one=True),
            beta_2=check_fraction("beta_2", beta_2, below_one=True),
            epsilon=epsilon,
        )

    def _init_torch(self, parameters: ParamsT) -> None:
        torch.optim.Adamax.__init__(
            self, parameters, self.learning_rate, (self.beta_1, self.beta_2), self.epsilon, self.weight_decay or 0.0
        )

    def _update_parameters(self) -> None:
        for group in self.param_groups:
            params, grads, (steps, means, norms) = self._decay_and_collect(group, "step", "exp_avg", "exp_inf")
            if params:
                (beta_1, beta_2), rate = group["betas"], float(group["lr"])
                torch_foreach._foreach_add_(steps, 1)
                torch_foreach._foreach_lerp_(means, grads, 1 - beta_1)
                torch_foreach._foreach_mul_(norms, beta_2)
                torch_foreach._foreach_maximum_(norms, torch_foreach._foreach_abs(grads))
                torch_foreach._foreach_addcdiv_(
                    params,
                    means,
                    torch_foreach._foreach_add(norms, group["eps"]),
                    -rate / (1 - beta_1 ** group["iterations"]),
                )


@register("optimizer", "nadam")
class Nadam(Optimizer, torch.optim.NAdam):
    """Adam with the momentum of Nesterov (Dozat, 2015).

    Args:
        learning_rate: a number, or a function of the number of steps so far.
        beta_1: the decay of the first moment, from 0 to below 1.
        beta_2: the decay of the second moment, from 0 to below 1.
        epsilon: a number that keeps the divisor above 0.
        **shared: the arguments of `Optimizer`.
    """

    beta_1: float
    beta_2: float
    epsilon: float

    @parameters_first
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **shared: Unpack[SharedArguments],
    ) -> None:
        super().__init__(
            learning_rate,
            shared,
            beta_1=check_fraction("beta_1", beta_1, below_one=True),
            beta_2=check_fraction("beta_2", beta_2, below_one=True),
            epsilon=epsilon,
        )

    def _init_torch(self, parameters: ParamsT) -> None:  # Keras's momentum fades with every step, torch's every 250
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

    def _update_parameters(self) -> None:
        torch_step(torch.optim.NAdam, self)


@register("optimizer", "adafactor")
class Adafactor(Optimizer, torch.optim.Adafactor):
    """Adafactor (Shazeer and Stern, 2018).

    The second moments of a matrix are a column times a row, and steps are relative to the size of the weights.

    Args:
        learning_rate: a number, or a function of the number of steps so far.
        beta_2_decay: the exponent of the decay of the second moments.
        epsilon_1: a number that is added to squared gradients.
        epsilon_2: the lower bound of the size of the weights.
        clip_threshold: the upper bound of the root mean square of a step.
        relative_step: accepted because Keras has it; as there, it changes nothing.
        **shared: the arguments of `Optimizer`.
    """

    beta_2_decay: float
    epsilon_1: float
    epsilon_2: float
    clip_threshold: float
    relative_step: bool

    @parameters_first
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_2_decay: float = -0.8,
        epsilon_1: float = 1e-30,
        epsilon_2: float = 1e-3,
        clip_threshold: float = 1.0,
        relative_step: bool = True,
        **shared: Unpack[SharedArguments],
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

    def _init_torch(self, parameters: ParamsT) -> None:
        torch.optim.Adafactor.__init__(
            self,
            parameters,
            self.learning_rate,
            self.beta_2_decay,
            (self.epsilon_1, self.epsilon_2),
            weight_decay=self.weight_decay or 0.0,
        )

    def _update_parameters(self) -> None:
        for group in self.param_groups:
            params, grads, (steps,) = self._decay_and_collect(group, "step")
            if params:
                torch_foreach._foreach_add_(steps, 1)
            for p, grad in zip(params, grads, strict=True):
                self._move(group, p, grad)

    def _move(self, group: ParamGroup, p: torch.Tensor, grad: torch.Tensor) -> None:
        """Change one parameter."""
        step, state = group["iterations"], self.state[p]
        decay = 1 - step ** group["beta2_decay"]  # of the second moments
        squares = grad.square() + self.epsilon_1
        if p.ndim > 1:
            rows = _update_mean(state, "row_var", squares.mean(-1, keepdim=True), decay)
            columns = _update_mean(state, "col_var", squares.mean(-2, keepdim=True), decay)
            variance = rows / rows.mean(-2, keepdim=True) * columns
        else:
            variance = _update_mean(state, "variance", squares, decay)
        move = grad / variance.sqrt()
        move /= (_root_mean_square(move) / self.clip_threshold).clamp_min(1)
        rate = min(float(group["lr"]), step**-0.5)
        p.sub_(move * (_root_mean_square(p).clamp_min(self.epsilon_2) * rate))


def _update_mean(state: dict[str, torch.Tensor], name: str, value: torch.Tensor, decay: float) -> torch.Tensor:
    """Return the running mean of this name, updated by a value."""
    if name in state:
        state[name].mul_(decay).add_(value, alpha=1 - decay)
    else:
        state[name] = value * (1 - decay)
    return state[name]


def _root_mean_square(values: torch.Tensor) -> torch.Tensor:
    return values.square().mean().sqrt()


def get(
    identifier: str | Mapping[str, Any] | type[Optimizer] | torch.optim.Optimizer,
    parameters: ParamsT | None = None,
) -> torch.optim.Optimizer:
    """Return an optimizer.

    Args:
        identifier: a name, a class, a config, an optimizer of padless, or an optimizer of torch, which is returned as it
            is.
        parameters: the parameters to optimize. By default an optimizer of padless gets them later.

    Raises:
        ArgumentError: for unknown names and other values.

    >>> get("adam").learning_rate
    0.001
    """
    if isinstance(identifier, str):
        optimizer: object = lookup("optimizer", identifier)()
    elif isinstance(identifier, Mapping) and "class_name" in identifier:
        optimizer = lookup("optimizer", identifier["class_name"]).from_config(identifier.get("config") or {})
    elif isinstance(identifier, type) and issubclass(identifier, Optimizer):
        optimizer = identifier()  # pyright: ignore[reportCallIssue] - the arguments of subclasses have defaults
    else:
        optimizer = identifier
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ArgumentError(
            f"{identifier!r} is not an optimizer. Expected a name such as 'adam', an optimizer such as "
            f"Adam(1e-3), or any torch.optim.Optimizer over the model's parameters."
        )
    if parameters is not None and isinstance(optimizer, Optimizer):
        optimizer.build(parameters)
    return optimizer
