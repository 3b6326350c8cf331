"""Rescaling and normalization by statistics of data."""
