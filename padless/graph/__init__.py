"""Calls remembered while a model is built, and replayed on data."""

from padless.graph.function import Function as Function
from padless.graph.node import Node as Node
from padless.graph.symbolic import Symbolic as Symbolic

__all__ = [
    "Function",
    "Node",
    "Symbolic",
]
