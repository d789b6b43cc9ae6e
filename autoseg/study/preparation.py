"""Preparation of a study: one fingerprint, one set of splits, and a plan for every setting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from autoseg.data.dataset import Case, Dataset
from autoseg.data.fingerprint import Fingerprint
from autoseg.evaluation.cases import Structure
from autoseg.evaluation.folders import dataset_structures, plan_structures, refuse_other_values
from autoseg.planning.derived import refresh
from autoseg.planning.making import checked_fingerprint, checked_request, make_plan
from autoseg.planning.planners import default_planner
from autoseg.planning.request import Request, ResolvedRequest
from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.families import UNet, VNet
from autoseg.plans.files import load_plan, save_plan
from autoseg.plans.overrides import assignment, override
from autoseg.plans.plan import Plan
from autoseg.runs.fold import Fold
from autoseg.runs.run import Run, refuse_dataset_folder
from autoseg.runs.splits import Split
from autoseg.study.grid import Grid, Setting, read_grid
from autoseg.study.options import StudyOptions
from autoseg.study.rules import common_rules, study_splits, with_rules
from autoseg.utils.digest import digest
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import read_json, read_json_table, refuse_unwritable_folder, write_json
from autoseg.utils.progress import say

#: Files in a run folder of a study: identity of what the run was made from, reason of a failure, and its traceback.
MADE_FROM, FAILED, TRACEBACK = "study.json", "failed.json", "failed.txt"


@dataclass(frozen=True)
class Study:
    """A study that is ready to run.

    Attributes:
        source: the grid file.
        out: the study's folder.
        grid: content of that file.
        settings: in the table's order.
        dataset: to train on.
        fingerprint: of it, shared by all settings.
        splits: shared by all settings.
        folds: to train.
        structures: that settings are evaluated on, each on those that it segments.
        plans: setting's name → plan.
        request: common options of all settings.
        rules: shares that are held out, and the convention for absent structures; the same for all settings.
        test: another dataset, whose labelled cases are the test cases in place of the held out ones; None for those.
    """

    source: Path
    out: Path
    grid: Grid
    settings: tuple[Setting, ...]
    dataset: Dataset
    fingerprint: Fingerprint
    splits: list[Split]
    folds: tuple[int, ...]
    structures: tuple[Structure, ...]
    plans: Mapping[str, Plan]
    request: ResolvedRequest
    rules: EvaluationRules = field(default_factory=EvaluationRules)
    test: Dataset | None = None

    def structures_of(self, setting: Setting) -> tuple[Structure, ...]:
        """The structures that a setting is evaluated on, in the study's order."""
        segmented = _segmented(self.plans[setting.name], self.dataset)
        return tuple(one for one in self.structures if frozenset(one.values) in segmented)

    @property
    def test_cases(self) -> list[Case]:
        """The labelled cases of the test set; often there are none."""
        if self.test is not None:
            return [case for case in (*self.test.cases, *self.test.unlabelled) if case.label is not None]
        return [self.dataset.case(name) for name in self.splits[0].get("test", [])]

    def run_folder(self, setting: Setting, seed: int) -> Path:
        """Run folder of a setting and a seed."""
        return self.out / setting.name / f"seed_{seed}"

    @cached_property
    def _fingerprint_digest(self) -> str:
        return digest(self.fingerprint.model_dump(mode="json"))

    def is_begun(self, setting: Setting, seed: int) -> bool:
        """Whether the run folder was made from the study's current plan, data and length."""
        made = self.run_folder(setting, seed) / MADE_FROM
        if not made.exists():
            return False
        told = read_json(made)["identity"]
        return bool(told == self.identity(setting, seed) or told == self._earlier_identity(setting, seed))

    def is_trained(self, setting: Setting, seed: int, fold: int) -> bool:
        """Whether a fold of such a run is trained and validated."""
        folder = Fold(Run(self.run_folder(setting, seed)), self.plans[setting.name].stage(), fold)
        return self.is_begun(setting, seed) and folder.done.exists()

    def identity(self, setting: Setting, seed: int) -> str:
        """A fingerprint of all that a run of this setting depends on, except for the choice of folds.

        How it is evaluated needs no other training, and what is held out is in the splits. Computed values and values
        at their defaults are left out, so that a newer version can continue a study of an older one.
        """
        return self._identity(setting, seed, EvaluationRules())

    def _earlier_identity(self, setting: Setting, seed: int) -> str:
        """The same as earlier versions had it: with the rules of evaluation that the run was planned with."""
        run = Run(self.run_folder(setting, seed))
        plan = run.plan if (run.path / "plan.json").exists() else self.plans[setting.name]
        return self._identity(setting, seed, plan.evaluation)

    def _identity(self, setting: Setting, seed: int, rules: EvaluationRules) -> str:
        plan = self.plans[setting.name].model_copy(update={"evaluation": rules})
        computed = {"memory", "parameters", "parameters_with_statistics"}
        return digest(
            {
                "plan": plan.model_dump(
                    mode="json",
                    exclude={"autoseg_version": True, "configurations": {"__all__": computed}},
                    exclude_defaults=True,
                ),
                "families": {name: c.network.family for name, c in plan.configurations.items()},
                "fingerprint": self._fingerprint_digest,
                "splits": self.splits,
                "length": [self.grid.epochs, self.grid.max_seconds],
                "seed": seed,
            }
        )


