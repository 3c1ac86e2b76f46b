"""Methods that fill in what was hidden, removed or disturbed."""
