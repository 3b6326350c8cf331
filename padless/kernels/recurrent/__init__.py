"""Recurrent cells over packed steps."""
