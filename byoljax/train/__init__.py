"""Training: the parts of a run, the loop, and how its state is distributed."""
