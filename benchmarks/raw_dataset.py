"""A dataset of any layout in nnU-Net's raw form, which both tools read.

    python benchmarks/raw_dataset.py DATASET OUT [--every 5] [--crop]

Writes OUT/imagesTr, labelsTr, dataset.json, and every fifth case (``--every``; 0: none) as imagesTs, labelsTs. Label
values become 1, 2, 3, …, as nnU-Net wants them. ``--crop`` cuts to the box of the voxels that are not zero, for
a smaller archive.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from autoseg.data.dataset import Case, ChannelFile, Dataset

ENDING = ".nii.gz"


def write_raw(dataset: Dataset, root: Path, every: int = 5, crop: bool = False) -> None:
    """Write a dataset; cases that lack a channel or a label are left out."""
    values = sorted({value for value in dataset.labels.values() if value != 0})
    number = {value: place for place, value in enumerate(values, 1)}
    whole = [case for case in dataset.cases if set(case.channels) == set(dataset.channels) and case.label]
    if not whole:
        raise SystemExit(f"{dataset.root} has no labelled case with all channels.")
    for kind in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    kinds = ["Ts" if every and place % every == every - 1 else "Tr" for place in range(len(whole))]
    for case, kind in zip(whole, kinds, strict=True):
        _write_case(case, dataset.channels, number, root, kind, crop)
    channels = {str(place): dataset.modalities.get(name, name) for place, name in enumerate(dataset.channels)}
    description = {"channel_names": channels, "numTraining": kinds.count("Tr"), "file_ending": ENDING}
    (root / "dataset.json").write_text(json.dumps({**description, **_labels(dataset, number)}, indent=1))


def _labels(dataset: Dataset, number: dict[int, int]) -> dict[str, object]:
    """The label table; of regions, the largest first, each painted with a value that no later one has."""
    if not dataset.regions:
        return {"labels": {"background": 0, **{name: number[v] for name, v in dataset.labels.items() if v in number}}}
    regions = sorted(dataset.regions.items(), key=lambda item: -len(item[1]))
    order = []
    for place, (_, values) in enumerate(regions):
        later = {value for _, others in regions[place + 1 :] for value in others}
        order.append(number[min(set(values) - later or set(values))])
    table = {name: sorted(number[value] for value in values) for name, values in regions}
    return {"labels": {"background": 0, **table}, "regions_class_order": order}


def _write_case(
    case: Case, channels: tuple[str, ...], number: dict[int, int], root: Path, kind: str, crop: bool
) -> None:
    assert case.label is not None
    names = [f"{case.id}_{place:04d}{ENDING}" for place in range(len(channels))]
    files = [case.channels[name] for name in channels]
    plain = not crop and all(file.component is None and file.path.name.endswith(ENDING) for file in files)
    label = sitk.ReadImage(str(case.label))
    box: tuple[slice, ...] = (slice(None),) * 3
    if plain:
        for file, name in zip(files, names, strict=True):
            shutil.copy(file.path, root / f"images{kind}" / name)
    else:
        images = [_read(file) for file in files]
        if crop:
            box = _box(images)
        for image, name in zip(images, names, strict=True):
            sitk.WriteImage(image[box], str(root / f"images{kind}" / name), useCompression=True)
    array = sitk.GetArrayFromImage(label)
    mapped = np.zeros(array.shape, np.uint8)
    for value, place in number.items():
        mapped[array == value] = place
    out = sitk.GetImageFromArray(mapped)
    out.CopyInformation(label)
    sitk.WriteImage(out[box], str(root / f"labels{kind}" / f"{case.id}{ENDING}"), useCompression=True)


def _read(file: ChannelFile) -> sitk.Image:
    image = sitk.ReadImage(str(file.path))
    return image[..., file.component or 0] if image.GetDimension() == 4 else image


def _box(images: list[sitk.Image]) -> tuple[slice, ...]:
    """Slices x, y, z around the voxels that are not zero in some channel."""
    places = np.argwhere(np.any([sitk.GetArrayViewFromImage(image) != 0 for image in images], axis=0))
    return tuple(
        slice(int(low), int(high) + 1) for low, high in zip(places.min(0)[::-1], places.max(0)[::-1], strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--crop", action="store_true")
    options = parser.parse_args()
    write_raw(Dataset.open(options.dataset), options.out, options.every, options.crop)


if __name__ == "__main__":
    main()
