"""Attention layers, position embeddings and transformer blocks."""
