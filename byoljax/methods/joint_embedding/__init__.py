"""Methods that compare embeddings of several views of an image."""
