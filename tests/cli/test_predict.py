"""``autoseg predict``: what it takes, what it writes, exit codes."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg.cli.main import run as main
from autoseg.data.dataset import Case, ChannelFile
from autoseg.inference.predictor import Predictor
from autoseg.networks import build
from autoseg.networks.weights import save_weights
from autoseg.plans.plan import Plan
from autoseg.plans.target import Output, Target
from autoseg.report.pictures import prediction_picture
from autoseg.runs.run import Run
from autoseg.utils.errors import AutosegError
from tests.builders import LABELS, blob, make_configuration, make_plan, make_recipe, make_run, picture_of, write

WHOLE = Target(kind="labels", outputs=[Output(name="whole", values=[1, 2], paint=1)])

pytestmark = pytest.mark.usefixtures("one_core")


def trained(root: Path, **plan: object) -> Run:
    """A run with one trained fold, of random weights."""
    run = make_run(root, make_plan(**plan), cases=2)  # type: ignore[arg-type]
    torch.manual_seed(0)
    network = build(run.plan.configurations["small"].network, len(run.plan.channels), 3)
    save_weights(run.fold("small", 0).weights, network.state_dict())
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return trained(tmp_path)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        write(tmp_path / "scans" / f"{name}.nii.gz", picture_of(blob()), spacing=(0.9, 1.1, 2.0))
    return tmp_path / "scans"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["autoseg", "predict", *(str(a) for a in arguments), "--device", "cpu"])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return call


def test_folder(run: Run, scans: Path, tmp_path: Path, call) -> None:
    code, _, err = call(run.path, scans, "--out", tmp_path / "out")
    assert code == 0
    assert "3 of 3 cases" in err
    result = sitk.ReadImage(str(tmp_path / "out" / "b.nii.gz"))
    scan = sitk.ReadImage(str(scans / "b.nii.gz"))
    assert result.GetSize() == scan.GetSize()
    assert result.GetSpacing() == pytest.approx(scan.GetSpacing())
    assert set(np.unique(sitk.GetArrayFromImage(result))) <= {0, 1, 2}


def test_several_runs_and_json(run: Run, scans: Path, tmp_path: Path, call) -> None:
    other = trained(tmp_path / "other")
    code, out, _ = call(run.path, other.path, scans, "--out", tmp_path / "out", "--probabilities", "--json")
    assert code == 0
    assert json.loads(out) == {"written": {n: str(tmp_path / "out" / f"{n}.nii.gz") for n in "abc"}, "failed": {}}
    assert (tmp_path / "out" / "a_probability_inner.nii.gz").exists()
    told = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [member["run"] for member in told["runs"]] == [str(run.path), str(other.path)]


@pytest.mark.parametrize(
    ("trained_folds", "options", "said"),
    [
        ([0, 1], [], "run: folds 0, 1 of 5 are trained; their average is taken."),
        ([3], [], "run: fold 3 of 5 is trained; it predicts alone."),
        ([3], ["--fold", "all"], "fold 3 of 5 is trained"),
        ([0, 1, 2, 3, 4], [], None),
        ([0, 1], ["--folds", "0,1"], None),
    ],
)
def test_folds_that_are_not_trained_are_said(
    tmp_path: Path, scans: Path, call, trained_folds: list[int], options: list[str], said: str | None
) -> None:
    run = make_run(tmp_path, make_plan(), cases=5, folds=5)
    weights = build(run.plan.configurations["small"].network, 1, 3).state_dict()
    for number in trained_folds:
        save_weights(run.fold("small", number).weights, weights)
    code, _, err = call(run.path, scans / "a.nii.gz", "--out", tmp_path / "out", "--no-tta", *options)
    assert code == 0, err
    assert said in err if said else "trained" not in err


@pytest.mark.parametrize("why", ["the source is kept", "imported", "no splits"])
def test_of_no_own_splits_nothing_is_said(
    run: Run, scans: Path, tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "the source is kept":
        monkeypatch.setattr(Run, "kept_source", lambda run, stage: [run.fold(stage, 0).weights])
    elif why == "imported":
        Run.create(run.path, run.plan, run.fingerprint, run.dataset.model_copy(update={"cases": ()}), run.splits)
    else:
        (run.path / "splits.json").unlink()
    code, _, err = call(run.path, scans / "a.nii.gz", "--out", tmp_path / "out", "--no-tta")
    assert code == 0, err
    assert "trained" not in err


def test_single_scan(run: Run, scans: Path, tmp_path: Path, call) -> None:
    out = tmp_path / "out"
    assert call(run.path, "--channel", f"mr={scans / 'a.nii.gz'}", "--name", "me", "--out", out, "--no-tta")[0] == 0
    assert (out / "me.nii.gz").exists()
    assert json.loads((out / "predictions.json").read_text())["test_time_augmentation"] is False
    assert call(run.path, scans / "b.nii.gz", "--out", out)[0] == 0
    assert (out / "b.nii.gz").exists()


def test_single_scan_by_runs_of_other_channels(run: Run, scans: Path, tmp_path: Path, call) -> None:
    other = trained(tmp_path / "other", channels=("t1", "t2"))
    given = [part for name in ("mr", "t1", "t2") for part in ("--channel", f"{name}={scans / 'a.nii.gz'}")]
    code, _, err = call(run.path, other.path, *given, "--name", "me", "--out", tmp_path / "out", "--no-tta")
    assert code == 0, err
    assert (tmp_path / "out" / "me.nii.gz").exists()


def test_a_folder_by_runs_of_other_channels(tmp_path: Path, call) -> None:
    runs = [trained(tmp_path / name, channels=("t1", name)).path for name in ("t2", "flair")]
    for name in "ab":
        for number in range(3):
            write(tmp_path / "numbered" / f"{name}_000{number}.nii.gz", picture_of(blob()))
    code, out, err = call(*runs, tmp_path / "numbered", "--out", tmp_path / "out", "--no-tta", "--json")
    assert code == 0, err
    assert set(json.loads(out)["written"]) == {"a", "b"}


def test_results_by_name(run: Run, scans: Path, tmp_path: Path, call) -> None:
    code, _, err = call(run.path, scans, "--out", tmp_path / "out", "--no-tta", "--results", "probabilities")
    assert code == 0, err
    assert (tmp_path / "out" / "a_probability_inner.nii.gz").exists()
    code, _, err = call(run.path, scans, "--out", tmp_path / "out2", "--results", "label", "--results", "feelings")
    assert code == 2
    assert "--results feelings" in err
    assert "choose one of label, probabilities, raters, disagreement" in err


def test_a_picture_that_fails_is_told_at_the_end(
    run: Run, scans: Path, tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(case: Case, prediction: Path, plan: Plan, target: Target, out: Path) -> None:
        if case.id == "a":
            raise AutosegError("the pen is empty.")
        out.parent.mkdir(exist_ok=True)
        out.touch()

    monkeypatch.setattr("autoseg.report.pictures.prediction_picture", draw)
    code, _, err = call(run.path, scans, "--out", tmp_path / "out", "--pictures", "--no-tta")
    assert code == 1
    assert "3 of 3 cases" in err
    assert "no picture: a: the pen is empty." in err
    assert sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir()) == ["b.png", "c.png"]


def test_a_picture_names_what_the_chosen_stage_segments(tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier stage may segment other structures than the plan's last one."""
    first = make_configuration(target=WHOLE)
    last = make_configuration(previous={"configuration": "first", "use": "channels"})
    run = make_run(tmp_path, make_plan(configurations={"first": first, "last": last}, recommended="last"), cases=2)
    save_weights(run.fold("first", 0).weights, build(first.network, 1, 2).state_dict())
    scan = write(tmp_path / "scan.nii.gz", picture_of(blob()))
    named: list[list[str]] = []
    monkeypatch.setattr("autoseg.report.pictures.overlay_png", lambda *given, **_: named.append(list(given[4])))
    code, _, err = call(run.path, scan, "--out", tmp_path / "out", "--config", "first", "--pictures", "--no-tta")
    assert code == 0, err
    assert named == [["whole"]]


