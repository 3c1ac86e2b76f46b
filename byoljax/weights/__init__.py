"""Weights to and from other libraries: reading their files, their names, and folders to share."""
