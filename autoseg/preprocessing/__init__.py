"""Preprocessing: crop, normalize and resample a case for the network, and invert that for its prediction."""
