"""Trained models of nnU-Net v2 (Isensee et al. 2021), in and out."""
