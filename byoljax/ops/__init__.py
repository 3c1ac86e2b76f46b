"""What methods share beside losses: pure functions over arrays and trees of arrays."""
