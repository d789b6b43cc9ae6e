"""Dice of the same cases segmented in several ways, by hand."""

import math
from pathlib import Path

import pytest

from autoseg.crossvalidation.compared import compared, of_patients
from autoseg.data.dataset import Case, Dataset
from autoseg.evaluation.summary import Evaluation, Row
from autoseg.transfer.share_choice import choose_share

NAN = math.nan


def evaluation(dice: dict[str, tuple[float, ...]]) -> Evaluation:
    """Case → Dice of each of the structures a, b, …"""
    names = "abc"[: len(next(iter(dice.values())))]
    rows = [
        Row(case, name, {"dice": value, **dict.fromkeys(("prediction_ml", "reference_ml"), float(value == value))})
        for case, values in dice.items()
        for name, value in zip(names, values, strict=True)
    ]
    return Evaluation(tuple(rows), tuple(names))


def test_finding_what_is_not_there_counts() -> None:
    """The source finds nothing in the two cases without the structure, the tuned network does in one of them."""
    source = evaluation({"p": (0.8,), "q": (NAN,), "r": (NAN,)})
    tuned = evaluation({"p": (0.9,), "q": (0.0,), "r": (NAN,)})
    found = compared({"source": [source], "tuned": [tuned]}, "skip")
    assert all(math.isnan(of_case.pop("r")) for of_case in found.values())
    assert found == {"source": {"p": 0.8, "q": 1.0}, "tuned": {"p": 0.9, "q": 0.0}}


def test_several_structures_and_folds() -> None:
    """Of q, b is in neither; of p, the tuned network alone finds b, so that 1 and 0 join 0.6 and 0.8."""
    source = [evaluation({"p": (0.6, NAN)}), evaluation({"q": (0.5, NAN)})]
    tuned = [evaluation({"p": (0.8, 0.0)}), evaluation({"q": (0.7, NAN)})]
    found = compared({1.0: source, 0.0: tuned}, "skip")
    assert found == {1.0: {"p": pytest.approx(0.8), "q": 0.5}, 0.0: {"p": 0.4, "q": 0.7}}


def test_the_plans_convention_holds_for_all() -> None:
    """One was evaluated before the plan asked for the BraTS convention: absent from both is 1."""
    before = evaluation({"p": (0.6, NAN)})
    after = Evaluation(evaluation({"p": (0.8, 1.0)}).rows, ("a", "b"), empty="brats")
    found = compared({"before": [before], "after": [after]}, "brats")
    assert found == {"before": {"p": pytest.approx(0.8)}, "after": {"p": pytest.approx(0.9)}}


def test_a_network_that_invents_lesions_is_not_chosen() -> None:
    """Five cases gain 0.1, in five without any lesion the tuned network finds some: the mean loses 0.45."""
    with_lesion = {f"l{n}": (0.6 + 0.01 * n,) for n in range(5)}
    source = evaluation({**with_lesion, **{f"n{n}": (NAN,) for n in range(5)}})
    tuned = evaluation({**{k: (v[0] + 0.1,) for k, v in with_lesion.items()}, **{f"n{n}": (0.0,) for n in range(5)}})
    scores = compared({1.0: [source], 0.0: [tuned]}, "skip")
    choice = choose_share(scores, list(scores[1.0]))
    assert (choice.share, choice.cases) == (1.0, 10)
    assert choice.means[0.0] - choice.means[1.0] < -0.4


def test_exams_of_a_patient_count_as_one() -> None:
    cases = tuple(
        Case(id=name, channels={}, group=group) for name, group in (("a1", "A"), ("a2", "A"), ("a3", "A"), ("b", ""))
    )
    dataset = Dataset(name="d", root=Path("/"), layout="csv", channels=("x",), labels={"y": 1}, cases=cases)
    scores = {0.0: {"a1": 0.5, "a2": 0.7, "a3": NAN, "b": 0.4}}
    assert of_patients(scores, dataset) == {0.0: {"A": pytest.approx(0.6), "b": 0.4}}
    assert math.isnan(of_patients({0.0: {"a3": NAN}}, dataset)[0.0]["A"])
