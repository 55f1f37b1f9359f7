"""Images with labels: read, augmented, parted so that nothing leaks, made batches."""
