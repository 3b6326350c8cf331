"""Time a training step and a prediction in padless, plain torch and Keras: `python -m benchmarks`. See docs/speed.md."""
