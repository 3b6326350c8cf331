"""What a training step and a prediction cost, in padless and elsewhere: `python -m benchmarks`; see docs/speed.md."""
