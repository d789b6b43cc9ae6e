"""Datasets on disk: cases, images, layouts, checks and the fingerprint."""