def prepare(
    dataset: Dataset,
    grid: str | Path,
    out: str | Path,
    request: Request | None = None,
    options: StudyOptions = StudyOptions(),
) -> Study:
    """Read a grid file and plan every setting, so that all errors are reported before the first training.

    The fingerprint, the splits and each planner's plan are stored in ``out``: a plan that depends on the speed of this
    machine does not change when the study is continued.

    Args:
        dataset: to train on.
        grid: the grid file; its values take precedence over the request's.
        out: the study's folder.
        request: common options: ``device`` (``auto``: the one that the study was begun with, or this machine's best),
            ``workers`` (this process where 0 or 1), ``annotators``, and what is carried into every run.
        options: a test set of another dataset, and folds, seeds and length in place of the file's.

    Raises:
        UsageError: the grid file is invalid, or settings can't be planned (all of them are listed).
        AutosegError: the dataset has errors, or the test set's labels have other values.
    """
    source, out, request = Path(grid), Path(out), request or Request()
    refuse_unwritable_folder(out)
    of_file, settings = read_grid(source)
    grid_ = options.applied_to(of_file)
    refuse_dataset_folder(out, dataset)
    if (out / "plan.json").exists():
        raise UsageError(f"--out {out} is a run folder; choose another folder for the study.")
    if options.test is not None:
        refuse_other_values(options.test, dataset)
    _check_known(source, grid_, settings, dataset)
    structures = _structures(source, grid_, settings, dataset)
    before = read_json_table(out / "study.json")
    dataset, asked = checked_request(dataset, out, _as_begun(request, grid_, before))
    settings = [replace(s, planner=s.planner or asked.planner or default_planner(asked.start)) for s in settings]
    data = _data_key(dataset)
    if before.get("data") == data and (out / "fingerprint.json").exists():
        fingerprint = Run(out).fingerprint
    else:
        # 0 means no loading workers; the fingerprint then uses this process, too.
        fingerprint = checked_fingerprint(dataset, None if asked.workers is None else max(asked.workers, 1))
        write_json(out / "fingerprint.json", fingerprint.model_dump(mode="json"))
        # Written now, so that the scans are not read again after an error in the grid file is corrected.
        write_json(out / "study.json", {**before, "data": data})
    make = partial(_setting_plan, out / "plans", fingerprint)
    plans = _plan_all(source, settings, asked, make)
    # Of the file, as a fold that is asked for now is one of those that there are.
    rules = common_rules(source, of_file, plans)
    known = before.get("split_seed", grid_.split_seed) == grid_.split_seed
    splits = study_splits(out if known else None, dataset, of_file, rules)
    if len(splits) > 1:
        rules = rules.model_copy(update={"validation_share": 0.0})
    plans = {name: with_rules(plan, rules) for name, plan in plans.items()}
    folds = tuple(range(len(splits))) if grid_.folds is None else tuple(grid_.folds)
    if (last := max(folds)) >= len(splits):
        there = f"there are the folds 0 to {len(splits) - 1}"
        if len(splits) == 1:
            there = "there is fold 0, which validates a share of the cases; folds = [0, 1] in the file makes several"
        raise UsageError(f"{source}: folds: {last} does not exist; {there}.")
    # Settings of several planners, too, may segment different things, such as one region against the rest.
    differ = len({setting.regions for setting in settings}) > 1
    differ = differ or (not grid_.structures and len({setting.planner for setting in settings}) > 1)
    _check_structures(source, structures, plans, dataset, "some" if differ else "named" if grid_.structures else "all")
    for table in grid_.table:
        for measure in table.measures:
            named = measure.partition(" ")[2]
            if named and named not in [structure.name for structure in structures]:
                told = ", ".join(structure.name for structure in structures)
                raise UsageError(f"{source}: table: measures: {measure} names {named}; the study evaluates {told}.")
    if any(table.of == "test" for table in grid_.table) and options.test is None and not splits[0].get("test"):
        raise UsageError(
            f'{source}: table: of = "test" needs test cases; give test_share = 0.2 in the file, or --test DATASET.'
        )
    write_json(out / "splits.json", splits)
    write_json(
        out / "study.json",
        {"data": data, "device": asked.device, "gpu_memory": asked.gpu_memory_gb, "split_seed": grid_.split_seed},
    )
    return Study(
        source=source,
        out=out,
        grid=grid_,
        settings=tuple(settings),
        dataset=dataset,
        fingerprint=fingerprint,
        splits=splits,
        folds=folds,
        structures=structures,
        plans=plans,
        request=asked,
        rules=rules,
        test=options.test,
    )


