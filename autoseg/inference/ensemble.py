"""Ensemble: the networks of all folds of one or several runs, applied to a case; averaged, or grouped into opinions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from autoseg.data.dataset import Case, LoadedCase, load_case
from autoseg.data.intensities import doubt_about, is_blank
from autoseg.inference.chain import Predict, ScoresOnScan, TrainedStage, apply_stages, segment_by_stages
from autoseg.inference.decoding import OutputProbabilities
from autoseg.inference.members import Member
from autoseg.inference.opinions import FROM_SCORES, Group, Opinions, gather
from autoseg.inference.scan_size import refuse_beyond_memory
from autoseg.inference.slabs import Slab
from autoseg.inference.sliding_window import NO_MIRRORING, SlidingWindow, mirrorings
from autoseg.inference.stored_scores import collector
from autoseg.plans.target import Target
from autoseg.preprocessing.case import PreprocessedCase, Trace, preprocess_case, restore
from autoseg.runs.run import Run
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.progress import say

#: A case as each stage of each member sees it.
Prepared = Sequence[Sequence[PreprocessedCase]]


class Ensemble:
    """All networks of one or several runs with the same target.

    The logits of a run's folds are averaged tile by tile; the probabilities of several runs are averaged on the grid of
    the scan, since the runs may differ in resolution.

    Args:
        members: the runs.
        device: to compute on.
        mirror: use test-time augmentation.

    Raises:
        UsageError: targets that differ.
    """

    def __init__(self, members: Sequence[Member], device: torch.device, mirror: bool = True) -> None:
        self.members = list(members)
        self.device = device
        self.mirror = mirror
        first = self.members[0]
        for other in self.members[1:]:
            if _comparable(other.written) != _comparable(first.written):
                raise UsageError(
                    f"{other.name} segments {_names(other.written)}, {first.name} segments "
                    f"{_names(first.written)}; only runs with the same target can be averaged."
                )
        self.target = first.written

    @property
    def deciding(self) -> Target:
        """The outputs among which a voxel is decided: of one run all that it segments, of several what they share."""
        return self.members[0].last.result if len(self.members) == 1 else self.target

    @property
    def answer_names(self) -> list[str]:
        """Raters that the networks answer for one by one; empty where not all members have learned the same ones."""
        first = self.members[0].last.annotators
        return list(first) if all(member.last.annotators == first for member in self.members) else []

    @property
    def whose_mean(self) -> dict[str, list[str]]:
        """What ``predictions.json`` says of several answers."""
        return {"mean_of_raters": self.answer_names} if self.answer_names else {}

    def tune(self, cases: int) -> None:
        """Measure how the networks are computed fastest, where that is not known and there is much to predict.

        Args:
            cases: that are to come, each of one tile at least.
        """
        self.members = [replace(member, stages=self._tuned(member, cases)) for member in self.members]

    def _tuned(self, member: Member, cases: int) -> list[TrainedStage]:
        copies = [len(mirrorings(one.stage.inference.mirror_axes)) if self.mirror else 1 for one in member.stages]
        return [
            trained.tuned(self.device, cases * count * len(trained.networks))
            for trained, count in zip(member.stages, copies, strict=True)
        ]

    def prepare(self, case: Case | LoadedCase) -> list[list[PreprocessedCase]]:
        """Preprocess a case for each stage of each member; stages on the same grid share one.

        Raises:
            AutosegError: the case can't be read, lacks a channel that the plan insists on, is a flat image for a model
                of volumes, or has no room in memory.
        """
        remarks: dict[str, None] = {}
        prepared = [self._prepared_for(member, case, remarks) for member in self.members]
        for remark in remarks:  # once, though several members read the case
            say(f"{_name(case)}: {remark}")
        return prepared

    def scores(self, prepared: Prepared) -> list[ScoresOnScan]:
        """Logits of each member."""
        return [self._scores(member, seen) for member, seen in zip(self.members, prepared, strict=True)]

    @property
    def decides_by_scores(self) -> bool:
        """Whether a label map comes from logits: of one run that gives one answer; else from mean probabilities."""
        return len(self.members) == 1 and self.members[0].last.network.answers == 1

    def segment(self, prepared: Prepared) -> torch.Tensor:
        """Label map ``(z, y, x)`` of the only member on its cropped grid of the scan, decided while it is computed.

        Only where it :attr:`decides_by_scores`; with the values of what is :attr:`deciding`.
        """
        (member,), (seen,) = self.members, prepared
        return segment_by_stages(member.stages, seen, self.deciding, self._applied(), self.device)

    def answers(self, prepared: Prepared, scores: Sequence[ScoresOnScan]) -> "list[MeanProbabilities]":
        """Mean probabilities over the members on the grid of the scan.

        One for each of :attr:`answer_names`, in their order; where there are none, the mean of all.
        """
        traces = [stages[-1].trace for stages in prepared]
        answers = self._answers(scores, self.target)
        if self.answer_names:
            by_name = zip(*answers, strict=True)
            return [MeanProbabilities(list(zip(traces, own, [len(own)] * len(own), strict=True))) for own in by_name]
        return [self.mean(prepared, scores)]

    def mean(self, prepared: Prepared, scores: Sequence[ScoresOnScan]) -> "MeanProbabilities":
        """The mean of all answers of all members, each member counting alike, of the outputs that :attr:`deciding` has.

        Those of :attr:`target` are among them.
        """
        answers = self._answers(scores, self.deciding)
        return MeanProbabilities(
            [
                (seen[-1].trace, one, len(answers) * len(own))
                for seen, own in zip(prepared, answers, strict=True)
                for one in own
            ]
        )

    def _answers(self, scores: Sequence[ScoresOnScan], wanted: Target) -> list[list[OutputProbabilities]]:
        """For each member the probabilities of the wanted outputs, by each of its answers."""
        return [self._of_member(*both, wanted) for both in zip(self.members, scores, strict=True)]

    def _of_member(self, member: Member, scores: ScoresOnScan, wanted: Target) -> list[OutputProbabilities]:
        own = member.last.result
        return [OutputProbabilities(one, own, wanted) for one in scores.answers(own.heads)]

    def opinions(self, prepared: Prepared, group: Group, scores: Sequence[ScoresOnScan] | None = None) -> Opinions:
        """Apply the networks to a case, and group what they predict.

        Args:
            prepared: the case.
            group: what makes an opinion. ``fold``: the same fold's network of every stage, of every run (a stage
                that was not trained in that fold averages all of its own). ``run``: a run, its folds averaged.
                ``mirroring``: one mirrored copy of the image in a run, its folds averaged. ``rater``: a rater, all
                runs and folds averaged.
            scores: of the case, which opinions by run and by rater come from; the networks are applied where None.

        Raises:
            UsageError: by rater, where the members have not learned the same ones separately.
        """
        if group == "rater":
            self.require_answers()
        if group in FROM_SCORES:
            scores = self.scores(prepared) if scores is None else scores
            found = self.answers(prepared, scores) if group == "rater" else self._by_run(self.members, prepared, scores)
            return gather(one.whole() for one in found)
        return gather(self._predictions(prepared, group))

    def require_answers(self) -> None:
        """Check that all members have learned the same raters separately.

        Raises:
            UsageError: they have not.
        """
        if not self.answer_names:
            names = ", ".join(member.name for member in self.members)
            raise UsageError(
                f"--raters: {names} did not learn the same raters separately; plan with --raters all, or leave it out."
            )

    def missing_channels(self, prepared: Prepared) -> list[str]:
        """Channels of the plans that a case lacks."""
        names = [
            name
            for member, stages in zip(self.members, prepared, strict=True)
            for name, present in zip(member.last.channel_names, stages[-1].trace.present, strict=True)
            if not present and name in member.channels
        ]
        return list(dict.fromkeys(names))

    def _prepared_for(
        self, member: Member, case: Case | LoadedCase, remarks: dict[str, None]
    ) -> list[PreprocessedCase]:
        last = member.last
        if isinstance(case, Case):
            loaded = load_case(case, last.channel_names, with_label=False)
        else:
            loaded = case if member.translation is None else member.translation.loaded(case, last)
        remarks.update(dict.fromkeys(loaded.remarks))
        if isinstance(case, Case):  # whoever gives arrays knows what is in them
            _refuse_flat(member, case, loaded)
            remarks.update(dict.fromkeys(_doubts(member, case, loaded)))
        if not all(loaded.present) and not last.takes_missing_channels:
            lacking = [n for n, p in zip(last.channel_names, loaded.present, strict=True) if not p]
            raise AutosegError(
                f"the channel {', '.join(lacking)} is missing, and {member.name} was not "
                "trained for missing channels; give it, or train a run with --set recipe.channel_dropout=0.2."
            )
        if member.brain_mask and loaded.mask is None:
            remarks[f"{member.name} was trained with brain masks and this scan has none: non-zero voxels count."] = None
        by_grid: dict[str, PreprocessedCase] = {}
        for trained in member.stages:
            grid = trained.stage.configuration.data
            if grid not in by_grid:
                refuse_beyond_memory(_name(case), loaded, trained.stage)
                by_grid[grid] = preprocess_case(loaded, trained.stage)
        return [by_grid[trained.stage.configuration.data] for trained in member.stages]

    def _by_run(
        self, members: Sequence[Member], prepared: Prepared, scores: Sequence[ScoresOnScan]
    ) -> "Iterator[MeanProbabilities]":
        """Probabilities of each of some members."""
        for member, seen, of_member in zip(members, prepared, scores, strict=True):
            answers = self._of_member(member, of_member, self.target)
            yield MeanProbabilities([(seen[-1].trace, one, len(answers)) for one in answers])

    def _predictions(self, prepared: Prepared, group: Group) -> Iterator[torch.Tensor]:
        """Probabilities ``(outputs, z, y, x)`` of each fold or mirroring of each member."""
        for member, seen in zip(self.members, prepared, strict=True):
            parts: list[tuple[Member, tuple[int, ...] | None]]
            if group == "fold":
                parts = [(of_fold, None) for of_fold in member.by_fold()]
            else:
                axes = member.last.inference.mirror_axes
                parts = [(member, mirroring) for mirroring in (mirrorings(axes) if self.mirror else NO_MIRRORING)]
            for part, mirroring in parts:
                yield from (one.whole() for one in self._by_run([part], [seen], [self._scores(part, seen, mirroring)]))

    def _scores(
        self, member: Member, seen: Sequence[PreprocessedCase], mirroring: tuple[int, ...] | None = None
    ) -> ScoresOnScan:
        """Logits of one member; with one mirroring only, in the stages that use it, where it is given."""
        return apply_stages(member.stages, seen, member.last.result, self._applied(mirroring), self.device)

    def _applied(self, mirroring: tuple[int, ...] | None = None) -> Predict:
        """The way a stage's networks go over an image."""

        def apply(trained: TrainedStage, image: torch.Tensor) -> Iterable[Slab]:
            dtype = None if trained.variant is None else trained.variant.dtype
            window = SlidingWindow.of(trained.stage, self.device, dtype, self.mirror)
            if mirroring is not None and mirroring in window.mirrorings:
                window = replace(window, mirrorings=[mirroring])
            return window.slabs(trained.networks, image)

        return apply


