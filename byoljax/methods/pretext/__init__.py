"""Pretext tasks: labels or targets that are made from the image itself."""
