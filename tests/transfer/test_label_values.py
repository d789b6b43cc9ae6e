"""Label values of a source in those of a cohort: voxels stay in the same outputs."""

from collections.abc import Mapping, Sequence

import pytest

from autoseg.plans.target import Output, Target
from autoseg.transfer.label_values import outputs_of, painted_values


def target(kind: str, **outputs: tuple[Sequence[int], int]) -> Target:
    """Name → values and paint."""
    found = [Output(name=name, values=list(values), paint=paint) for name, (values, paint) in outputs.items()]
    return Target(kind=kind, outputs=found)  # type: ignore[arg-type]


BRATS = target("regions", whole=([1, 2, 3], 2), core=([1, 3], 1), enhancing=([3], 3))


@pytest.mark.parametrize(
    ("source", "cohort", "wanted"),
    [
        (target("labels", c=([7], 7), a=([5], 5), b=([1], 1)), target("labels", b=([2], 2), a=([1], 1)), (7, 5, 1)),
        (BRATS, BRATS, (2, 1, 3)),
        # Core and what enhances lie in the whole, edema outside of what is asked for.
        (BRATS, target("regions", whole=([1, 2, 3], 2)), (2, 1, 3)),
        (BRATS, target("regions", core=([1, 3], 1)), (2, 1, 3)),
        (BRATS, target("regions", whole=([1, 2, 4], 2), enhancing=([4], 4)), (2, 1, 3)),
    ],
)
def test_voxels_stay_in_their_outputs(source: Target, cohort: Target, wanted: Sequence[int]) -> None:
    found = painted_values(source, cohort)
    assert found is not None
    assert tuple(found) == tuple(wanted)
    names = {output.name for output in cohort.outputs}
    for own, ours in found.items():
        assert outputs_of(ours, cohort) == outputs_of(own, source) & names
        # It is one that the cohort's label maps are painted with, or nothing.
        assert ours in (0, *(output.paint for output in cohort.outputs))


@pytest.mark.parametrize(
    ("source", "cohort"),
    [
        # Of the cohort's labels none lies in both.
        (target("regions", a=([1, 2], 1), b=([2], 2), c=([3], 3)), target("regions", a=([1], 1), b=([2], 2))),
    ],
)
def test_no_value_for_what_the_cohort_can_not_tell(source: Target, cohort: Target) -> None:
    assert painted_values(source, cohort) is None


def test_by_hand() -> None:
    """Of a source of organs two are asked for, by other values; a third one becomes background."""
    organs = target("labels", liver=([5], 5), spleen=([1], 1), kidney=([3], 3))
    found: Mapping[int, int] | None = painted_values(organs, target("labels", kidney=([1], 1), liver=([2], 2)))
    assert found == {5: 2, 1: 0, 3: 1}
