"""Training: step, loop, optimizer, restore, throughput, NaN replay, progress bars, TensorBoard."""
