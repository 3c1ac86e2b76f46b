"""The recipes. One of your own begins with `from byoljax.configs import scales`, or a recipe."""
