"""What can be read: every kind of data becomes one `Source` with random access."""
