"""Callbacks: hooks that run between the steps of training, with Keras's names.

A callback receives the model and the parameters of the run (`set_model`, `set_params`). It uses `stop_training`,
`get_weights`, `set_weights`, `metrics` and `optimizer` of the model. Callbacks of Keras work here, too.
"""

from padless.callbacks.backup_and_restore import BackupAndRestore as BackupAndRestore
from padless.callbacks.callback import Callback as Callback
from padless.callbacks.callback import LambdaCallback as LambdaCallback
from padless.callbacks.callback import Logs as Logs
from padless.callbacks.callback import Results as Results
from padless.callbacks.callback import as_floats as as_floats
from padless.callbacks.callback_list import CallbackLike as CallbackLike
from padless.callbacks.callback_list import CallbackList as CallbackList
from padless.callbacks.early_stopping import EarlyStopping as EarlyStopping
from padless.callbacks.history import History as History
from padless.callbacks.learning_rate import LearningRateScheduler as LearningRateScheduler
from padless.callbacks.learning_rate import ReduceLROnPlateau as ReduceLROnPlateau
from padless.callbacks.loggers import CSVLogger as CSVLogger
from padless.callbacks.loggers import TensorBoard as TensorBoard
from padless.callbacks.model_checkpoint import ModelCheckpoint as ModelCheckpoint
from padless.callbacks.swap_ema_weights import SwapEMAWeights as SwapEMAWeights
from padless.callbacks.terminate_on_nan import TerminateOnNaN as TerminateOnNaN

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackLike",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "Logs",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "Results",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
    "as_floats",
]
