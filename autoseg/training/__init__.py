"""Training of one fold: the loop, sampling, augmentation, callbacks and saved states."""
