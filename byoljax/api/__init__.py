"""What `import byoljax` offers: runs as objects of a program, the same as those of the commands."""
