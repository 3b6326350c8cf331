"""Packed steps: which of a grid's steps are real, their values, and what may be done with them."""

from padless.ragged import torch_function as functions
from padless.ragged.index import Index as Index
from padless.ragged.packed import Packed as Packed
from padless.ragged.packed import pack as pack
from padless.ragged.packed import unpack as unpack

__all__ = [
    "Index",
    "Packed",
    "functions",
    "pack",
    "unpack",
]
