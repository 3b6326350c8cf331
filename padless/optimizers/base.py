"""What all optimizers share: Keras's arguments on a torch.optim optimizer that can wait for its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from inspect import Parameter, signature
from typing import Any, Self, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError, NotBuilt, unknown_name
from padless.saving import serialization as saving

Init = TypeVar("Init", bound=Callable[..., None])
Rate = float | Callable[[int], float]
many: Any = torch  # its _foreach functions, one call for a list of tensors, are not declared


class Shared(TypedDict, total=False):
    """The arguments that every optimizer takes, in Keras's order after its own."""

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


DEFAULTS: dict[str, Any] = {"weight_decay": None, "clipnorm": None, "clipvalue": None, "global_clipnorm": None,
                            "use_ema": False, "ema_momentum": 0.99, "ema_overwrite_frequency": None,
                            "loss_scale_factor": None, "gradient_accumulation_steps": None, "name": None}  # fmt: skip


def parameters_first(init: Init) -> Init:
    """Let a constructor with Keras's arguments also take parameters, in front of them or as `params`.

    The shared arguments may stand by place too, behind its own.
    """
    own = [
        name for name, parameter in signature(init).parameters.items() if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD
    ][1:]
    order = [*own, *(name for name in DEFAULTS if name not in own)]

    @wraps(init)
    def wrapped(self: Optimizer, *args: Any, params: Any = None, **kwargs: Any) -> None:
        if params is None and args and isinstance(args[0], Iterable) and not isinstance(args[0], Tensor | str):
            params, *rest = args
            args = tuple(rest)
        if len(args) > len(order):
            raise ArgumentError(f"{type(self).__name__} takes {len(order)} arguments, {', '.join(order)}; got {len(args)}.")
        init(self, **dict(zip(order, args, strict=False)), **kwargs)
        if params is not None:
            self.build(params)

    return wrapped  # pyright: ignore[reportReturnType]