def test_a_picture_needs_a_channel(tmp_path: Path) -> None:
    result = write(tmp_path / "r.nii.gz", blob())
    scan = ChannelFile(path=write(tmp_path / "s.nii.gz", picture_of(blob())))
    elsewhere = Case(id="x", channels={"of another run": scan})
    prediction_picture(elsewhere, result, make_plan(), LABELS, tmp_path / "x.png")
    assert (tmp_path / "x.png").exists()
    with pytest.raises(AutosegError, match="case y has no image of any channel"):
        prediction_picture(Case(id="y", channels={}), result, make_plan(), LABELS, tmp_path / "y.png")


def test_bad_case(run: Run, scans: Path, tmp_path: Path, call) -> None:
    (scans / "b.nii.gz").write_bytes(b"not an image")
    code, out, err = call(run.path, scans, "--out", tmp_path / "out", "--json")
    assert code == 1
    found = json.loads(out)
    assert set(found["written"]) == {"a", "c"}
    assert set(found["failed"]) == {"b"}
    assert str(scans / "b.nii.gz") in found["failed"]["b"]
    assert "Traceback" not in err


def test_missing_channels(tmp_path: Path, call) -> None:
    write(tmp_path / "scans" / "x_0000.nii.gz", picture_of(blob()))
    write(tmp_path / "scans" / "y_0000.nii.gz", picture_of(blob()))
    write(tmp_path / "scans" / "y_0001.nii.gz", picture_of(blob()))
    strict = trained(tmp_path / "strict", channels=("t1", "t2"))
    code, out, _ = call(strict.path, tmp_path / "scans", "--out", tmp_path / "out", "--json")
    assert code == 1
    assert "the channel t2 is missing" in json.loads(out)["failed"]["x"]
    assert set(json.loads(out)["written"]) == {"y"}
    lenient = trained(tmp_path / "lenient", channels=("t1", "t2"), allow_missing_channels=True)
    code, out, _ = call(lenient.path, tmp_path / "scans", "--out", tmp_path / "out2", "--json")
    assert code == 0
    told = json.loads((tmp_path / "out2" / "predictions.json").read_text())
    assert told["cases"]["x"]["missing_channels"] == ["t2"]


