"""Attention over packed steps."""
