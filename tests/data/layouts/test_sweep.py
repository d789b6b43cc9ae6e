"""All layouts with made-up names and values: one clear sentence or a dataset, and no file but those that were there."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.networks import build
from autoseg.networks.weights import identity_of, save_weights
from autoseg.runs.run import Run
from autoseg.utils.errors import AutosegError
from tests.builders import write


def _encodable(name: str) -> bool:
    return name.isprintable() and len(name.encode(errors="ignore")) == len(name.encode(errors="replace")) < 80


#: Names as people and programs make them, with what has a meaning in patterns, TOML, JSON and markup.
NAMES = st.one_of(
    st.sampled_from(
        ["ct", "seg", "T1", "t2W", "mask", "p1", "P1_Ses2", "case.01", "label_1", "Image_01L", "1stHO", "image"]
    ),
    st.text("ab1_-. []{}*?()#'\"\\=,;é左", min_size=1, max_size=8),
    st.text(min_size=1, max_size=5),
).filter(lambda name: name not in (".", "..") and "/" not in name and "\0" not in name and _encodable(name))

VALUES = st.one_of(
    st.integers(-3, 300), st.text(max_size=4), st.floats(), st.none(), st.lists(st.integers(-1, 3), max_size=2)
)

ENDINGS = st.sampled_from([".nii.gz", ".png", ".seg.nrrd"])


def _image(path: Path, most: int, seed: int) -> None:
    shape = (5, 6) if path.suffix == ".png" else (3, 5, 6)
    array = np.random.default_rng(seed).integers(0, most + 1, shape)
    write(path, array.astype(np.uint8 if path.suffix == ".png" else np.int16))


@st.composite
def trees(draw):
    """Files of a made-up dataset: path → largest value, and description files → content."""
    cases = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    kinds = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    ending = draw(ENDINGS)
    form = draw(st.sampled_from(["folders", "flat", "kinds", "structures", "bids", "brats", "nnunet", "msd", "toml"]))
    most = {kind: draw(st.sampled_from([1, 3, 200])) for kind in kinds}
    files: dict[str, int] = {}
    texts: dict[str, str] = {}
    labels = draw(st.dictionaries(NAMES, VALUES, max_size=3))
    for number, case in enumerate(cases):
        if form == "structures":
            files[f"{case}/ct{ending}"] = 200
        if form == "bids":
            files[f"sub-{number}/anat/sub-{number}_T1w{ending}"] = 200
        for kind in kinds:
            sequence = draw(st.sampled_from(["t1", "seg", "flair"]))
            part, suffix = draw(st.sampled_from(["imagesTr", "labelsTr"])), draw(st.sampled_from(["", "_0000"]))
            where = {
                "folders": f"{case}/{kind}",
                "flat": f"{case}_{kind}",
                "kinds": f"{kind}/{case}",
                "structures": f"{case}/segmentations/{kind}",
                "bids": f"derivatives/labels/sub-{number}/anat/sub-{number}_T1w_{kind}",
                "brats": f"BraTS2021_{number:05d}/BraTS2021_{number:05d}_{sequence}",
                "nnunet": f"{part}/{case}{suffix}",
                "msd": f"imagesTr/{case}",
                "toml": f"{case}/{kind}",
            }[form]
            files[f"{where}{ending}"] = most[kind]
    if form == "nnunet":
        channels = draw(st.one_of(VALUES, st.just({"0": "CT"})))
        texts["dataset.json"] = json.dumps({"channel_names": channels, "labels": labels, "file_ending": ending})
    if form == "msd":
        image = st.one_of(VALUES, st.sampled_from(sorted(files)), st.lists(st.sampled_from(sorted(files)), max_size=2))
        entries = draw(st.lists(st.fixed_dictionaries({"image": image, "label": image}), max_size=2))
        about = {"training": entries, "labels": labels, "modality": draw(st.one_of(VALUES, st.just({"0": "CT"})))}
        kept = draw(st.sets(st.sampled_from(sorted(about))))
        texts["dataset.json"] = json.dumps({key: about[key] for key in {*kept, "training"}})
    if form == "toml":
        pattern = json.dumps(draw(st.sampled_from(kinds)) + ending, ensure_ascii=False)
        texts["autoseg.toml"] = f"[channels]\nct = {pattern}\n" + draw(
            st.sampled_from(["", "group = '('\n", "[label]\n"])
        )
    return files, texts


def _refused(result: Result, what: object) -> bool:
    """Whether a command refused its input, in a sentence."""
    if isinstance(result.exception, SystemExit | None):
        return result.exit_code != 0
    assert isinstance(result.exception, AutosegError), what
    return True


def _pretend_trained(run: Run) -> None:
    """Random weights in place of a training's, in every configuration."""
    for stage in run.plan.stages:
        network = build(stage.network, stage.in_channels, stage.heads)
        save_weights(run.fold(stage, 0).weights, network.state_dict(), identity_of(stage))


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(trees())
def test_a_sentence_or_a_result_and_no_other_file(tree):
    """``inspect`` leaves everything as it is; what it takes can be planned and predicted, into the folders named."""
    files, texts = tree
    top = Path(tempfile.mkdtemp())
    try:
        root, run, out = top / "data", top / "run", top / "out"
        root.mkdir()
        for number, (name, most) in enumerate(files.items()):
            try:
                _image(root / name, most, number)
            except (RuntimeError, OSError):
                continue  # a name that is a folder's, too, or that SimpleITK can't write
        for name, text in texts.items():
            (root / name).write_text(text, encoding="utf-8")
        before = sorted(top.rglob("*"))

        def invoke(*arguments: object) -> Result:
            return CliRunner().invoke(app, [*map(str, arguments), "--workers", "1"])

        refused = _refused(invoke("inspect", root), tree)
        assert sorted(top.rglob("*")) == before
        if refused or _refused(invoke("plan", root, "--out", run, "--device", "cuda", "--gpu-memory", 1), tree):
            assert sorted(root.rglob("*")) == [path for path in before if root in path.parents]
            assert {path.name for path in top.iterdir()} <= {"data", "run"}
            return
        _pretend_trained(Run.open(run))
        _refused(CliRunner().invoke(app, ["predict", str(run), str(root), "--out", str(out), "--device", "cpu"]), tree)
        assert sorted(root.rglob("*")) == [path for path in before if root in path.parents]
        assert {path.name for path in top.iterdir()} <= {"data", "run", "out", ".out.lock"}
    finally:
        shutil.rmtree(top)
