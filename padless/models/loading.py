"""What all functions that load files have in common: one family of errors, an unchanged process, names of weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from padless.errors import NotLoaded, PadlessError
from padless.graph.node import separate_names

_NAMES_IN_MESSAGE = 5
_MAX_DIGITS = 9  # of the number of a layer


@contextmanager
def loading(source: str) -> Iterator[None]:
    """Load a file in this context: what padless refuses is one error, and the process stays as it was.

    The random generators of torch and the count of automatic names are restored at the end. So a loaded model has the
    names of its file, and the next layer without a name gets the name that it would have had.

    Args:
        source: the file, for messages.

    Raises:
        NotLoaded: an error of padless was raised, or the config needs more memory or a deeper recursion than there is.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices), separate_names():
            yield
    except NotLoaded:
        raise
    except PadlessError as error:
        raise NotLoaded(f"{source!r} cannot be loaded: {error}") from error
    except RecursionError as error:
        raise NotLoaded(
            f"{source!r} cannot be loaded: its layers are nested too deeply for Python's recursion limit."
        ) from error
    except MemoryError as error:
        raise NotLoaded(f"{source!r} cannot be loaded: its config asks for more memory than there is ({error}).") from error


def check_weights(weights: Mapping[str, Tensor], arrays: Mapping[str, Tensor], source: str, model_name: str) -> None:
    """Check that arrays can be copied into weights: the same names and shapes, and dtypes of the same kind.

    Args:
        weights: the weights of the model, by name.
        arrays: the arrays of the file, by the names of the model.
        source: the file, for messages.
        model_name: the name of the model.

    Raises:
        NotLoaded: they differ.
    """
    if weights.keys() != arrays.keys():
        raise NotLoaded(
            f"The weights in {source!r} are not those of model {model_name!r}: missing "
            f"{_shorten(weights.keys() - arrays.keys())}, unknown {_shorten(arrays.keys() - weights.keys())}. "
            f"Load the file into the model that has saved it."
        )
    for name, weight in weights.items():
        array = arrays[name]
        if weight.shape != array.shape:
            raise NotLoaded(
                f"Weight {name!r} of model {model_name!r} has shape {tuple(weight.shape)}; {source!r} has "
                f"{tuple(array.shape)}. Load the file into the model that has saved it."
            )
        if array.dtype != weight.dtype and not (array.is_floating_point() and weight.is_floating_point()):
            raise NotLoaded(
                f"Weight {name!r} of model {model_name!r} has dtype {weight.dtype}; {source!r} has {array.dtype}. "
                f"Expected an array of the same kind of numbers: only floats are converted to another width."
            )


def match_layer_numbers(arrays: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return arrays by the names of weights, if only the numbers of the layers differ, such as `dense_7` and `dense_2`.

    Names that are equal are not changed. If two layers of one name have the same number, as `a_1` and `a_01`, numbers
    are not compared.
    """
    if arrays.keys() == weights.keys():
        return arrays
    names_in_file, names_in_model = _names_by_rank(arrays), _names_by_rank(weights)
    if names_in_file is None or names_in_model is None or names_in_file.keys() != names_in_model.keys():
        return arrays
    return {names_in_model[key]: arrays[name] for key, name in names_in_file.items()}


def _names_by_rank(names: Iterable[str]) -> dict[tuple[str, int, str], str] | None:
    """Return names of weights by a key without the number of the layer; None if two layers have the same number.

    The key of `dense_7/bias` is `("dense", n, "/bias")`, if n layers `dense` have a smaller number.
    """
    split_names = [name.partition("/") for name in names]
    numbers: dict[str, dict[int, str]] = {}  # for each name of layers without the number: the layers by number
    for layer in dict.fromkeys(layer for layer, _, _ in split_names):
        prefix, number = _split_number(layer)
        if numbers.setdefault(prefix, {}).setdefault(number, layer) != layer:
            return None
    ranks = {
        layer: (prefix, rank) for prefix, layers in numbers.items() for rank, (_, layer) in enumerate(sorted(layers.items()))
    }
    return {(*ranks[layer], slash + weight): layer + slash + weight for layer, slash, weight in split_names}


def _split_number(layer: str) -> tuple[str, int]:
    """Return the name of a layer without its number, and the number; 0 if it has none."""
    prefix, _, digits = layer.rpartition("_")
    if prefix and digits.isascii() and digits.isdecimal() and len(digits) <= _MAX_DIGITS:
        return prefix, int(digits)
    return layer, 0


def _shorten(names: Iterable[str]) -> Sequence[str]:
    """Return the first of the sorted names, and how many more there are."""
    in_order = sorted(names)
    num_others = len(in_order) - _NAMES_IN_MESSAGE
    return in_order if num_others <= 0 else [*in_order[:_NAMES_IN_MESSAGE], f"and {num_others} more"]
