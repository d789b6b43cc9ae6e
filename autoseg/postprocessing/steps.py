"""Post-processing of predicted label maps: the steps, and those chosen for a run.

Three steps, each for one output (a label or a region): keep its largest component; drop its components below a size;
drop all of it where a case has less than a volume of it (the small enhancing tumour of BraTS, which then counts as
the tumour core around it). Components are connected over faces, edges and corners (26 neighbours; 8 in a picture).

What the voxels become that a step removes from an output:

- *regions*: the value that the next outer region is painted with, the last one in painting order before it that holds
  all of its values; background where there is none. So enhancing tumour becomes core, core edema, the whole nothing.
- *labels*: for each component, the value on most of the voxel faces around it (the smallest value at a tie). So a speck
  of necrosis within enhancing tumour becomes enhancing, and one in healthy tissue disappears.

Either lies outside the output, so that a step done twice is a step done once.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import cc3d
import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from autoseg.plans.postprocessing import Step as Step
from autoseg.plans.target import Output, Target
from autoseg.runs.run import SOURCE_SHARE, Run
from autoseg.utils.digest import digest, file_digest
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import first_fault, read_json, write_json
from autoseg.utils.progress import say

if TYPE_CHECKING:
    from typing import Self

#: Name of the file in a configuration's folder.
POSTPROCESSING_FILE = "postprocessing.json"

#: Voxels that share a face, an edge or a corner are connected.
CONNECTIVITY: Final = 26


class Score(BaseModel):
    """Cross-validated Dice; null where it is undefined.

    Attributes:
        mean: of the outputs' means.
        outputs: output name → mean over the cases.
    """

    model_config = ConfigDict(extra="forbid")

    mean: float | None
    outputs: dict[str, float | None]


class Trial(BaseModel):
    """What a step would do.

    Attributes:
        step: that was tried, after those kept before it.
        before: without it.
        after: with it.
        improved: cases that it makes better.
        worsened: cases that it makes worse.
        kept: whether it was kept.
    """

    model_config = ConfigDict(extra="forbid")

    step: Step
    before: Score
    after: Score
    improved: int
    worsened: int
    kept: bool


class Postprocessing(BaseModel):
    """The steps chosen for a configuration of a run, and the evidence for them.

    Attributes:
        autoseg_version: that wrote the file.
        configuration: whose predictions.
        steps: in the order in which they are applied.
        before: without any step.
        after: with all of them.
        improved: cases that all steps together make better.
        worsened: cases that they make worse.
        cases: on which the decision rests.
        all_cases: that a complete cross-validation would have.
        folds: that these cases come from.
        all_folds: number of folds of the run.
        empty: convention for empty masks, of the evaluation.
        weights: file in the run folder → digest, of every fold of every stage that the decision rests on, and of what
            says how a source is kept: another training, or a source kept otherwise, needs another decision.
        tried: every step that was tried, in order.
    """

    model_config = ConfigDict(extra="forbid")

    autoseg_version: str
    configuration: str
    steps: list[Step]
    before: Score
    after: Score
    improved: int
    worsened: int
    cases: int
    all_cases: int
    folds: list[int]
    all_folds: int
    empty: str
    weights: dict[str, str]
    tried: list[Trial]

    @property
    def grounds(self) -> str:
        """How many cases the decision is based on, in words."""
        fold = "fold" if len(self.folds) == 1 else "folds"
        text = f"{self.cases} validation case{'' if self.cases == 1 else 's'}"
        return f"{text} ({fold} {', '.join(map(str, self.folds))} of {self.all_folds})"

    def fits(self, run: Path, checkpoint: str = "weights") -> bool:
        """Whether the weights in a run folder are those of the decision; folds that are not there don't count.

        Args:
            run: run folder.
            checkpoint: name of the weights' files without their ending.
        """
        of_choice = {name: one for name, one in self.weights.items() if PurePosixPath(name).name == SOURCE_SHARE}
        digests = {
            PurePosixPath(name).with_stem(checkpoint).as_posix(): one
            for name, one in self.weights.items()
            if name not in of_choice
        }
        now = weights_digests(run, digests)
        same = bool(now) and all(digests[name] == one for name, one in now.items())
        return same and weights_digests(run, of_choice) == of_choice

    def write(self, path: Path) -> None:
        """Write the file atomically."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> "Self":
        """Read what :meth:`write` wrote.

        Raises:
            AutosegError: missing or damaged.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            raise AutosegError(
                f"{path} is damaged ({first_fault(error)}); delete it or run 'autoseg postprocess' again."
            ) from None


def apply_steps(label: np.ndarray, steps: Iterable[Step], target: Target, spacing: Sequence[float]) -> np.ndarray:
    """Apply steps to a label map, one after the other.

    Args:
        label: values of the target ``(z, y, x)``; left as it is.
        steps: what to do.
        target: which values and what painting order the outputs have.
        spacing: mm an axis; only the volume of a voxel counts, so that the order is free and a picture's two suffice.

    Returns:
        A label map of the same type; ``label`` itself where nothing changes.
    """
    voxel = math.prod(spacing)
    for step in steps:
        output = next(output for output in target.outputs if output.name == step.output)
        where, values = removal(label, find_parts(label, output), step, target, voxel)
        if len(values):
            label = label.copy()
            label[where] = values
    return label


@dataclass(frozen=True)
class Parts:
    """The connected components of an output in a label map.

    Attributes:
        output: whose.
        box: that holds them all.
        positions: of the output's voxels in the flattened box.
        owners: component of each of these voxels, from 0.
        voxels: of each component.
    """

    output: Output
    box: tuple[slice, ...]
    positions: np.ndarray
    owners: np.ndarray
    voxels: np.ndarray


def find_parts(label: np.ndarray, output: Output) -> Parts:
    """Find the connected components of an output in a label map ``(z, y, x)``, numbered in scan order.

    acvl-utils' functions that remove components label them anew for each size, and keep all of several largest ones
    (``benchmarks/results/acvl_utils.md``).
    """
    mask = np.isin(label, output.values)
    from scipy import ndimage  # takes long to import, and most predictions have no step

    found = ndimage.find_objects(mask.view(np.uint8)) if mask.size else []
    box: tuple[slice, ...] = found[0] if found else (slice(0, 0),) * label.ndim
    # cc3d 4.1 fails on a single line of voxels of which every second one is true; with a margin there is none.
    components = cc3d.connected_components(np.pad(mask[box], 1), connectivity=CONNECTIVITY)
    components = components[1:-1, 1:-1, 1:-1].reshape(-1)
    positions = np.flatnonzero(components)
    owners = components[positions].astype(np.int32) - 1
    return Parts(output, box, positions, owners, np.bincount(owners))


def removal(
    label: np.ndarray, parts: Parts, step: Step, target: Target, voxel: float
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Which voxels a step changes, and what they become.

    Args:
        label: values of the target ``(z, y, x)``.
        parts: the components of the step's output in it.
        step: what to do.
        target: which values and what painting order the outputs have.
        voxel: volume of one in mm³.

    Returns:
        The voxels' indices along each axis, and their new values.
    """
    gone = _dropped(parts.voxels, step, voxel)[parts.owners]
    shape = [part.stop - part.start for part in parts.box]
    inside = np.unravel_index(parts.positions[gone], shape)
    where = tuple(index + part.start for index, part in zip(inside, parts.box, strict=True))
    if target.kind == "regions":
        return where, np.full(len(where[0]), _outer_paint(parts.output, target), label.dtype)
    return where, _surroundings(label, where, parts.owners[gone], parts.output)


