"""Films and their labels: from files on disk to batches of tensors."""
