"""Import packages that only some features need, when such a feature is used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def import_optional(module: str, feature: str) -> ModuleType:
    """Return a module of a package that may not be installed.

    Args:
        module: Full name of the module.
        feature: What needs the module, for the error message.

    Raises:
        ImportError: If the package is not installed, with the command that installs it.

    >>> import_optional("json", "a test").dumps(1)
    '1'
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = (error.name or module).partition(".")[0]
        raise ImportError(
            f"{feature} needs the package {package!r}, which is not installed. Run `pip install {package}`.", name=error.name
        ) from error
