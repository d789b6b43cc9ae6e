"""Metrics of predicted label maps against references, per case and summarised."""

from autoseg.evaluation.cases import Structure, Target, evaluate_arrays, evaluate_pairs
from autoseg.evaluation.folders import evaluate, plan_structures
from autoseg.evaluation.metrics import dice, measure
from autoseg.evaluation.summary import Evaluation

__all__ = [
    "Evaluation",
    "Structure",
    "Target",
    "dice",
    "evaluate",
    "evaluate_arrays",
    "evaluate_pairs",
    "measure",
    "plan_structures",
]
