"""A run's directory: checkpoints, metrics, progress, and what is said about them."""
