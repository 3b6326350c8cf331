"""Choose the optimizer, losses and metrics of a model. Wrong arguments are refused before anything changes."""

from __future__ import annotations

import warnings
from typing import Literal

import torch

from padless.data.batch_sampler import check_positive
from padless.errors import ArgumentError
from padless.optimizers import optimizers
from padless.trainers.compile_utils import CompileArguments, LossArgument, LossWeights, MetricsArgument
from padless.trainers.mixed_precision import Precision
from padless.trainers.train_step import TrainStepMixin
from padless.types import OptimizerLike


class CompileMixin(TrainStepMixin):
    """The method `compile` of a model, and the options that it sets."""

    jit_compile: bool = False
    run_eagerly: bool = False
    steps_per_execution: int = 1

    def compile(
        self,
        optimizer: OptimizerLike = "rmsprop",
        loss: LossArgument = None,
        loss_weights: LossWeights = None,
        metrics: MetricsArgument = None,
        weighted_metrics: MetricsArgument = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | Literal["auto"] = "auto",
        auto_scale_loss: bool = True,
        autocast: str | torch.dtype | None = None,
    ) -> None:
        """Choose the optimizer, losses and metrics, as Keras's `compile`.

        Args:
            optimizer: a name, a config, an optimizer of padless or of torch.
            loss: a name, an object or a function. For several outputs a list, or a dictionary by output name.
            loss_weights: the coefficients of the losses of several outputs.
            metrics: a list of names, objects or functions. For several outputs a list of lists, or a dictionary.
            weighted_metrics: metrics that use the sample weights.
            run_eagerly: whether to turn `jit_compile` off.
            steps_per_execution: accepted because Keras has it; it changes nothing.
            jit_compile: True compiles layers that see each step alone with torch.compile. "auto" does not.
            auto_scale_loss: whether to scale the loss of float16.
            autocast: the dtype of the forward pass in training: None, "bfloat16" or "float16".

        Raises:
            ArgumentError: for unknown names and wrong values.
        """
        check_positive("steps_per_execution", steps_per_execution)
        for argument, value in (("run_eagerly", run_eagerly), ("auto_scale_loss", auto_scale_loss)):
            if not isinstance(value, bool):
                raise ArgumentError(f"`{argument}` must be True or False; got {value!r}.")
        if not (isinstance(jit_compile, bool) or jit_compile == "auto"):
            raise ArgumentError(f"`jit_compile` must be True, False or 'auto'; got {jit_compile!r}.")
        new_optimizer, precision = optimizers.get(optimizer), Precision(autocast, auto_scale_loss)
        if precision.scaled and self._overridden("train_step"):
            raise ArgumentError(
                f"Model {self.name!r} overrides train_step, so its train_step must scale the loss; got "
                f"autocast={autocast!r}. Use autocast='bfloat16', or auto_scale_loss=False."
            )
        arguments = CompileArguments(loss, loss_weights, metrics, weighted_metrics)
        names = self._output_names_if_known()
        objective = None
        if names is not None or not arguments.has_several_outputs():  # else the first batch shows the names
            objective = arguments.make_objective(names or ["output_1"])
        if jit_compile is True and run_eagerly:
            warnings.warn("run_eagerly=True turns jit_compile=True off.", stacklevel=2)
        self.optimizer, self._compiled, self._precision = new_optimizer, arguments, precision
        self.jit_compile = jit_compile is True and not run_eagerly
        self.run_eagerly, self.steps_per_execution = run_eagerly, steps_per_execution
        self._objective = objective if names is not None else None
        self.compiled = True
