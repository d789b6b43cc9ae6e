"""The predictor: runs and folds averaged, one case's failure contained, results where the scan was."""

import errno
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from autoseg.clinical.volumes import volumes
from autoseg.data.dataset import Case, ChannelFile
from autoseg.data.result_files import results_in
from autoseg.inference import chain, prediction, read_ahead, scan_size, stored_scores
from autoseg.inference import predictor as module
from autoseg.inference.chain import TrainedStage
from autoseg.inference.ensemble import Ensemble
from autoseg.inference.inputs import cases_to_predict
from autoseg.inference.label_schemes import LabelScheme
from autoseg.inference.members import Member
from autoseg.inference.predictor import Predictor
from autoseg.inference.results.record import Record, scans_of
from autoseg.networks import build
from autoseg.networks.weights import identity_of, save_weights
from autoseg.plans.files import save_plan
from autoseg.plans.overrides import override
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Preprocessing
from autoseg.plans.stage import Stage
from autoseg.plans.target import Output, Target
from autoseg.preprocessing.case import preprocess_case
from autoseg.step.variant import Variant
from autoseg.utils import files
from autoseg.utils.digest import file_digest
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import read_json, write_json
from tests.builders import (
    LABELS,
    REGIONS,
    Perfect,
    blob,
    loaded,
    make_configuration,
    make_plan,
    make_recipe,
    make_run,
    picture_of,
    write,
)

CPU = torch.device("cpu")
PROBABILITIES = ("label", "probabilities")


def member(network: nn.Module | None = None, plan: Plan | None = None, name: str = "run") -> Member:
    plan = plan or make_plan()
    return Member(name, [TrainedStage(plan.stage("small"), [network or Perfect(plan.target)])], plan.planner)


def predictor(*members: Member) -> Predictor:
    return Predictor(members or [member()], CPU)


def case_of(path: Path, name: str, label: np.ndarray) -> Case:
    return Case(id=name, channels={"mr": ChannelFile(path=write(path / f"{name}.nii.gz", picture_of(label)))})


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


class ReadAtOnce:
    """In the place of :class:`ReadAhead`: reads a case when it is asked for."""

    def __init__(self, cases: Sequence[Case], prepare: Callable[[Case], Any]) -> None:
        self.read = map(prepare, cases)

    def __enter__(self) -> "ReadAtOnce":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def take(self) -> Any:
        return next(self.read)


class Constant(nn.Module):
    """The same logits everywhere."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        shape = (len(image), len(self.logits), *image.shape[2:])
        return torch.tensor(self.logits).reshape(1, -1, *[1] * (image.ndim - 2)).expand(shape)


@pytest.mark.parametrize("target", [LABELS, REGIONS])
@pytest.mark.parametrize("probabilities", [False, True])
def test_perfect(target, probabilities: bool) -> None:
    found = predictor(member(plan=make_plan(target=target))).predict_case(
        loaded(picture_of(blob())), PROBABILITIES if probabilities else ()
    )
    assert np.array_equal(found.label, blob())
    assert found.label.dtype == np.int16
    assert set(found.probabilities) == ({o.name for o in target.outputs} if probabilities else set())


def test_what_is_fastest_is_asked_when_the_cases_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tile for each case, mirrored copy and network at least; of networks without files nothing is measured."""
    asked: list[int] = []

    def choice(stage: Stage, device: torch.device, weights: Any = (), passes: int = 0) -> Variant:
        asked.append(passes)
        return Variant(channels_last=passes > 0)

    monkeypatch.setattr(chain, "inference_variant", choice)
    cases = [case_of(tmp_path, f"c{number}", blob()) for number in range(3)]
    plan = make_plan(make_configuration(inference={"mirror_axes": [0, 2]}))
    stage = plan.stage("small")
    for name in "ab":
        save_weights(tmp_path / name, build(stage.network, 1, stage.heads).state_dict(), identity_of(stage))
    trained = TrainedStage.load(stage, [tmp_path / "a", tmp_path / "b"], CPU)
    found = predictor(Member("run", [trained]))
    found.predict(cases, tmp_path / "out")
    assert asked == [0, 3 * 4 * 2]
    variant = found.members[0].stages[0].variant
    assert variant is not None
    assert variant.channels_last
    predictor().predict(cases, tmp_path / "perfect")
    assert len(asked) == 2


def test_outside_the_crop_is_background() -> None:
    """Whatever the network says of the padding around it."""
    image = np.zeros((8, 8, 8), np.float32)
    image[2:5, 3:6, 1:7] = 100.5
    found = predictor(member(Constant(0, 5, 0))).predict_case(loaded(image), PROBABILITIES)
    assert np.array_equal(found.label, (image > 0).astype(np.int16))
    assert not found.probabilities["outer"][image == 0].any()


def test_runs_are_averaged_as_probabilities() -> None:
    # Logits would give (0, 1.5, -1); one run is certain of the background, two think a little of the first label.
    logits = [(9.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 1.0, 0.0)]
    found = predictor(*[member(Constant(*row)) for row in logits]).predict_case(
        loaded(picture_of(blob())), PROBABILITIES
    )
    mean = torch.softmax(torch.tensor(logits), 1).mean(0)
    assert found.probabilities["outer"] == pytest.approx(float(mean[1]), abs=1e-6)
    assert found.probabilities["inner"] == pytest.approx(float(mean[2]), abs=1e-6)
    assert (found.label == int(mean.argmax())).all()


def test_runs_with_different_preprocessing() -> None:
    """Each sees the case its own way; they meet on the original grid."""
    finer = make_plan(
        make_configuration(spacing=(0.5, 0.5, 0.5)), preprocessing=Preprocessing(transpose=(2, 0, 1), crop="none")
    )
    image = picture_of(blob())
    image[:, :, 11:] = 0
    found = predictor(member(), member(plan=finer)).predict_case(loaded(image), PROBABILITIES)
    assert np.array_equal(found.label, blob())
    total = sum(found.probabilities.values())
    assert total.max() <= 1 + 1e-5
    assert min(p.min() for p in found.probabilities.values()) >= 0


