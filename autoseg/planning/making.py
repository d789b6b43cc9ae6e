"""How the mechanism reaches a planner: through the entry-point group ``autoseg.planners``, ours or somebody else's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

import torch

from autoseg.data.checks import examine
from autoseg.data.dataset import Dataset
from autoseg.data.fingerprint import Fingerprint
from autoseg.networks import parameters_of
from autoseg.planning.memory import TrainingPrecision, step_memory
from autoseg.plans.configuration import Memory
from autoseg.plans.families import Inflated
from autoseg.plans.overrides import override
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Distillation, Initialization
from autoseg.plans.stage import Stage
from autoseg.runs.run import Run, refuse_dataset_folder
from autoseg.runs.splits import Split, keep_or_make_splits
from autoseg.step.setup import StepSetup
from autoseg.transfer.source import Source, carry, forget, keep, open_source
from autoseg.utils.device import select_device
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.progress import say

#: Entry-point group that planners are found in.
GROUP = "autoseg.planners"

#: The planner that starts from another model.
FINETUNE = "finetune"

#: Kinds of devices that can be planned for.
DEVICES = ("cuda", "mps", "cpu")

#: Memory budget in GB where there is no GPU to ask: nnU-Net's.
DEFAULT_GB = 8.0

#: Cases that a message names before it counts.
NAMED = 5

#: Share of a GPU's memory that is the default budget; the rest is for the CUDA context and the display.
DEVICE_SHARE = 0.92


@dataclass(frozen=True)
class Request:
    """What the user asked a planner for.

    Attributes:
        device: kind of device the training will run on: ``cuda``, ``mps`` or ``cpu``.
        gpu_memory_gb: memory budget in 10⁹ bytes.
        channels: names of the dataset's channels to use; empty for all.
        regions: names of the regions (or labels) to segment; empty for all.
        raters: names of the raters to learn separately; empty to learn from one label map a case.
        options: anything a planner of its own understands; ``encoder``: name of a timm model.
        source: model to start from, for planner ``finetune``.
    """

    device: str = "cuda"
    gpu_memory_gb: float = 8.0
    channels: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    source: Source | None = None
    raters: tuple[str, ...] = ()


#: A planner reads a fingerprint and a request and writes a plan.
Planner = Callable[[Fingerprint, Request], Plan]


def find_planner(name: str) -> Planner:
    """The planner registered under ``name``.

    Raises:
        UsageError: there is none; the message lists those there are.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise UsageError(f"--planner {name} is unknown; installed planners: {', '.join(sorted(found)) or 'none'}.")
    planner: Planner = found[name].load()
    return planner


def plan_dataset(
    dataset: Dataset,
    out: str | Path,
    planner: str | None = None,
    device: str = "auto",
    gpu_memory_gb: float | None = None,
    channels: Sequence[str] = (),
    regions: Sequence[str] = (),
    overrides: Sequence[str] = (),
    seed: int = 0,
    workers: int | None = None,
    weights: str | Path | None = None,
    encoder: str = "",
    source: Source | str | Path | None = None,
    folds: int | None = None,
    teacher: str | Path | None = None,
    raters: Sequence[str] = (),
) -> Run:
    """Check a dataset, plan it and make its run folder.

    Planning again into the same folder replaces the plan and keeps the splits, as long as the cases are the same.

    Args:
        dataset: as :meth:`autoseg.Dataset.open` returns it.
        out: run folder to write.
        planner: name of an installed planner; where None, ``finetune`` with a source and ``unet`` without.
        device: to train on; need not be of this machine.
        gpu_memory_gb: memory budget in 10⁹ bytes.
        channels: to use; empty for all.
        regions: to segment; empty for all.
        overrides: ``path.to.key=value`` each.
        seed: of the splits and of the fingerprint's sample of voxels.
        workers: processes that read cases; None for one a core.
        weights: that the encoder starts from: ``imagenet``, ``random``, or a file, which is copied into the run folder;
            None for the planner's choice.
        encoder: name of a timm model, for planners that let it be chosen.
        source: model to start from; what the new run needs of it is copied into its folder.
        folds: of the cross-validation, 5 by default; 1 for a training on all cases, without validation.
        teacher: trained run whose outputs are a further term of the loss; what it needs to predict is copied into the
            run folder.
        raters: to learn separately, or ``all`` of the dataset's; cases that none of them drew are left out.

    Raises:
        AutosegError: the dataset has errors (all are listed), the budget is too small, the weights do not fit, or the
            teacher can't teach this.
        UsageError: something is asked for that does not exist, ``out`` holds a dataset or is the source, or a stage
            would learn from predictions that a single fold has not.
    """
    refuse_dataset_folder(out, dataset)
    initialization, tensors = _initial_weights(weights)
    if weights is not None and source is not None:
        raise UsageError("--weights and --source both say what the training starts from; give one of them.")
    source = Source(source) if isinstance(source, str | Path) else source
    if source is not None and Path(source.path).resolve() == Path(out).resolve():
        raise UsageError(f"--source {source.path} is the run folder that --out writes; choose another one to write.")
    model = None if source is None else open_source(source)
    # Imported here: planners import this module, and need nothing of prediction.
    from autoseg.transfer.teacher import check_student, distillation_of, forget_teacher, keep_teacher, open_teacher

    dataset, raters = choose_raters(dataset, raters)
    if raters and teacher is not None:
        raise UsageError("--raters and --teacher can't be had together: a teacher speaks for nobody; leave one out.")
    master = None if teacher is None else open_teacher(teacher, dataset, out)
    fingerprint = checked_fingerprint(dataset, workers, seed)
    splits = keep_or_make_splits(out, dataset, seed, folds)
    plan = make_plan(
        fingerprint,
        planner,
        device,
        gpu_memory_gb,
        channels,
        regions,
        overrides,
        initialization,
        encoder,
        source,
        None if master is None else distillation_of(master),
        raters,
    )
    _refuse_single_fold(plan, splits)
    if master is not None:
        check_student(plan, master)
    if tensors:
        _keep_weights(Path(out), plan, tensors, str(weights))
    if model is not None:
        keep(Path(out), model, *carry(model, plan))
    else:
        forget(Path(out))
    if master is not None:
        keep_teacher(master, out)
    else:
        forget_teacher(out)
    return Run.create(out, plan, fingerprint, dataset, splits)


