"""What is done to pixels: crops and photometric operations, as functions of arrays."""
