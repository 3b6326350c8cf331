"""Train a model and run it on data: Keras's methods `fit`, `evaluate` and `predict`.

Data become batches here. `compile.py` chooses losses and metrics, `train_step.py` defines the steps, and `epoch_loop.py`
runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from padless.callbacks import CallbackLike, CallbackList, History, Results, as_floats
from padless.callbacks.progress_bar import ProgressBar
from padless.data import batch_structure
from padless.data.adapters import read, unpack_validation_data
from padless.data.batch import Batch
from padless.data.batch_sampler import Batching, check_positive
from padless.data.class_weight import class_weighting
from padless.data.data_adapter import DataAdapter, split_for_validation
from padless.data.data_spec import UNKNOWN_SPEC, DataSpec
from padless.data.epoch_iterator import EpochIterator
from padless.data.in_memory import Examples
from padless.errors import ArgumentError, DataError
from padless.graph.model_runs import runs
from padless.graph.symbolic import shape_inference_mode
from padless.layers.base.layer import Layer
from padless.layers.base.weights import structure_lock
from padless.optimizers.base import Optimizer
from padless.trainers import epoch_loop, gradient_accumulation
from padless.trainers.compile import CompileMixin
from padless.trainers.compile_utils import CompiledObjective
from padless.trainers.data_checks import ModelMaskInfo, check_data, require_targets
from padless.trainers.gather_outputs import gather_outputs
from padless.trainers.nested_runs import running_fit
from padless.trainers.run_state import FitState
from padless.types import BatchTree, DataLike, MaskLike

Data: TypeAlias = "DataLike | DataAdapter"
"""Data for `fit`, `evaluate` and `predict`, or the result of `padless.data.parquet`."""

Masks: TypeAlias = "MaskLike | Mapping[str, MaskLike] | None"
"""The real steps of the input, or of each input by name."""

ClassWeights: TypeAlias = "Mapping[int, float] | Mapping[str, Mapping[int, float]] | None"
"""The weight of each class, or for each output by name."""

Callbacks: TypeAlias = "CallbackLike | Iterable[CallbackLike] | None"

Verbose: TypeAlias = Literal[0, 1, 2, "auto"] | bool
"""0 is silent, 1 ("auto") a progress bar, 2 a line for each epoch."""

BatchChange: TypeAlias = Callable[[Batch], Batch]


def _is_stateful(module: nn.Module) -> bool:
    """Return whether a module keeps states between batches."""
    return isinstance(module, Layer) and module.stateful


class Trainer(CompileMixin):
    """The methods of a model that work on data."""

    history: History | None = None

    @runs("train", _is_stateful)
    def fit(
        self,
        x: Data | None = None,
        y: DataLike | None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Verbose = "auto",
        callbacks: Callbacks = None,
        validation_split: float = 0.0,
        validation_data: Data | None = None,
        shuffle: bool | Literal["batch"] = True,
        class_weight: ClassWeights = None,
        sample_weight: DataLike | None = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
        gradient_accumulation_steps: int | None = None,
        *,
        mask: Masks = None,
        batch_tokens: int | None = None,
    ) -> History:
        """Train the model. The arguments are Keras's, and `mask` and `batch_tokens`.

        Args:
            x: arrays, tensors, lists of sequences of different lengths, `Packed`, columns or tables, a dataset, or an
                iterable of batches (docs/data.md).
            y: the targets, in the same forms; None if x gives batches with targets.
            batch_size: the number of examples in a batch, 32 by default.
            epochs: the number of the epoch after which training ends.
            verbose: 0, 1, 2 or "auto" (1).
            callbacks: callbacks of padless or Keras.
            validation_split: the part of the examples, at the end, that is used for validation.
            validation_data: `(x, y)`, `(x, y, sample_weight)` or `(x, y, sample_weight, mask)`, or an iterable of
                batches.
            shuffle: whether examples are shuffled in each epoch; "batch" shuffles inside batches.
            class_weight: weights of the classes; the sample weights are multiplied by them.
            sample_weight: weights of sequences `(batch,)` or of steps `(batch, time)`.
            initial_epoch: the number of the first epoch.
            steps_per_epoch: the number of batches in an epoch.
            validation_steps: the number of batches of validation.
            validation_batch_size: the number of examples in a batch of validation.
            validation_freq: validate after each n-th epoch, or after the epochs with these numbers.
            gradient_accumulation_steps: the number of batches for one step of the optimizer. The gradient is that of one
                large batch.
            mask: the real steps of x, in addition to those that the model finds.
            batch_tokens: the number of real steps up to which a batch is filled, in place of `batch_size`.

        Returns:
            The `History`: for each epoch the exact means of the losses and metrics over all real steps.

        Raises:
            ArgumentError: for wrong arguments.
            DataError: for bad data; no weight has changed then.
        """
        self._must_be_compiled("fit")
        _check_fit_arguments(epochs, initial_epoch, validation_steps, validation_batch_size, validation_freq)
        accumulation_steps = self._accumulation_steps(gradient_accumulation_steps)
        batching = Batching(batch_size, batch_tokens, shuffle)
        self._check_stateful(batching)
        data, held_out = self._read_and_build(x, y, sample_weight, mask), None
        if validation_data is not None:
            held_out = self._read(*unpack_validation_data(validation_data))
        elif validation_split:
            data, held_out = split_for_validation(data, validation_split)
        data.check_epochs(epochs - initial_epoch, steps_per_epoch)
        objective = self._objective_for(data)
        mask_info = self._check(data, objective, True, batch_tokens)
        if held_out is not None:
            self._check(held_out, objective, True, batch_tokens)
        add_class_weights = _class_weighting(class_weight, objective, mask_info)
        self._try_loss(data, batch_size)
        keep_batches = accumulation_steps > 1 or self._keeps_batches(objective)
        iterator = EpochIterator(data, batching, steps_per_epoch, True, add_class_weights, keep_batches)
        held_out_batching = None if held_out is None else held_out.batching_for_validation(batching, validation_batch_size)
        self._build_optimizer()
        callback_list, bar = self._callback_list(callbacks, verbose, iterator.steps, epochs, add_history=True)
        state = FitState(self, iterator, callback_list, initial_epoch, accumulation_steps)
        callback_list.set_fit_state(state)
        with running_fit(self), closing(bar), closing(iterator), closing(state):
            self.stop_training = False
            callback_list.on_train_begin()
            for epoch in state.epochs(epochs):
                callback_list.on_epoch_begin(epoch)
                batches = self._accumulated(state.batches(), accumulation_steps)
                logs = epoch_loop.train_epoch(self, batches, callback_list, lambda: self.stop_training, state.first_batch)
                if held_out is not None and _is_validation_epoch(validation_freq, epoch):
                    test_iterator = self._test_iterator(held_out, held_out_batching, validation_steps)
                    results = self._evaluate(test_iterator, callback_list)
                    logs = {**logs, **{f"val_{name}": value for name, value in results.items()}}
                callback_list.on_epoch_end(epoch, logs)
                if self.stop_training:
                    break
            if isinstance(self.optimizer, Optimizer):
                self.optimizer.finalize_variable_values()
            callback_list.on_train_end()
        self.history = callback_list.require_history()
        if iterator.padding is not None:
            self.history.padding = iterator.padding
            bar.print_line(str(iterator.padding))
        return self.history

    @runs("evaluate", _is_stateful)
    def evaluate(
        self,
        x: Data | None = None,
        y: DataLike | None = None,
        batch_size: int | None = None,
        verbose: Verbose = "auto",
        sample_weight: DataLike | None = None,
        steps: int | None = None,
        callbacks: Callbacks = None,
        return_dict: bool = False,
        *,
        mask: Masks = None,
        batch_tokens: int | None = None,
    ) -> Any:
        """Compute the loss and the metrics over all real steps.

        Args:
            x: the inputs, in a form that `fit` accepts.
            y: the targets.
            batch_size: the number of examples in a batch, 32 by default.
            verbose: 0, 1, 2 or "auto" (1).
            sample_weight: weights of sequences or of steps.
            steps: the number of batches.
            callbacks: callbacks of padless or Keras.
            return_dict: whether to return a dictionary by name.
            mask: the real steps of x, in addition to those that the model finds.
            batch_tokens: the number of real steps up to which a batch is filled.

        Returns:
            The loss as a number if there are no metrics, else a list in the order of `metrics_names`; with `return_dict`
            a dictionary.
        """
        self._must_be_compiled("evaluate")
        batching = Batching(batch_size, batch_tokens)
        self._check_stateful(batching)
        data = self._read_and_build(x, y, sample_weight, mask)
        self._check(data, self._objective_for(data), False, batch_tokens)
        iterator = self._test_iterator(data, batching, steps)
        callback_list, bar = self._callback_list(callbacks, verbose, iterator.steps)
        try:
            results = self._evaluate(iterator, callback_list)
        finally:
            bar.close()
        return _format_results(results, return_dict)

    @runs("predict", _is_stateful)
    def predict(
        self,
        x: Data,
        batch_size: int | None = None,
        verbose: Verbose = "auto",
        steps: int | None = None,
        callbacks: Callbacks = None,
        *,
        mask: Masks = None,
        batch_tokens: int | None = None,
    ) -> Any:
        """Return the outputs for `x`.

        Args:
            x: the inputs, in a form that `fit` accepts.
            batch_size: the number of examples in a batch, 32 by default.
            verbose: 0, 1, 2 or "auto" (1).
            steps: the number of batches.
            callbacks: callbacks of padless or Keras.
            mask: the real steps of x, in addition to those that the model finds.
            batch_tokens: the number of real steps up to which a batch is filled.

        Returns:
            Outputs with steps in the container of x: a padded array for a padded array, a list of arrays for a list of
            sequences, a `Packed` for a `Packed`. Other outputs are arrays. Several outputs have the structure in which
            the model returns them.
        """
        batching = Batching(batch_size, batch_tokens)
        self._check_stateful(batching)
        data = self._read_and_build(x, None, None, mask)
        self._check(data, None, False, batch_tokens)
        iterator = EpochIterator(data, batching, steps)
        callback_list, bar = self._callback_list(callbacks, verbose, iterator.steps)
        output_batches: list[BatchTree] = []
        kinds: list[Any] = []
        with closing(bar), closing(iterator):
            callback_list.on_predict_begin()
            with closing(epoch_loop.predict_epoch(self, iterator.epoch(), callback_list)) as predictions:
                for batch, outputs in predictions:
                    batch_structure.check_outputs(outputs)
                    kinds = kinds or self._output_containers(batch, batch_structure.flatten(outputs))
                    output_batches.append(outputs)
            callback_list.on_predict_end()
        if not output_batches:
            raise DataError("The data gave no batch. Expected at least one example.")
        return self._join_outputs(output_batches, kinds)

    @runs("train", _is_stateful)
    def train_on_batch(
        self,
        x: Data,
        y: DataLike | None = None,
        sample_weight: DataLike | None = None,
        class_weight: ClassWeights = None,
        return_dict: bool = False,
    ) -> Any:
        """Train on one batch; return its loss and metrics as `evaluate` does."""
        self._must_be_compiled("train_on_batch")
        batch = self._read_batch(x, y, sample_weight, class_weight)
        self._build_optimizer()
        return _format_results(epoch_loop.train_epoch(self, [batch]), return_dict)

    @runs("evaluate", _is_stateful)
    def test_on_batch(
        self,
        x: Data,
        y: DataLike | None = None,
        sample_weight: DataLike | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Evaluate one batch; return its loss and metrics as `evaluate` does."""
        self._must_be_compiled("test_on_batch")
        return _format_results(epoch_loop.test_epoch(self, [self._read_batch(x, y, sample_weight)]), return_dict)

    @runs("predict", _is_stateful)
    def predict_on_batch(self, x: DataLike) -> Any:
        """Return the outputs for one batch, as `predict` does."""
        return self.predict(x, batch_size=2**62, verbose=0)

    @property
    def metrics_names(self) -> list[str]:
        """Return the names of the results of `evaluate`, in order; complete after the first batch."""
        self._must_be_compiled("metrics_names")
        return list(self._objective.results()) if self._objective is not None else ["loss"]

    # What the model defines

    def _data_spec(self) -> DataSpec:
        """Return what is known of the inputs and outputs without data."""
        raise NotImplementedError

    def _complete_data_spec(self, x: object, y: object) -> DataSpec:
        """Return the inputs and outputs for data in these containers."""
        raise NotImplementedError

    def _output_containers(self, batch: Batch, outputs: Sequence[BatchTree]) -> list[Any]:
        """Return for each output of a batch the kind of container of the input whose mask it has."""
        raise NotImplementedError

    def _mask_info(self, batch: Batch, trains: bool) -> ModelMaskInfo:
        """Return what is known of the masks and outputs for such a batch; `trains` allows a call to find it out."""
        raise NotImplementedError

    def arrange_inputs(self, inputs: BatchTree) -> list[Any]:
        """Return the inputs of a batch in the order of the model's inputs."""
        raise NotImplementedError

    @property
    def _has_call(self) -> bool:
        """Return whether the model can be called; a model of other models may define steps only."""
        raise NotImplementedError

    # Read and check data

    def _read(self, x: object, y: object, sample_weight: object, mask: object = None) -> DataAdapter:
        """Return the data as batches are made from it."""
        spec = self._data_spec()
        return read(x, y, sample_weight, mask, spec=spec, complete_spec=self._complete_data_spec)

    def _read_and_build(
        self, x: Data | None, y: DataLike | None, sample_weight: DataLike | None, mask: Masks = None
    ) -> DataAdapter:
        """Read the data once. Missing weights are created by a call on the first example."""
        data = self._read(x, y, sample_weight, mask)
        if not self._has_call or _is_built(self):
            return data
        self._dry_run(data.head().to(torch.get_default_device()))
        spec = self._data_spec()  # a Sequential knows its inputs and outputs now
        return data if spec is UNKNOWN_SPEC else data.for_spec(spec)

    def _read_batch(
        self,
        x: Data,
        y: DataLike | None,
        sample_weight: DataLike | None,
        class_weight: ClassWeights = None,
    ) -> Batch:
        """Read and check the data of one batch."""
        data = self._read_and_build(x, y, sample_weight)
        if not isinstance(data, Examples):
            raise ArgumentError("A single batch must be arrays, sequences or Packed; got an iterable of batches.")
        objective = self._objective_for(data)
        mask_info = self._check(data, objective, class_weight is not None)
        add_class_weights = _class_weighting(class_weight, objective, mask_info)
        batch = data.whole()
        return batch if add_class_weights is None else add_class_weights(batch)

    def _check(
        self,
        data: DataAdapter,
        objective: CompiledObjective | None,
        trains: bool = False,
        batch_tokens: int | None = None,
    ) -> ModelMaskInfo:
        """Check the data before anything changes, and count real steps for batches by tokens."""
        if objective is not None:
            require_targets(data, objective)
        if not self._has_call:
            return ModelMaskInfo()
        count = batch_tokens is not None
        return check_data(self, lambda batch: self._mask_info(batch, trains or count), data, objective, count)

    def _check_stateful(self, batching: Batching) -> None:
        """Refuse to shuffle or regroup the examples of a model whose layers keep their states between batches."""
        if not batching.shuffle and batching.tokens is None:
            return
        layer = next(filter(_is_stateful, self.modules()), None)
        if isinstance(layer, Layer):
            option = f"batch_tokens={batching.tokens}" if batching.tokens is not None else f"shuffle={batching.shuffle!r}"
            raise ArgumentError(
                f"Layer {layer.name!r} is stateful: row i of a batch continues row i of the previous batch, and "
                f"{option} would mix the rows. Give batch_size and shuffle=False."
            )

    def _dry_run(self, batch: Batch) -> BatchTree:
        """Return the outputs for a batch from a call that changes nothing but missing weights."""
        with torch.no_grad(), shape_inference_mode():
            return self(batch.x)

    def _try_loss(self, data: DataAdapter, batch_size: int | None) -> None:
        """Call a user's `compute_loss` on the first batch, so that its errors come before any change."""
        if self._overridden("train_step") or not self._overridden("compute_loss"):
            return
        batch = data.head(batch_size or 32).to(epoch_loop.device_of(self))
        x, y, sample_weight = batch_structure.unpack_x_y_sample_weight(epoch_loop.data_of(batch))
        with torch.no_grad(), shape_inference_mode():
            self._checked_loss(x, y, self._forward(x), sample_weight, training=True)

    def _objective_for(self, data: DataAdapter) -> CompiledObjective | None:
        """Return the losses and metrics; find the names of the outputs by a dry run if necessary.

        None for a model without a `call`, whose steps name the outputs.
        """
        if self._objective is None and self._has_call:
            if self._output_names_if_known() is not None:
                return self._objective_of(())
            self._objective_of(self._dry_run(data.head(1).to(epoch_loop.device_of(self))))
        return self._objective

    # Train and evaluate

    def _accumulation_steps(self, steps: int | None) -> int:
        """Return the number of batches for one step of the optimizer."""
        if steps is not None:
            check_positive("gradient_accumulation_steps", steps)
        of_optimizer = self.optimizer.gradient_accumulation_steps if isinstance(self.optimizer, Optimizer) else None
        if steps is not None and of_optimizer not in (None, steps):
            raise ArgumentError(
                f"gradient_accumulation_steps is {steps} in fit and {of_optimizer} in the optimizer. Give one of them."
            )
        num_batches = int(steps or of_optimizer or 1)
        if num_batches > 1 and self._overridden("train_step"):
            raise ArgumentError(
                f"Model {self.name!r} overrides train_step, so its train_step decides when the optimizer makes a step; "
                f"got gradient_accumulation_steps={num_batches}. Call optimizer.step() after each {num_batches} batches "
                f"in train_step."
            )
        return num_batches

    def _accumulated(self, batches: Iterator[Batch], accumulation_steps: int) -> Iterator[Batch]:
        """Yield the batches; with gradient accumulation, set the group of each batch on the model."""
        if accumulation_steps == 1:
            return batches
        return gradient_accumulation.iterate_groups(
            self, lambda batch: self._mask_info(batch, False), batches, accumulation_steps
        )

    def _build_optimizer(self) -> None:
        """Give the weights to the optimizer. Raises `ArgumentError` for an optimizer of other weights."""
        if isinstance(self.optimizer, Optimizer):
            self.optimizer.build(self.parameters())
            return
        optimized = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        if not any(id(p) in optimized for p in self.parameters()):
            raise ArgumentError(
                f"The optimizer {type(self.optimizer).__name__} has no weight of model {self.name!r}, so "
                f"it would train nothing. Make it with model.parameters(), or give a name to compile."
            )

    def _callback_list(
        self, callbacks: Callbacks, verbose: Verbose, steps: int | None, epochs: int = 1, add_history: bool = False
    ) -> tuple[CallbackList, ProgressBar]:
        """Return the callbacks and the progress bar; a silent bar is not in the list, so that it needs no logs."""
        callback_list = CallbackList(callbacks, add_history, self, verbose=verbose, epochs=epochs, steps=steps, real_steps=0)
        bar = ProgressBar(verbose)
        if bar.verbose:
            callback_list.callbacks.insert(0, bar)
            bar.set_model(self)
            bar.set_params(callback_list.params or {})
        return callback_list, bar

    def _evaluate(self, iterator: EpochIterator, callbacks: CallbackList) -> Results:
        """Return the loss and the metrics over one epoch of the iterator."""
        callbacks.on_test_begin()
        with closing(iterator):
            logs = epoch_loop.test_epoch(self, iterator.epoch(), callbacks)
        callbacks.on_test_end(dict(logs))
        return logs

    def _test_iterator(self, data: DataAdapter, batching: Batching | None, steps: int | None) -> EpochIterator:
        """Return the batches for the evaluation of the model."""
        return EpochIterator(data, batching, steps, keep_batches=self._keeps_batches(self._objective))

    def _keeps_batches(self, objective: CompiledObjective | None) -> bool:
        """Return whether code that is not part of padless may keep a batch after its step, as metrics of all targets do."""
        overridden = self._overridden("train_step", "test_step", "compute_loss", "compute_metrics")
        return overridden or objective is None or objective.may_keep_targets

    def _join_outputs(self, output_batches: list[BatchTree], kinds: Sequence[Any]) -> BatchTree:
        """Return the outputs of all batches as one, each in its container."""
        leaves = [batch_structure.flatten(outputs) for outputs in output_batches]
        outputs = [gather_outputs(batches, kind) for batches, kind in zip(zip(*leaves, strict=True), kinds, strict=True)]
        return batch_structure.unflatten(output_batches[0], outputs)


