"""Models: graphs of layers, `Sequential`, and models with a user-defined `call`."""

from padless.models.model import Model as Model
from padless.models.model import load_model as load_model
from padless.models.sequential import Sequential as Sequential

__all__ = [
    "Model",
    "Sequential",
    "load_model",
]
