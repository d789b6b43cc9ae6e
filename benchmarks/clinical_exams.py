"""The preparation of clinical exams, measured on real ones.

    python benchmarks/clinical_exams.py CLINICAL OUT [--parts exams mask residual sphere labels recovery] [--trials 40]
        [--seconds 150]

CLINICAL holds ``TCGA-FG-6692/raw`` (T1, T1c, T2, FLAIR as acquired), ``TCGA-FG-6692/brats_toolkit`` (the same exam
after the BraTS Toolkit, five raters' labels, a brain mask) and ``dicom`` (an exam of four series on one grid). OUT gets
``clinical_exams.json``, to which every call adds, and ``clinical_exams.md``.

- exams: both exams through ``autoseg prepare``: time, how far series are moved, normalized mutual information (NMI).
- mask: Dice of the atlas's brain mask with the given one.
- residual: the toolkit's T1c is aligned to the raw T1c; NMI of T1c with each sequence inside the toolkit's brain
  before, with ours and with theirs, all on the toolkit's grid; the rigid motion left between ours and theirs.
- sphere: spheres of 20 mm drawn in the output space, brought to each native grid, against the sphere sampled there.
- labels: each rater's labels brought to the raw T1c, from there through ``prepare`` and back: volumes.
- recovery: each trial moves a sequence by up to 15 mm and 15 degrees; the target registration error is the mean
  distance over the brain's points between the alignment found and that of the sequence where it lay.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from machine import describe

from autoseg.clinical.cohort import PreparationRequest, prepare_exams
from autoseg.clinical.exam_preparation import AROUND_BRAIN, doubts_of
from autoseg.clinical.registration import (
    Alignment,
    align_rigidly,
    distance,
    nmi_of,
    points_of,
    refine,
)
from autoseg.clinical.transforms import PreparedCase, SpatialGrid, inverse_of, resample_labels, to_native, transform_of

STILL = sitk.Transform(3, sitk.sitkIdentity)
SEQUENCES = ("t1", "t2", "flair")
#: Motions of a trial, at most, mm and degrees.
MOTION, TURN = 15.0, 15.0


def image(path: Path) -> sitk.Image:
    return sitk.ReadImage(str(path), sitk.sitkFloat32)


def exams(data: Path, out: Path) -> dict:
    found = {}
    for name, folder in (("TCGA-FG-6692", "TCGA-FG-6692/raw"), ("dicom", "dicom")):
        started = time.monotonic()
        outcome = prepare_exams(data / folder, out / name, PreparationRequest(workers=1))
        seconds = time.monotonic() - started
        (case,) = outcome.prepared
        stored = PreparedCase.read(outcome.prepared[case])
        found[name] = {
            "seconds": round(seconds),
            "reference": stored.series[stored.reference].channel,
            "channels": {s.channel: s.measure for s in stored.series.values()},
            "flags": list(stored.flags),
        }
    return found


def stored_of(out: Path) -> tuple[PreparedCase, Path]:
    folder = next(path.parent for path in (out / "TCGA-FG-6692").glob("*/transforms.json"))
    return PreparedCase.read(folder), folder


def mask(data: Path, out: Path) -> dict:
    stored, folder = stored_of(out)
    native = to_native(sitk.ReadImage(str(folder / "brain_mask.nii.gz")), stored, "t1c")
    theirs = sitk.GetArrayFromImage(image(data / "TCGA-FG-6692/brats_toolkit/t1c_brain_mask.nii.gz")) > 0
    return {"dice": round(dice(sitk.GetArrayFromImage(native) > 0, theirs), 4)}


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def fitted(
    fixed: sitk.Image, mask: sitk.Image, moving: sitk.Image, start: sitk.Transform, correlation: bool
) -> sitk.Transform:
    """A rigid fit of images that are close already, at 2 mm and 1 mm."""
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    if correlation:
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMattesMutualInformation(40)
    method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.06, 7)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 0.005, 200, 0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([3, 1.5, 0.7])
    transform = sitk.Euler3DTransform(start)
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    return transform


def to_raw(data: Path) -> tuple[dict[str, sitk.Image], sitk.Transform, sitk.Image]:
    """The toolkit's images, the transform of a point of their space to the raw T1c's, and their brain."""
    folder = data / "TCGA-FG-6692"
    theirs = {
        name: sitk.Clamp(image(folder / f"brats_toolkit/{name}.nii.gz"), sitk.sitkFloat32, 0, 1e9)
        for name in ("t1c", *SEQUENCES)
    }
    brain = sitk.Cast(theirs["t1c"] > 0, sitk.sitkUInt8)
    raw = image(folder / "raw/t1c.nii.gz")
    mask = sitk.ReadImage(str(folder / "brats_toolkit/t1c_brain_mask.nii.gz"), sitk.sitkUInt8)
    moments = sitk.CenteredTransformInitializerFilter.MOMENTS
    start = sitk.CenteredTransformInitializer(theirs["t1c"], sitk.Mask(raw, mask), sitk.Euler3DTransform(), moments)
    return theirs, fitted(theirs["t1c"], brain, sitk.Mask(raw, mask), sitk.Euler3DTransform(start), False), brain


def chain(*transforms: sitk.Transform) -> sitk.Transform:
    """The first is applied first."""
    found = sitk.CompositeTransform(3)
    for transform in reversed(transforms):
        found.AddTransform(transform)
    return found


def residual(data: Path, out: Path) -> dict:
    stored, _ = stored_of(out)
    theirs, to_t1c, brain = to_raw(data)
    inside = sitk.GetArrayFromImage(brain) > 0
    raw = {name: image(data / f"TCGA-FG-6692/raw/{name}.nii.gz") for name in theirs}
    reference = sitk.GetArrayFromImage(sitk.Resample(raw["t1c"], brain, to_t1c, sitk.sitkLinear, 0.0, sitk.sitkFloat32))

    def nmi(name: str, transform: sitk.Transform) -> float:
        array = sitk.GetArrayFromImage(sitk.Resample(raw[name], brain, transform, sitk.sitkLinear, 0.0))
        return round(nmi_of(reference[inside], array[inside]), 4)

    found = {}
    centre = points_of(brain).mean(axis=0).tolist()
    for name in SEQUENCES:
        ours = chain(to_t1c, transform_of(inverse_of(stored.find(name).to_output)))
        picture = sitk.Resample(raw[name], brain, ours, sitk.sitkBSpline, 0.0)
        start = sitk.Euler3DTransform()
        start.SetCenter(centre)
        left = fitted(theirs[name], sitk.Cast(theirs[name] > 0, sitk.sitkUInt8), picture, start, True)
        matrix = np.asarray(sitk.Euler3DTransform(left).GetMatrix()).reshape(3, 3)
        found[name] = {
            "nmi_before": nmi(name, to_t1c),
            "nmi_ours": nmi(name, ours),
            "nmi_their_motion": nmi(name, chain(left, ours)),
            "nmi_their_images": round(nmi_of(*(sitk.GetArrayFromImage(theirs[n])[inside] for n in ("t1c", name))), 4),
            "translation_mm": round(float(np.linalg.norm(np.subtract(left.TransformPoint(centre), centre))), 2),
            "rotation_degrees": round(float(np.degrees(np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1)))), 2),
            "mean_displacement_mm": round(distance(left, STILL, points_of(brain)), 2),
        }
    return found


def sphere(data: Path, out: Path) -> dict:
    found = {}
    generator = np.random.default_rng(0)
    for name in ("TCGA-FG-6692", "dicom"):
        folder = next(path.parent for path in (out / name).glob("*/transforms.json"))
        stored = PreparedCase.read(folder)
        brain = sitk.ReadImage(str(folder / "brain_mask.nii.gz"))
        deep = sitk.BinaryErode(brain, [12, 12, 12])
        centres = generator.permutation(points_of(deep))[:10]
        grid = coordinates(stored.output)
        for series in stored.series.values():
            native = coordinates(series.grid)
            moved = np.asarray(series.to_output).reshape(4, 4)
            native = native @ moved[:3, :3].T + moved[:3, 3]
            values = []
            for centre in centres:
                drawn = sitk.GetImageFromArray((np.linalg.norm(grid - centre, axis=-1) <= 10).astype(np.uint8))
                drawn.CopyInformation(stored.output.empty())
                back = sitk.GetArrayFromImage(to_native(drawn, stored, series.channel or "")) > 0
                values.append(dice(back, np.linalg.norm(native - centre, axis=-1) <= 10))
            key = f"{name} {series.channel}, {series.grid.spacing[2]:.1f} mm"
            found[key] = {"mean": round(float(np.mean(values)), 4), "least": round(float(np.min(values)), 4)}
    return found


def coordinates(grid: SpatialGrid) -> np.ndarray:
    """Positions of all voxels ``(z, y, x, 3)``, mm."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in reversed(grid.size)), indexing="ij")[::-1], -1)
    axes = np.asarray(grid.direction).reshape(3, 3) * np.asarray(grid.spacing)
    return index @ axes.T + np.asarray(grid.origin)


