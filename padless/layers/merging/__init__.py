"""Layers that merge several inputs step by step."""
