"""The plan (``plan.json``): everything that preprocessing, training and inference execute, as validated data."""
