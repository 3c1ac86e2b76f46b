"""Losses, by kind: arrays in, one float32 scalar out.

The value is this device's; its mean over devices is the objective.
"""
