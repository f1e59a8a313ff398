"""What per-example gradients cost, beside other libraries: ``python -m benchmarks.run``."""