def checked_fingerprint(dataset: Dataset, workers: int | None = None, seed: int = 0) -> Fingerprint:
    """The fingerprint of a dataset's labelled cases.

    Args:
        dataset: as :meth:`autoseg.Dataset.open` returns it.
        workers: processes that read cases; None for one a core.
        seed: of the sample of voxels.

    Raises:
        AutosegError: the dataset has errors (all are listed).
    """
    # Cases without a label have no say in the plan, and what is wrong with them is for prediction to find.
    labelled = dataset.model_copy(update={"unlabelled": ()})
    if not labelled.cases:
        raise AutosegError(f"{dataset.root} has no labelled case to learn from.")
    examination = examine(labelled, workers, seed)
    errors = [problem for problem in examination.problems if problem.severity == "error"]
    if errors or examination.fingerprint is None:
        listed = "".join(
            f"\n  {problem.case or 'dataset'}: {f'{problem.file}: ' if problem.file else ''}{problem.what}. "
            f"{problem.remedy}"
            for problem in errors
        )
        raise AutosegError(f"{dataset.root} has {len(errors)} error(s) to be mended before planning:{listed}")
    return examination.fingerprint


def make_plan(
    fingerprint: Fingerprint,
    planner: str | None = None,
    device: str = "auto",
    gpu_memory_gb: float | None = None,
    channels: Sequence[str] = (),
    regions: Sequence[str] = (),
    overrides: Sequence[str] = (),
    initialization: Initialization | None = None,
    encoder: str = "",
    source: Source | None = None,
    distillation: Distillation | None = None,
    raters: Sequence[str] = (),
) -> Plan:
    """Plan a dataset.

    Args:
        fingerprint: of the dataset.
        planner: name of an installed planner; where None, ``finetune`` with a source and ``unet`` without.
        device: ``cuda``, ``mps`` or ``cpu``, which need not be of this machine; ``auto`` takes this machine's best.
        gpu_memory_gb: memory budget in 10⁹ bytes; None for this machine's GPU, or :data:`DEFAULT_GB`.
        channels: names of the dataset's channels to use; empty for all.
        regions: names of the regions or labels to segment; empty for all.
        overrides: ``path.to.key=value`` each, see :func:`autoseg.plans.overrides.override`.
        initialization: where the encoder's weights come from; None for the planner's choice.
        encoder: name of a timm model, for planners that let it be chosen.
        source: model to start from.
        distillation: a teacher's term of the loss, for all configurations.
        raters: names of the raters to learn separately, as the dataset has them.

    Raises:
        UsageError: something is asked for that does not exist.
        AutosegError: the budget is too small.

    Example:
        >>> from autoseg.planning.making import make_plan
        >>> plan = make_plan(run.fingerprint, gpu_memory_gb=11)  # doctest: +SKIP
        >>> plan.configurations["3d_fullres"].patch_size  # doctest: +SKIP
        [128, 128, 128]
    """
    if gpu_memory_gb is not None and gpu_memory_gb <= 0:
        raise UsageError(f"--gpu-memory {gpu_memory_gb:g} is no budget; give 10⁹ bytes, such as 8.")
    if device != "auto" and device not in DEVICES:
        raise UsageError(f"--device {device} is unknown; choose auto, {', '.join(DEVICES)}.")
    kind = select_device().type if device == "auto" else device
    options = {"encoder": encoder} if encoder else {}
    budget = gpu_memory_gb or default_budget(kind)
    request = Request(kind, budget, tuple(channels), tuple(regions), options, source, tuple(raters))
    planner = planner or ("unet" if source is None else FINETUNE)
    chosen = find_planner(planner)
    plan = chosen(fingerprint, request)
    if source is not None and all(c.recipe.initialization.source != "model" for c in plan.configurations.values()):
        raise UsageError(f"--source: planner {planner} starts from no model; use --planner {FINETUNE}.")
    if distillation is not None:
        plan = _within_budget(partial(chosen, fingerprint), request, partial(_learn_from, distillation), plan)
    if encoder and all(getattr(c.network, "encoder", None) != encoder for c in plan.configurations.values()):
        raise UsageError(f"--encoder {encoder}: planner {planner} has no encoder to choose; use --planner inflated.")
    if raters and plan.raters != list(raters):
        raise UsageError(f"--raters: planner {planner} learns from one label map a case; use --planner unet or resenc.")
    if initialization is not None:
        plan = _start_from(plan, initialization)
    return refresh(override(plan, list(overrides))) if overrides else plan


