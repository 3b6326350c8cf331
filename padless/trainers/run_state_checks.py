"""Check a saved state of `fit` against the run that would continue from it, before anything has changed.

A state can be of another model, other arguments or other data, and its file can be damaged or forged. All types, ranges,
lengths and shapes are checked here, and those of callbacks by the callbacks. What is not checked is applied to a copy.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from padless.data.batch_sampler import Batching
from padless.data.epoch_iterator import EpochIterator
from padless.errors import ArgumentError, DataError
from padless.layers.base.layer import Layer
from padless.layers.rnn.cell_runner import initial_states
from padless.layers.rnn.rnn import RNN
from padless.optimizers.base import Optimizer
from padless.ragged.tree import leaves
from padless.saving import state_checks as checks
from padless.saving.serialization import JsonValue, serialize
from padless.trainers.trainable_model import TrainableModel

State = dict[str, Any]

STATE_KEYS = ("epoch", "batch", "stopped", "model", "layers", "optimizer", "scaler", "data", "random", "sums", "callbacks")
_SEED_BOUND = 2**62
_CONFIG_IS_TEXT_UP_TO = 2000  # characters of the config of a layer; a longer one is compared by its hash
_COUNTS = ("iterations", "averages", "averaged", "params")  # entries of parameter groups that are not settings
_TECHNIQUE = ("foreach", "fused", "capturable", "differentiable")  # how torch computes a step, which no number depends on
_SINCE_TORCH_2 = ("decoupled_weight_decay", "maximize", "initial_lr", "param_names")  # not in the groups of every version
_WITHOUT_TEMPLATE = (torch.optim.LBFGS, torch.optim.SparseAdam)  # a step needs a closure or sparse gradients


# ------------------------------------------------------------------------------------------------ settings


def run_settings(
    model: TrainableModel, iterator: EpochIterator, initial_epoch: int, accumulation_steps: int
) -> dict[str, JsonValue]:
    """Return what must be the same when a run continues: the arguments of `fit` and `compile`, and the model."""
    batching = iterator.batching
    return {
        "initial_epoch": initial_epoch,
        "gradient_accumulation_steps": accumulation_steps,
        "batch_size": batching.rows if batching.tokens is None else None,
        "batch_tokens": batching.tokens,
        "shuffle": "batch" if batching.shuffle == "batch" else bool(batching.shuffle),
        "steps_per_epoch": iterator.limit,
        "number of examples": iterator.data.num_batches(Batching(1)),
        "autocast": None if model._precision.dtype is None else str(model._precision.dtype),
        "optimizer": _optimizer_arguments(model.optimizer),
        "options": _group_options(model.optimizer),
        "layers": [[_describe(module), _config(module)] for module in model.modules()],
    }


def check_settings(saved: object, current: Mapping[str, JsonValue], state: Mapping[str, Any]) -> None:
    """Raise `DataError` if a state was saved by a run with other settings. Files of padless 0.1.0 have no settings."""
    checks.plain("settings", saved)
    saved = checks.mapping("settings", saved, current)
    _check_layers(saved["layers"], current["layers"])
    allowed_epochs = (saved["initial_epoch"], state["epoch"])
    for name, value in current.items():
        if name in ("layers", "options") or name == "initial_epoch" and value in allowed_epochs:
            continue
        if saved[name] != value:
            place, new_value, old_value = _difference(value, saved[name], [name])
            raise _different(place[-1], old_value, new_value)
    options, saved_options = current["options"], checks.sequence("options", saved["options"], len(current["options"]))
    groups = state["optimizer"]["state"]["param_groups"]
    for group, of_start, at_save in zip(options, saved_options, groups, strict=True):
        of_start = checks.mapping("options", of_start)
        for name, value in group.items():
            # A callback may have changed an option during the run, and a run in the same process begins with the change.
            if name in of_start and value != of_start[name] and value != _plain(at_save.get(name)):
                raise _different("learning_rate" if name == "lr" else name, of_start[name], value)


def _different(name: str, saved: object, current: object) -> DataError:
    return DataError(
        f"The backup was made with {name}={saved!r:.300}; now {name} is {current!r:.300}. Give the same model, data and "
        f"arguments to continue, or choose another backup_dir. Callbacks can change the learning rate of a run."
    )


def _check_layers(saved: object, current: list[JsonValue]) -> None:
    """Raise `DataError` if a model has other layers, or layers with another config; the inner layers are compared first."""
    saved = checks.sequence("layers", saved)
    if len(saved) != len(current):
        raise _other_model(f"it has {len(saved)} layers, here {len(current)}")
    for layer, saved_layer in zip(reversed(current), reversed(saved), strict=True):
        if layer != saved_layer:
            place, new_value, old_value = _difference(layer, saved_layer, [])
            name = ".".join([str(layer[0]).removesuffix("()"), *place])
            raise _other_model(f"its layer {name} is {old_value!r:.200}, here {new_value!r:.200}")


def _other_model(difference: str) -> DataError:
    return DataError(
        f"The backup is of another model: {difference}. Build the model as it was, or choose another backup_dir."
    )


def _difference(value: JsonValue, saved: JsonValue, place: list[str]) -> tuple[list[str], JsonValue, JsonValue]:
    """Return the place of the first difference of two values, and both values there."""
    if isinstance(value, dict) and isinstance(saved, dict):
        for key in sorted({*value, *saved}, key=str):
            if key not in value or key not in saved or value[key] != saved[key]:
                return _difference(value.get(key), saved.get(key), place if key == "config" else [*place, str(key)])
    if isinstance(value, list) and isinstance(saved, list) and len(value) == len(saved):
        for item, saved_item in zip(value, saved, strict=True):
            if item != saved_item:
                return _difference(item, saved_item, place)
    return place, value, saved


def _describe(module: nn.Module) -> str:
    """Return the class of a module, and for one of torch its arguments."""
    arguments = module.extra_repr() if type(module).__module__.startswith("torch.nn.") else ""
    return f"{type(module).__name__}({arguments})"


def _config(module: nn.Module) -> JsonValue:
    """Return the config of a layer without names, which depend on the layers that were made before; None if it has none."""
    if not isinstance(module, Layer):
        return None
    try:
        config = serialize(module, "layer")
    except ArgumentError:  # a layer that cannot be saved has no config, but a backup
        return None
    names: dict[str, str] = {}
    _collect_names(config, names)
    config = _without_names(config, names)
    text = repr(config)
    return config if len(text) <= _CONFIG_IS_TEXT_UP_TO else hashlib.sha256(text.encode()).hexdigest()


def _collect_names(config: JsonValue, names: dict[str, str]) -> None:
    """Add the names of layers in a config, with their numbers in the order of the config."""
    if isinstance(config, dict):
        if isinstance(config.get("name"), str):
            names.setdefault(config["name"], f"layer {len(names)}")
        for value in config.values():
            _collect_names(value, names)
    if isinstance(config, list):
        for item in config:
            _collect_names(item, names)


def _without_names(config: JsonValue, names: Mapping[str, str]) -> JsonValue:
    if isinstance(config, dict):
        entries = {key: value for key, value in config.items() if key not in ("trainable", "registered_name")}
        return {key: _without_names(value, names) for key, value in entries.items()}
    if isinstance(config, list):
        return [_without_names(item, names) for item in config]
    return names.get(config, config) if isinstance(config, str) else config


def _optimizer_arguments(optimizer: torch.optim.Optimizer) -> dict[str, JsonValue]:
    """Return the class and the arguments of an optimizer that are not options of its parameter groups."""
    arguments: dict[str, JsonValue] = {"optimizer": type(optimizer).__name__}
    if isinstance(optimizer, Optimizer):
        for name, value in optimizer._arguments.items():
            if name == "learning_rate":
                arguments["schedule"] = _plain_schedule(value) if callable(value) else None
            elif name not in ("name", *_TECHNIQUE):
                arguments[name] = _plain(value)
    return arguments


def _plain_schedule(schedule: object) -> JsonValue:
    """Return the config of a schedule, or the name of a function."""
    try:
        return serialize(schedule, "schedule")
    except ArgumentError:  # a function that is not registered
        return getattr(schedule, "__qualname__", type(schedule).__qualname__)


def _group_options(optimizer: torch.optim.Optimizer) -> list[dict[str, JsonValue]]:
    """Return the options of the parameter groups of an optimizer, such as the learning rate."""
    hidden = (*_COUNTS, *_TECHNIQUE, *_SINCE_TORCH_2)
    return [{name: _plain(value) for name, value in g.items() if name not in hidden} for g in optimizer.param_groups]


def _plain(value: object) -> JsonValue:
    """Return a number, text or list of them as JSON gives it back; the class of any other value."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else type(value).__name__


