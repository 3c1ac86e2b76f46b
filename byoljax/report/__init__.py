"""What people look at: curves, tables and pictures of a run."""