def test_only_runs_with_the_same_target() -> None:
    renamed = LABELS.model_copy(update={"outputs": [LABELS.outputs[0]]})
    alike = REGIONS.model_copy(update={"outputs": LABELS.outputs})  # the same names, but they overlap
    for target in (renamed, REGIONS, alike):
        with pytest.raises(UsageError, match=r"other segments .* only runs with the same target can be averaged"):
            predictor(member(), member(plan=make_plan(target=target), name="other"))


def test_missing_channel() -> None:
    image = np.stack([picture_of(blob()), np.zeros(blob().shape, np.float32)])
    case = loaded(image, present=(True, False))
    with pytest.raises(AutosegError, match="the channel t2 is missing, and run was not trained for missing channels"):
        predictor(member(plan=make_plan(channels=("t1", "t2")))).predict_case(case)
    allowing = make_plan(channels=("t1", "t2"), allow_missing_channels=True)
    dropping = make_plan(make_configuration(recipe=make_recipe(channel_dropout=0.2)), channels=("t1", "t2"))
    for trained_for_it in (allowing, dropping):
        found = predictor(member(plan=trained_for_it)).predict_case(case)
        assert found.missing == ["t2"]
        assert np.array_equal(found.label, blob())


def test_every_run_must_be_trained_for_missing_channels() -> None:
    image = np.stack([picture_of(blob()), np.zeros(blob().shape, np.float32)])
    case = loaded(image, present=(True, False))
    dropping = make_plan(make_configuration(recipe=make_recipe(channel_dropout=0.2)), channels=("t1", "t2"))
    strict = make_plan(channels=("t1", "t2"))
    with pytest.raises(AutosegError, match="t2 is missing, and strict was not trained for missing channels; give it"):
        predictor(member(plan=dropping), member(plan=strict, name="strict")).predict_case(case)
    both = predictor(member(plan=dropping), member(plan=dropping, name="other"))
    assert both.predict_case(case).missing == ["t2"]


def test_preprocessed_image() -> None:
    plan = make_plan(preprocessing=Preprocessing(transpose=(2, 0, 1)))
    ready = preprocess_case(loaded(picture_of(blob())), plan.stage("small"))
    assert np.array_equal(predictor(member(plan=plan)).predict_prepared([[ready]])().label, blob())


def test_folder(tmp_path: Path) -> None:
    labels = {f"c{n}": blob(shift=n % 2) for n in range(5)}
    cases = [case_of(tmp_path / "in", name, label) for name, label in labels.items()]
    outcome = predictor().predict(cases, tmp_path / "out")
    assert outcome.failed == {}
    assert list(outcome.written) == list(labels)
    for name, label in labels.items():
        assert np.array_equal(read(outcome.written[name]), label)
        assert sitk.ReadImage(str(outcome.written[name])).GetPixelID() == sitk.sitkUInt8
    told = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert list(told["cases"]) == list(labels)
    assert told["outputs"] == {"outer": 1, "inner": 2}
    assert told["runs"] == [{"run": "run", "planner": "by hand", "networks": 1}]
    assert told["failed"] == {}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{n}.nii.gz" for n in labels} | {
        "predictions.json"
    }


def test_probability_files(tmp_path: Path) -> None:
    predictor().predict([case_of(tmp_path, "c", blob())], tmp_path / "out", results=PROBABILITIES)
    outer, inner = (read(tmp_path / "out" / f"c_probability_{name}.nii.gz") for name in ("outer", "inner"))
    assert (outer + inner).max() <= 1 + 1e-5
    assert np.array_equal(inner > 0.5, blob() == 2)
    assert outer.dtype == np.float32


@pytest.mark.parametrize("bad", [{0}, {2}, {4}, {0, 1}, {1, 2, 4}, {0, 1, 2, 3, 4}])
def test_one_failure_stops_no_other(tmp_path: Path, bad: set[int]) -> None:
    cases = [case_of(tmp_path / "in", f"c{n}", blob()) for n in range(5)]
    for number in bad:
        (tmp_path / "in" / f"c{number}.nii.gz").write_bytes(b"no image")
    outcome = predictor().predict(cases, tmp_path / "out")
    assert set(outcome.failed) == {f"c{n}" for n in bad}
    assert set(outcome.written) == {f"c{n}" for n in set(range(5)) - bad}
    for name, sentence in outcome.failed.items():
        assert f"{name}.nii.gz" in sentence
        assert "\n" not in sentence
    assert all(np.array_equal(read(path), blob()) for path in outcome.written.values())
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["failed"] == outcome.failed


