"""Where a mask goes in a model."""