# ------------------------------------------------------------------------------------------------ model


def check_model(model: TrainableModel, state: Mapping[str, Any]) -> None:
    """Raise `DataError` if the weights or the layers are those of another model."""
    weights, saved_weights = model.state_dict(), checks.mapping("model", state["model"])
    for name in sorted({*weights, *saved_weights}, key=str):
        shape = tuple(weights[name].shape) if name in weights else None
        saved = saved_weights.get(name)
        saved_shape = tuple(saved.shape) if isinstance(saved, Tensor) else None
        if shape != saved_shape:
            raise DataError(
                f"The backup is of another model: its weight {name!r} has shape {saved_shape}, here {shape}. "
                f"Build the model as it was, or choose another backup_dir."
            )
        checks.tensor_like(f"weight {name!r}", saved, weights[name])
    modules = list(model.modules())
    for number, saved in enumerate(checks.sequence("layers", state["layers"], len(modules))):
        _check_layer(f"layers[{number}]", modules[number], checks.mapping(f"layers[{number}]", saved))


def _check_layer(name: str, module: nn.Module, saved: Mapping[Any, Any]) -> None:
    """Check the random generators of a module, and the states of a stateful layer."""
    generators = [value for value in vars(module).values() if isinstance(value, torch.Generator)]
    generator_states = [value for key, value in saved.items() if key != "states"]
    checks.sequence(f"{name}, the random generators,", generator_states, len(generators))
    for generator, generator_state in zip(generators, generator_states, strict=True):
        _check_generator_state(f"{name}, a random generator,", generator_state, generator.device)
    states = saved.get("states")
    if states is None:
        return
    if not isinstance(module, Layer) or not module.stateful:
        raise checks.invalid(f"{name}.states", states, f"no states, since {type(module).__name__} is not stateful")
    name, tensors = f"{name}, the states of a stateful layer,", leaves(states)
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.ndim < 1:
            raise checks.invalid(name, tensor, "tensors of floats with an axis for the sequences of a batch")
    if isinstance(module, RNN):
        expected = leaves(initial_states(module.cell, 1, torch.zeros(())))
        shapes = [tuple(tensor.shape[1:]) for tensor in expected]
        if [tuple(tensor.shape[1:]) for tensor in tensors] != shapes or len({len(tensor) for tensor in tensors}) > 1:
            raise checks.invalid(name, [tuple(tensor.shape) for tensor in tensors], f"shapes that end with {shapes}")


