"""The base of optimizers: Keras's arguments for an optimizer of torch.optim, which may get its parameters later."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from functools import wraps
from inspect import Parameter, signature
from typing import Any, Self, TypeAlias, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from padless._torch_compat import torch_foreach
from padless.errors import ArgumentError, NotBuilt, unknown_name
from padless.registry import base_of
from padless.saving import serialization

Init = TypeVar("Init", bound=Callable[..., None])
Loss = TypeVar("Loss", Tensor, float)

LearningRate: TypeAlias = "float | np.generic | Tensor | Callable[[int], float]"
"""A learning rate: a number, or a function of the number of steps so far, such as a schedule."""

ParamGroup: TypeAlias = dict[str, Any]
"""A parameter group of torch: `params` and the options of these parameters."""

Config: TypeAlias = dict[str, Any]
"""The arguments of a constructor by name."""


class SharedArguments(TypedDict, total=False):
    """The arguments that every optimizer has, in Keras's order after those of the class."""

    weight_decay: float | None
    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None
    name: str | None


DEFAULTS: SharedArguments = {
    "weight_decay": None,
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
    "name": None,
}


_COMMON_OPTIONS = {
    *("params", "param_names", "lr", "initial_lr", "weight_decay", "decoupled_weight_decay", "maximize"),
    *("foreach", "fused", "capturable", "differentiable", "iterations", "averages", "averaged"),
}  # options of parameter groups that do not show the class, or that not every version of torch has


def parameters_first(init: Init) -> Init:
    """Let the constructor of an optimizer accept parameters: before Keras's arguments, or as `params`.

    The shared arguments may be positional, too: `Adam(params, 1e-3, ...)` and `Adam(1e-3, ...)` have Keras's order.
    """
    class_arguments = [
        name for name, parameter in signature(init).parameters.items() if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD
    ][1:]
    order = [*class_arguments, *(name for name in DEFAULTS if name not in class_arguments)]

    @wraps(init)
    def wrapped(self: Optimizer, *args: Any, params: ParamsT | None = None, **kwargs: Any) -> None:
        if params is None and args and isinstance(args[0], Iterable) and not isinstance(args[0], Tensor | str):
            params, args = args[0], args[1:]
        if len(args) > len(order):
            raise ArgumentError(f"{type(self).__name__} takes {len(order)} arguments, {', '.join(order)}; got {len(args)}.")
        init(self, **dict(zip(order, args, strict=False)), **kwargs)
        if params is not None:
            self.build(params)

    return wrapped  # pyright: ignore[reportReturnType] - the type of `init` hides the argument `params`