class Moody(Perfect):
    """Fails for images that are mostly of one kind."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.max() > 250:
            raise RuntimeError("too bright\nfor me")
        return super().forward(image)


def test_failure_in_the_network(tmp_path: Path) -> None:
    cases = [case_of(tmp_path, f"c{n}", blob() + (2 * blob() if n == 1 else 0)) for n in range(3)]
    outcome = predictor(member(Moody())).predict(cases, tmp_path / "out")
    assert outcome.failed == {"c1": "RuntimeError: too bright"}
    assert set(outcome.written) == {"c0", "c2"}


def test_failure_in_writing(tmp_path: Path) -> None:
    cases = [case_of(tmp_path, f"c{n}", blob()) for n in range(3)]
    (tmp_path / "out" / "c1.nii.gz").mkdir(parents=True)
    outcome = predictor().predict(cases, tmp_path / "out")
    assert set(outcome.failed) == {"c1"}
    assert set(outcome.written) == {"c0", "c2"}


@pytest.mark.parametrize("full", ["b.nii.gz", "predictions.json"])
def test_a_full_disk_stops_the_command_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    """Neither result nor record has room from some case on; nothing more is computed, and it can go on."""
    out, score, write_one = tmp_path / "out", Predictor._score, files._refuse_cut_off
    cases = [case_of(tmp_path / "scans", name, blob()) for name in "abcde"]
    scored: list[int] = []

    def write_until_full(temporary: Path) -> None:
        if full in temporary.name and (out / "a.nii.gz").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write_one(temporary)

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "_score", lambda *given: scored.append(1) or score(*given))
        patched.setattr(files, "_refuse_cut_off", write_until_full)
        said = rf"out/{full}: No space left on device; 1 case\(s\) have their results in .*go on with --no-overwrite\.$"
        with pytest.raises(AutosegError, match=said):
            predictor().predict(cases, out)
    assert len(scored) < len(cases)
    assert predictor().predict(cases, out, overwrite=False).failed == {}
    assert "a" in told_of(out)["kept_from_before"]


@pytest.mark.parametrize("named", ["scores", None])
def test_a_full_disk_elsewhere_fails_one_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    """As one for temporary files, of which another scan may take less; of one that is mapped, no name is told."""
    decode, out = Predictor._decode, tmp_path / "out"
    out.mkdir()
    monkeypatch.chdir(out)

    def full(*given: Any) -> Any:
        monkeypatch.setattr(Predictor, "_decode", decode)
        raise OSError(errno.ENOSPC, "No space left on device", *([str(tmp_path / named)] if named else []))

    monkeypatch.setattr(Predictor, "_decode", full)
    cases = [case_of(tmp_path / "scans", name, blob()) for name in "ab"]
    outcome = predictor().predict(cases, ".")
    assert (list(outcome.failed), list(outcome.written)) == (["a"], ["b"])


def test_a_full_disk_without_a_file_s_name_is_the_folder_s(tmp_path: Path) -> None:
    record = Record.of(tmp_path, {}, ["a"])
    said = rf"^{tmp_path}: No space left on device; 0 case\(s\) have their results in "
    with pytest.raises(AutosegError, match=said), record.kept_up({}, [], {}):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_results_can_be_kept(tmp_path: Path) -> None:
    cases = [case_of(tmp_path, f"c{n}", blob()) for n in range(2)]
    predictor().predict(cases[:1], tmp_path / "out")
    (tmp_path / "out" / "c0.nii.gz").write_bytes(b"mine")
    outcome = predictor().predict(cases, tmp_path / "out", overwrite=False)
    assert (tmp_path / "out" / "c0.nii.gz").read_bytes() == b"mine"
    assert set(outcome.written) == {"c0", "c1"}
    told = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert told["kept_from_before"] == ["c0"]
    assert list(told["cases"]) == ["c0", "c1"]


@pytest.mark.parametrize("other", ["another run", "trained again", "other label values"])
def test_results_of_another_model_are_not_kept_as_its_own(tmp_path: Path, other: str) -> None:
    """Nor predicted again without a word: the user asked to keep what is there."""
    run, out, case = trained(tmp_path, 1), tmp_path / "out", case_of(tmp_path, "c", blob())
    Predictor.load(run.path, device="cpu").predict([case], out)
    before, scheme = (out / "c.nii.gz").read_bytes(), None
    Predictor.load(run.path, device="cpu").predict([case], out, overwrite=False)
    if other == "another run":
        run = trained(tmp_path / "other", 2)
    elif other == "trained again":
        run = trained(tmp_path, 2)
    else:
        scheme = LabelScheme("swapped", {1: 2, 2: 1})
    again = Predictor.load(run.path, device="cpu")
    with pytest.raises(UsageError, match=r"--no-overwrite: .* holds results of 1 of these cases, as c, by"):
        again.predict([case], out, overwrite=False, scheme=scheme)
    assert (out / "c.nii.gz").read_bytes() == before
    assert again.predict([case], out, scheme=scheme).failed == {}
    assert again.predict([case], out, overwrite=False, scheme=scheme).written == {"c": out / "c.nii.gz"}
    assert told_of(out)["kept_from_before"] == ["c"]


def test_killed_while_a_result_is_written_none_of_another_model_passes_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Continued with --no-overwrite, the case is predicted; one of the same model stays until it is replaced."""
    out, case = tmp_path / "out", case_of(tmp_path, "c", blob())
    predictor(member(name="before")).predict([case], out)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    for there in (False, True):
        with monkeypatch.context() as patched:
            patched.setattr(Predictor, "_write", killed)
            with pytest.raises(KeyboardInterrupt):
                predictor().predict([case, case_of(tmp_path, "next", blob())], out)
        assert (out / "c.nii.gz").exists() == there
        predictor().predict([case], out, overwrite=False)
        assert told_of(out)["kept_from_before"] == (["c"] if there else [])
        assert np.array_equal(read(out / "c.nii.gz"), blob())


@pytest.mark.parametrize("otherwise", ["settings", "scan"])
def test_killed_while_a_result_is_written_none_of_other_settings_or_scans_passes_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, otherwise: str
) -> None:
    """What the record says of a result is so, whenever the command ends; what is beside it is the same model's."""
    out, cases = tmp_path / "out", [case_of(tmp_path, name, blob()) for name in ("c", "next")]
    Predictor([member()], CPU, mirror=otherwise != "settings").predict(cases[:1], out, PROBABILITIES)
    if otherwise == "scan":  # corrected in its place
        write(tmp_path / "c.nii.gz", picture_of(blob(shift=1)))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            predictor().predict(cases, out)
    assert [path.name for path in results_in(out)] == ["c_probability_inner.nii.gz", "c_probability_outer.nii.gz"]
    predictor().predict(cases[:1], out, overwrite=False)
    assert told_of(out)["kept_from_before"] == []
    assert "made_with" not in told_of(out)["cases"]["c"]


