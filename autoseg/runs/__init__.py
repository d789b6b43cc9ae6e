"""The run folder: paths, folds and splits of a run."""
