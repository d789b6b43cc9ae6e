"""A teacher's scores of the training cases: predicted once, before a training, and stored by the preprocessed cases."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from autoseg.inference.chain import ABSENT
from autoseg.inference.ensemble import Prepared
from autoseg.inference.predictor import Predictor
from autoseg.inference.read_ahead import ReadAhead
from autoseg.preprocessing.case import PreprocessedCase, Trace, restore
from autoseg.preprocessing.fields import TEACHER, StoredField
from autoseg.preprocessing.scores import resample_scores
from autoseg.preprocessing.store import StoredCase, save, stored_key
from autoseg.runs.fold import Fold
from autoseg.runs.run import Run
from autoseg.transfer.teacher import TeacherModel, installed_teacher, list_folds, match_heads
from autoseg.utils.digest import digest
from autoseg.utils.errors import AutosegError
from autoseg.utils.lock import do_once
from autoseg.utils.progress import Steps


@dataclass(frozen=True)
class TeacherScores:
    """A teacher for one fold of a student.

    Attributes:
        teacher: the copy in the student's run folder.
        folds: of it, whose mean is used.
        clean: whether neither they nor the source that they started from were trained on a case that the student's
            fold is validated on.
        heads: for each head of the student, the teacher's heads that it is made of.
        kind: of the target: ``labels`` or ``regions``.
        folder: of the stored scores.
    """

    teacher: TeacherModel
    folds: tuple[int, ...]
    clean: bool
    heads: list[list[int]]
    kind: str
    folder: Path

    @cached_property
    def identity(self) -> str:
        """Fingerprint of all that its scores of a preprocessed case depend on."""
        return digest({"teacher": self.teacher.content, "folds": self.folds, "heads": self.heads, "kind": self.kind})

    def of(self, case: StoredCase) -> StoredCase:
        """A case with the teacher's scores of it, once :meth:`predict` has stored them."""
        scores = StoredField(TEACHER, StoredCase(self.folder, case.id), self.identity)
        return replace(case, extra=(*case.extra, scores))

    def __str__(self) -> str:
        seen = "" if self.clean else "; it has seen validation cases, so the figures are better than they should be"
        of = f"{self.teacher.stage.name} in {self.teacher.run.path}"
        kept = "the source that is kept as " if self.teacher.kept else ""
        return f"taught by {list_folds(self.folds)} of {kept}{of}{seen}"

    def predict(self, run: Run, cases: Sequence[StoredCase], device: str) -> None:
        """Predict cases with the teacher, but for those whose scores are stored already.

        Args:
            run: the student's, whose dataset names the scans.
            cases: preprocessed, as the student will be trained on them.
            device: to predict on.

        Raises:
            AutosegError: a scan is gone or lacks a channel that the teacher needs.
        """
        what = f"Another process predicts with the teacher into {self.folder}"
        do_once(self.folder, what, lambda: self._due(cases), partial(self._predict, run, device))

    def _key(self, case: StoredCase) -> str:
        return f"{self.identity}-{case.info['key']}"

    def _due(self, cases: Sequence[StoredCase]) -> list[StoredCase]:
        """Cases whose scores are not stored."""
        return [case for case in cases if stored_key(self.folder, case.id) != self._key(case)]

    def _predict(self, run: Run, device: str, due: Sequence[StoredCase]) -> None:
        dataset, teaches_with = run.dataset, self.teacher.run.plan.channel_names
        predictor = Predictor.load(
            self.teacher.run.path,
            self.teacher.stage.name,
            self.teacher.asked(self.folds),
            device,
            postprocessing=False,
        )

        def prepare(case: StoredCase) -> Prepared:
            source = dataset.case(case.id)
            needed = [file.path for name, file in source.channels.items() if name in teaches_with]
            gone = next((path for path in needed if not path.exists()), None)
            if gone is not None:
                raise AutosegError(
                    f"the teacher has to predict case {case.id}, but {gone} is gone; {run.how_to_find_dataset}."
                )
            return predictor.ensemble.prepare(source)

        cases = [StoredCase(case.folder, case.id) for case in due]  # whole, where a stage works in a box
        with (
            ReadAhead(cases, prepare) as reader,
            ThreadPoolExecutor(1, "writer") as writer,
            Steps("Predicting with the teacher", len(due)) as steps,
        ):
            writing: Future[None] | None = None
            for case in cases:
                prepared = reader.take()
                (scores,) = predictor.ensemble.scores(prepared)
                if writing is not None:
                    writing.result()
                writing = writer.submit(self._store, scores, prepared[0][-1].trace, case)
                steps.advance(note=case.id)
            if writing is not None:
                writing.result()

    def _store(self, scores: Sequence[torch.Tensor], trace: Trace, case: StoredCase) -> None:
        """Store scores of a case, given on the teacher's crop of the scan, on the student's grid."""
        moved = on_student(scores, trace, self, case)
        label = np.zeros(case.shape, np.int16)  # not used
        save(self.folder, case.id, PreprocessedCase(moved, label, case.trace), self._key(case))


def teacher_scores(fold: Fold) -> TeacherScores | None:
    """The teacher of a fold, or None where the recipe has none.

    Those of the teacher's folds predict that were trained on none of the cases that the student's fold is validated on:
    with the same splits, the fold of the same number. Where there are none such, all do.

    Raises:
        AutosegError: the teacher in the run folder is not the plan's, or lacks an output.
    """
    stage, run = fold.stage, fold.run
    distillation = stage.recipe.taught
    if distillation is None:
        return None
    teacher = installed_teacher(run, distillation)
    unseen = teacher.unseen(fold.validation_cases)
    folds = unseen or teacher.folds
    folder = run.preprocessed(stage.configuration.data) / "teacher"
    if stage.configuration.target is not None:
        folder /= stage.name  # other heads than those of other stages on the same grid
    folder /= "-".join(map(str, folds))
    heads = match_heads(stage.target, teacher.target)
    clean = bool(unseen) and teacher.learned.isdisjoint(fold.validation_cases)
    return TeacherScores(teacher, folds, clean, heads, stage.target.kind, folder)


def on_student(scores: Sequence[torch.Tensor], trace: Trace, teacher: TeacherScores, case: StoredCase) -> np.ndarray:
    """A teacher's scores of a case on the student's grid.

    Args:
        scores: logits of the teacher's heads on its crop of the original grid.
        trace: from there to the scan.
        teacher: which heads are wanted.
        case: as the student is given it.

    Returns:
        float16 ``(heads, z, y, x)``: log-probabilities of labels or logits of regions, which can be softened by any
        temperature, none further from 0 than 30. Outside the teacher's crop there is background.
    """
    labels = teacher.kind == "labels"
    own = case.trace
    moved = []
    for index, head in enumerate(scores):
        whole = restore(head.numpy(), trace, 0.0 if labels and index == 0 else ABSENT)
        cropped = np.ascontiguousarray(own.crop(whole))
        moved.append(resample_scores(torch.from_numpy(cropped), case.shape, own.separate_axis))
    found = torch.stack(moved)
    if labels:
        found = torch.log_softmax(found, dim=0)
    found = torch.stack([torch.logsumexp(found[heads], dim=0) for heads in teacher.heads])
    return found.clamp(ABSENT, -ABSENT).numpy().astype(np.float16)
