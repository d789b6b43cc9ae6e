"""What is in :mod:`autoseg.runs.trained_folds`, by its name of before."""

from autoseg.runs.trained_folds import SPLIT, folds_of_plan, split_of

__all__ = ["SPLIT", "folds_of_plan", "split_of"]