def labels(data: Path, out: Path) -> dict:
    stored, _ = stored_of(out)
    _, to_t1c, _ = to_raw(data)
    inverse = to_t1c.GetInverse()
    series = stored.find("t1c")
    found = {}
    for path in sorted((data / "TCGA-FG-6692/brats_toolkit/raters").glob("*.nii.gz")):
        drawn = resample_labels(sitk.ReadImage(str(path), sitk.sitkUInt8), series.grid, inverse)
        prepared = resample_labels(drawn, stored.output, transform_of(inverse_of(series.to_output)))
        back = to_native(prepared, stored, "t1c")
        found[path.name.split(".")[0]] = {
            str(value): {
                "native_ml": millilitres(drawn, value),
                "prepared_ml": millilitres(prepared, value),
                "back_ml": millilitres(back, value),
            }
            for value in (1, 2, 4)
            if (sitk.GetArrayViewFromImage(drawn) == value).any()
        }
    return found


def millilitres(label: sitk.Image, value: int) -> float:
    return round(float((sitk.GetArrayViewFromImage(label) == value).sum() * np.prod(label.GetSpacing()) / 1000), 3)


def moved(original: sitk.Image, motion: sitk.Euler3DTransform) -> sitk.Image:
    """The same voxels, elsewhere in space."""
    copy = sitk.Image(original)
    turn = np.asarray(motion.GetMatrix()).reshape(3, 3)
    copy.SetOrigin(motion.TransformPoint(original.GetOrigin()))
    copy.SetDirection((turn @ np.asarray(original.GetDirection()).reshape(3, 3)).ravel().tolist())
    return copy


