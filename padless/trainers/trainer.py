"""fit, evaluate, predict: Keras's methods for whatever is a module with weights.

Containers become batches here; what a model is trained for is said in `compile`, steps and epochs are the loop's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import nn

from padless.callbacks import CallbackList, History, as_floats
from padless.callbacks.progress_bar import ProgressBar
from padless.data import batch_structure as nest
from padless.data.adapters import read, unpack_validation_data
from padless.data.batch import Batch
from padless.data.batch_sampler import Batching, check_positive
from padless.data.class_weight import class_weighting
from padless.data.data_adapter import DataAdapter, split_for_validation
from padless.data.data_spec import UNKNOWN_SPEC, DataSpec
from padless.data.epoch_iterator import EpochIterator
from padless.data.in_memory import Examples
from padless.errors import ArgumentError
from padless.graph.symbolic import shape_inference_mode
from padless.trainers import data_checks as border
from padless.trainers import epoch_loop as loop
from padless.trainers import gradient_accumulation as accumulation
from padless.trainers.compile import CompileMixin
from padless.trainers.compile_utils import CompiledObjective
from padless.trainers.gather_outputs import gather_outputs
from padless.trainers.run_state import FitState


class Trainer(CompileMixin):
    """What a model can do with data, once it is compiled."""

    stop_training: bool = False
    history: History | None = None

    # ------------------------------------------------------------------------------------------------ the four verbs

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool | str = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
        gradient_accumulation_steps: int | None = None,
        *,
        mask: Any = None,
        batch_tokens: int | None = None,
    ) -> History:
        """Train for some epochs; returns the `History` of losses and metrics.

        `x` and `y` are arrays, tensors, lists of sequences of different lengths or `Packed`, columns or tables, or an
        iterable of batches (docs/data.md). `mask` says which steps of `x` are real, beside what the model finds itself.
        `batch_tokens` fills each batch up to that number of real steps. `class_weight` multiplies the sample weights by
        the weight of each label. With `gradient_accumulation_steps` so many batches make one step of the optimizer, with
        the gradient of the one large batch. What is reported of an epoch are the exact means over all its real steps.
        """
        self._must_be_compiled("fit")
        check_positive("epochs", epochs)
        for what, number in (("validation_batch_size", validation_batch_size), ("validation_steps", validation_steps)):
            if number is not None:
                check_positive(what, number)
        _epochs(initial_epoch, validation_freq)
        together = self._accumulation_steps(gradient_accumulation_steps)
        batching = Batching(batch_size, batch_tokens, shuffle)  # pyright: ignore[reportArgumentType] - it looks itself
        self._check_stateful(batching)
        data, held = self._read_and_build(x, y, sample_weight, mask), None
        if validation_data is not None:
            held = self._read(*unpack_validation_data(validation_data))
        elif validation_split:
            data, held = split_for_validation(data, validation_split)
        data.check_epochs(epochs - initial_epoch, steps_per_epoch)
        objective = self._objective_for(data)
        plan, *_ = [self._check(part, objective, True, batch_tokens) for part in (data, held) if part is not None]
        weigh = _weigher(class_weight, objective, plan)
        self._try_loss(data, batch_size)
        feed = EpochIterator(data, batching, steps_per_epoch, repeat=True, transform=weigh)
        watched = None if held is None else held.batching_for_validation(batching, validation_batch_size)
        self._build_optimizer()
        hooks, bar = self._hooks(callbacks, verbose, feed.steps, epochs, add_history=True)
        run = FitState(self, feed, hooks, initial_epoch)
        hooks.set_run(run)
        self.stop_training = False
        module: Any = self
        try:
            hooks.on_train_begin()
            for epoch in run.epochs(epochs):
                hooks.on_epoch_begin(epoch)
                todo = run.batches()
                if together > 1:
                    todo = accumulation.iterate_groups(self, lambda batch: self._plan(batch, False), todo, together)
                logs: dict[str, Any] = loop.train_epoch(module, todo, hooks, lambda: self.stop_training, run.first)
                if held is not None and _is_validation_epoch(validation_freq, epoch):
                    found = self._measure(EpochIterator(held, watched, validation_steps), hooks)
                    logs = {**logs, **{f"val_{name}": value for name, value in found.items()}}
                hooks.on_epoch_end(epoch, logs)
                if self.stop_training:
                    break
            if hasattr(self.optimizer, "finalize_variable_values"):
                self.optimizer.finalize_variable_values()
            hooks.on_train_end()
        finally:
            feed.close()
            bar.close()
        self.history = hooks.history
        if feed.padding is not None:
            self.history.padding = feed.padding  # pyright: ignore[reportOptionalMemberAccess] - it was added above
            bar.say(str(feed.padding))
        return hooks.history  # pyright: ignore[reportReturnType]

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        *,
        mask: Any = None,
        batch_tokens: int | None = None,
    ) -> Any:
        """The loss and the metrics over all real steps: a number, a list in Keras's order, or a dictionary."""
        self._must_be_compiled("evaluate")
        batching = Batching(batch_size, batch_tokens)
        self._check_stateful(batching)
        data = self._read_and_build(x, y, sample_weight, mask)
        self._check(data, self._objective_for(data), False, batch_tokens)
        feed = EpochIterator(data, batching, steps)
        hooks, bar = self._hooks(callbacks, verbose, feed.steps)
        try:
            results = self._measure(feed, hooks)
        finally:
            bar.close()
        return _format_results(results, return_dict)

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        steps: int | None = None,
        callbacks: Any = None,
        *,
        mask: Any = None,
        batch_tokens: int | None = None,
    ) -> Any:
        """The outputs for `x`, in the container that `x` came in where they have steps, else as an array.

        A padded array gives a padded array, a list of sequences a list of arrays, a `Packed` a `Packed`.
        """
        batching = Batching(batch_size, batch_tokens)
        self._check_stateful(batching)
        data = self._read_and_build(x, None, None, mask)
        self._check(data, None, False, batch_tokens)
        feed = EpochIterator(data, batching, steps)
        hooks, bar = self._hooks(callbacks, verbose, feed.steps)
        module: Any = self
        parts: list[Any] = []
        first: Any = None
        try:
            hooks.on_predict_begin()
            for batch, outputs in loop.predict_epoch(module, feed.epoch(), hooks):
                nest.check_outputs(outputs)
                parts.append(outputs)
                first = first or batch
            hooks.on_predict_end()
        finally:
            feed.close()
            bar.close()
        flats = [nest.flatten(part) for part in parts]
        joined = [
            gather_outputs(list(column), kind)
            for column, kind in zip(zip(*flats, strict=True), self._kinds(first, flats[0]), strict=True)
        ]
        return nest.unflatten(parts[0], joined)

    # ------------------------------------------------------------------------------------------------ one batch

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """One step on one batch; the loss and the metrics of that batch."""
        self._must_be_compiled("train_on_batch")
        batch = self._one(x, y, sample_weight, class_weight)
        self._build_optimizer()
        module: Any = self
        return _format_results(loop.train_epoch(module, [batch]), return_dict)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """The loss and the metrics of one batch."""
        self._must_be_compiled("test_on_batch")
        batch = self._one(x, y, sample_weight)
        module: Any = self
        return _format_results(loop.test_epoch(module, [batch]), return_dict)

    def predict_on_batch(self, x: Any) -> Any:
        """The outputs for one batch."""
        return self.predict(x, batch_size=2**62, verbose=0)

    def _one(self, x: Any, y: Any, sample_weight: Any, class_weight: Any = None) -> Batch:
        data = self._read_and_build(x, y, sample_weight)
        if not isinstance(data, Examples):
            raise ArgumentError("A single batch must be arrays, sequences or Packed; got an iterable of batches.")
        objective = self._objective_for(data)
        weigh = _weigher(class_weight, objective, self._check(data, objective, class_weight is not None))
        batch = data.whole()
        return batch if weigh is None else weigh(batch)

    # ------------------------------------------------------------------------------------------------ what they share

    def _data_spec(self) -> DataSpec:
        """Return what is known of the inputs and outputs without data."""
        raise NotImplementedError

    def _complete_data_spec(self, x: object, y: object) -> DataSpec:
        """Return the inputs and outputs for data in these containers."""
        raise NotImplementedError

    def _kinds(self, batch: Batch, outputs: Sequence[Any]) -> list[Any]:
        """For each of the outputs of this batch the kind of container of the input whose mask reaches it."""
        raise NotImplementedError

    def _plan(self, batch: Batch, trains: bool) -> border.ModelMaskInfo:
        """What is known of the model before data such as this example run through it."""
        raise NotImplementedError

    def _read(self, x: Any, y: Any, sample_weight: Any, mask: Any = None) -> DataAdapter:
        spec = self._data_spec()
        return read(x, y, sample_weight, mask, spec=spec, complete_spec=self._complete_data_spec)

    def _check_stateful(self, batching: Batching) -> None:
        """Refuse to mix the batches of a model whose layers carry a state from each batch to the next."""
        module: Any = self
        asked = f"batch_tokens={batching.tokens}" if batching.tokens is not None else f"shuffle={batching.shuffle!r}"
        stateful = next((m.name for m in module.modules() if getattr(m, "stateful", False)), None)
        if stateful is not None and (batching.shuffle or batching.tokens is not None):
            raise ArgumentError(
                f"Layer {stateful!r} is stateful: row i of a batch goes on where row i of the last one "
                f"ended, which {asked} would mix up. Give batch_size and shuffle=False."
            )

    def _read_and_build(self, x: Any, y: Any, sample_weight: Any, mask: Any = None) -> DataAdapter:
        """Read the data once. Weights that wait for a shape are created by a call on the first example."""
        data = self._read(x, y, sample_weight, mask)
        module: Any = self
        if not self._callable or _complete(module):
            return data
        self._dry_run(data.head().to(torch.get_default_device()))
        spec = self._data_spec()  # a Sequential knows its inputs and outputs now
        return data if spec is UNKNOWN_SPEC else data.for_spec(spec)

    def _dry_run(self, batch: Batch) -> Any:
        """The outputs for a batch, from a call that changes nothing."""
        module: Any = self
        with torch.no_grad(), shape_inference_mode():
            return module(batch.x)

    def _try_loss(self, data: DataAdapter, size: int | None) -> None:
        """A trial of a loss of one's own on the first batch: what fails then has changed nothing."""
        if self._overridden("train_step") or not self._overridden("compute_loss"):
            return
        module: Any = self
        x, y, weight = nest.unpack_x_y_sample_weight(loop.data_of(data.head(size or 32).to(loop.device_of(module))))
        with torch.no_grad(), shape_inference_mode():
            self._loss(x, y, self._forward(x), weight, True)

    def _objective_for(self, data: DataAdapter) -> CompiledObjective | None:
        """The objective, if need be by a trial; a model that has steps but no `call` names its outputs in them."""
        module: Any = self
        if self._objective is None and (self._names_of_outputs() is not None or not self._callable):
            return self._objective_of(()) if self._callable else None
        if self._objective is None:
            self._objective_of(self._dry_run(data.head(1).to(loop.device_of(module))))
        return self._objective

    @property
    def _callable(self) -> bool:
        """Whether there is a graph or a `call`; a model of other models may have steps only."""
        raise NotImplementedError

    def _check(
        self, data: DataAdapter, objective: CompiledObjective | None, trains: bool = False, tokens: int | None = None
    ) -> border.ModelMaskInfo:
        """Refuse what can be known to be wrong before anything has happened; real steps are counted if batches need it."""
        if objective is not None:
            border.has_targets(data, objective)
        counts = tokens is not None
        if not self._callable:
            return border.ModelMaskInfo()
        return border.check(self, lambda batch: self._plan(batch, trains or counts), data, objective, counts)

    def _accumulation_steps(self, steps: int | None) -> int:
        """How many batches make one step of the optimizer."""
        if steps is not None:
            check_positive("gradient_accumulation_steps", steps)
        own = getattr(self.optimizer, "gradient_accumulation_steps", None)
        if steps is not None and own not in (None, steps):
            raise ArgumentError(f"gradient_accumulation_steps is {steps} in fit and {own} in the optimizer. Give one.")
        together = int(steps or own or 1)
        if together > 1 and self._overridden("train_step"):
            raise ArgumentError(
                f"Model {self.name!r} has a train_step of its own, which decides itself when the optimizer "
                f"steps; got gradient_accumulation_steps={together}. Step every so many batches in there."
            )
        return together

    def _build_optimizer(self) -> None:
        """Give the weights to the optimizer; one that trains other weights is refused."""
        module: Any = self
        if hasattr(self.optimizer, "build"):
            self.optimizer.build(module.parameters())
            return
        trained = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        if not any(id(p) in trained for p in module.parameters()):
            raise ArgumentError(
                f"The optimizer {type(self.optimizer).__name__} has no weight of model {self.name!r}, so "
                f"it would train nothing. Make it with model.parameters(), or give a name to compile."
            )

    def _hooks(
        self, callbacks: Any, verbose: Any, steps: int | None, epochs: int = 1, add_history: bool = False
    ) -> tuple[CallbackList, ProgressBar]:
        """The callbacks with a bar in front; a silent one stays outside, so that no batch makes logs for it."""
        hooks = CallbackList(callbacks, add_history, self, verbose=verbose, epochs=epochs, steps=steps, real_steps=0)
        bar = ProgressBar(verbose)
        if bar.verbose:
            hooks.callbacks.insert(0, bar)
            bar.set_model(self)
            bar.set_params(hooks.params or {})
        return hooks, bar

    def _measure(self, feed: EpochIterator, hooks: CallbackList) -> dict[str, Any]:
        module: Any = self
        hooks.on_test_begin()
        with closing(feed):
            logs = loop.test_epoch(module, feed.epoch(), hooks)
        hooks.on_test_end(dict(logs))
        return logs

    @property
    def metrics_names(self) -> list[str]:
        """The names of what `evaluate` returns, in order; complete once data has been seen."""
        self._must_be_compiled("metrics_names")
        return list(self._objective.results()) if self._objective is not None else ["loss"]


