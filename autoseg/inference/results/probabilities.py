"""The probability of each output."""

from collections.abc import Iterator

import numpy as np

from autoseg.inference.ensemble import Ensemble
from autoseg.inference.prediction import Prediction
from autoseg.inference.results.writer import RESULTS, ResultWriter


class Probabilities(ResultWriter):
    """``CASE_probability_OUTPUT.nii.gz``: the probability of each output, 0 to 1."""

    fractions = True
    probabilities = True

    def names(self, ensemble: Ensemble) -> list[str]:
        """A volume for each output."""
        return [f"probability_{output.name}" for output in ensemble.target.outputs]

    def volumes(self, prediction: Prediction) -> Iterator[tuple[str, np.ndarray]]:
        """The probability of each output, one at a time."""
        return ((f"probability_{name}", volume) for name, volume in prediction.probabilities.items())


RESULTS.register("probabilities", Probabilities())