def choose_raters(dataset: Dataset, wanted: Sequence[str]) -> tuple[Dataset, list[str]]:
    """The raters to learn separately, and the dataset without the cases that none of them drew.

    Args:
        dataset: whose cases name their raters.
        wanted: names, or ``all``; empty for none.

    Raises:
        UsageError: the dataset names no raters, not these, or they are fewer than two.
    """
    if not wanted:
        return dataset, []
    known = list(dict.fromkeys(name for case in dataset.cases for name in case.raters))
    names = known if list(wanted) == ["all"] and "all" not in known else list(dict.fromkeys(wanted))
    if not known:
        raise UsageError(f"--raters: {dataset.root} names no raters of its cases; name them in its autoseg.toml.")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"--raters {', '.join(unknown)} is unknown; the dataset has {', '.join(known)}.")
    if len(names) < 2:
        raise UsageError(f"--raters {', '.join(names)} is only one; give two or more, or all.")
    unfit = [name for name in names if name.startswith(".") or set(name) & set("/\\")]
    if unfit:
        raise UsageError(
            f"--raters {unfit[0]} can't be part of a file's name; call the rater otherwise in autoseg.toml."
        )
    lost = [case.id for case in dataset.cases if not set(names) & set(case.raters)]
    if lost:
        listed = ", ".join(lost[:NAMED]) + (", …" if len(lost) > NAMED else "")
        say(f"{len(lost)} of {len(dataset.cases)} cases were drawn by none of {', '.join(names)}, left out: {listed}.")
        kept = tuple(case for case in dataset.cases if case.id not in lost)
        dataset = dataset.model_copy(update={"cases": kept})
    return dataset, names


def _initial_weights(weights: str | Path | None) -> tuple[Initialization | None, dict[str, torch.Tensor]]:
    """What ``--weights`` asks for, and the tensors of its file."""
    if weights is None:
        return None, {}
    reasons = {"source": f"asked for with --weights {weights}"}
    if str(weights) == "random":
        return Initialization(source="random", reasons=reasons), {}
    if str(weights) == "imagenet":
        return Initialization(source="imagenet", reasons=reasons), {}
    from autoseg.networks.weights import content_of
    from autoseg.transfer.pretrained import INITIAL_WEIGHTS, read_weights

    tensors = read_weights(Path(weights))
    return Initialization(source="file", file=INITIAL_WEIGHTS, content=content_of(tensors), reasons=reasons), tensors