class MeanProbabilities(Sequence[torch.Tensor]):
    """A sum of probabilities, each divided by its number, on the grid of the scan; an output at a time, when asked for.

    Args:
        parts: way to the scan, probabilities on its cropped grid, and what to divide them by.
    """

    def __init__(self, parts: Sequence[tuple[Trace, OutputProbabilities, int]]) -> None:
        self._parts = list(parts)

    def __len__(self) -> int:
        return len(self._parts[0][1])

    def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]
        total: torch.Tensor | None = None
        for trace, probabilities, count in self._parts:
            part = torch.from_numpy(restore(probabilities[index].numpy(), trace))
            part = part if count == 1 else part.div_(count)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total

    def whole(self) -> torch.Tensor:
        """All outputs, float32 ``(outputs, z, y, x)``."""
        first = self[0]
        result = collector((len(self), *first.shape), torch.device("cpu"))
        for index in range(len(self)):
            result[index] = self[index] if index else first
        return result


def _refuse_flat(member: Member, case: Case, loaded: LoadedCase) -> None:
    """Refuse a flat image where a network that looks along three axes was trained on volumes.

    It would see a single slice between zeros, as nothing in its training. A model of single slices takes it, and so
    does one that was trained on flat images, or of which that is not known.

    Raises:
        AutosegError: names the file.
    """
    last = member.last
    if loaded.geometry.dimension == 3 or last.network.dimensions == 2 or 1 in last.configuration.patch_size:
        return
    try:
        of_volumes = Run(Path(member.name)).fingerprint.dimension == 3
    except AutosegError:
        return
    if of_volumes:
        file = next(iter(case.channels.values()))
        raise AutosegError(f"{file.path} is a flat image, and {member.name} was trained on volumes; give the volume.")


