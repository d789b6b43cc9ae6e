"""Import and export of trained nnU-Net v2 models (Isensee et al. 2021)."""