def test_probabilities_of_another_model_do_not_stay_beside_a_label_map(tmp_path: Path) -> None:
    """Asked for with --no-overwrite, they would be kept as this one's; those of cases that are called so stay."""
    out = tmp_path / "out"
    cases = [case_of(tmp_path, name, blob()) for name in ("c", "c_probability_outer", "d")]
    before = predictor(member(name="before"))
    before.predict([cases[0], cases[2]], out, PROBABILITIES)
    before.predict([cases[1]], out / "other")
    (out / "c_probability_drawn.nii.gz").write_bytes(b"drawn by hand")
    predictor().predict(cases[:1], out)
    kept = ["c.nii.gz", "d.nii.gz", "d_probability_inner.nii.gz", "d_probability_outer.nii.gz"]
    assert [path.name for path in results_in(out)] == kept
    assert (out / "c_probability_drawn.nii.gz").exists()
    predictor().predict(cases[:1], out, PROBABILITIES, overwrite=False)
    assert told_of(out)["kept_from_before"] == []
    assert predictor().predict(cases[:1], out / "other").failed == {}
    assert [path.name for path in results_in(out / "other")] == ["c.nii.gz", "c_probability_outer.nii.gz"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_the_result_of_another_exam_is_not_replaced(tmp_path: Path, overwrite: bool) -> None:
    """Two exams whose scans are called alike, by any model; the same one is known where it lies, and when it moved."""
    out = tmp_path / "out"
    first, second = [case_of(tmp_path / exam, "flair", blob(shift=shift)) for exam, shift in (("1", 0), ("2", 1))]
    predictor().predict([first], out)
    before = (out / "flair.nii.gz").read_bytes()
    for one in (predictor(), predictor(member(name="other"))):
        with pytest.raises(UsageError, match=rf"--out {out} holds a result of other scans under the name flair"):
            one.predict([second], out, overwrite=overwrite)
    assert (out / "flair.nii.gz").read_bytes() == before
    assert str(tmp_path) not in json.dumps(told_of(out)["cases"]), "a path may tell whose exam it is"
    moved = (tmp_path / "1").rename(tmp_path / "moved")
    again = Case(id="flair", channels={"mr": ChannelFile(path=moved / "flair.nii.gz")})
    assert predictor().predict([again], out, overwrite=overwrite).failed == {}
    if overwrite:
        write(moved / "flair.nii.gz", picture_of(blob(shift=1)))  # corrected where it lies
        assert predictor().predict([again], out).failed == {}
    (out / "flair.nii.gz").unlink()
    assert predictor().predict([second], out, overwrite=overwrite).failed == {}


def test_scans_of_an_exam_are_known_by_any_of_them(tmp_path: Path) -> None:
    """Also the folders of its series."""
    places = {name: tmp_path / name for name in ("t1", "t2", "other")}
    for name, folder in places.items():
        folder.mkdir()
        for number in range(2):
            (folder / f"{number}.dcm").write_text(f"{name} {number}")

    def of(**names: str) -> Case:
        return Case(id="p", channels={channel: ChannelFile(path=places[name]) for channel, name in names.items()})

    (tmp_path / "p.nii.gz").touch()
    record = Record.of(tmp_path, {"runs": []}, ["p"]).begun({"p": [tmp_path / "p.nii.gz"]})
    record.write({"p": {"scans": scans_of(of(t1="t1", t2="t2"))}}, ["p"], {})
    again = Record.of(tmp_path, {"runs": []}, ["p"])
    places["t2"].rename(tmp_path / "moved")
    places["moved"] = tmp_path / "moved"
    for same in (of(t1="t1"), of(t1="other", t2="moved"), of(), of(t1="t2")):  # the last one is not there any more
        again.refuse_other_scans([same])
    with pytest.raises(UsageError, match="of other scans under the name p"):
        again.refuse_other_scans([of(t1="other")])


def test_results_of_earlier_weights_are_told_as_those_of_another_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, cases = tmp_path / "out", [case_of(tmp_path, name, blob()) for name in ("a", "b")]
    run = trained(tmp_path, 1)
    Predictor.load(run.path, device="cpu").predict(cases, out)
    (told,) = told_of(out)["runs"]
    assert told["weights"] == {"small/fold_0": file_digest(run.fold("small", 0).weights)}
    Predictor.load(trained(tmp_path, 2).path, device="cpu").predict(cases[1:], out)
    assert list(told_of(out)["cases"]) == ["b"]
    assert "results of 1 other case(s), by another model or by other weights of it" in capsys.readouterr().err


def test_nothing_to_do(tmp_path: Path) -> None:
    outcome = predictor().predict([], tmp_path / "out")
    assert outcome.written == outcome.failed == {}


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(UsageError, match=r"--out .*out is a file; give a folder"):
        predictor().predict([case_of(tmp_path, "c", blob())], tmp_path / "out")


def test_folder_that_allows_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said of the option, and before the network has worked."""
    monkeypatch.setattr("autoseg.utils.files.os.access", lambda path, mode: Path(path) != tmp_path / "closed")
    (tmp_path / "closed").mkdir()
    for out in (tmp_path / "closed", tmp_path / "closed" / "new"):
        with pytest.raises(UsageError, match=rf"--out {out} can't be written, as {tmp_path / 'closed'} allows no new"):
            predictor().predict([case_of(tmp_path, "c", blob())], out)
    assert list((tmp_path / "closed").iterdir()) == []


def test_pictures(tmp_path: Path) -> None:
    """A 2D dataset of PNGs: the result is a PNG of the same size, probabilities go where fractions can be kept."""
    label = np.zeros((9, 13), np.uint8)
    label[2:5, 3:11] = 1
    path = write(tmp_path / "in" / "p.png", (100 * label + 1).astype(np.uint8))
    plan = make_plan(make_configuration((8, 8), spacing=(None, None, None)), file_ending=".png")
    case = Case(id="p", channels={"mr": ChannelFile(path=path)})
    outcome = predictor(member(plan=plan)).predict([case], tmp_path / "out", results=PROBABILITIES)
    assert outcome.failed == {}
    assert np.array_equal(read(tmp_path / "out" / "p.png"), label)
    fraction = read(tmp_path / "out" / "p_probability_outer.tiff")
    assert fraction.dtype == np.float32
    assert np.array_equal(fraction > 0.5, label == 1)


# --- loading runs ---


def trained(root: Path, *factors: float, **plan: Any):
    """A run whose folds have random weights; fold k's are those of seed k."""
    run = make_run(root, make_plan(**plan), cases=2)
    config = run.plan.configurations["small"]
    for fold, seed in enumerate(factors):
        torch.manual_seed(int(seed))
        network = build(config.network, len(run.plan.channels), run.plan.target.heads)
        save_weights(run.fold("small", fold).weights, network.state_dict())
    return run


@pytest.mark.parametrize("ending", ["png", "nii.gz"])
@pytest.mark.parametrize(
    ("patch", "trained_on", "refused"), [((8, 8, 8), 3, True), ((8, 8, 8), 2, False), ((8, 8), 3, False)]
)
def test_a_flat_image_is_no_case_for_a_model_of_volumes(
    tmp_path: Path, ending: str, patch: tuple[int, ...], trained_on: int, refused: bool
) -> None:
    """It is one for a model of slices, and for a network of three axes that learned from flat images."""
    run = trained(tmp_path, 1, configuration=make_configuration(patch))
    told = read_json(run.path / "fingerprint.json")
    write_json(run.path / "fingerprint.json", {**told, "dimension": trained_on})
    scan = write(tmp_path / "in" / f"slice.{ending}", np.arange(1, 121, dtype=np.uint8).reshape(10, 12))
    case = Case(id="slice", channels={"mr": ChannelFile(path=scan)})
    volume = case_of(tmp_path / "in", "volume", blob())
    outcome = Predictor.load(run.path, device="cpu").predict([case, volume], tmp_path / "out")
    said = {"slice": f"{scan} is a flat image, and {run.path} was trained on volumes; give the volume."}
    assert outcome.failed == (said if refused else {})
    assert "volume" in outcome.written


def test_folds_are_averaged(tmp_path: Path) -> None:
    run = trained(tmp_path, 1, 2)
    case = loaded(picture_of(blob((8, 8, 8))))
    device = "cpu"
    both = Predictor.load(run.path, device=device)
    assert len(both.members[0].stages[-1].networks) == 2
    networks = [
        Predictor.load(run.path, folds=[fold], device=device).members[0].stages[-1].networks[0] for fold in (0, 1)
    ]
    with torch.no_grad():
        logits = sum(network(torch.from_numpy(case.image)[None])[0] for network in networks) / 2
    expected = torch.softmax(logits, 0).numpy()
    found = both.predict_case(case, PROBABILITIES)
    np.testing.assert_allclose(found.probabilities["outer"], expected[1], atol=1e-5)
    assert np.array_equal(found.label, expected.argmax(0))


def test_loading_what_is_not_there(tmp_path: Path) -> None:
    run = trained(tmp_path, 1)
    with pytest.raises(UsageError, match=r"fold 3 of small is not trained .*trained: 0"):
        Predictor.load(run.path, folds=[3], device="cpu")
    with pytest.raises(UsageError, match="--config big is not in the plan"):
        Predictor.load(run.path, "big", device="cpu")
    with pytest.raises(
        UsageError, match=r"--checkpoint best: fold 0 of small in .* has no best\.safetensors \(nothing"
    ):
        Predictor.load(run.path, device="cpu", checkpoint="best")
    with pytest.raises(AutosegError, match="no run folder"):
        Predictor.load(tmp_path, device="cpu")
    bare = make_run(tmp_path / "bare", cases=2)
    with pytest.raises(UsageError, match="has no trained fold of small"):
        Predictor.load(bare.path, device="cpu")


def test_the_trained_configuration_is_taken(tmp_path: Path) -> None:
    """Where the recommended one is not trained but another one is."""
    run = trained(tmp_path, 1)
    plan = run.plan
    more = plan.model_copy(update={"configurations": {"large": make_configuration(), **plan.configurations}})
    save_plan(override(more, ["recommended=large"]), run.path / "plan.json")
    loaded_run = Predictor.load(run.path, device="cpu")
    assert loaded_run.members[0].last.configuration == plan.configurations["small"]


def test_a_result_never_takes_the_place_of_a_scan(tmp_path: Path) -> None:
    case = case_of(tmp_path / "scans", "patient", blob())
    before = read(tmp_path / "scans" / "patient.nii.gz")
    with pytest.raises(UsageError, match=r"--out .* would overwrite .*patient\.nii\.gz"):
        predictor().predict([case], tmp_path / "scans")
    assert np.array_equal(read(tmp_path / "scans" / "patient.nii.gz"), before)


@pytest.mark.parametrize("taken", ["c1.nii.gz", "c1_probability_inner.nii.gz"])
def test_a_file_that_is_no_result_is_not_replaced(tmp_path: Path, taken: str) -> None:
    """As a label map drawn by hand: before anything is written, and where results of before lie beside it, too."""
    cases = [case_of(tmp_path / "imagesTs", f"c{n}", blob()) for n in range(2)]
    labels = tmp_path / "labelsTs"
    labels.mkdir()
    (labels / taken).write_bytes(b"drawn by hand")
    with pytest.raises(UsageError, match=rf"--out .*labelsTs: {taken} lies there already and is no result of autoseg"):
        predictor().predict(cases, labels, results=PROBABILITIES)
    assert {path.name: path.read_bytes() for path in labels.iterdir()} == {taken: b"drawn by hand"}
    assert set(predictor().predict(cases[:1], labels).written) == {"c0"}
    for _ in range(2):  # nor is it kept as one
        with pytest.raises(UsageError, match="no result of autoseg"):
            predictor().predict(cases, labels, results=PROBABILITIES)
        with pytest.raises(UsageError, match="no result of autoseg"):
            predictor().predict(cases, labels, results=PROBABILITIES, overwrite=False)
    assert (labels / taken).read_bytes() == b"drawn by hand"


def test_a_link_to_what_was_not_fetched_is_not_replaced(tmp_path: Path) -> None:
    """Label maps of a DataLad dataset."""
    case = case_of(tmp_path / "imagesTs", "c", blob())
    (tmp_path / "labelsTs").mkdir()
    (tmp_path / "labelsTs" / "c.nii.gz").symlink_to("../.git/annex/objects/not_here")
    with pytest.raises(UsageError, match=r"c\.nii\.gz lies there already"):
        predictor().predict([case], tmp_path / "labelsTs")
    assert (tmp_path / "labelsTs" / "c.nii.gz").is_symlink()


def test_a_case_without_files_stops_no_other(tmp_path: Path) -> None:
    good = case_of(tmp_path / "scans", "good", blob())
    outcome = predictor().predict([Case(id="empty", channels={}), good], tmp_path / "out")
    assert list(outcome.failed) == ["empty"]
    assert list(outcome.written) == ["good"]


def test_a_scan_that_the_user_may_not_read_stops_no_other(tmp_path: Path, forbid) -> None:
    for name in ("a", "b", "c"):
        case_of(tmp_path / "scans", name, blob())
    forbid(locked := tmp_path / "scans" / "b.nii.gz")
    outcome = predictor().predict(cases_to_predict(tmp_path / "scans", make_plan()), tmp_path / "out")
    assert list(outcome.written) == ["a", "c"]
    assert outcome.failed == {"b": f"{locked}: you may not read it. Ask for the right to."}


def test_a_missing_brain_mask_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan()
    trained_with = Member("run", [TrainedStage(plan.stage("small"), [Perfect(plan.target)])], brain_mask=True)
    predictor(trained_with).predict([case_of(tmp_path / "scans", "bare", blob())], tmp_path / "out")
    assert "bare" in (said := capsys.readouterr().err)
    assert "brain mask" in said


def test_large_label_values_are_written(tmp_path: Path) -> None:
    outputs = [Output(name="outer", values=[40000], paint=40000), Output(name="inner", values=[2], paint=2)]
    plan = make_plan(target=Target(kind="labels", outputs=outputs))
    expected = np.where(blob() == 1, 40000, blob().astype(np.int64))
    for number, results in enumerate([("label",), PROBABILITIES]):
        found = predictor(member(Perfect(LABELS), plan=plan)).predict(
            [case_of(tmp_path / "in", "c", blob())], tmp_path / str(number), results
        )
        assert found.failed == {}
        assert np.array_equal(read(found.written["c"]), expected)


def test_probabilities_are_made_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few are kept, many are not; either way they are the same."""
    case = loaded(picture_of(blob()))
    kept = predictor().predict_case(case, PROBABILITIES)
    assert kept.probabilities["outer"] is kept.probabilities["outer"]
    monkeypatch.setattr(prediction, "KEPT_PROBABILITIES", 0)
    made = predictor().predict_case(case, PROBABILITIES)
    assert made.probabilities["outer"] is not made.probabilities["outer"]
    assert list(made.probabilities) == ["outer", "inner"]
    for name, volume in made.probabilities.items():
        assert np.array_equal(volume, kept.probabilities[name])
    assert np.array_equal(made.label, kept.label)


@pytest.mark.parametrize("target", [LABELS, REGIONS])
def test_scores_in_a_file(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the whole scores are needed and don't fit, one run or two: the same label maps and probabilities."""
    case = case_of(tmp_path / "in", "c", blob())
    plan = make_plan(make_configuration(spacing=(1.5, 1.5, 1.5)), target=target)
    members = [member(plan=plan), member(plan=make_plan(target=target), name="other")]
    files: dict[int, dict[str, bytes]] = {}
    for limit in (0, 1 << 40):
        monkeypatch.setattr(stored_scores, "MEMORY_LIMIT", limit)
        for count in (1, 2):
            out = tmp_path / f"{limit}_{count}"
            assert predictor(*members[:count]).predict([case], out, PROBABILITIES).failed == {}
            found = {path.name: read(path).tobytes() for path in out.glob("*.nii.gz")}
            assert len(found) == 3
            assert files.setdefault(count, found) == found


def test_a_large_scan_is_read_when_the_one_before_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "READ_AHEAD", 0)
    events: list[str] = []
    real = Ensemble.prepare

    class Look(Perfect):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            events.append("network")
            return super().forward(image)

    def prepare(self: Ensemble, case: Case) -> object:
        events.append("read")
        return real(self, case)

    monkeypatch.setattr(Ensemble, "prepare", prepare)
    cases = [case_of(tmp_path / "in", f"c{n}", blob()) for n in range(3)]
    (tmp_path / "in" / "c1.nii.gz").write_bytes(b"no image")
    assert set(predictor(member(Look())).predict(cases, tmp_path / "out").written) == {"c0", "c2"}
    assert [event for event, before in zip(events, [None, *events], strict=False) if event != before] == [
        "read",
        "network",
        "read",
        "network",
    ]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("CUDA error: out of memory")])