def _as_begun(request: Request, grid: Grid, before: Mapping[str, Any]) -> Request:
    """The request with the device and memory that the study was begun with, where the user sets no others.

    Args:
        request: of the user.
        grid: of the study.
        before: content of its ``study.json``.
    """
    device = request.device
    if device == "auto":
        device = before.get("device") or replace(request, gpu_memory_gb=None).resolved().device
    memory = grid.gpu_memory or request.gpu_memory_gb
    memory = memory or (before.get("gpu_memory") if device == before.get("device") else None)
    return replace(request, device=device, gpu_memory_gb=None if memory is None else float(memory))


def _check_known(source: Path, grid: Grid, settings: Sequence[Setting], dataset: Dataset) -> None:
    """Check channels and regions before the scans are read, which takes long."""
    for name, wanted, known in (
        *((f"setting {setting.name}: channels", setting.channels, dataset.channels) for setting in settings),
        ("regions", grid.regions, (*dataset.labels, *dataset.regions)),
        *((f"setting {one.name}: regions", one.regions, (*dataset.labels, *dataset.regions)) for one in settings),
    ):
        unknown = [item for item in wanted if item not in known]
        if unknown:
            raise UsageError(f"{source}: {name}: {', '.join(unknown)} is not in {dataset.name} ({', '.join(known)}).")


def _structures(source: Path, grid: Grid, settings: Sequence[Setting], dataset: Dataset) -> tuple[Structure, ...]:
    """Structures to evaluate: those named; else the settings' regions, the dataset's regions, or its labels."""
    known = {name: Structure(name, (value,)) for name, value in dataset.labels.items()}
    known |= {structure.name: structure for structure in dataset_structures(dataset)}
    regions = [region for setting in settings for region in setting.regions]
    wanted = grid.structures or regions or list(dataset.regions or dataset.labels)
    for name in wanted:
        if name not in known:
            raise UsageError(f"{source}: structures: {name} is not in {dataset.name} ({', '.join(known)}).")
    return tuple(known[name] for name in dict.fromkeys(wanted))


def _segmented(plan: Plan, dataset: Dataset) -> set[frozenset[int]]:
    """The sets of label values that a plan's label maps tell apart."""
    return {frozenset(structure.values) for structure in plan_structures(plan, dataset)}


def _check_structures(
    source: Path,
    structures: Sequence[Structure],
    plans: Mapping[str, Plan],
    dataset: Dataset,
    needed: Literal["all", "named", "some"],
) -> None:
    """Every setting must segment all structures, or where they have regions or planners of their own, some."""
    for name, plan in plans.items():
        segmented = _segmented(plan, dataset)
        missing = [structure.name for structure in structures if frozenset(structure.values) not in segmented]
        if missing and (needed != "some" or len(missing) == len(structures)):
            raise UsageError(
                f"{source}: setting {name} does not segment {', '.join(missing)}; "
                f"{'give structures =' if needed == 'all' else 'name'} only what all settings segment."
            )


def _data_key(dataset: Dataset) -> str:
    """A fingerprint of the dataset's files on disk; by name, not path, as a dataset may move."""
    return digest(
        {
            "about": dataset.model_dump(mode="json", exclude={"root", "cases", "unlabelled"}),
            "cases": [
                [case.id, case.group, {name: [c.path.name, c.component] for name, c in case.channels.items()}]
                + [[file.name, stat.st_size, stat.st_mtime_ns] for file, stat in ((f, f.stat()) for f in case.files)]
                for case in dataset.cases
                if all(file.exists() for file in case.files)
            ],
        }
    )


