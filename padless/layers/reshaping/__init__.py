"""Layers that change the shape of the grid."""
