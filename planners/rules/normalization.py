"""How each channel is normalized, by what it is called and how much cropping removes."""

import re

import numpy as np

from autoseg.data.fingerprint import Fingerprint
from autoseg.plans.preprocessing import BRIGHTEST, Channel, Normalization

#: Words in a channel's name or modality that say its values are Hounsfield units.
CT = {"ct", "cta", "cbct", "ncct", "cect", "ctp"}

#: Names with which an nnU-Net dataset asks for a normalization itself.
_NAMED: dict[str, dict[str, object]] = {
    "nonorm": {"scheme": "none"},
    "zscore": {"scheme": "zscore"},
    "rescale_to_0_1": {"scheme": "minmax"},
    # Divided by 255, so that colours and brightness stay what they are.
    "rgb_to_0_1": {"scheme": "ct", "lower": 0.0, "upper": BRIGHTEST, "mean": 0.0, "std": BRIGHTEST},
}

#: Where cropping leaves less than this share of the voxels, the background is most of an image and its zeros would
#: decide the statistics (nnU-Net's threshold).
CROPPED_SHARE = 0.75


def channels(fingerprint: Fingerprint, names: list[str]) -> list[Channel]:
    """The channels to use, each with its normalization and why."""
    return [Channel(name=name, normalization=_normalization(fingerprint, name)) for name in names]


def _normalization(fingerprint: Fingerprint, name: str) -> Normalization:
    modality = fingerprint.modalities.get(name, "")
    if name.lower() in _NAMED or modality.lower() in _NAMED:
        word = name.lower() if name.lower() in _NAMED else modality.lower()
        return Normalization.model_validate({**_NAMED[word], "reasons": {"scheme": f"the dataset asks for {word}"}})
    words = set(re.split(r"[^a-z0-9]+", f"{name} {modality}".lower()))
    pooled = fingerprint.intensities.get(name)
    if words & CT and pooled is not None and pooled.std > 0:
        source = "of the foreground over all cases"
        return Normalization(
            scheme="ct",
            lower=pooled.percentile_00_5,
            upper=pooled.percentile_99_5,
            mean=pooled.mean,
            std=pooled.std,
            reasons={
                "scheme": "CT: values mean the same in every scan, so one scale for all",
                "lower": f"0.5th percentile {source}",
                "upper": f"99.5th percentile {source}",
                "mean": f"mean {source}",
                "std": f"standard deviation {source}",
            },
        )
    share = float(np.median([np.prod(case.cropped_shape) / np.prod(case.shape) for case in fingerprint.cases]))
    masked = share < CROPPED_SHARE
    return Normalization(
        scheme="zscore",
        masked=masked,
        reasons={
            "scheme": "no CT: values have no fixed scale, so each image its own",
            "masked": f"cropping to non-zero leaves {100 * share:.0f} % of an image "
            f"({'below' if masked else 'not below'} {100 * CROPPED_SHARE:.0f} %)",
        },
    )
