"""Trained networks as values: read from checkpoints, called as functions of images."""