def _planner_plan(folder: Path, fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """The planner's own plan, made once in a study."""
    asked = {
        "fingerprint": fingerprint.model_dump(mode="json"),
        "device": request.device,
        "gpu_memory": request.gpu_memory_gb,
        "planner": request.planner,
        "channels": request.channels,
        "regions": request.regions,
    }
    # Only where there are any, so that a study of an earlier version can be continued.
    if request.annotators:
        asked["annotators"] = request.annotators
    if request.options or request.overrides:
        asked["changes"] = [dict(request.options), request.overrides]
    if request.carried:
        asked["carried"] = [[item.kind, item.content] for item in request.carried]
    path = folder / f"{request.planner}-{digest(asked)}.json"
    if path.exists():
        return load_plan(path)
    plan = make_plan(fingerprint, request)
    save_plan(plan, path)
    return plan


def _plan_all(
    source: Path,
    settings: Sequence[Setting],
    request: ResolvedRequest,
    make: Callable[[ResolvedRequest, Setting], Plan],
) -> dict[str, Plan]:
    plans, wrong = {}, []
    for setting in settings:
        try:
            own = replace(request, planner=setting.planner, channels=setting.channels, regions=setting.regions)
            plan = make(own, setting)
            for item in request.carried:
                item.check_plan(plan)
        except AutosegError as error:
            wrong.append(f"setting {setting.name}: {str(error).replace('--set ', '').replace('--planner', 'planner')}")
            continue
        plans[setting.name] = plan
        for stage in plan.stage().chain:
            used = stage.configuration.memory
            if used is not None and used.total > plan.gpu_memory_gb * 1e9 and (setting.values or setting.width):
                say(
                    f"setting {setting.name}: a step of {stage.name} takes {used.total / 1e9:.2f} GB, more than the "
                    f"{plan.gpu_memory_gb:g} GB planned for; set a smaller batch_size or patch_size."
                )
    if wrong:
        raise UsageError(
            f"{source}: {wrong[0]}" if len(wrong) == 1 else f"{source}:" + "".join(f"\n  {w}" for w in wrong)
        )
    return plans


def _setting_plan(folder: Path, fingerprint: Fingerprint, request: ResolvedRequest, setting: Setting) -> Plan:
    """:func:`plan_setting`, made once in a study: computing memory takes seconds for each setting."""
    plan = _planner_plan(folder, fingerprint, request)
    changes = overrides_of(plan, setting)
    if not changes:
        return plan
    made_from = {"plan": plan.model_dump(mode="json", exclude={"autoseg_version"}), "changes": changes}
    path = folder / f"{setting.planner}-{digest(made_from)}.json"
    if path.exists():
        return load_plan(path)
    changed = plan_setting(plan, setting)
    save_plan(changed, path)
    return changed


def plan_setting(plan: Plan, setting: Setting) -> Plan:
    """A planner's plan with a setting's width and values.

    Raises:
        UsageError: a path that does not exist, a value that the plan can't have, or a network without a width.
    """
    changes = overrides_of(plan, setting)
    return refresh(override(plan, changes)) if changes else plan


def overrides_of(plan: Plan, setting: Setting) -> list[str]:
    """A setting's changes of a planner's plan, as arguments of :func:`autoseg.plans.overrides.override`.

    Raises:
        UsageError: a network without a width.
    """
    changes = [] if setting.width is None else scale_width(plan, setting.width)
    return changes + [assignment(path, value) for path, value in setting.values.items()]


def scale_width(plan: Plan, width: int) -> list[str]:
    """Overrides that give each network's first stage ``width`` channels and scale its other stages alike.

    Patch and batch stay as planned; only the network changes.

    Raises:
        UsageError: a network whose stages have no such widths.
    """
    changes = []
    for name, configuration in plan.configurations.items():
        network = configuration.network
        if not isinstance(network, UNet | VNet):
            raise UsageError(
                f"width scales the stages of U-Nets (families unet, resenc and vnet), and {name} of planner "
                f'{plan.planner} is a {network.family}; set its numbers with set = {{"network.features" = …}}.'
            )
        features = [max(1, round(n * width / network.features[0])) for n in network.features]
        changes.append(assignment(f"configurations.{name}.network.features", features))
    return changes