# ------------------------------------------------------------------------------------------------ optimizer


def check_optimizer(optimizer: torch.optim.Optimizer, saved: object) -> None:
    """Raise `DataError` if a state is that of another optimizer, or one that no optimizer can have."""
    saved = checks.mapping("optimizer", saved, ("class", "state"))
    saved_class = checks.text("optimizer.class", saved["class"])
    state = checks.mapping("optimizer.state", saved["state"], ("state", "param_groups"), ("class",))
    groups = checks.sequence("param_groups", state["param_groups"])
    numbers = [checks.sequence("params", checks.mapping("param_groups", group, ("params",))["params"]) for group in groups]
    sizes, saved_sizes = [len(group["params"]) for group in optimizer.param_groups], [len(params) for params in numbers]
    if type(optimizer).__name__ != saved_class or sizes != saved_sizes:
        raise DataError(
            f"The backup was made with {saved_class} for {saved_sizes} weights; this is "
            f"{type(optimizer).__name__} for {sizes}. Compile as before, or choose another backup_dir."
        )
    if state.get("class", saved_class) != saved_class:
        raise checks.invalid("optimizer.state.class", state["class"], repr(saved_class))
    expected_groups = optimizer.state_dict()["param_groups"]
    for number, (group, expected) in enumerate(zip(groups, expected_groups, strict=True)):
        if group["params"] != expected["params"]:
            raise checks.invalid(f"param_groups[{number}].params", group["params"], f"{expected['params']}")
        parameters = optimizer.param_groups[number]["params"]
        _check_group(f"param_groups[{number}]", group, optimizer.param_groups[number], parameters)
    _check_parameter_states(optimizer, checks.mapping("optimizer.state.state", state["state"]))


