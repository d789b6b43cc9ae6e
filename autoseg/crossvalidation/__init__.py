"""Cross-validation: folds as jobs, their validation, cascades, and the merged table."""