def _dropped(voxels: np.ndarray, step: Step, voxel: float) -> np.ndarray:
    """Which components go, given their numbers of voxels."""
    if not len(voxels):
        return np.zeros(0, bool)
    if step.mm3 is None:
        return np.arange(len(voxels)) != voxels.argmax()
    if step.kind == "minimum_size":
        return np.asarray(voxels * voxel < step.mm3)
    return np.full(len(voxels), voxels.sum() * voxel < step.mm3)


def _outer_paint(output: Output, target: Target) -> int:
    """What a voxel of a region becomes that it loses: a value of the region around it, never one of its own."""
    earlier = target.outputs[: target.outputs.index(output)]
    for other in reversed(earlier):
        if set(output.values) <= set(other.values) and other.paint not in output.values:
            return other.paint
    return 0


def _surroundings(label: np.ndarray, where: tuple[np.ndarray, ...], owners: np.ndarray, output: Output) -> np.ndarray:
    """For each voxel of some components, the value on most of the faces around its own; 0 where it has none."""
    positions = np.stack(where)
    touching, values = [], []
    for axis, limit in enumerate(label.shape):
        for shift in (-1, 1):
            beside = positions.copy()
            beside[axis] += shift
            within = (beside[axis] >= 0) & (beside[axis] < limit)
            value = label[tuple(beside[:, within])]
            foreign = ~np.isin(value, output.values)  # the output's own are of the same component
            touching.append(owners[within][foreign])
            values.append(value[foreign])
    known, index = np.unique(np.concatenate([np.zeros(1, label.dtype), *values]), return_inverse=True)
    index = index.reshape(-1)[1:]  # the zero in front makes background an answer even where nothing is around
    size = (int(owners.max(initial=0)) + 1, len(known))
    votes = np.bincount(np.concatenate(touching) * len(known) + index, minlength=math.prod(size)).reshape(size)
    return np.asarray(np.where(votes.any(axis=1), known[votes.argmax(axis=1)], 0)[owners], label.dtype)


