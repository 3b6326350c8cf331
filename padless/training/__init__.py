"""From examples to trained weights: data, losses, metrics, optimizers, callbacks, the loop."""
