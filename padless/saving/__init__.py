"""Configs and files: register user-defined classes and functions, so that saved models can name them."""

from padless.saving.serialization import CustomObjectScope as CustomObjectScope
from padless.saving.serialization import custom_object_scope as custom_object_scope
from padless.saving.serialization import get_custom_objects as get_custom_objects
from padless.saving.serialization import register_keras_serializable as register_keras_serializable

__all__ = [
    "CustomObjectScope",
    "custom_object_scope",
    "get_custom_objects",
    "register_keras_serializable",
]
