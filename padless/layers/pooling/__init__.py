"""Pooling over time, in windows and over whole sequences."""