@base_of("optimizer", required=False)
class Optimizer(torch.optim.Optimizer):
    """The base of optimizers with Keras's arguments, which are also attributes.

    Args:
        learning_rate: a number, or a function of the number of steps so far, such as a schedule.
        shared: the shared arguments, see below.
        **class_arguments: the arguments of the subclass, for its config.

    The shared arguments:

    - weight_decay: before each step, weights are multiplied by 1 - `learning_rate * weight_decay`.
    - clipnorm: the upper bound of the norm of each gradient. At most one of the three bounds may be given.
    - clipvalue: the upper bound of the absolute values of gradients.
    - global_clipnorm: the upper bound of the norm of all gradients together.
    - use_ema: whether to keep moving averages of the weights, which become the weights at the end of `fit`.
    - ema_momentum: the factor of the previous average.
    - ema_overwrite_frequency: after how many steps the averages become the weights.
    - loss_scale_factor: what `scale_loss` multiplies the loss by. Each step divides the gradients by it.
    - gradient_accumulation_steps: the number of batches for one step, in `fit`.
    - name: the name in the config.

    Raises:
        ArgumentError: for unknown arguments and wrong values.
    """

    weight_decay: float | None
    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None
    name: str

    _step_supports_amp_scaling = False  # so that GradScaler unscales gradients before clipping, and skips whole steps
    _arguments: Config  # of the constructor; `learning_rate` is the present one

    def __init__(self, learning_rate: LearningRate, shared: SharedArguments, **class_arguments: Any) -> None:
        for name in shared:
            if name not in DEFAULTS:
                names = {*DEFAULTS, *class_arguments, "learning_rate"}
                raise ArgumentError(unknown_name(f"argument of {type(self).__name__}", name, names))
        arguments: Config = {
            "learning_rate": _check_learning_rate(learning_rate),
            **DEFAULTS,
            **shared,
            **class_arguments,
        }
        arguments["name"] = arguments["name"] or type(self).__name__.lower()
        for name, value in class_arguments.items():
            lowest = -math.inf if name == "beta_2_decay" else 0  # an exponent
            if isinstance(value, int | float) and not (math.isfinite(value) and value >= lowest):
                raise ArgumentError(
                    f"`{name}` of {type(self).__name__} must be a finite number of at least {lowest}; got {value!r}."
                )
        self._set_arguments(arguments)
        self._check_arguments()

    def _set_arguments(self, arguments: Config) -> None:
        """Keep the arguments for the config, and set them as attributes; `learning_rate` is a property."""
        self._arguments = arguments
        self.__dict__.update({name: value for name, value in arguments.items() if name != "learning_rate"})

    def _check_arguments(self) -> None:
        """Raise `ArgumentError` for wrong values of shared arguments."""
        bounds = {"clipnorm": self.clipnorm, "clipvalue": self.clipvalue, "global_clipnorm": self.global_clipnorm}
        if sum(bound is not None for bound in bounds.values()) > 1:
            raise ArgumentError(
                f"{type(self).__name__} takes at most one of clipnorm, clipvalue and global_clipnorm; got {bounds}."
            )
        for name, value in {"weight_decay": self.weight_decay, **bounds}.items():
            if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ArgumentError(
                    f"`{name}` of {type(self).__name__} must be None or a finite number of at least 0; got {value!r}."
                )
        for name, value, minimum in (
            ("ema_overwrite_frequency", self.ema_overwrite_frequency, 1),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps, 2),
        ):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < minimum):
                raise ArgumentError(
                    f"`{name}` of {type(self).__name__} must be None or an integer of at least {minimum}; got {value!r}."
                )
        scale = self.loss_scale_factor
        if scale is not None and not (isinstance(scale, int | float) and 0 < scale < math.inf):
            raise ArgumentError(
                f"`loss_scale_factor` of {type(self).__name__} must be None or a number above 0; got {scale!r}."
            )
        check_fraction("ema_momentum", self.ema_momentum)

    def __getattr__(self, name: str) -> Any:
        # Only for attributes that are missing: those of torch's constructor are, until there are parameters.
        if name in ("param_groups", "state", "defaults") or name.startswith("_optimizer_"):
            raise NotBuilt(
                f"This {type(self).__name__} has no parameters yet. Give it to `model.compile`, call "
                f"`build(model.parameters())`, or construct it with the parameters first."
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def built(self) -> bool:
        """Return whether the optimizer has parameters."""
        return "param_groups" in self.__dict__

    def build(self, parameters: ParamsT) -> Self:
        """Set the parameters to optimize. If they are set already, the state of the optimizer is kept.

        Args:
            parameters: tensors, pairs of name and tensor, or parameter groups of torch.

        Returns:
            The optimizer itself.

        Raises:
            ArgumentError: if there are no parameters, or the optimizer has others.
        """
        entries: list[Any] = list(parameters)
        if not entries:
            raise ArgumentError(
                f"{type(self).__name__} got no parameters: the model has no trainable weights. Build "
                f"it first, by calling it on data, or unfreeze a layer."
            )
        if self.built:
            known_ids = {id(p) for group in self.param_groups for p in group["params"]}
            if not all(id(p) in known_ids for p in flatten_parameters(entries)):
                raise ArgumentError(
                    f"This {type(self).__name__} already trains other parameters. Make a new one, with "
                    f"`{type(self).__name__}.from_config(optimizer.get_config())`."
                )
            return self
        self._init_torch(entries)
        self.__dict__.pop("_step_supports_amp_scaling", None)  # set by torch's fused kernels; that of the class counts
        return self

    def add_param_group(self, param_group: ParamGroup) -> None:
        """Add a parameter group, as in torch."""
        super().add_param_group(param_group)
        self.param_groups[-1].setdefault("iterations", 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as in torch, and the name of the class."""
        return {**super().state_dict(), "class": type(self).__name__}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the result of `state_dict`, which is copied.

        Raises:
            ArgumentError: if it is not the state of an optimizer of this class; nothing has changed then.
        """
        self._check_state(state_dict)
        super().load_state_dict(deepcopy(state_dict))

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step, of the first group. Assigning sets that of all groups."""
        rate = self._arguments["learning_rate"]
        if callable(rate):
            return _check_rate(rate(self.iterations))
        return float(self.param_groups[0]["lr"]) if self.built else rate

    @learning_rate.setter
    def learning_rate(self, value: LearningRate) -> None:
        value = _check_learning_rate(value)
        if callable(self._arguments["learning_rate"]) and not callable(value):
            raise ArgumentError(
                f"The learning rate of this {type(self).__name__} follows "
                f"{self._arguments['learning_rate']!r}, so it cannot be set to {value!r}. Make the optimizer "
                f"with a number."
            )
        self._arguments["learning_rate"] = value
        for group in self.param_groups if self.built else ():
            group["lr"] = self.learning_rate if callable(value) else value

    @property
    def iterations(self) -> int:
        """Return the number of steps so far."""
        return max(group["iterations"] for group in self.param_groups) if self.built else 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - overloads
        """Make a step, as in torch: parameters without a gradient do not change.

        Args:
            closure: a function that computes the gradients and returns the loss; it is called first.

        Returns:
            The result of the closure, None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rate = self._arguments["learning_rate"]
        if callable(rate):
            for group in self.param_groups:
                group["lr"] = _check_rate(rate(group["iterations"]))
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if grads and self.loss_scale_factor is not None:
            torch_foreach._foreach_div_(grads, float(self.loss_scale_factor))
        self._clip_gradients(grads)
        for group in self.param_groups:
            group["iterations"] += 1
        self._update_parameters()
        if self.use_ema:
            self._update_averages()
        return loss

    def apply(self, grads: Iterable[Tensor | None], trainable_variables: Iterable[Tensor] | None = None) -> None:
        """Make a step with given gradients, as in Keras.

        Args:
            grads: a gradient or None for each parameter.
            trainable_variables: the parameters, by default all in their order.

        Raises:
            ArgumentError: for another number of gradients, or parameters that the optimizer does not have.
        """
        if trainable_variables is not None and not self.built:
            trainable_variables = list(trainable_variables)
            self.build(trainable_variables)
        parameters = [p for group in self.param_groups for p in group["params"]]
        grads, variables = list(grads), parameters if trainable_variables is None else list(trainable_variables)
        if len(grads) != len(variables) or not {id(p) for p in variables} <= {id(p) for p in parameters}:
            raise ArgumentError(
                f"{type(self).__name__} trains {len(parameters)} parameters; got {len(grads)} gradients for "
                f"{len(variables)} of them. Give one for each, in the order of the parameters."
            )
        grad_of = {id(p): grad for p, grad in zip(variables, grads, strict=True)}
        for p in parameters:
            p.grad = grad_of.get(id(p))
        self.step()

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Tensor | None, Tensor]]) -> None:
        """Make a step with pairs of a gradient and its parameter, as in Keras."""
        grads, variables = zip(*grads_and_vars, strict=True)
        self.apply(grads, variables)

    def scale_loss(self, loss: Loss) -> Loss:
        """Return the loss multiplied by `loss_scale_factor`, for the backward pass."""
        return loss if self.loss_scale_factor is None else loss * self.loss_scale_factor

    # Moving averages

    @property
    def averaged(self) -> bool:
        """Return whether the parameters have the values of the averages now."""
        return self.built and self.param_groups[0].get("averaged", False)

    @torch.no_grad()
    def swap_averages(self) -> None:
        """Exchange the values of the parameters and their averages. Swap again before training continues."""
        for p, average in self._parameters_and_averages():
            weight = p.detach().clone()
            p.copy_(average)
            average.copy_(weight)
        self.param_groups[0]["averaged"] = not self.averaged

    @torch.no_grad()
    def finalize_variable_values(self, var_list: object = None) -> None:
        """Set the parameters to their averages if `use_ema` is True; called at the end of `fit`.

        Args:
            var_list: accepted because Keras has it; it is not used.
        """
        if self.use_ema and self.built:
            for p, average in self._parameters_and_averages():
                average.copy_(p) if self.averaged else p.copy_(average)
            self.param_groups[0]["averaged"] = False

    def _update_averages(self) -> None:
        """Add the parameters to the averages; the first averages are the parameters."""
        has_averages = all("averages" in group for group in self.param_groups)
        for p, average in self._parameters_and_averages():
            if has_averages:
                average.mul_(self.ema_momentum).add_(p, alpha=1 - self.ema_momentum)
            else:
                average.copy_(p)
            if self.ema_overwrite_frequency and self.iterations % self.ema_overwrite_frequency == 0:
                p.copy_(average)

    def _parameters_and_averages(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each parameter with its average, which is kept in its group."""
        for group in self.param_groups:
            averages = group.get("averages") or [p.detach().clone() for p in group["params"]]
            group["averages"] = [average.to(p.device) for p, average in zip(group["params"], averages, strict=True)]
            yield from zip(group["params"], group["averages"], strict=True)

    # Configs

    def get_config(self) -> Config:
        """Return Keras's config: the arguments, with the present learning rate, or the config of the schedule."""
        rate = self._arguments["learning_rate"]
        rate = serialization.serialize(rate, "schedule") if callable(rate) else self.learning_rate
        config = {**self._arguments, "learning_rate": rate}
        return {name: value for name, value in config.items() if name not in ("foreach", "fused")}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        """Return a new optimizer, without parameters, with the arguments of a config.

        Args:
            config: the result of `get_config`.
            custom_objects: user-defined schedules by name.
        """
        rate = config.get("learning_rate")
        if isinstance(rate, str | Mapping):
            config = {**config, "learning_rate": serialization.deserialize(rate, "schedule", custom_objects)}
        return cls(**config)

    def _check_state(self, state_dict: Mapping[str, Any]) -> None:
        """Raise `ArgumentError` for a state of another class, or of parameters of other shapes."""
        own_options = self.param_groups[0].keys() - _COMMON_OPTIONS
        for group in state_dict["param_groups"]:
            options = group.keys() - _COMMON_OPTIONS
            if state_dict.get("class", type(self).__name__) != type(self).__name__ or options != own_options:
                raise ArgumentError(
                    f"The state is that of {state_dict.get('class', 'an optimizer')} with the options {sorted(options)}. "
                    f"Expected that of {type(self).__name__} with {sorted(own_options)}. Make an optimizer of that class."
                )
        parameters = [p for group in self.param_groups for p in group["params"]]
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, p in zip(numbers, parameters, strict=False):  # torch compares the numbers of parameters
            for name, value in state_dict["state"].get(number, {}).items():
                is_of_elements = isinstance(value, Tensor) and value.ndim and name not in ("row_var", "col_var")
                if is_of_elements and value.shape != p.shape:
                    raise ArgumentError(
                        f"The state {name!r} of parameter {number} has shape {tuple(value.shape)}, but the parameter has "
                        f"shape {tuple(p.shape)}. Give the state of an optimizer of the same model."
                    )

    # For subclasses

    def _init_torch(self, parameters: ParamsT) -> None:
        """Run the constructor of the class of torch."""
        raise NotImplementedError

    def _update_parameters(self) -> None:
        """Change the parameters by their gradients."""
        raise NotImplementedError

    def _clip_gradients(self, grads: list[Tensor]) -> None:
        """Clip gradients in place."""
        if not grads:
            return
        if self.clipvalue:
            torch_foreach._foreach_clamp_min_(grads, -self.clipvalue)
            torch_foreach._foreach_clamp_max_(grads, self.clipvalue)
        elif self.clipnorm:
            norms = torch_foreach._foreach_clamp_min(torch_foreach._foreach_norm(grads), self.clipnorm)
            torch_foreach._foreach_mul_(grads, self.clipnorm)
            torch_foreach._foreach_div_(grads, norms)
        elif self.global_clipnorm:
            norms = torch.stack([norm.to(grads[0].device) for norm in torch_foreach._foreach_norm(grads)])
            factor = self.global_clipnorm / torch.linalg.vector_norm(norms).clamp_min(self.global_clipnorm)
            for grad in grads:
                grad.mul_(factor.to(grad.device))

    def _decay_and_collect(
        self, group: ParamGroup, *state_names: str
    ) -> tuple[list[Tensor], list[Tensor], list[list[Tensor]]]:
        """Apply the weight decay to the parameters of a group that have a gradient.

        Returns:
            These parameters, their gradients, and for each name their state, which begins at 0.
        """
        params = [p for p in group["params"] if p.grad is not None]
        for p in params:
            for name in state_names:
                if name not in self.state[p]:
                    self.state[p][name] = torch.tensor(0.0) if name == "step" else torch.zeros_like(p)
        if params and group["weight_decay"]:
            torch_foreach._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        return params, [p.grad for p in params], [[self.state[p][name] for p in params] for name in state_names]

    # Copies and pickles

    def __getstate__(self) -> dict[str, Any]:
        return {**(super().__getstate__() if self.built else {}), "_settings": self._arguments}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_settings" in state:  # a copy or a pickle; load_state_dict of torch gives groups and state only
            self._set_arguments(state["_settings"])
        torch_state = {name: value for name, value in state.items() if name != "_settings"}
        if "param_groups" not in torch_state:
            return
        super().__setstate__(torch_state)
        for group in self.param_groups:  # the state of a plain torch.optim counts steps for each parameter only
            steps = [float(self.state[p]["step"]) for p in group["params"] if "step" in self.state.get(p, {})]
            group.setdefault("iterations", int(max(steps, default=0)))

    def __repr__(self) -> str:
        rate = self._arguments["learning_rate"]
        return f"{type(self).__name__}(learning_rate={rate if callable(rate) else self.learning_rate})"


def torch_step(cls: type[torch.optim.Optimizer], optimizer: Optimizer) -> None:
    """Make a step of a class of torch without its hooks, which have run for the step of the padless class."""
    step: Any = cls.step
    # When torch makes an object of `cls`, it wraps `cls.step`, marks the wrapper and keeps the method in `__wrapped__`.
    (step.__wrapped__ if getattr(step, "hooked", False) else step)(optimizer)


def flatten_parameters(parameters: ParamsT) -> list[Tensor]:
    """Return the tensors in what torch accepts as parameters: tensors, pairs of name and tensor, groups."""
    tensors: list[Tensor] = []
    for entry in parameters:
        if isinstance(entry, Mapping):
            params = entry["params"]
            tensors += [params] if isinstance(params, Tensor) else flatten_parameters(params)
        else:
            tensors.append(entry[1] if isinstance(entry, tuple) else entry)
    return tensors


def check_fraction(name: str, value: float, below_one: bool = False) -> float:
    """Return a number from 0 to 1, with `below_one` not 1. Raises `ArgumentError` for other values."""
    if not isinstance(value, int | float) or not 0 <= value <= 1 or (below_one and value == 1):
        raise ArgumentError(f"`{name}` must be between 0 and 1; got {value!r}.")
    return float(value)


def _check_learning_rate(value: LearningRate) -> float | Callable[[int], float]:
    """Return a learning rate as it is kept: a float, or a function whose first result is one."""
    if callable(value) and not isinstance(value, Tensor | type):
        _check_rate(value(0))
        return value
    return _check_rate(value)


def _check_rate(value: object) -> float:
    """Return a finite number of at least 0 as a float. Raises `ArgumentError` for other values."""
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1):
        value = value.item()
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise ArgumentError(
            f"The learning rate must be a number of at least 0; got {value!r}. For one that changes, give "
            f"a function of the steps taken, such as padless.optimizers.schedules.ExponentialDecay."
        )
    return float(value)
