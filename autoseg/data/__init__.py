"""What is on disk: datasets, cases, images, layouts, checks and the fingerprint."""
