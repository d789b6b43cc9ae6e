"""Image formats: NIfTI and MetaImage."""

from autoseg.inference.formats.format import RESULT_FORMATS, ResultFormat


class Nifti(ResultFormat):
    """``CASE.nii.gz``."""

    ending = ".nii.gz"


class MetaImage(ResultFormat):
    """``CASE.mha``."""

    ending = ".mha"
    numbers_ending = ".mha"


RESULT_FORMATS.register("nifti", Nifti())
RESULT_FORMATS.register("mha", MetaImage())
