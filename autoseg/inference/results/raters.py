"""Each rater's label map, and the raters' disagreement."""

from typing import Any

import numpy as np

from autoseg.inference.ensemble import Ensemble
from autoseg.inference.prediction import Prediction
from autoseg.inference.results.writer import RESULTS, ResultWriter
from autoseg.plans.recipe import ANNOTATORS_KEY


class RaterLabelMaps(ResultWriter):
    """``CASE_rater_NAME.nii.gz``: the label map that each rater would draw."""

    label_maps = True
    each_answer = True

    def names(self, ensemble: Ensemble) -> list[str]:
        """A volume for each rater."""
        return [f"rater_{name}" for name in ensemble.answer_names]

    def volumes(self, prediction: Prediction) -> dict[str, np.ndarray]:
        """The label map of each rater."""
        return {f"rater_{name}": label for name, label in prediction.answers.items()}


class Disagreement(ResultWriter):
    """``CASE_disagreement.nii.gz``: how far the raters' probabilities differ, 0 to 1."""

    fractions = True
    groups = ("rater",)

    def names(self, ensemble: Ensemble) -> list[str]:
        """One volume."""
        return ["disagreement"]

    def volumes(self, prediction: Prediction) -> dict[str, np.ndarray]:
        """The disagreement of the raters."""
        return {"disagreement": prediction.opinions["rater"].disagreement().numpy()}

    def provenance(self, ensemble: Ensemble) -> dict[str, Any]:
        """What the numbers mean."""
        return {
            "disagreement": "twice the standard deviation of the raters' probabilities, the largest over the outputs; "
            "0 to 1"
        }


RESULTS.register(ANNOTATORS_KEY, RaterLabelMaps())
RESULTS.register("disagreement", Disagreement())