def _check_group(name: str, group: Mapping[str, Any], current: Mapping[str, Any], parameters: list[Tensor]) -> None:
    """Check the options of a parameter group."""
    varying = {*_COUNTS, *_TECHNIQUE, *_SINCE_TORCH_2}
    checks.mapping(name, group, {*current} - varying, {*current, *varying})
    for option, value in group.items():
        if option in ("params", *_TECHNIQUE):
            continue
        place = f"{name}.{option}"
        if option == "iterations":
            checks.integer(place, value)
        elif option == "averaged":
            checks.boolean(place, value)
        elif option == "averages":
            for average, parameter in zip(checks.sequence(place, value, len(parameters)), parameters, strict=True):
                checks.tensor_like(place, average, parameter)
        elif option == "lr" and not isinstance(value, Tensor):
            checks.option(place, value, lowest=0)
        elif option in current:
            _check_option(place, value, current[option])
    if group.get("averaged") and "averages" not in group:
        raise checks.invalid(f"{name}.averaged", True, "False without averages")


def _check_option(name: str, value: object, current: object) -> None:
    """Check that an option has the type of the present one; numbers must be finite."""
    if isinstance(current, bool):
        checks.boolean(name, value)
    elif isinstance(current, int | float):
        checks.option(name, value)
    elif isinstance(current, Tensor):
        checks.tensor_like(name, value, current)
    elif isinstance(current, tuple | list):
        for item, current_item in zip(checks.sequence(name, value, len(current), type(current)), current, strict=True):
            _check_option(name, item, current_item)
    elif current is None and isinstance(value, int | float):
        checks.option(name, value)
    elif type(value) is not type(current):
        raise checks.invalid(name, value, f"a value like {current!r}")


