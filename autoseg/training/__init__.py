"""Training: loss, augmentation, sampling, optimization, checkpoints, and the loop."""
