"""What all optimizers share: Keras's arguments on a torch.optim optimizer that can wait for its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError, NotBuilt

Init = TypeVar("Init", bound=Callable[..., None])
many: Any = torch  # its _foreach functions, one call for a list of tensors, are not declared


def parameters_first(init: Init) -> Init:
    """Let a constructor with Keras's arguments also take parameters, in front of them or as `params`."""

    @wraps(init)
    def wrapped(self: Optimizer, *args: Any, params: Any = None, **kwargs: Any) -> None:
        if params is None and args and isinstance(args[0], Iterable) and not isinstance(args[0], Tensor | str):
            params, *rest = args
            args = tuple(rest)
        init(self, *args, **kwargs)
        if params is not None:
            self.build(params)

    return wrapped  # pyright: ignore[reportReturnType]


class Optimizer(torch.optim.Optimizer):
    """What all optimizers here share: Keras's arguments, building late, clipping, decoupled weight decay.

    The constructor's arguments read as attributes. `weight_decay` shrinks the weights by `learning_rate * weight_decay`
    before each step; `clipnorm` bounds the norm of each gradient, `global_clipnorm` of all together, `clipvalue` each
    number; at most one of these three.
    """

    _step_supports_amp_scaling = False  # GradScaler shall unscale before clipping, and skip the whole step
    _settings: dict[str, Any]

    def __init__(
        self, learning_rate: float, weight_decay: float | None, clipnorm: float | None, clipvalue: float | None,
        global_clipnorm: float | None, name: str | None, **own: Any,
    ) -> None:
        clips = {"clipnorm": clipnorm, "clipvalue": clipvalue, "global_clipnorm": global_clipnorm}
        self._settings = {"name": name or type(self).__name__.lower(), "learning_rate": _rate(learning_rate),
                          "weight_decay": weight_decay, **clips, **own}
        if sum(clip is not None for clip in clips.values()) > 1:
            raise ArgumentError(f"{type(self).__name__} takes at most one of clipnorm, clipvalue and global_clipnorm; "
                                f"got {clips}.")
        for what in ("weight_decay", *clips):
            if (value := self._settings[what]) is not None and not (isinstance(value, int | float) and value >= 0):
                raise ArgumentError(f"`{what}` of {type(self).__name__} must be None or a number of at least 0; "
                                    f"got {value!r}.")

    def __getattr__(self, name: str) -> Any:
        settings = self.__dict__.get("_settings", {})
        if name in settings:
            return settings[name]
        if name in ("param_groups", "state", "defaults") or name.startswith("_optimizer_"):
            raise NotBuilt(f"This {type(self).__name__} has no parameters yet. Give it to `model.compile`, call "
                           f"`build(model.parameters())`, or construct it with the parameters first.")
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
            raise ArgumentError(f"{type(self).__name__} got no parameters: the model has no trainable weights. Build "
                                f"it first, by calling it on data, or unfreeze a layer.")
        if self.built:
            mine = {id(p) for group in self.param_groups for p in group["params"]}
            if not all(id(p) in mine for p in tensors_of(given)):
                raise ArgumentError(f"This {type(self).__name__} already trains other parameters. Make a new one, with "
                                    f"`{type(self).__name__}.from_config(optimizer.get_config())`.")
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
        """The learning rate, of the first group if there are several; assigning sets all of them."""
        return float(self.param_groups[0]["lr"]) if self.built else self._settings["learning_rate"]

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._settings["learning_rate"] = _rate(value)
        for group in self.param_groups if self.built else ():
            group["lr"] = self._settings["learning_rate"]

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
        self._clip([p.grad for group in self.param_groups for p in group["params"] if p.grad is not None])
        for group in self.param_groups:
            group["iterations"] += 1
        self._advance()
        return loss

    def get_config(self) -> dict[str, Any]:
        """Keras's config: the constructor's arguments, with the learning rate of now."""
        config = {**self._settings, "learning_rate": self.learning_rate}
        return {key: value for key, value in config.items() if key not in ("foreach", "fused")}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A new optimizer with these arguments, not built."""
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
        return super().__repr__() if self.built else f"{type(self).__name__}(learning_rate={self.learning_rate})"


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


def _rate(value: Any) -> float:
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1):
        value = value.item()
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise ArgumentError(f"The learning rate must be a number of at least 0; got {value!r}. For one that changes, "
                            f"assign `optimizer.learning_rate` or use a scheduler of torch.optim.lr_scheduler.")
    return float(value)


def fraction(what: str, value: Any, open: bool = False) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1 or (open and value == 1):
        raise ArgumentError(f"`{what}` must be between 0 and 1; got {value!r}.")
    return float(value)
