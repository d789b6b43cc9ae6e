"""Unlabelled scans of a cohort (``--unlabelled``): labelled by the source and mixed into the batches of its tuning."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from autoseg.data.dataset import Case, Dataset
from autoseg.data.patients import found_by, patient_of
from autoseg.inference.inputs import cases_to_predict
from autoseg.planning.carried import CARRIED
from autoseg.planning.request import Request
from autoseg.plans.mixing import USUAL_CONFIDENCE, USUAL_SHARE, PseudoLabelled
from autoseg.plans.plan import Plan
from autoseg.transfer.mixed_cases import MixedDataset, MixedIn, same_case
from autoseg.transfer.source_cases import refuse_without_source, single_stage, with_ignore
from autoseg.utils.digest import digest
from autoseg.utils.errors import UsageError


@CARRIED.register("unlabelled scans")
@dataclass(frozen=True)
class UnlabelledScans(MixedIn):
    """A folder of scans that the source is to label.

    Attributes:
        path: of the folder, laid out as for ``autoseg predict``.
        patients: regular expression that finds the patient in a scan's name, as :meth:`autoseg.Dataset.open` was given
            for the dataset; well-known naming schemes tell where None.
        cohort: the dataset, whose cases and patients these must not be; known once it is checked.
    """

    path: str | Path
    patients: str | None = None
    cohort: list[Dataset] = field(default_factory=list, init=False, compare=False, repr=False)
    key: ClassVar[str] = "unlabelled"
    kind: ClassVar[str] = "unlabelled scans"
    option: ClassVar[str] = "--unlabelled"
    provides: ClassVar[str] = "which unlabelled scans are mixed in"
    start: ClassVar[str] = "scratch"

    @property
    def content(self) -> str:
        """Fingerprint of the folder's files: their names and sizes."""
        files = sorted(path for path in Path(self.path).rglob("*") if path.is_file())
        return digest([[str(path), path.stat().st_size] for path in files])

    def check(self, request: Request, dataset: Dataset, out: Path) -> None:
        """Refuse a folder that is missing."""
        refuse_without_source(self.option, request)
        if not Path(self.path).exists():
            raise UsageError(f"--unlabelled {self.path} does not exist; give a folder of scans.")
        self.cohort[:] = [dataset]

    def apply(self, plan: Plan) -> Plan:
        """The plan with these scans in the recipe, and an ignore label for what the source is not sure of.

        Raises:
            UsageError: the source can't label them, a scan is one of the dataset, or lacks a channel.
        """
        stage = single_stage(self.option, plan)
        if not stage.recipe.initialization.ensemble:
            raise UsageError(
                "--unlabelled: the source's channels and outputs are not just those of the dataset, so that it can't "
                "label scans; leave the option out."
            )
        described = self.described(plan)
        reasons = {
            "file": f"{len(described.dataset.cases)} scans of {self.path}, labelled by the source",
            "share": f"{USUAL_SHARE:g}, an estimate: the cohort's own cases decide",
            "confidence": f"{USUAL_CONFIDENCE:g}, an estimate: voxels below it are left out of the loss",
        }
        why = "voxels of unlabelled scans that the source is not sure of"
        target = with_ignore(plan.target, [value for one in self.cohort for value in one.labels.values()], why)
        return self.mixed_into(plan, stage, PseudoLabelled(file=self.file_of(described), reasons=reasons), target)

    def check_plan(self, plan: Plan) -> None:
        """Nothing more: :meth:`apply` has looked at it."""

    def described(self, plan: Plan) -> MixedDataset:
        """The scans by the channels of a plan."""
        stage = plan.stage()
        # Absolute, since a run folder may be used from another working directory.
        found = cases_to_predict(Path(self.path).absolute(), plan, like=self.cohort)
        scored = [case for one in self.cohort for case in (*one.cases, *one.labelled_test_cases)]
        names = {name for case in scored for name in (case.id, self._patient(case))}
        same = next((case for case in found if not names.isdisjoint((case.id, self._patient(case)))), None)
        twins = same_case(found, scored)
        if same is not None or twins is not None:
            name = same.id if same is not None else twins[0].id if twins is not None else ""
            raise UsageError(
                f"--unlabelled {self.path} has {name}, a case or patient of the dataset, which is held out when it is "
                "scored; give scans of other patients, by other names."
            )
        for case in found:
            lacking = [channel for channel in stage.channel_names if channel not in case.channels]
            if lacking and not (stage.takes_missing_channels and len(lacking) < len(stage.channel_names)):
                raise UsageError(f"--unlabelled {self.path}: {case.id} lacks {', '.join(lacking)}; take the scan out.")
        return MixedDataset(
            dataset=Dataset(
                name="unlabelled",
                root=Path(self.path).absolute(),
                layout="unlabelled",
                channels=tuple(stage.channel_names),
                labels={},
                cases=tuple(case.model_copy(update={"label": None, "raters": {}}) for case in found),
            ),
            values={},
        )

    def _patient(self, case: Case) -> str:
        """Whose scan it is, told as for the cohort's cases; a folder of images says nothing but their names."""
        if self.patients is not None:
            return found_by(re.compile(self.patients), case.id) or case.id
        return case.group or patient_of(case.id) or case.id
