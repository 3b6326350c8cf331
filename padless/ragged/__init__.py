"""Packed batches: the real steps of padded sequences, and the torch functions that accept them."""

from padless.ragged import torch_function as torch_function  # registers the handler of torch functions on a Packed
from padless.ragged.index import Index as Index
from padless.ragged.packed import Packed as Packed
from padless.ragged.packed import pack as pack
from padless.ragged.packed import unpack as unpack

__all__ = [
    "Index",
    "Packed",
    "pack",
    "unpack",
]