def weights_digests(run: Path, files: Iterable[str]) -> dict[str, str]:
    """File in the run folder → digest, of those that exist; of what was chosen of a source, of the share alone."""
    return {name: _digest(run / name) for name in files if (run / name).is_file()}


def _digest(path: Path) -> str:
    return digest(read_json(path).get("share")) if path.name == SOURCE_SHARE else file_digest(path)


def chosen_steps(run: Path, configuration: str, target: Target, checkpoint: str = "weights") -> tuple[Step, ...]:
    """The steps chosen for a configuration of a run.

    There are none where nothing was chosen yet, and where they were chosen for other weights than those that predict,
    which a message reports: a fold was trained again since, or another checkpoint is asked for.

    Args:
        run: run folder.
        configuration: name of a configuration of the run.
        target: target of that configuration.
        checkpoint: name of the checkpoint that predicts.

    Raises:
        AutosegError: the file is damaged, or names what the target has not.
    """
    path = run / configuration / POSTPROCESSING_FILE
    if not path.exists():
        return ()
    found = Postprocessing.read(path)
    names = [output.name for output in target.outputs]
    for step in found.steps:
        if step.output not in names:
            raise AutosegError(
                f"{path} names the output {step.output}, which this run has not ({', '.join(names)}); delete it or run "
                f"{Run(run).how_to_postprocess(configuration)} again."
            )
    if found.steps and not found.fits(run, checkpoint):
        if checkpoint != "weights":
            say(
                f"{path} was decided for the weights at the end of the training and is not applied with --checkpoint "
                f"{checkpoint}."
            )
            return ()
        again = Run(run).how_to_postprocess(configuration)
        say(f"{path} was decided for other weights and is not applied; run {again} again.")
        return ()
    return tuple(found.steps)


def all_steps(run: Path, configuration: str, target: Target, checkpoint: str = "weights") -> tuple[Step, ...]:
    """The steps for the label maps of a run: those of the source that it keeps as it is, and those chosen for it.

    Args:
        run: run folder.
        configuration: name of a configuration of the run.
        target: target of that configuration.
        checkpoint: name of the checkpoint that predicts; a source has but one.

    Raises:
        AutosegError: as :func:`chosen_steps`.
    """
    opened = Run.open(run)
    of_source = opened.kept_steps(opened.plan.stage(configuration)) if checkpoint == "weights" else ()
    return (*of_source, *chosen_steps(run, configuration, target, checkpoint))


def agreed_steps(runs: Sequence[tuple[Path, str]], target: Target, checkpoint: str = "weights") -> tuple[Step, ...]:
    """The steps for the average of several runs: theirs where all have the same; otherwise none, with a message.

    Args:
        runs: run folder and configuration of each.
        target: that all of them have.
        checkpoint: that predicts.

    Raises:
        AutosegError: as :func:`chosen_steps`.
    """
    chosen = [all_steps(run, configuration, target, checkpoint) for run, configuration in runs]
    if all(steps == chosen[0] for steps in chosen):
        if chosen[0]:
            say(f"Post-processing: {'; '.join(map(str, chosen[0]))}.")
        return chosen[0]
    say("The runs were given different post-processing, so none is applied to their average.")
    return ()