def _start_from(plan: Plan, initialization: Initialization) -> Plan:
    """The plan with all networks that can starting from these weights."""
    able = [name for name, c in plan.configurations.items() if c.network.takes_image_weights]
    if not able and initialization.source != "random":
        raise UsageError(
            f"--weights: planner {plan.planner} makes no network with an encoder for pictures; use --planner inflated, "
            "albunet2d or albunet3d."
        )
    configurations = dict(plan.configurations)
    for name in able:
        recipe = configurations[name].recipe.model_copy(update={"initialization": initialization})
        configurations[name] = configurations[name].model_copy(update={"recipe": recipe})
    return plan.model_copy(update={"configurations": configurations})


def _learn_from(distillation: Distillation, plan: Plan) -> Plan:
    """The plan with a teacher's term in the loss of all configurations."""
    for name, configuration in plan.configurations.items():
        if configuration.previous is not None:
            raise AutosegError(
                f"--teacher: planner {plan.planner} makes {name} a stage after another one, and only configurations of "
                "one stage can learn from a teacher; choose another --planner."
            )
    configurations = {
        name: c.model_copy(update={"recipe": c.recipe.model_copy(update={"distillation": distillation})})
        for name, c in plan.configurations.items()
    }
    return refresh(plan.model_copy(update={"configurations": configurations}))


def _within_budget(
    planner: Callable[[Request], Plan], request: Request, change: Callable[[Plan], Plan], plan: Plan
) -> Plan:
    """A changed plan; made anew for what the change leaves of the budget, where it would not fit that any more."""
    changed = change(plan)
    extra = {
        name: c.memory.total - before.memory.total
        for (name, c), before in zip(changed.configurations.items(), plan.configurations.values(), strict=True)
        if c.memory is not None and before.memory is not None and c.memory.total > 1e9 * request.gpu_memory_gb
    }
    if not extra:
        return changed
    left = request.gpu_memory_gb - max(extra.values()) / 1e9
    again = change(planner(replace(request, gpu_memory_gb=left)))
    reason = f"the user's, or the machine's; the teacher's outputs take {request.gpu_memory_gb - left:.2f} GB of it"
    return again.model_copy(
        update={"gpu_memory_gb": request.gpu_memory_gb, "reasons": {**again.reasons, "gpu_memory_gb": reason}}
    )


def _refuse_single_fold(plan: Plan, splits: Sequence[Split]) -> None:
    """A stage that learns from predictions needs a fold for each case that was not trained on it."""
    if any(split["validation"] for split in splits):
        return
    for name in plan.stages(plan.recommended):
        previous = plan.configurations[name].previous
        if previous is not None and previous.use == "channels":
            raise UsageError(
                f"--folds 1: {name} learns from what {previous.configuration} predicts of cases that it was not "
                "trained on, and a single fold has none; give --folds 2 or more."
            )


def _keep_weights(run: Path, plan: Plan, tensors: dict[str, torch.Tensor], source: str) -> None:
    """Copy initial weights into the run folder, once they are known to fit."""
    from autoseg.networks.weights import save_weights
    from autoseg.transfer.pretrained import INITIAL_WEIGHTS, check_fit

    for configuration in plan.configurations.values():
        if configuration.recipe.initialization.source == "file" and isinstance(configuration.network, Inflated):
            check_fit(configuration.network, plan.in_channels(configuration), tensors, source)
    save_weights(run / INITIAL_WEIGHTS, tensors)


def default_budget(device: str) -> float:
    """Memory budget in 10⁹ bytes where the user names none."""
    if device == "cuda" and torch.cuda.is_available():
        return round(DEVICE_SHARE * torch.cuda.get_device_properties(0).total_memory / 1e9, 2)
    return DEFAULT_GB


def refresh(plan: Plan) -> Plan:
    """The plan with memory and numbers of parameters computed anew, after values they depend on were overridden."""
    configurations = {}
    for stage in plan.all_stages:
        memory = compute_memory(stage, plan.device)
        trainable, with_statistics = parameters_of(stage.network, stage.in_channels, stage.heads)
        configurations[stage.name] = stage.configuration.model_copy(
            update={
                "memory": memory,
                "parameters": trainable,
                "parameters_with_statistics": with_statistics,
                "reasons": {
                    **stage.configuration.reasons,
                    "memory": f"computed for one training step in {memory.precision}: {memory.total / 1e9:.2f} GB",
                },
            }
        )
    return plan.model_copy(update={"configurations": configurations})


def compute_memory(stage: Stage, device: str) -> Memory:
    """Memory of one training step of a stage on a kind of device, in the precision it was planned for."""
    planned = stage.configuration.memory
    precision: TrainingPrecision = planned.precision if planned else "fp32"
    if stage.recipe.precision != "auto":
        precision = stage.recipe.precision
    return step_memory(StepSetup.of(stage), precision, device)
