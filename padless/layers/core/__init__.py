"""Embedding, Masking, Dense and other basic layers."""
