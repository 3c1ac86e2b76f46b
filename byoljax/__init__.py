"""Self-supervised visual representation learning in pure JAX: BYOL and its peers."""

__version__ = '0.1.0'
