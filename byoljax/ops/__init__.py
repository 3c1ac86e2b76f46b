"""What methods share besides losses: pure functions of arrays and trees of arrays."""
