"""The state of a run of `fit`, from which an interrupted run continues with the same results.

A state is a dictionary with these entries:

- `settings`: the arguments of `fit` and `compile`, and the configs of layers, when the run began
- `model`, `layers`, `optimizer`, `scaler`: their `state_dict`, and the random generators and states of layers
- `data`: the random states when the epoch began, the state of the `EpochIterator` then, and the number of its batches
  that were used
- `random`: the random states of torch, NumPy and Python now
- `sums`: the sums of losses and metrics in this epoch
- `callbacks`: their `state_dict`, including that of the history

The order of an epoch depends on the random states at its beginning. To continue, the order is drawn from them again, the
batches that were used are skipped, and the random states are set to those of now. The keys are those of padless 0.1.0,
which did not write the settings.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from padless.callbacks import BackupAndRestore, Callback, CallbackList
from padless.data.batch import Batch
from padless.data.epoch_iterator import EpochIterator
from padless.errors import DataError
from padless.layers.base.layer import Layer
from padless.saving import state_checks as checks
from padless.trainers import run_state_checks
from padless.trainers.epoch_loop import device_of
from padless.trainers.metric_state import check_metric_state_dict, load_metric_state_dict, metric_state_dict
from padless.trainers.trainable_model import TrainableModel

State = dict[str, Any]


class FitState:
    """The epoch and the batch of a run of `fit`, and what is needed to continue it.

    Args:
        model: the model that is trained.
        iterator: the batches of the epochs.
        callbacks: the callbacks of the run.
        epoch: the number of the first epoch.
        accumulation_steps: the number of batches for one step of the optimizer.
    """

    def __init__(
        self,
        model: TrainableModel,
        iterator: EpochIterator,
        callbacks: CallbackList,
        epoch: int = 0,
        accumulation_steps: int = 1,
    ) -> None:
        self.model, self.iterator, self.callbacks = model, iterator, callbacks
        self.epoch, self.batch, self.first_batch = epoch, 0, 0
        is_saved = any(isinstance(callback, BackupAndRestore) for callback in callbacks.callbacks)
        self._settings = run_state_checks.run_settings(model, iterator, epoch, accumulation_steps) if is_saved else {}
        self._random_at_start: State = {}  # the random states when the order of the current epoch was drawn
        self._batches_used = 0  # in the current epoch
        self._loaded: State | None = None  # the state to continue from, until its first epoch has begun
        self._remaining_batches: Iterator[Batch] | None = None  # of the epoch in which the loaded state ends

    def close(self) -> None:
        """Unlock the folders of backups."""
        for callback in self.callbacks.callbacks:
            if isinstance(callback, BackupAndRestore):
                callback.close()

    def epochs(self, stop: int) -> Iterator[int]:
        """Yield the numbers of the remaining epochs; none if a loaded run was stopped at the end of an epoch."""
        if self._loaded is not None and self._loaded["stopped"] and not self.batch:
            return
        for epoch in range(self.epoch, stop):
            self.epoch = epoch
            yield epoch

    def batches(self) -> Iterator[Batch]:
        """Begin an epoch: return its remaining batches, and set `first_batch` to the number of the first of them."""
        loaded, remaining_batches = self._loaded, self._remaining_batches
        self._loaded = self._remaining_batches = None
        if loaded is None or remaining_batches is None:
            self._random_at_start, self.first_batch, self._batches_used = random_state(), 0, 0
            return self.iterator.epoch()
        self._apply(loaded)  # again: undo what callbacks did when the epoch began, which the state contains
        self.first_batch = self.batch
        return iter(()) if loaded["stopped"] else remaining_batches

    def set_resume_point(self, epoch: int, batch: int) -> None:
        """Set where the run would continue: at this batch of the epoch; batch 0 is the beginning."""
        self.epoch, self.batch = epoch, batch
        self._batches_used = batch or self._batches_used

    @property
    def can_checkpoint(self) -> bool:
        """Return whether no gradient is incomplete: all batches of an accumulation group were used."""
        group = self.model._accumulation_group
        return group is None or not group.remaining

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        """Return the scaler of the loss in float16, None if the loss is not scaled."""
        return self.model._precision.scaler(device_of(self.model))

    def state_dict(self) -> State:
        """Return the state from which `load_state_dict` continues."""
        model, optimizer, scaler = self.model, self.model.optimizer, self._scaler
        return {
            "settings": self._settings,
            "epoch": self.epoch,
            "batch": self.batch,
            "stopped": bool(model.stop_training),
            "model": dict(model.state_dict()),
            "layers": [_layer_state(inner) for inner in model.modules()],
            "optimizer": {"class": type(optimizer).__name__, "state": optimizer.state_dict()},
            "scaler": None if scaler is None else scaler.state_dict(),
            "data": {
                "begun": self._random_at_start,
                "feed": self.iterator.state_dict(),
                "taken": self._batches_used,
                "steps": self.iterator.steps,
            },
            "random": random_state(),
            "sums": metric_state_dict(model) if self.batch else None,
            "callbacks": [
                {"class": type(callback).__name__, "config": callback.state_config, "state": callback.state_dict()}
                for callback in self._stateful_callbacks()
            ],
        }

    def load_state_dict(self, state: State) -> None:
        """Restore a state, so that the run continues from it.

        Raises:
            DataError: if the state is of another model, optimizer or data; nothing has changed then.
        """
        self._check(state)
        self._settings = state.get("settings", self._settings)  # of the beginning, which a callback may have changed since
        self._loaded, data = state, state["data"]
        self.epoch, self.batch = state["epoch"], state["batch"]
        if self.batch or self.iterator.limit is not None:  # with steps_per_epoch a pass over the data spans epochs
            self._random_at_start, self._batches_used = data["begun"], data["taken"]
            set_random_state(self._random_at_start)
            self.iterator.load_state_dict(data["feed"], start=self._batches_used)
            batches = self.iterator.epoch()
            self._remaining_batches = batches if self.batch else None
        self._apply(state)

    def _apply(self, state: State) -> None:
        """Set everything but the position in the data."""
        model, scaler = self.model, self._scaler
        model.stop_training = state["stopped"]
        model.load_state_dict(state["model"])
        for inner, layer_state in zip(model.modules(), state["layers"], strict=True):
            _load_layer_state(inner, layer_state)
        model.optimizer.load_state_dict(state["optimizer"]["state"])
        if state["scaler"] is not None and scaler is not None:
            scaler.load_state_dict(state["scaler"])
        if state["sums"] is not None:
            load_metric_state_dict(model, state["sums"], self.iterator.data.head(1))
        for callback, callback_state in self._pair_callbacks(state["callbacks"]):
            callback.load_state_dict(callback_state)
        set_random_state(state["random"])

    def _pair_callbacks(self, saved_states: object) -> list[tuple[Callback, State]]:
        """Return callbacks with their saved states. Raises `DataError` for a callback that had another config."""
        callbacks, pairs = list(self._stateful_callbacks()), []
        for number, saved in enumerate(checks.sequence("callbacks", saved_states)):
            saved = checks.mapping(f"callbacks[{number}]", saved, ("class", "state"), ("config",))
            checks.plain(f"callbacks[{number}].config", saved.get("config"))
            of_class = [callback for callback in callbacks if type(callback).__name__ == saved["class"]]
            matching = [c for c in of_class if saved.get("config", c.state_config) == c.state_config]
            if of_class and not matching:
                raise DataError(
                    f"The backup has the state of a {saved['class']} with {saved['config']}; this one has "
                    f"{of_class[0].state_config}. Give the callback as before, or choose another backup_dir."
                )
            if matching:
                callbacks.remove(matching[0])
                pairs.append((matching[0], saved["state"]))
        return pairs

    def _stateful_callbacks(self) -> Iterator[Callback]:
        """Yield the callbacks whose state is saved; `BackupAndRestore` saves the state itself."""
        for callback in self.callbacks.callbacks:
            if isinstance(callback, Callback) and not isinstance(callback, BackupAndRestore):
                yield callback

    def _check(self, state: State) -> None:
        """Raise `DataError` if the state is damaged, or of another model, optimizer, data or arguments of `fit`."""
        checks.mapping("run", state, run_state_checks.STATE_KEYS)
        run_state_checks.check_model(self.model, state)
        run_state_checks.check_optimizer(self.model.optimizer, state["optimizer"])
        run_state_checks.check_position(self.iterator, state)
        run_state_checks.check_scaler(self._scaler, state["scaler"])
        run_state_checks.check_random_state("random", state["random"])
        if "settings" in state:  # padless 0.1.0 did not write them
            run_state_checks.check_settings(state["settings"], self._settings, state)
        for callback, callback_state in self._pair_callbacks(state["callbacks"]):
            callback.check_state_dict(callback_state)
        if state["batch"] and state["sums"] is None:
            raise checks.invalid("sums", None, "the sums of losses and metrics in the middle of an epoch")
        if state["sums"] is not None:
            checks.sequence("sums", state["sums"])
            check_metric_state_dict(self.model, state["sums"], self.iterator.data.head(1))


def random_state() -> State:
    """Return the states of the global random generators of torch, NumPy and Python."""
    version, words, gauss = random.getstate()
    state: State = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(legacy=False),
        "python": (version, np.array(words), gauss),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Set the global random generators to a result of `random_state`."""
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _layer_state(module: nn.Module) -> State:
    """Return what a module has in addition to its weights: random generators, and the states of a stateful layer."""
    state: State = {name: generator.get_state() for name, generator in _generators(module).items()}
    if isinstance(module, Layer) and module.stateful:
        state["states"] = module.states
    return state


def _load_layer_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Set the random generators, in order, and the states of a stateful layer."""
    generator_states = [value for name, value in state.items() if name != "states"]
    for generator, generator_state in zip(_generators(module).values(), generator_states, strict=True):
        generator.set_state(generator_state)
    if isinstance(module, Layer) and "states" in state:
        module.states = _to_device(state["states"], device_of(module))


def _generators(module: nn.Module) -> dict[str, torch.Generator]:
    """Return the random generators that are attributes of a module, by name."""
    return {name: value for name, value in vars(module).items() if isinstance(value, torch.Generator)}


def _to_device(states: Any, device: torch.device) -> Any:
    """Return a tensor, or the tensors in nested lists and tuples, on a device."""
    if isinstance(states, list | tuple):
        return type(states)(_to_device(state, device) for state in states)
    return states.to(device) if isinstance(states, Tensor) else states