def test_a_device_without_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A sentence, whether the networks or a case finds no room, in whatever words torch says so."""

    class Full(Perfect):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise error

    case = case_of(tmp_path / "in", "c", blob())
    assert predictor(member(Full())).predict([case], tmp_path / "out").failed == {
        "c": "not enough memory for case c; use --device cpu or a machine with more."
    }
    with pytest.raises(AutosegError, match=r"^cpu ran out of memory while predicting c; use a machine with more\.$"):
        predictor(member(Full())).predict_case(case)

    def load(*_: object) -> Member:
        raise error

    monkeypatch.setattr(module, "load_member", load)
    run = make_run(tmp_path)
    said = r"^cpu ran out of memory while loading the networks of .*run; try again .*, or use a machine with more\.$"
    with pytest.raises(AutosegError, match=said):
        Predictor.load(run.path, device="cpu")


def test_a_scan_larger_than_memory_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is resampled, which would end the whole command; the next ones are predicted."""
    monkeypatch.setattr(scan_size, "available_memory", lambda: 1_000_000)
    monkeypatch.setattr(scan_size, "free_swap", lambda: 0)
    cases = [case_of(tmp_path / "in", name, blob()) for name in ("a", "b", "c")]
    write(tmp_path / "in" / "b.nii.gz", picture_of(blob()), spacing=(10.0, 10.0, 10.0))
    outcome = predictor().predict(cases, tmp_path / "out")
    assert list(outcome.written) == ["a", "c"]
    assert "b takes at least 0.0134 GB of memory at the spacing of 1×1×1 mm" in outcome.failed["b"]