def _doubts(member: Member, case: Case, loaded: LoadedCase) -> Iterator[str]:
    """What is to be said of the voxels of a case that is predicted all the same.

    A blank channel that a model can do without is refused, as the case is better predicted without it; where the model
    can't, it is taken as it is, as nnU-Net does.

    Raises:
        AutosegError: there is nothing to see in it, or in a file that may as well be left out.
    """
    channels = zip(member.last.channel_names, loaded.present, loaded.image, strict=True)
    seen = {name: voxels for name, present, voxels in channels if present}
    for name, voxels in seen.items():
        path = case.channels[name].path
        doubt = doubt_about(name, voxels, (seen[n] for n in seen if n != name and case.channels[n].path == path))
        if doubt is None:
            continue
        if doubt.severity == "warning":
            yield f"{doubt.what}. {doubt.remedy}"
        elif all(map(is_blank, seen.values())):
            raise AutosegError(f"{doubt.what}. Replace the file.")
        elif member.last.takes_missing_channels:
            raise AutosegError(f"{doubt.what}. {doubt.remedy}")
        else:
            yield f"{doubt.what}, and {member.name} can't do without it: predicted so. Give another file if you can."


def _name(case: Case | LoadedCase) -> str:
    return case.id if isinstance(case, Case) else "this case"


def _comparable(target: Target) -> tuple[str, list[tuple[str, int]]]:
    return target.kind, [(output.name, output.paint) for output in target.outputs]


def _names(target: Target) -> str:
    return f"the {target.kind} {', '.join(f'{output.name} ({output.paint})' for output in target.outputs)}"
