"""Models: graphs, stacks, and a `call` of one's own."""

from padless.models.model import Model as Model
from padless.models.model import load_model as load_model
from padless.models.sequential import Sequential as Sequential

__all__ = [
    "Model",
    "Sequential",
    "load_model",
]
