"""What users of Keras look for in `utils`."""

from padless.saving.config import CustomObjectScope as CustomObjectScope
from padless.training.sequences import pad_sequences as pad_sequences
from padless.training.sequences import set_random_seed as set_random_seed
from padless.training.sequences import to_categorical as to_categorical

custom_object_scope = CustomObjectScope