def _check_parameter_states(optimizer: torch.optim.Optimizer, saved: Mapping[Any, Any]) -> None:
    """Check what an optimizer keeps for each parameter, such as moments, against the result of a step without values."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    template = _state_after_a_step(optimizer, parameters)
    for number, values in saved.items():
        number = checks.integer("the number of a parameter", number, 0, len(parameters) - 1)
        name = f"the optimizer's state of parameter {number}"
        values = checks.mapping(name, values)
        if values and template is not None:
            checks.mapping(name, values, template[number], template[number])
        for key, value in values.items():
            like = None if template is None else template[number][key]
            _check_parameter_state(f"{name}, {key},", key, value, like)


def _check_parameter_state(name: str, key: str, value: object, like: object) -> None:
    if key == "step":
        is_scalar = isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex()
        checks.number(name, value.item() if isinstance(value, Tensor) and is_scalar else value, lowest=0, finite=True)
    elif isinstance(like, Tensor) and like.ndim:
        checks.tensor_like(name, value, torch.empty(like.shape, dtype=like.dtype, device="meta"))
    elif isinstance(value, Tensor):
        if value.is_complex() or isinstance(like, Tensor | int | float) and value.numel() != 1:
            raise checks.invalid(name, value, "a number or a tensor of one number")
    elif value is not None or isinstance(like, Tensor | int | float):
        checks.number(name, value)


def _state_after_a_step(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> list[dict[str, Any]] | None:
    """Return what the optimizer keeps for each parameter after a step, made on tensors without values; None if unknown."""
    is_known = isinstance(optimizer, Optimizer) or type(optimizer).__module__.startswith("torch.optim.")
    if not is_known or isinstance(optimizer, _WITHOUT_TEMPLATE):
        return None
    substitutes = [nn.Parameter(torch.empty_like(parameter, device="meta")) for parameter in parameters]
    memo: dict[int, object] = {id(p): substitute for p, substitute in zip(parameters, substitutes, strict=True)}
    memo[id(optimizer.state)] = type(optimizer.state)(dict)
    for group in optimizer.param_groups:
        memo[id(group.get("averages"))] = None
    copy = deepcopy(optimizer, memo)
    for group in copy.param_groups:
        group.pop("averages", None)
        group.update({name: False for name in ("fused", "foreach", "capturable") if name in group})
    for substitute in substitutes:
        substitute.grad = torch.empty_like(substitute)
    copy.step()
    return [dict(copy.state[substitute]) for substitute in substitutes]


def check_scaler(scaler: torch.amp.GradScaler | None, saved: object) -> None:
    """Raise `DataError` if the scale of the loss is one that no run has, or is there without a scaler."""
    if scaler is None or saved is None:
        if (scaler is None) != (saved is None):
            raise _different("autocast", None if saved is None else "float16", None if scaler is None else "float16")
        return
    current = scaler.state_dict()
    for name, value in checks.mapping("scaler", saved, current, current).items():
        is_count = isinstance(current[name], int)
        checks.integer(f"scaler.{name}", value) if is_count else checks.number(f"scaler.{name}", value, 0, finite=True)


# ------------------------------------------------------------------------------------------------ data and random states


def check_position(iterator: EpochIterator, state: Mapping[str, Any]) -> None:
    """Raise `DataError` if the position in the data is one that the present data do not have."""
    checks.integer("epoch", state["epoch"])
    batch = checks.integer("batch", state["batch"])
    checks.boolean("stopped", state["stopped"])
    data = checks.mapping("data", state["data"], ("begun", "feed", "taken", "steps"))
    checks.optional(checks.integer)("data.steps", data["steps"])
    if batch and data["steps"] != iterator.steps:
        raise DataError(
            f"The backup was made in the middle of an epoch of {data['steps']} batches; now an epoch has "
            f"{iterator.steps}. Give the data and batch sizes as before, or choose another backup_dir."
        )
    last = checks.LARGEST if iterator.steps is None else iterator.steps
    checks.integer("batch", batch, 0, last)
    checks.integer("data.taken", data["taken"], 0, last)
    if batch and data["taken"] != batch:
        raise checks.invalid("data.taken", data["taken"], f"{batch}, the number of the batch")
    feed = checks.mapping("data.feed", data["feed"], ("seed", "done"))
    batches_of_pass = iterator.data.num_batches(iterator.batching)
    checks.integer("data.feed.done", feed["done"], 0, checks.LARGEST if batches_of_pass is None else batches_of_pass + 1)
    if feed["seed"] is not None:
        checks.integer("data.feed.seed", feed["seed"], 0, _SEED_BOUND - 1)
    if (batch or iterator.limit is not None) or data["begun"] != {}:
        check_random_state("data.begun", data["begun"])


def check_random_state(name: str, state: object) -> None:
    """Raise `DataError` if a value is not a result of `random_state`. NumPy reads other memory for a wrong position."""
    state = checks.mapping(name, state, ("torch", "numpy", "python"), ("cuda",))
    _check_generator_state(f"{name}.torch", state["torch"], torch.device("cpu"))
    _check_numpy_state(f"{name}.numpy", state["numpy"])
    version, words, gauss = checks.sequence(f"{name}.python", state["python"], 3, tuple)
    current_version, current_words, _ = random.getstate()
    checks.integer(f"{name}.python, the version,", version, current_version, current_version)
    expected = f"{len(current_words)} integers of 32 bits, the last of them at most 624"
    if not isinstance(words, np.ndarray) or words.shape != (len(current_words),) or words.dtype.kind not in "iu":
        raise checks.invalid(f"{name}.python", words, expected)
    if words.min() < 0 or words.max() >= 2**32 or words[-1] > 624:
        raise checks.invalid(f"{name}.python", words, expected)
    checks.optional(checks.number)(f"{name}.python, gauss,", gauss)
    devices = torch.cuda.device_count() if torch.cuda.is_available() else None
    for number, cuda_state in enumerate(checks.sequence(f"{name}.cuda", state.get("cuda", []))):
        if devices is not None:
            checks.integer(f"{name}.cuda, the number of devices,", number, 0, devices - 1)
            _check_generator_state(f"{name}.cuda[{number}]", cuda_state, torch.device("cuda", number))


def _check_numpy_state(name: str, saved: object) -> None:
    current: Any = np.random.get_state(legacy=False)
    saved = checks.mapping(name, saved, current, current)
    if saved["bit_generator"] != current["bit_generator"]:
        raise _different("the bit generator of NumPy", saved["bit_generator"], current["bit_generator"])
    inner = checks.mapping(f"{name}.state", saved["state"], current["state"], current["state"])
    for key, value in current["state"].items():
        if isinstance(value, np.ndarray):
            checks.array_like(f"{name}.state.{key}", inner[key], value)
        else:
            checks.integer(f"{name}.state.{key}", inner[key], 0, 624 if key == "pos" else 2**128 - 1)
    checks.integer(f"{name}.has_gauss", saved["has_gauss"], 0, 1)
    checks.number(f"{name}.gauss", saved["gauss"])


def _check_generator_state(name: str, state: object, device: torch.device) -> None:
    """Check the state of a generator of torch with a new generator, which verifies it."""
    if not isinstance(state, Tensor) or state.dtype != torch.uint8:
        raise checks.invalid(name, state, "the bytes of a random state of torch")
    try:
        torch.Generator(device).set_state(state)
    except (RuntimeError, TypeError) as error:
        raise checks.invalid(name, state, f"a random state of torch ({error})") from error
