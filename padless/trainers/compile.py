"""compile: what a model is trained for and how, refused before anything has changed if it means nothing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from padless.data.batch_sampler import check_positive
from padless.errors import ArgumentError
from padless.optimizers import optimizers
from padless.trainers.compile_utils import CompiledObjective
from padless.trainers.mixed_precision import Precision
from padless.trainers.train_step import TrainStepMixin


class CompileMixin(TrainStepMixin):
    """A model that can be told what it is trained for."""

    jit_compile: bool = False
    run_eagerly: bool = False
    steps_per_execution: int = 1

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
        autocast: Any = None,
    ) -> None:
        """Choose optimizer, losses and metrics: names, objects, functions, by output a list or a dictionary.

        Unknown names are refused here. `autocast` is "bfloat16" or "float16" to train in; the loss of the latter is
        scaled unless `auto_scale_loss` is False. `jit_compile=True` hands layers that see each step alone to
        torch.compile; "auto" does not. `run_eagerly` turns that off, and like `steps_per_execution` changes no number.
        """
        check_positive("steps_per_execution", steps_per_execution)
        for what, flag in (("run_eagerly", run_eagerly), ("auto_scale_loss", auto_scale_loss)):
            if not isinstance(flag, bool):
                raise ArgumentError(f"`{what}` must be True or False; got {flag!r}.")
        if not (isinstance(jit_compile, bool) or jit_compile == "auto"):
            raise ArgumentError(f"`jit_compile` must be True, False or 'auto'; got {jit_compile!r}.")
        chosen, precision = optimizers.get(optimizer), Precision(autocast, auto_scale_loss)
        if precision.scaled and self._overridden("train_step"):
            raise ArgumentError(
                f"Model {self.name!r} has a train_step of its own, which must scale the loss itself; got "
                f"autocast={autocast!r}. Use autocast='bfloat16', or auto_scale_loss=False."
            )
        given = {"loss": loss, "loss_weights": loss_weights, "metrics": metrics, "weighted_metrics": weighted_metrics}
        names = self._names_of_outputs()
        several = any(isinstance(part, dict | list | tuple) for part in (loss, loss_weights)) or any(
            isinstance(entry, dict | list | tuple) for part in (metrics, weighted_metrics) for entry in _entries(part)
        )
        objective = None if names is None and several else CompiledObjective(names or ["output_1"], **given)
        if jit_compile is True and run_eagerly:
            warnings.warn("run_eagerly=True turns jit_compile=True off.", stacklevel=2)
        self.optimizer, self._compiled, self._precision = chosen, given, precision
        self.jit_compile = jit_compile is True and not run_eagerly
        self.run_eagerly, self.steps_per_execution = run_eagerly, steps_per_execution
        self._objective = objective if names is not None else None
        self.compiled = True

    def _jitted(self) -> AbstractContextManager[Any]:
        """While this lasts, what can be compiled runs compiled."""
        return nullcontext()


def _entries(metrics: Any) -> Sequence[Any]:
    """What `metrics` holds; a dictionary is for several outputs, and stands for itself."""
    return metrics if isinstance(metrics, list | tuple) else [metrics]
