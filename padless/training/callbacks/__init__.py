"""What may happen between steps, with Keras's names.

A callback works with what it was handed (`set_model`, `set_params`) and knows no Model: it asks for `stop_training`,
`get_weights`, `set_weights` and `optimizer` only where it uses them. Keras's own callbacks work here as well.
"""

from padless.training.callbacks.averages import SwapEMAWeights as SwapEMAWeights
from padless.training.callbacks.backup import BackupAndRestore as BackupAndRestore
from padless.training.callbacks.base import Callback as Callback
from padless.training.callbacks.base import LambdaCallback as LambdaCallback
from padless.training.callbacks.base import Logs as Logs
from padless.training.callbacks.base import as_floats as as_floats
from padless.training.callbacks.checkpoint import ModelCheckpoint as ModelCheckpoint
from padless.training.callbacks.history import History as History
from padless.training.callbacks.logs import CSVLogger as CSVLogger
from padless.training.callbacks.logs import TensorBoard as TensorBoard
from padless.training.callbacks.nan import TerminateOnNaN as TerminateOnNaN
from padless.training.callbacks.rates import LearningRateScheduler as LearningRateScheduler
from padless.training.callbacks.rates import ReduceLROnPlateau as ReduceLROnPlateau
from padless.training.callbacks.several import CallbackList as CallbackList
from padless.training.callbacks.stopping import EarlyStopping as EarlyStopping