def recovery(data: Path, out: Path, trials: int, seconds: float, done: dict) -> dict:
    stored, folder = stored_of(out)
    reference = image(data / "TCGA-FG-6692/raw/t1c.nii.gz")
    native = to_native(sitk.ReadImage(str(folder / "brain_mask.nii.gz")), stored, "t1c")
    region = sitk.BinaryDilate(native, [round(AROUND_BRAIN / mm) for mm in native.GetSpacing()])
    points = points_of(native)
    deadline = time.monotonic() + seconds
    for trial in range(trials):
        if str(trial) in done or time.monotonic() > deadline:
            continue
        generator = np.random.default_rng(trial)
        name = SEQUENCES[trial % len(SEQUENCES)]
        original = image(data / f"TCGA-FG-6692/raw/{name}.nii.gz")
        motion = sitk.Euler3DTransform()
        motion.SetCenter(points.mean(axis=0).tolist())
        motion.SetRotation(*np.radians(generator.uniform(-TURN, TURN, 3)).tolist())
        motion.SetTranslation(generator.uniform(-MOTION, MOTION, 3).tolist())
        shifted = moved(original, motion)
        found: Alignment = refine(reference, shifted, align_rigidly(reference, shifted), region)
        unperturbed = transform_of(inverse_of(stored.find(name).to_output))
        error = distance(chain(found.transform, motion.GetInverse()), unperturbed, points)
        done[str(trial)] = {
            "sequence": name,
            "moved_mm": round(distance(motion, STILL, points), 1),
            "error_mm": round(error, 3),
            "flags": doubts_of({name: found}),
        }
        print(trial, done[str(trial)], flush=True)
    return done


