"""Cases from elsewhere that are mixed into the batches of a fine-tuning."""

from pydantic import Field

from autoseg.plans.reasons import Reasoned

#: Share of the samples that come from elsewhere unless it is set: an estimate, small enough that the cohort's own cases
#: decide.
USUAL_SHARE = 0.25


class Mixed(Reasoned):
    """Cases with labels from elsewhere: those that a source was trained on.

    Attributes:
        file: name of the file in the run folder that describes them.
        share: of the samples of all batches that come from them, on average.
    """

    file: str = Field(pattern=r"^[^/\\]+$")
    share: float = Field(USUAL_SHARE, ge=0, lt=1)
