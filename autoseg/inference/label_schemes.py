"""Label values of a challenge instead of the training data's."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from autoseg.data.layouts.brats_challenges import CHALLENGES, UP_TO_2021
from autoseg.data.names import output_key
from autoseg.inference.prediction import Prediction
from autoseg.plans.target import Target
from autoseg.utils.errors import UsageError

#: Year → the label values of its glioma challenge; they hold until 2021, and from 2023 on.
_BRATS = {"2021": UP_TO_2021.labels, "2023": CHALLENGES["gli2023"].labels}

#: Structure by its key (:func:`autoseg.data.names.output_key`) → the challenge's label. Non-enhancing tumour is one
#: label with necrosis since 2017.
_LABELS = {"necrosis": "necrosis", "non_enhancing": "necrosis", "edema": "edema", "enhancing_tumor": "enhancing"}

#: Regions from the inside out → the label of voxels that lie in no region before.
_REGIONS = {"enhancing_tumor": "enhancing", "tumor_core": "necrosis", "whole_tumor": "edema"}


@dataclass(frozen=True)
class LabelScheme:
    """Other values for the labels of a target.

    Attributes:
        name: for the record.
        values: value of the training data → value in the file.
    """

    name: str
    values: Mapping[int, int]

    def applied(self, prediction: Prediction) -> Prediction:
        """A prediction whose label maps have these values."""
        answers = {rater: self._relabelled(label) for rater, label in prediction.answers.items()}
        return replace(prediction, label=self._relabelled(prediction.label), answers=answers)

    def _relabelled(self, label: np.ndarray) -> np.ndarray:
        found = np.zeros_like(label)
        for own, other in self.values.items():
            found[label == own] = other
        return found


def brats_scheme(target: Target, year: str) -> LabelScheme:
    """The values of a BraTS challenge: 1 necrotic core, 2 edema, and enhancing tumor as 4 until 2021, 3 from 2023 on.

    Args:
        target: labels or regions of a glioma, by any of their usual names.
        year: ``2021`` or ``2023``.

    Raises:
        UsageError: another year, or a target that does not tell these three apart, or has others.
    """
    if year not in _BRATS:
        raise UsageError(f"--brats-labels {year} is unknown; choose 2021 (enhancing is 4) or 2023 (enhancing is 3).")
    values = {}
    for value in {value for output in target.outputs for value in output.values}:
        keys = {output_key(output.name): output.name for output in target.outputs if value in output.values}
        label = next((_LABELS[key] for key in keys if key in _LABELS and key not in _REGIONS), None)
        label = label or next((name for region, name in _REGIONS.items() if region in keys), None)
        if label is None:
            raise UsageError(f"--brats-labels: {', '.join(keys.values())} is no structure of the challenge.")
        values[value] = _BRATS[year][label]
    if set(values.values()) != set(_BRATS[year].values()):
        names = ", ".join(output.name for output in target.outputs)
        raise UsageError(
            "--brats-labels needs a model that tells necrotic core, edema and enhancing tumor apart, as labels or by "
            f"the regions whole tumor, tumor core and enhancing tumor; this one segments {names}."
        )
    return LabelScheme(f"BraTS {year}", values)
