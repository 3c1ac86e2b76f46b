"""From a source to batches: order, decoding, prefetching, data that live on the device."""
