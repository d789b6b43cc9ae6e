"""A model folder of nnU-Net v2 → a run folder with the same predictions."""

import textwrap
from contextlib import suppress
from pathlib import Path

from torch import nn

from autoseg.data.dataset import Dataset
from autoseg.data.fingerprint import Fingerprint, Intensity
from autoseg.interop.nnunet.checkpoint import Checkpoint, read_checkpoint
from autoseg.interop.nnunet.folder import BEST, FINAL, ModelFolder, open_folder
from autoseg.interop.nnunet.translation import dataset_of, is_flat, plan_of
from autoseg.networks import build
from autoseg.networks.weights import identity_of, save_weights
from autoseg.planning.derived import refresh
from autoseg.plans.plan import Plan
from autoseg.runs.fold import Fold
from autoseg.runs.run import Run, refuse_dataset_folder
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import refuse_unwritable_folder
from autoseg.utils.progress import Steps, say

#: nnU-Net's checkpoints → file names of the weights.
_CHECKPOINTS = {FINAL: "weights.safetensors", BEST: "best.safetensors"}


def import_nnunet(model: str | Path, out: str | Path) -> Run:
    """Make a run folder of a trained nnU-Net v2 model.

    The run has no cases; it can predict and be fine-tuned. No code from a checkpoint is run.

    Args:
        model: folder with ``plans.json``, ``dataset.json`` and ``fold_*/checkpoint_final.pth``.
        out: run folder to make.

    Raises:
        AutosegError: a file is damaged, a checkpoint can't be read safely, or autoseg lacks a feature of the model.
        UsageError: ``out`` is a run folder or a dataset already, or takes no file.
    """
    refuse_unwritable_folder(out)
    folder, out = open_folder(model), Path(out)
    dataset = dataset_of(folder)
    refuse_dataset_folder(out, dataset)
    if (out / "plan.json").exists():
        raise UsageError(f"--out {out} is a run folder already; choose another one.")
    written: list[Path] = []
    try:
        plan = _import_weights(folder, out, written)
    except BaseException:  # what is left would be folds of the next model that is imported here
        for path in written:
            path.unlink(missing_ok=True)
            for parent in (path.parent, path.parent.parent):
                with suppress(OSError):  # not empty
                    parent.rmdir()
        raise
    # Folds keep their numbers; the model folder does not list their cases.
    splits: list[dict[str, list[str]]] = [{"train": [], "validation": []} for _ in range(max(folder.folds) + 1)]
    return Run.create(out, plan, _fingerprint(folder, dataset), dataset, splits)


def _import_weights(folder: ModelFolder, out: Path, written: list[Path]) -> Plan:
    """Write the weights of all folds into a run folder.

    Args:
        folder: of the model.
        out: run folder.
        written: gets the path of each file, before it is written.

    Returns:
        The plan that they fit.
    """
    plan: Plan | None = None
    files = [(fold, source, target) for fold, where in folder.folds.items() for source, target in _files(where)]
    with Steps("Importing", len(files)) as steps:
        for fold, source, target in files:
            checkpoint = read_checkpoint(source)
            if plan is None:
                plan = refresh(plan_of(folder, checkpoint, _configuration_name(folder, checkpoint)))
            network = _loaded(plan, checkpoint)
            metadata = {**identity_of(plan.stage()), "origin": "nnU-Net v2"}
            written.append(Fold(Run(out), plan.stage(), fold).folder / target)
            save_weights(written[-1], network.state_dict(), metadata)
            steps.advance(note=f"fold {fold}")
    assert plan is not None
    return plan


def _files(fold: Path) -> list[tuple[Path, str]]:
    """Checkpoints of a fold and the names of their weights; if only the best exists, it is the final one, too."""
    checkpoints = [(fold / name, target) for name, target in _CHECKPOINTS.items() if (fold / name).is_file()]
    if checkpoints[0][1] != _CHECKPOINTS[FINAL]:
        say(f"{fold} has no {FINAL}; {BEST} is taken in its place.")
        checkpoints.insert(0, (checkpoints[0][0], _CHECKPOINTS[FINAL]))
    return checkpoints


def _configuration_name(folder: ModelFolder, checkpoint: Checkpoint) -> str:
    """The checkpoint's configuration, as in nnU-Net's predictor; else that of the folder's name."""
    if checkpoint.configuration is not None:
        return checkpoint.configuration
    parts = folder.path.resolve().name.split("__")
    if len(parts) != 3:
        raise AutosegError(
            f"{checkpoint.path} does not say its configuration; name the folder as nnU-Net does, such as "
            "nnUNetTrainer__nnUNetPlans__3d_fullres."
        )
    return parts[2]


def _loaded(plan: Plan, checkpoint: Checkpoint) -> nn.Module:
    configuration = plan.configurations[plan.recommended]
    network = build(configuration.network, len(plan.channels), plan.target.heads)
    try:
        network.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        lines = str(error).splitlines()
        reason = textwrap.shorten(lines[1] if len(lines) > 1 else str(error), 120, placeholder=" …").rstrip(".")
        raise AutosegError(
            f"{checkpoint.path} does not fit the network that plans.json describes ({reason}); {checkpoint.trainer} "
            "may build another one, which can't be imported."
        ) from None
    return network


def _fingerprint(folder: ModelFolder, dataset: Dataset) -> Fingerprint:
    """The fingerprint of the training data, as far as the model folder has it: without the cases."""
    intensities = {}
    for number, name in enumerate(dataset.channels):
        properties = folder.plans.intensities.get(str(number))
        if properties is not None:
            intensities[name] = Intensity(
                mean=properties.mean,
                std=properties.std,
                percentile_00_5=properties.percentile_00_5,
                percentile_50=properties.median,
                percentile_99_5=properties.percentile_99_5,
            )
    return Fingerprint.of(dataset, 2 if is_flat(folder) else 3, [], intensities)