def test_the_time_of_a_case_is_that_until_the_device_has_computed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    score = Predictor._score
    monkeypatch.setattr(Predictor, "_score", lambda *given: happened.append("score") or score(*given))
    monkeypatch.setattr(module, "wait_for", lambda device: happened.append(f"wait for {device}"))
    assert predictor().predict([case_of(tmp_path / "in", "c", blob())], tmp_path / "out", PROBABILITIES).failed == {}
    assert happened == ["score", "wait for cpu"]


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_voxel_that_is_no_number_is_zero_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str, broken: float
) -> None:
    scan = picture_of(blob())
    scan[0, 0, 0] = broken
    case = Case(id="c", channels={"mr": ChannelFile(path=write(tmp_path / f"scan.{ending}", scan))})
    assert np.array_equal(predictor().predict_case(case).label, blob())
    assert "c: 1 voxels of " in (said := capsys.readouterr().err)
    assert f"scan.{ending} are NaN or infinite; they are read as 0." in said


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_scan_of_one_value_fails(tmp_path: Path, value: float) -> None:
    cases = [case_of(tmp_path / "in", "good", blob()), case_of(tmp_path / "in", "bad", blob())]
    write(tmp_path / "in" / "bad.nii.gz", np.full(blob().shape, value, np.float32))
    outcome = predictor().predict(cases, tmp_path / "out")
    assert set(outcome.written) == {"good"}
    assert outcome.failed["bad"].startswith("mr is " + ("constant" if value else "empty"))


