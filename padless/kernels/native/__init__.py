"""C kernels and their loader."""