def page(found: dict) -> str:
    versions = f"{describe()}, SimpleITK {sitk.Version_VersionString()}"
    lines = [
        "# Clinical exams",
        "",
        "Written by `benchmarks/clinical_exams.py`, which says what is measured.",
        "",
        versions,
        "",
    ]
    for name, exam in found.get("exams", {}).items():
        lines += [f"## {name}: {exam['seconds']} s on one thread, reference {exam['reference']}", ""]
        lines += ["| channel | moved, mm | NMI before | after |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {channel} | {m['moved']} | {m['before']} | {m['after']} |"
            for channel, m in exam["channels"].items()
            if m
        ]
        lines += ["", *(f"Flag: {flag}." for flag in exam["flags"]), ""]
    if "mask" in found:
        lines += [f"Brain mask of the atlas against the given one: Dice {found['mask']['dice']}.", ""]
    if "residual" in found:
        heads = list(next(iter(found["residual"].values())))
        lines += [
            "## Against the BraTS Toolkit",
            "",
            "| sequence | " + " | ".join(h.replace("_", " ") for h in heads) + " |",
        ]
        lines += ["| --- " * (len(heads) + 1) + "|"]
        lines += [
            f"| {name} | " + " | ".join(str(row[h]) for h in heads) + " |" for name, row in found["residual"].items()
        ]
        lines += [""]
    if "sphere" in found:
        lines += [
            "## Spheres of 20 mm, output space to native grid: Dice",
            "",
            "| series | mean | least |",
            "| --- | --- | --- |",
        ]
        lines += [f"| {name} | {row['mean']} | {row['least']} |" for name, row in found["sphere"].items()] + [""]
    if "labels" in found:
        lines += ["## Raters' labels on the raw T1c, through the preparation and back, ml", ""]
        lines += [
            "| rater | label | native | prepared | back | prepared to native, % | back to native, % |",
            "| --- " * 7 + "|",
        ]
        for rater, values in found["labels"].items():
            for value, v in values.items():
                change = [100 * (v[key] / v["native_ml"] - 1) for key in ("prepared_ml", "back_ml")]
                figures = [v["native_ml"], v["prepared_ml"], v["back_ml"], f"{change[0]:+.1f}", f"{change[1]:+.1f}"]
                lines.append(f"| {rater} | {value} | " + " | ".join(map(str, figures)) + " |")
        lines += [""]
    if rows := found.get("recovery"):
        errors = np.array([row["error_mm"] for row in rows.values()])
        missed = [row for row in rows.values() if row["error_mm"] >= 1]
        flagged = sum(1 for row in missed if row["flags"])
        false = sum(1 for row in rows.values() if row["flags"] and row["error_mm"] < 1)
        lines += [
            f"## Recovery of known motions: {len(rows)} trials", "",
            f"Error under 1 mm in {100 * np.mean(errors < 1):.1f} % (median {np.median(errors):.2f} mm, largest "
            f"{errors.max():.2f} mm). Of {len(missed)} others {flagged} are flagged; {false} of the good ones are "
            "flagged, too.", "",
        ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parts = {"exams": exams, "mask": mask, "residual": residual, "sphere": sphere, "labels": labels}
    parser.add_argument("--parts", nargs="+", choices=[*parts, "recovery"], default=[*parts, "recovery"])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for the trials; a later call goes on")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "clinical_exams.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    for part in given.parts:
        if part == "recovery":
            found[part] = recovery(given.data, given.out, given.trials, given.seconds, found.get(part, {}))
        else:
            found[part] = parts[part](given.data, given.out)
        file.write_text(json.dumps(found, indent=1) + "\n")
        (given.out / "clinical_exams.md").write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