def test_an_empty_channel_fails_and_an_absent_one_does_not(tmp_path: Path) -> None:
    plan = make_plan(channels=("t1", "t2"), allow_missing_channels=True)
    t1 = ChannelFile(path=write(tmp_path / "t1.nii.gz", picture_of(blob())))
    t2 = ChannelFile(path=write(tmp_path / "t2.nii.gz", np.zeros(blob().shape, np.float32)))
    with pytest.raises(AutosegError, match=r"t2 is empty .* \(a case may lack a channel\)"):
        predictor(member(plan=plan)).predict_case(Case(id="c", channels={"t1": t1, "t2": t2}))
    assert predictor(member(plan=plan)).predict_case(Case(id="c", channels={"t1": t1})).missing == ["t2"]


def test_an_empty_channel_that_the_model_insists_on_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Taking it out would be refused as well; nnU-Net predicts such a case."""
    t1 = ChannelFile(path=write(tmp_path / "t1.nii.gz", picture_of(blob())))
    t2 = ChannelFile(path=write(tmp_path / "t2.nii.gz", np.zeros(blob().shape, np.float32)))
    insisting = predictor(member(plan=make_plan(channels=("t1", "t2"))))
    found = insisting.predict_case(Case(id="c", channels={"t1": t1, "t2": t2}))
    assert np.array_equal(found.label, blob())
    assert "c: t2 is empty (all voxels are 0), and run can't do without it: predicted so." in capsys.readouterr().err
    with pytest.raises(AutosegError, match=r"t1 is empty \(all voxels are 0\)\. Replace the file\.$"):
        insisting.predict_case(Case(id="c", channels={"t1": t2, "t2": t2}))


@pytest.mark.parametrize("lacks", [False, True])
def test_a_picture_without_a_colour_is_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lacks: bool
) -> None:
    colours = np.stack([picture_of(blob()), np.zeros(blob().shape, np.float32)], -1)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "c.nrrd"))
    case = Case(
        id="c", channels={n: ChannelFile(path=tmp_path / "c.nrrd", component=i) for i, n in enumerate(("red", "blue"))}
    )
    plan = make_plan(channels=("red", "blue"), allow_missing_channels=lacks)
    assert np.array_equal(predictor(member(plan=plan)).predict_case(case).label, blob())
    assert "c: blue is empty (all voxels are 0). Fine for a colour that does not occur" in capsys.readouterr().err


def test_an_outlier_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = picture_of(blob())
    scan[0, 0, 0] = 1e30
    case = Case(id="c", channels={"mr": ChannelFile(path=write(tmp_path / "scan.nii.gz", scan))})
    predictor().predict_case(case)
    assert "c: 1 voxel(s) of mr are far from all others, as 1e+30" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../evil", "sub-01/ses-01", "", ".hidden", "a\\b", "x" * 201])
def test_a_case_that_would_be_written_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    case = case_of(tmp_path, "c", blob()).model_copy(update={"id": name})
    with pytest.raises(UsageError, match="can't name a result"):
        predictor().predict([case], tmp_path / "out" / "here")
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_the_name_of_a_label_stays_in_the_folder(tmp_path: Path) -> None:
    outputs = [Output(name="GTV/CTV", values=[1], paint=1), Output(name="/../../evil", values=[2], paint=2)]
    plan = make_plan(target=Target(kind="labels", outputs=outputs))
    predictor(member(plan=plan)).predict([case_of(tmp_path, "c", blob())], tmp_path / "out", results=PROBABILITIES)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "c.nii.gz",
        "c_probability_GTV_CTV.nii.gz",
        "c_probability__.._.._evil.nii.gz",
        "predictions.json",
    }


@pytest.mark.parametrize("large", [40000, 614454277, 2**32 - 1])
def test_large_label_values_are_painted_and_written(tmp_path: Path, large: int) -> None:
    outputs = [Output(name="outer", values=[1], paint=1), Output(name="inner", values=[large], paint=large)]
    plan = make_plan(target=Target(kind="labels", outputs=outputs))
    for results in (("label",), PROBABILITIES):
        written = predictor(member(plan=plan)).predict([case_of(tmp_path, "c", blob())], tmp_path / "out", results)
        expected = np.where(blob() == 2, large, blob().astype(np.int64))
        assert np.array_equal(read(written.written["c"]).astype(np.int64), expected)


def test_predictions_json_lists_the_results_of_all_runs_of_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out"
    predictor().predict([case_of(tmp_path, "a", blob())], out, results=PROBABILITIES)
    predictor().predict([case_of(tmp_path, "b", blob())], out)
    told = json.loads((out / "predictions.json").read_text())
    names = ["a.nii.gz", "a_probability_inner.nii.gz", "a_probability_outer.nii.gz", "b.nii.gz"]
    assert told["files"] == names
    assert [path.name for path in results_in(out)] == names


def told_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "predictions.json").read_text())


def test_exams_predicted_one_after_the_other_are_all_told_of(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("a", "b", "c"):
        predictor().predict([case_of(tmp_path, name, blob())], out)
    told = told_of(out)
    assert list(told["cases"]) == ["a", "b", "c"]
    assert [list(entry) for entry in told["cases"].values()] == [["seconds", "scans"]] * 3
    assert [exam.case for exam in volumes(out).exams] == ["a", "b", "c"]
    (out / "a.nii.gz").unlink()
    predictor().predict([case_of(tmp_path, "b", blob())], out)
    assert list(told_of(out)["cases"]) == ["b", "c"]


def test_what_was_otherwise_for_an_earlier_exam_is_told(tmp_path: Path) -> None:
    out, cases = tmp_path / "out", [case_of(tmp_path, name, blob()) for name in ("a", "b")]
    Predictor([member()], CPU, mirror=False).predict(cases[:1], out)
    for _ in range(2):
        predictor().predict(cases[1:], out)
        told = told_of(out)
        assert told["test_time_augmentation"] is True
        assert told["cases"]["a"]["made_with"] == {"test_time_augmentation": False}
        assert list(told["cases"]["b"]) == ["seconds", "scans"]
    Predictor([member()], CPU, mirror=False).predict(cases[1:], out)
    assert list(told_of(out)["cases"]["a"]) == ["seconds", "scans"]


@pytest.mark.parametrize("target", [LABELS, REGIONS])
def test_results_of_another_model_in_the_folder_are_not_told_as_its_own(
    target: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, cases = tmp_path / "out", [case_of(tmp_path, name, blob()) for name in ("a", "b")]
    plan = make_plan(target=target)
    predictor(member(Perfect(target), plan, "other" if target == LABELS else "run")).predict(cases, out)
    predictor().predict(cases[1:], out)
    assert list(told_of(out)["cases"]) == ["b"]
    assert "results of 1 other case(s), by another model" in capsys.readouterr().err
    assert [exam.case for exam in volumes(out).exams] == ["b"]
    assert f"{out}: a left out; predictions.json says nothing of them" in capsys.readouterr().err
    predictor().predict(cases, out)
    assert "another model" not in capsys.readouterr().err
    assert list(told_of(out)["cases"]) == ["b", "a"]


def test_a_killed_command_leaves_what_it_knows_of_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score, scored = Predictor._score, []

    def killed(*arguments: Any) -> Any:
        scored.append(told_of(tmp_path / "out")["cases"])
        if len(scored) == 3:
            raise KeyboardInterrupt
        return score(*arguments)

    monkeypatch.setattr(Predictor, "_score", killed)
    with pytest.raises(KeyboardInterrupt):
        predictor().predict([case_of(tmp_path, name, blob()) for name in "abc"], tmp_path / "out")
    assert [list(cases) for cases in scored] == [[], ["a"], ["a", "b"]]


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_stopped_command_claims_no_file_that_it_did_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """What is drawn in its place is no result: the same command does not replace it, nor keep it as one."""
    out, score = tmp_path / "out", Predictor._score
    cases = [case_of(tmp_path / "scans", name, blob()) for name in "abc"]
    named: list[list[str]] = []

    def stopped(*arguments: Any) -> Any:
        named.append(told_of(out)["files"])
        if len(named) == 3:
            raise KeyboardInterrupt
        return score(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "_score", stopped)
        with pytest.raises(KeyboardInterrupt):
            predictor().predict(cases, out)
    assert named == [[], ["a.nii.gz"], ["a.nii.gz", "b.nii.gz"]]
    assert told_of(out)["files"] == ["a.nii.gz", "b.nii.gz"]
    (out / "c.nii.gz").write_bytes(b"drawn by hand")
    with pytest.raises(UsageError, match=r"c\.nii\.gz lies there already and is no result of autoseg"):
        predictor().predict(cases, out, overwrite=overwrite)
    assert (out / "c.nii.gz").read_bytes() == b"drawn by hand"


def test_a_command_that_is_stopped_before_a_result_is_written_does_not_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module.ThreadPoolExecutor, "submit", stopped)
        patched.setattr(module, "ReadAhead", ReadAtOnce)
        with pytest.raises(KeyboardInterrupt):
            predictor().predict([case_of(tmp_path / "scans", "a", blob())], tmp_path / "out")
    assert told_of(tmp_path / "out")["files"] == []
    assert results_in(tmp_path / "out") == []


def test_two_predictions_at_once_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a cluster's array, a scan each: the second one begins and ends while the first is at work."""
    out, score = tmp_path / "out", Predictor._score
    first, second, other = [case_of(tmp_path, name, blob()) for name in ("a", "b", "c")]
    others = [other]

    def meanwhile(*arguments: Any) -> Any:
        if others:
            predictor().predict([others.pop()], out, results=PROBABILITIES)
        return score(*arguments)

    monkeypatch.setattr(Predictor, "_score", meanwhile)
    assert predictor().predict([first, second], out).failed == {}
    assert set(told_of(out)["cases"]) == {"a", "b", "c"}
    further = ["c_probability_inner.nii.gz", "c_probability_outer.nii.gz"]
    assert [path.name for path in results_in(out)] == ["a.nii.gz", "b.nii.gz", "c.nii.gz", *further]
    assert [exam.case for exam in volumes(out).exams] == ["a", "b", "c"]


def test_a_result_that_is_asked_for_later_is_written(tmp_path: Path) -> None:
    out, case = tmp_path / "out", case_of(tmp_path, "a", blob())
    for expected in ([], ["a"]):
        predictor().predict([case], out, results=PROBABILITIES, overwrite=False)
        assert (out / "a_probability_inner.nii.gz").exists()
        assert told_of(out)["kept_from_before"] == expected
    (out / "a_probability_inner.nii.gz").unlink()
    predictor().predict([case], out, overwrite=False)
    assert told_of(out)["kept_from_before"] == ["a"]
    assert list(told_of(out)["cases"]) == ["a"]
    predictor().predict([case], out, results=PROBABILITIES, overwrite=False)
    assert (out / "a_probability_inner.nii.gz").exists()


def test_results_of_two_cases_in_one_file_are_refused(tmp_path: Path) -> None:
    cases = [case_of(tmp_path / "in", name, blob()) for name in ("a", "a_probability_outer")]
    assert predictor().predict(cases, tmp_path / "out").failed == {}
    with pytest.raises(UsageError, match=r"a_probability_outer\.nii\.gz would be a result of a and of a_probability"):
        predictor().predict(cases, tmp_path / "out", results=PROBABILITIES)
