"""Methods that learn the distribution of images, part by part, or codes of them."""
