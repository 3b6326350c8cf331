"""Recognize objects of libraries that padless does not import."""

from __future__ import annotations

import sys


def is_instance(value: object, library: str, *class_names: str) -> bool:
    """Check whether a value is an instance of public classes of a library. A library that is not imported made no value.

    >>> from collections import OrderedDict
    >>> is_instance(OrderedDict(), "collections", "OrderedDict"), is_instance([], "pyarrow", "Array")
    (True, False)
    """
    module = sys.modules.get(library)
    if module is None:
        return False
    classes = (getattr(module, name, None) for name in class_names)
    return isinstance(value, tuple(kind for kind in classes if isinstance(kind, type)))
