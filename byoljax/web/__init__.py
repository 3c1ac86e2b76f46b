"""A page that follows the runs of a directory while they train, served on this computer alone."""
