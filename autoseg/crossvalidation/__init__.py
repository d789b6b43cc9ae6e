"""All folds: jobs, validation of a fold, cascades."""