class Optimizer(torch.optim.Optimizer):
    """What all optimizers here share: Keras's arguments, building late, clipping, decoupled weight decay, averages.

    The constructor's arguments read as attributes. `learning_rate` is a number, or a function of the steps taken so far,
    such as a schedule of `padless.optimizers.schedules`. `weight_decay` shrinks the weights by this part of the learning
    rate before each step; `clipnorm` bounds the norm of each gradient, `global_clipnorm` of all together, `clipvalue` each
    number; at most one of these three. `use_ema` keeps `ema_momentum` times the average so far plus the rest times the
    weights, which become the weights every `ema_overwrite_frequency` steps and at the end of `fit`. `loss_scale_factor` is
    what `scale_loss` multiplies the loss by, and each step divides the gradients by. `gradient_accumulation_steps` is for
    `fit`, which takes one step for so many batches.
    """

    _step_supports_amp_scaling = False  # GradScaler shall unscale before clipping, and skip the whole step
    _settings: dict[str, Any]

    def __init__(self, learning_rate: Any, shared: Mapping[str, Any], **own: Any) -> None:
        for name in shared:
            if name not in DEFAULTS:
                raise ArgumentError(
                    unknown_name(f"argument of {type(self).__name__}", name, {*DEFAULTS, *own, "learning_rate"})
                )
        self._settings = {"learning_rate": _rate(learning_rate), **DEFAULTS, **shared, **own}
        self._settings["name"] = self._settings["name"] or type(self).__name__.lower()
        self._check()

    def _check(self) -> None:
        """Refuse shared arguments that mean nothing."""
        clips = {what: self._settings[what] for what in ("clipnorm", "clipvalue", "global_clipnorm")}
        if sum(clip is not None for clip in clips.values()) > 1:
            raise ArgumentError(
                f"{type(self).__name__} takes at most one of clipnorm, clipvalue and global_clipnorm; got {clips}."
            )
        for what in ("weight_decay", *clips):
            if (value := self._settings[what]) is not None and not (isinstance(value, int | float) and value >= 0):
                raise ArgumentError(
                    f"`{what}` of {type(self).__name__} must be None or a number of at least 0; got {value!r}."
                )
        for what, least in (("ema_overwrite_frequency", 1), ("gradient_accumulation_steps", 2)):
            value = self._settings[what]
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ArgumentError(
                    f"`{what}` of {type(self).__name__} must be None or an integer of at least {least}; got {value!r}."
                )
        scale = self._settings["loss_scale_factor"]
        if scale is not None and not (isinstance(scale, int | float) and 0 < scale < math.inf):
            raise ArgumentError(
                f"`loss_scale_factor` of {type(self).__name__} must be None or a number above 0; got {scale!r}."
            )
        fraction("ema_momentum", self._settings["ema_momentum"])

    def __getattr__(self, name: str) -> Any:
        settings = self.__dict__.get("_settings", {})
        if name in settings:
            return settings[name]
        if name in ("param_groups", "state", "defaults") or name.startswith("_optimizer_"):
            raise NotBuilt(
                f"This {type(self).__name__} has no parameters yet. Give it to `model.compile`, call "
                f"`build(model.parameters())`, or construct it with the parameters first."
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def built(self) -> bool:
        """Whether it has parameters."""
        return "param_groups" in self.__dict__

    def build(self, parameters: Iterable[Any]) -> Self:
        """Take the parameters, tensors or torch's parameter groups; returns the optimizer itself.

        Built again with parameters that it has, it keeps its state. Raises `ArgumentError` for none, or for others.
        """
        given = list(parameters)
        if not given:
            raise ArgumentError(
                f"{type(self).__name__} got no parameters: the model has no trainable weights. Build "
                f"it first, by calling it on data, or unfreeze a layer."
            )
        if self.built:
            mine = {id(p) for group in self.param_groups for p in group["params"]}
            if not all(id(p) in mine for p in tensors_of(given)):
                raise ArgumentError(
                    f"This {type(self).__name__} already trains other parameters. Make a new one, with "
                    f"`{type(self).__name__}.from_config(optimizer.get_config())`."
                )
            return self
        self._start(given)
        self.__dict__.pop("_step_supports_amp_scaling", None)  # torch's fused kernels set one of their own
        return self

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch."""
        super().add_param_group(param_group)
        self.param_groups[-1].setdefault("iterations", 0)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step, of the first group if there are several; assigning sets all of them."""
        given = self._settings["learning_rate"]
        if callable(given):
            return _number(given(self.iterations))
        return float(self.param_groups[0]["lr"]) if self.built else given

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        value = _rate(value)
        if callable(self._settings["learning_rate"]) and not callable(value):
            raise ArgumentError(
                f"The learning rate of this {type(self).__name__} follows "
                f"{self._settings['learning_rate']!r}, so it cannot be set to {value!r}. Make the optimizer "
                f"with a number."
            )
        self._settings["learning_rate"] = value
        for group in self.param_groups if self.built else ():
            group["lr"] = self.learning_rate if callable(value) else value

    @property
    def iterations(self) -> int:
        """How many steps were taken."""
        return max(group["iterations"] for group in self.param_groups) if self.built else 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step, as in torch; parameters without a gradient stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if callable(self._settings["learning_rate"]):
            for group in self.param_groups:
                group["lr"] = _number(self._settings["learning_rate"](group["iterations"]))
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if grads and self.loss_scale_factor is not None:
            many._foreach_div_(grads, float(self.loss_scale_factor))
        self._clip(grads)
        for group in self.param_groups:
            group["iterations"] += 1
        self._advance()
        if self.use_ema:
            self._average()
        return loss

    def apply(self, grads: Iterable[Tensor | None], trainable_variables: Iterable[Tensor] | None = None) -> None:
        """One step with these gradients, Keras's way; for the parameters given, else for all in their order."""
        if trainable_variables is not None and not self.built:
            trainable_variables = list(trainable_variables)
            self.build(trainable_variables)
        mine = [p for group in self.param_groups for p in group["params"]]
        given, chosen = list(grads), mine if trainable_variables is None else list(trainable_variables)
        if len(given) != len(chosen) or not {id(p) for p in chosen} <= {id(p) for p in mine}:
            raise ArgumentError(
                f"{type(self).__name__} trains {len(mine)} parameters; got {len(given)} gradients for "
                f"{len(chosen)} of them. Give one for each, in the order of the parameters."
            )
        found = {id(p): grad for p, grad in zip(chosen, given, strict=True)}
        for p in mine:
            p.grad = found.get(id(p))
        self.step()

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Tensor | None, Tensor]]) -> None:
        """One step with pairs of a gradient and its parameter."""
        grads, variables = zip(*grads_and_vars, strict=True)
        self.apply(grads, variables)

    def scale_loss(self, loss: Any) -> Any:
        """The loss times `loss_scale_factor`, for `backward`; each step divides it out again."""
        return loss if self.loss_scale_factor is None else loss * self.loss_scale_factor

    # ------------------------------------------------------------------------------------------------ averages

    @property
    def averaged(self) -> bool:
        """Whether the averages stand in the parameters now, and the weights in their place."""
        return self.built and self.param_groups[0].get("averaged", False)

    @torch.no_grad()
    def swap_averages(self) -> None:
        """Exchange the parameters and their averages; again, and training may go on."""
        for p, average in self._averages():
            weight = p.detach().clone()
            p.copy_(average)
            average.copy_(weight)
        self.param_groups[0]["averaged"] = not self.averaged

    @torch.no_grad()
    def finalize_variable_values(self, var_list: Any = None) -> None:
        """With `use_ema` the averages become the weights; `fit` ends so. `var_list` is taken for Keras's sake."""
        if self.use_ema and self.built:
            for p, average in self._averages():
                average.copy_(p) if self.averaged else p.copy_(average)
            self.param_groups[0]["averaged"] = False

    def _average(self) -> None:
        known = all("averages" in group for group in self.param_groups)
        for p, average in self._averages():
            if known:
                average.mul_(self.ema_momentum).add_(p, alpha=1 - self.ema_momentum)
            else:
                average.copy_(p)
            if self.ema_overwrite_frequency and self.iterations % self.ema_overwrite_frequency == 0:
                p.copy_(average)

    def _averages(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Each parameter with its average, which begins as the parameter; kept beside torch's own state of it."""
        for group in self.param_groups:
            kept = group.get("averages") or [p.detach().clone() for p in group["params"]]
            group["averages"] = [average.to(p.device) for p, average in zip(group["params"], kept, strict=True)]
            yield from zip(group["params"], group["averages"], strict=True)

    # ------------------------------------------------------------------------------------------------ configs

    def get_config(self) -> dict[str, Any]:
        """Keras's config: the constructor's arguments, with the learning rate of now, or the schedule's config."""
        given = self._settings["learning_rate"]
        rate = saving.serialize(given, "schedule") if callable(given) else self.learning_rate
        config = {**self._settings, "learning_rate": rate}
        return {key: value for key, value in config.items() if key not in ("foreach", "fused")}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        """A new optimizer with these arguments, not built."""
        rate = config.get("learning_rate", DEFAULTS)
        if isinstance(rate, str | Mapping) and rate is not DEFAULTS:
            config = {**config, "learning_rate": saving.deserialize(rate, "schedule", custom_objects)}
        return cls(**config)

    def _start(self, parameters: list[Any]) -> None:
        """Run the constructor of the torch class."""
        raise NotImplementedError

    def _advance(self) -> None:
        """Move the parameters."""
        raise NotImplementedError

    def _clip(self, grads: list[Tensor]) -> None:
        each, together, value = self.clipnorm, self.global_clipnorm, self.clipvalue
        if not grads or not (each or together or value):
            return
        if value:
            many._foreach_clamp_min_(grads, -value)
            many._foreach_clamp_max_(grads, value)
        elif each:
            norms = many._foreach_clamp_min(many._foreach_norm(grads), each)
            many._foreach_mul_(grads, each)
            many._foreach_div_(grads, norms)
        else:
            norms = torch.stack([norm.to(grads[0].device) for norm in many._foreach_norm(grads)])
            factor = together / torch.linalg.vector_norm(norms).clamp_min(together)
            for grad in grads:
                grad.mul_(factor.to(grad.device))

    def _gradients(self, group: dict[str, Any], *names: str) -> tuple[list[Tensor], list[Tensor], list[list[Tensor]]]:
        """The parameters of a group that have a gradient, decayed; the gradients; and their state by names."""
        params = [p for p in group["params"] if p.grad is not None]
        for p in params:
            for name in names:
                if name not in self.state[p]:
                    self.state[p][name] = torch.tensor(0.0) if name == "step" else torch.zeros_like(p)
        if params and group["weight_decay"]:
            many._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        return params, [p.grad for p in params], [[self.state[p][name] for p in params] for name in names]

    def __getstate__(self) -> dict[str, Any]:
        return {**(super().__getstate__() if self.built else {}), "_settings": self._settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "param_groups" not in state:
            self.__dict__.update(state)
            return
        super().__setstate__(state)
        for group in self.param_groups:  # a state that plain torch.optim wrote counts steps per parameter only
            steps = [float(self.state[p]["step"]) for p in group["params"] if "step" in self.state.get(p, {})]
            group.setdefault("iterations", int(max(steps, default=0)))

    def __repr__(self) -> str:
        given = self._settings["learning_rate"]
        return f"{type(self).__name__}(learning_rate={given if callable(given) else self.learning_rate})"


def torch_step(cls: Any, optimizer: Optimizer) -> None:
    """One step of torch's class itself; the hooks have run for it."""
    step = cls.step
    (step.__wrapped__ if getattr(step, "hooked", False) else step)(optimizer)


def tensors_of(parameters: Iterable[Any]) -> list[Tensor]:
    """The tensors in what torch takes for parameters: tensors, (name, tensor), groups."""
    found: list[Tensor] = []
    for item in parameters:
        if isinstance(item, Mapping):
            inner = item["params"]
            found += [inner] if isinstance(inner, Tensor) else tensors_of(inner)
        else:
            found.append(item[1] if isinstance(item, tuple) else item)
    return found


def _rate(value: Any) -> Any:
    """A learning rate as it is kept: a number, or a function of the steps taken."""
    if callable(value) and not isinstance(value, Tensor | type):
        _number(value(0))
        return value
    return _number(value)


def _number(value: Any) -> float:
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1):
        value = value.item()
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise ArgumentError(
            f"The learning rate must be a number of at least 0; got {value!r}. For one that changes, give "
            f"a function of the steps taken, such as padless.optimizers.schedules.ExponentialDecay."
        )
    return float(value)


def fraction(what: str, value: Any, open: bool = False) -> float:
    """A number from 0 to 1, with `open` below 1; anything else is an `ArgumentError`."""
    if not isinstance(value, int | float) or not 0 <= value <= 1 or (open and value == 1):
        raise ArgumentError(f"`{what}` must be between 0 and 1; got {value!r}.")
    return float(value)