def _complete(module: nn.Module) -> bool:
    """Whether every layer has its weights."""
    return all(getattr(m, "built", True) for m in module.modules())


def _weigher(
    class_weight: Any, objective: CompiledObjective | None, plan: border.ModelMaskInfo
) -> Callable[[Batch], Batch] | None:
    """What puts the weights of classes on a batch, for outputs of the ranks that the plan knows."""
    if class_weight is None:
        return None
    names = ["output_1"] if objective is None else [output.name for output in objective.outputs]
    return class_weighting(class_weight, names, [len(end.shape) for end in plan.outputs] or [0] * len(names))


def _epochs(first: Any, frequency: Any) -> None:
    """Refuse a first epoch and epochs of validation that mean nothing."""
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise ArgumentError(f"`initial_epoch` must be an integer of at least 0; got {first!r}.")
    for number in frequency if isinstance(frequency, list | tuple | range | set) else [frequency]:
        check_positive("validation_freq", number)


def _is_validation_epoch(frequency: int | Sequence[int], epoch: int) -> bool:
    return (epoch + 1) % frequency == 0 if isinstance(frequency, int) else epoch + 1 in frequency


def _format_results(results: dict[str, Any], return_dict: bool) -> Any:
    values = as_floats(results)
    if return_dict:
        return values
    numbers = list(values.values())
    return numbers[0] if len(numbers) == 1 else numbers