def _is_built(module: nn.Module) -> bool:
    """Return whether every layer has its weights."""
    with structure_lock:  # another thread may build a layer
        return all(inner.built for inner in module.modules() if isinstance(inner, Layer))


def _class_weighting(
    class_weight: ClassWeights, objective: CompiledObjective | None, mask_info: ModelMaskInfo
) -> BatchChange | None:
    """Return the function that multiplies the sample weights of a batch by the class weights, None without them."""
    if class_weight is None:
        return None
    names = ["output_1"] if objective is None else [output.name for output in objective.outputs]
    ranks = [len(output.shape) for output in mask_info.outputs] or [0] * len(names)
    return class_weighting(class_weight, names, ranks)


def _check_fit_arguments(
    epochs: int,
    initial_epoch: int,
    validation_steps: int | None,
    validation_batch_size: int | None,
    validation_freq: int | Sequence[int],
) -> None:
    """Raise `ArgumentError` for numbers of `fit` that are not positive integers."""
    check_positive("epochs", epochs)
    for argument, value in (("validation_batch_size", validation_batch_size), ("validation_steps", validation_steps)):
        if value is not None:
            check_positive(argument, value)
    if isinstance(initial_epoch, bool) or not isinstance(initial_epoch, int) or initial_epoch < 0:
        raise ArgumentError(f"`initial_epoch` must be an integer of at least 0; got {initial_epoch!r}.")
    for value in validation_freq if isinstance(validation_freq, list | tuple | range | set) else [validation_freq]:
        check_positive("validation_freq", value)


def _is_validation_epoch(frequency: int | Sequence[int], epoch: int) -> bool:
    return (epoch + 1) % frequency == 0 if isinstance(frequency, int) else epoch + 1 in frequency


def _format_results(results: Results, return_dict: bool) -> Any:
    """Return results as `evaluate` does: a dictionary, a number or a list."""
    values = as_floats(results)
    if return_dict:
        return values
    numbers = list(values.values())
    return numbers[0] if len(numbers) == 1 else numbers
