"""padless: sequence models for PyTorch in the Keras style, in which padding does not exist."""

import sys as _sys

from padless import errors as errors
from padless import layers as layers
from padless import utils as utils
from padless.graph.node import reset_names as _reset_names
from padless.kernels import activations as activations
from padless.kernels.compiled import backends as backends
from padless.layers import Input as Input
from padless.layers import Layer as Layer
from padless.layers import constraints as constraints
from padless.layers import initializers as initializers
from padless.layers import regularizers as regularizers
from padless.model import Model as Model
from padless.model import Sequential as Sequential
from padless.model import load_model as load_model
from padless.ragged import Index as Index
from padless.ragged import Packed as Packed
from padless.ragged import pack as pack
from padless.ragged import unpack as unpack
from padless.training import callbacks as callbacks
from padless.training import data as data
from padless.training import losses as losses
from padless.training import metrics as metrics
from padless.training import optimizers as optimizers
from padless.training.collate import collate as collate

for _room in (activations, callbacks, constraints, data, initializers, losses, metrics, optimizers, regularizers):
    # `from padless.callbacks import EarlyStopping`, as one writes with Keras
    _sys.modules[f"padless.{_room.__name__.rpartition('.')[2]}"] = _room
_sys.modules["padless.optimizers.schedules"] = optimizers.schedules

__version__ = "0.1.0"


def clear_session() -> None:
    """Begin counting layer names again: the next Dense is `dense`, as after Keras's `clear_session`."""
    _reset_names()
