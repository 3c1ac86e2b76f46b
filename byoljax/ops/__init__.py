"""Array operations that methods share: pure functions over arrays and trees of arrays, no parameters, no gradient tricks."""
