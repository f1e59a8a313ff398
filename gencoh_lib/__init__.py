"""Measure why deep networks generalise: the library beside *The Generalization Mystery*."""

__all__ = ["__version__"]

__version__ = "0.1.0"
