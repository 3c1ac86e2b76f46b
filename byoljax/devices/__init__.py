"""Devices and processes: the mapped axis, placement, joining processes, stop requests, XLA."""
