"""Configs and files."""

from padless.saving.config import CustomObjectScope as CustomObjectScope
from padless.saving.config import custom_object_scope as custom_object_scope
from padless.saving.config import get_custom_objects as get_custom_objects
from padless.saving.config import register_keras_serializable as register_keras_serializable
