"""Provide functions with the names of `keras.utils`."""

from padless._utils.sequence_utils import next_step_pairs as next_step_pairs
from padless._utils.sequence_utils import pad_sequences as pad_sequences
from padless._utils.sequence_utils import set_random_seed as set_random_seed
from padless._utils.sequence_utils import to_categorical as to_categorical
from padless.saving.serialization import CustomObjectScope as CustomObjectScope
from padless.saving.serialization import custom_object_scope as custom_object_scope
from padless.saving.serialization import get_custom_objects as get_custom_objects
from padless.saving.serialization import register_keras_serializable as register_keras_serializable

__all__ = [
    "CustomObjectScope",
    "custom_object_scope",
    "get_custom_objects",
    "next_step_pairs",
    "pad_sequences",
    "register_keras_serializable",
    "set_random_seed",
    "to_categorical",
]
