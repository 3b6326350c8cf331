"""Record calls on symbolic tensors while a model is built, and replay them on data."""

from padless.graph.function import Function as Function
from padless.graph.node import Node as Node
from padless.graph.symbolic import SymbolicTensor as SymbolicTensor

__all__ = [
    "Function",
    "Node",
    "SymbolicTensor",
]
