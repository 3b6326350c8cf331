"""Write and read JSON text in files: strict JSON, with bounds on size, depth and numbers.

A text is checked before it is parsed, and `encode` refuses what `decode` would refuse. So the memory and the time that
a text needs are proportional to its length, and a nested text cannot exceed Python's recursion limit. Python's own
`json` writes NaN and infinities as words that are not JSON. Here they become `{"~": "float", "of": "nan"}`.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import NoReturn

from padless.errors import ArgumentError, DataError
from padless.saving.serialization import JsonValue

MAX_LENGTH = 2**25
"""The largest number of characters of a text."""

MAX_DEPTH = 64
"""The largest number of lists and dictionaries inside each other."""

MAX_VALUES = 2**21
"""The largest number of values, brackets and keys of a text."""

MAX_DIGITS = 40
"""The largest number of characters of an integer; the state of a random generator has integers of 128 bits."""

_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_KIND_KEY, _CONTENT_KEY = "~", "of"
# A string, which may be incomplete so that the time is linear, or a character of the structure.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{},:]', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def encode(value: JsonValue) -> str:
    """Return the text of a value.

    Raises:
        ArgumentError: the text would exceed the bounds, so it could not be read.

    Example:
        >>> encode({"rate": 0.5, "best": float("inf")})
        '{"rate": 0.5, "best": {"~": "float", "of": "inf"}}'
    """
    text = json.dumps(_replace_not_finite(value), allow_nan=False)
    try:
        check_bounds(text)
        return text
    except DataError as error:
        raise ArgumentError(f"The config cannot be saved: {error} Arrays belong to weights, not to a config.") from error


def decode(text: str, allow_words: bool = False, max_length: int = MAX_LENGTH) -> JsonValue:
    """Return the value of a text.

    Args:
        text: the text.
        allow_words: whether NaN and infinities may be words that are not JSON, as padless 0.1.0 has written them.
        max_length: the largest number of characters.

    Raises:
        DataError: the text is not JSON, exceeds the bounds, or has a key twice in one dictionary.
    """
    check_bounds(text, max_length)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object_of_pairs,
            parse_int=_parse_int,
            parse_float=_parse_float,
            parse_constant=float if allow_words else _refuse_constant,
        )
    except json.JSONDecodeError as error:
        raise DataError(f"The text is not JSON: {error}.") from error
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"A string of the JSON text is not valid Unicode: {error}.") from error
    return value


def check_bounds(text: str, max_length: int = MAX_LENGTH) -> None:
    """Check the length, the depth and the number of values of a text, in linear time.

    Raises:
        DataError: one of them exceeds its bound.
    """
    if len(text) > max_length:
        raise DataError(f"The JSON text has {len(text)} characters. Expected at most {max_length}.")
    depth = 0
    for count, match in enumerate(_TOKEN.finditer(text)):
        character = text[match.start()]
        if character in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise DataError(f"The JSON text has more than {MAX_DEPTH} lists and dictionaries inside each other.")
        elif character in "]}":
            depth -= 1
        if count > 2 * MAX_VALUES:
            raise DataError(f"The JSON text has more than {MAX_VALUES} values.")


def _replace_not_finite(value: JsonValue) -> JsonValue:
    """Return a value with each NaN and infinity as a dictionary."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_KIND_KEY: "float", _CONTENT_KEY: str(value)}
    if isinstance(value, list | tuple):
        return [_replace_not_finite(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _replace_not_finite(item) for key, item in value.items()}
    return value


def _object_of_pairs(pairs: list[tuple[str, JsonValue]]) -> JsonValue:
    """Return a dictionary, or the NaN or infinity that it means."""
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise DataError(f"The JSON text has the key {counts.most_common(1)[0][0]!r:.100} twice in one dictionary.")
    if len(value) == 2 and value.get(_KIND_KEY) == "float" and _CONTENT_KEY in value:
        content = value[_CONTENT_KEY]
        if not isinstance(content, str) or content not in _NOT_FINITE:
            raise DataError(f"The JSON text has the number {value!r:.100}. Expected one of {', '.join(_NOT_FINITE)}.")
        return _NOT_FINITE[content]
    return value


def _parse_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise DataError(f"The JSON text has an integer of {len(text)} characters. Expected at most {MAX_DIGITS}.")
    return int(text)


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise DataError(f"The JSON text has the number {text:.40}, which no float can hold.")
    return number


def _refuse_constant(text: str) -> NoReturn:
    raise DataError(f"The JSON text has the word {text}. JSON has no such number.")
