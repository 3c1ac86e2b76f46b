"""Reading, cropping, augmenting and batching images, on the host and on the accelerator."""
