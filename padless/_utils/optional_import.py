"""Packages that few need: imported when they are asked for, with a word on what to install."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def import_optional(module: str, what: str) -> Any:
    """The module, or an `ImportError` that says what needs it and how to get it.

    >>> import_optional("json", "a test").dumps(1)
    '1'
    """
    try:
        return import_module(module)
    except ImportError as missing:
        package = (missing.name or module).partition(".")[0]
        raise ImportError(
            f"{what} needs the package {package!r}, which is not installed. Run `pip install {package}`.", name=missing.name
        ) from missing
