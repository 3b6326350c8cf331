"""Convolutions and pooling over packed steps."""
