"""The order of the packages: a module may import from the rows above the row of its package.

Packages in one row may not import each other. `tests/test_architecture.py` checks the order, and
`scripts/architecture` writes it to docs/architecture.md.
"""

ORDER = {
    "padless": [
        {"errors", "_torch_compat", "_threads"},
        {"registry", "ragged"},
        {"saving", "kernels", "types"},
        {"graph", "initializers", "regularizers", "constraints", "activations", "losses", "optimizers", "_utils"},
        {"metrics", "callbacks", "data", "layers"},
        {"trainers"},
        {"models"},
        {"utils"},
        {"testing", "demo"},
        {"cli"},
    ],
    "padless.layers": [
        {"base"},
        {"core", "activations", "convolutional", "normalization", "regularization"},
        {"rnn", "reshaping", "preprocessing"},
        {"attention", "merging"},
        {"pooling"},
    ],
    "padless.kernels": [
        {"half_precision", "index_cache", "double_backward", "fixed_order_sum"},
        {"native"},
        {"backends"},
        {"recurrent", "attention", "conv"},
        {"segment_reduce", "union"},
        {"moments", "batched_products"},
    ],
}
