"""Optimizers with Keras's names and defaults on torch.optim."""

from padless.optimizers import schedules as schedules
from padless.optimizers.base import Optimizer as Optimizer
from padless.optimizers.optimizers import SGD as SGD
from padless.optimizers.optimizers import Adadelta as Adadelta
from padless.optimizers.optimizers import Adafactor as Adafactor
from padless.optimizers.optimizers import Adagrad as Adagrad
from padless.optimizers.optimizers import Adam as Adam
from padless.optimizers.optimizers import Adamax as Adamax
from padless.optimizers.optimizers import AdamW as AdamW
from padless.optimizers.optimizers import Nadam as Nadam
from padless.optimizers.optimizers import RMSprop as RMSprop
from padless.optimizers.optimizers import get as get

__all__ = [
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Nadam",
    "Optimizer",
    "RMSprop",
    "SGD",
    "get",
    "schedules",
]