def test_a_run_trained_for_missing_channels(tmp_path: Path, call) -> None:
    """Also as a single scan, and together with another run: what the scan lacked is said and recorded."""
    scan = write(tmp_path / "x.nii.gz", picture_of(blob()))
    dropping = make_configuration(recipe=make_recipe(channel_dropout=0.2))
    run = trained(tmp_path / "run", configuration=dropping, channels=("t1", "t2"))
    other = trained(tmp_path / "other", configuration=dropping, channels=("t1", "flair"))
    for number, runs in enumerate(([run.path], [run.path, other.path])):
        out = tmp_path / f"out{number}"
        code, _, err = call(*runs, "--channel", f"t1={scan}", "--out", out, "--no-tta")
        assert code == 0, err
        lacked = ["t2", "flair"][: number + 1]
        assert f"x: predicted without {', '.join(lacked)}." in err
        assert json.loads((out / "predictions.json").read_text())["cases"]["x"]["missing_channels"] == lacked
    for options in (["--no-overwrite"], ["--no-overwrite", "--name", "y"]):  # kept, and beside another exam
        assert call(run.path, "--channel", f"t1={scan}", "--out", tmp_path / "out0", "--no-tta", *options)[0] == 0
        told = json.loads((tmp_path / "out0" / "predictions.json").read_text())["cases"]
        assert told["x"]["missing_channels"] == ["t2"]
    strict = trained(tmp_path / "strict", channels=("t1", "t2"))
    code, _, err = call(run.path, strict.path, "--channel", f"t1={scan}", "--out", tmp_path / "no")
    assert code == 2
    assert "--channel t2=PATH is missing" in err


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["RUN"], 2, "give a run folder and what to predict"),
        (["RUN", "SCANS", "--checkpoint", "worst"], 2, "--checkpoint worst is unknown"),
        (["RUN", "SCANS", "--checkpoint", "best"], 2, "has no best.safetensors"),
        (["RUN", "SCANS", "--name", "x"], 2, "--name goes with --channel"),
        (["RUN", "--channel", "ct=x.nii.gz"], 2, "the plan's channels are mr"),
        (["RUN", "--channel", "mr"], 2, "not of the form NAME=PATH"),
        (["RUN", "--channel", "mr=/nowhere.nii.gz"], 1, "/nowhere.nii.gz does not exist"),
        (["RUN", "SCANS", "--folds", "4"], 2, "Error: fold 4 of small is not trained"),
        (["RUN", "SCANS", "--fold", "x"], 2, "--fold x is no fold"),
        (["RUN", "--channel", "mr=x.nii.gz", "--layout", "nnunet"], 2, "--layout is about INPUT, which --channel"),
        (["RUN", "--channel", "mr=x.nii.gz", "--all"], 2, "--all is about INPUT"),
        (["RUN", "--channel", "mr=x.nii.gz", "--raw"], 2, "--raw is about INPUT"),
        (["RUN", "--channel", "mr=x.nii.gz", "--prepared"], 2, "--prepared is about INPUT"),
        (["RUN", "/nowhere"], 1, "/nowhere does not exist"),
        (["SCANS", "SCANS"], 1, "is no run folder"),
        (["RUN", "SCANS", "--config", "huge"], 2, "--config huge is not in the plan"),
        (["RUN", "SCANS", "--layout", "cubist"], 2, "--layout cubist is unknown"),
    ],
)
def test_wrong_usage(run: Run, scans: Path, tmp_path: Path, call, options: list[str], code: int, sentence: str) -> None:
    places = {"RUN": run.path, "SCANS": scans}
    found, out, err = call(*(places.get(option, option) for option in options), "--out", tmp_path / "out")
    assert found == code
    assert out == ""
    assert err.startswith("Error: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_out_is_needed(run: Run, scans: Path, call) -> None:
    code, _, err = call(run.path, scans)
    assert code == 2
    assert "--out" in err


def test_the_same_command_again_where_results_lie_beside_the_scans(run: Run, tmp_path: Path, call) -> None:
    """Of scans named as by nnU-Net, results have other names; they are no scans the second time."""
    scans = tmp_path / "scans"
    for name in ("p", "q"):
        write(scans / f"{name}_0000.nii.gz", picture_of(blob()))
    for _ in range(3):
        code, out, err = call(run.path, scans, "--out", scans, "--no-tta", "--json")
        assert code == 0, err
        assert set(json.loads(out)["written"]) == {"p", "q"}
    names = {"p.nii.gz", "q.nii.gz", "p_0000.nii.gz", "q_0000.nii.gz", "predictions.json"}
    assert {path.name for path in scans.iterdir()} == names


def test_a_killed_command_goes_on_where_results_lie_beside_the_scans(
    run: Run, tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had written is no scan the next time, though it never came to its end."""
    scans = tmp_path / "scans"
    for name in ("p", "q"):
        write(scans / f"{name}_0000.nii.gz", picture_of(blob()))
    score, scored = Predictor._score, []

    def killed(*arguments: Any) -> Any:
        scored.append(arguments)
        if len(scored) == 2:
            raise KeyboardInterrupt
        return score(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "_score", killed)
        assert call(run.path, scans, "--out", scans, "--no-tta")[0] != 0
    first, before = (scans / "p.nii.gz").read_bytes(), json.loads((scans / "predictions.json").read_text())
    assert list(before["cases"]) == ["p"]
    assert not (scans / "q.nii.gz").exists()
    code, out, err = call(run.path, scans, "--out", scans, "--no-tta", "--no-overwrite", "--json")
    assert code == 0, err
    assert set(json.loads(out)["written"]) == {"p", "q"}
    told = json.loads((scans / "predictions.json").read_text())
    assert (told["kept_from_before"], list(told["cases"])) == (["p"], ["p", "q"])
    assert told["files"] == ["p.nii.gz", "q.nii.gz"]
    assert told["cases"]["p"] == before["cases"]["p"]
    assert (scans / "p.nii.gz").read_bytes() == first


def test_a_picture_never_takes_the_place_of_a_scan(run: Run, tmp_path: Path, call) -> None:
    scan = write(tmp_path / "pictures" / "a.png", np.arange(64, dtype=np.uint8).reshape(8, 8))
    before = scan.read_bytes()
    code, _, err = call(run.path, scan, "--out", tmp_path, "--pictures")
    assert code == 2
    assert f"the picture would overwrite {scan}" in err
    assert scan.read_bytes() == before


def test_a_name_that_leads_elsewhere(run: Run, scans: Path, tmp_path: Path, call) -> None:
    scan = f"mr={scans / 'a.nii.gz'}"
    code, _, err = call(run.path, "--channel", scan, "--name", "../evil", "--out", tmp_path / "out")
    assert code == 2
    assert "--name '../evil' can't name a result" in err
    assert not (tmp_path / "evil.nii.gz").exists()
