"""What to predict: a dataset in any layout, a folder of images, or single files."""

import re
from pathlib import Path

from autoseg.dataset import Case, ChannelFile, Dataset
from autoseg.errors import AutosegError, UsageError
from autoseg.plan import Plan

#: Endings looked for in a folder of bare images.
IMAGE_ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".png", ".tif", ".tiff", ".bmp", ".jpg")


def cases_to_predict(path: str | Path, plan: Plan, layout: str | None = None, everything: bool = False) -> list[Case]:
    """The cases in a folder.

    A dataset gives its unlabelled cases where it has any (its test set), else all. A folder of bare images gives one
    case an image for a plan with one channel, else groups ``CASE_0000``, ``CASE_0001``, … in the plan's order.

    Args:
        path: dataset, or folder of images, or one image file.
        plan: says which channels.
        layout: of the dataset, to skip the recognition.
        everything: labelled cases too.

    Raises:
        AutosegError: nothing there that can be predicted.
    """
    path = Path(path)
    if not path.exists():
        raise AutosegError(f"{path} does not exist.")
    if path.is_file() and path.name.endswith(IMAGE_ENDINGS):
        return [single_case({plan.channel_names[0]: path}, plan)]
    try:
        dataset = Dataset.open(path, layout)
    except AutosegError:
        if layout is not None or not path.is_dir():
            raise
        return _bare_images(path, plan)
    if everything:
        return [*dataset.cases, *dataset.unlabelled]
    return list(dataset.unlabelled or dataset.cases)


def single_case(files: dict[str, Path], plan: Plan, name: str | None = None) -> Case:
    """One case of files named by channel (``--channel t1c=PATH``).

    Raises:
        UsageError: a channel that the plan does not have, or a needed one not given.
        AutosegError: a file does not exist.
    """
    for channel, path in files.items():
        if channel not in plan.channel_names:
            raise UsageError(f"--channel {channel}: the plan's channels are {', '.join(plan.channel_names)}.")
        if not path.exists():
            raise AutosegError(f"{path} does not exist.")
    lacking = [channel for channel in plan.channel_names if channel not in files]
    if lacking and not plan.allow_missing_channels:
        raise UsageError(f"--channel {lacking[0]}=PATH is missing; the plan needs {', '.join(plan.channel_names)}.")
    first = next(iter(files.values()))
    return Case(id=name or _stem(first), channels={c: ChannelFile(path=p) for c, p in files.items()})


def _bare_images(folder: Path, plan: Plan) -> list[Case]:
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(IMAGE_ENDINGS))
    if not files:
        raise AutosegError(f"{folder} holds no dataset and no images that autoseg can read.")
    numbered: dict[str, dict[str, ChannelFile]] = {}
    for path in files:
        match = re.fullmatch(r"(.+)_(\d{4})", _stem(path))
        if match and int(match[2]) < len(plan.channels):
            numbered.setdefault(match[1], {})[plan.channel_names[int(match[2])]] = ChannelFile(path=path)
    if numbered:
        return [Case(id=name, channels=channels) for name, channels in numbered.items()]
    if len(plan.channels) > 1:
        raise AutosegError(
            f"{folder} holds images but no dataset; for {len(plan.channels)} channels name them "
            f"CASE_0000, CASE_0001, … "
            f"in the order {', '.join(plan.channel_names)}, or describe the folder with an autoseg.toml."
        )
    return [Case(id=_stem(path), channels={plan.channel_names[0]: ChannelFile(path=path)}) for path in files]


def _stem(path: Path) -> str:
    name = path.name
    for ending in IMAGE_ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return path.stem
