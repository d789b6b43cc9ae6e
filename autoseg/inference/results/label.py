"""The label map: what every case gets."""

from typing import Any

import numpy as np

from autoseg.inference.ensemble import Ensemble
from autoseg.inference.prediction import Prediction
from autoseg.inference.results.writer import LABEL, RESULTS, ResultWriter


class LabelMap(ResultWriter):
    """``CASE.nii.gz``: the label map."""

    label_maps = True

    def names(self, ensemble: Ensemble) -> list[str]:
        """One volume, named like the case."""
        return [""]

    def volumes(self, prediction: Prediction) -> dict[str, np.ndarray]:
        """The label map."""
        return {"": prediction.label}

    def provenance(self, ensemble: Ensemble) -> dict[str, Any]:
        """Each output's value, and those it is made of; and whose mean it is, where there are several answers."""
        outputs = ensemble.target.outputs
        return {
            "outputs": {output.name: output.paint for output in outputs},
            "structures": {output.name: list(output.values) for output in outputs},
            **ensemble.whose_mean,
        }


RESULTS.register(LABEL, LabelMap())
