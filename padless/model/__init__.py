"""Models: graphs, stacks, and a `call` of one's own."""

from padless.model.model import Model as Model
from padless.model.model import load_model as load_model
from padless.model.sequential import Sequential as Sequential
