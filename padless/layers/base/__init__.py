"""The base class of layers and the rule of masks."""
