"""Labels of unlabelled scans, made by a source: what it is not sure of is left out of the loss.

Pseudo-labels (Lee 2013, "Pseudo-label: the simple and efficient semi-supervised learning method"), each voxel by itself
where the probability is high (as FixMatch, Sohn et al. 2020, does for images).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from autoseg.data.dataset import Case, load_case
from autoseg.inference.sliding_window import SlidingWindow
from autoseg.inference.variant_choice import inference_variant
from autoseg.networks.weights import load_network
from autoseg.plans.mixing import PseudoLabelled
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.preprocessing.case import preprocess_case
from autoseg.preprocessing.dataset import case_key, usable_key
from autoseg.preprocessing.store import save
from autoseg.runs.run import Run
from autoseg.transfer.mixed_cases import mixed_dataset, mixed_folder
from autoseg.transfer.tensors import fitted_source
from autoseg.utils.digest import digest
from autoseg.utils.errors import AutosegError
from autoseg.utils.lock import do_once
from autoseg.utils.progress import Steps, say


def label_scans(run: Run, stage: Stage, device: torch.device) -> None:
    """Preprocess the unlabelled scans that a stage's training mixes in, with labels by all folds of the source.

    What was done is kept.

    Args:
        run: whose plan names them.
        stage: to train.
        device: to predict on.

    Raises:
        AutosegError: a scan is gone, or a fold of the source.
    """
    given = stage.recipe.unlabelled
    if given is None or not given.share:
        return
    folder = mixed_folder(run, stage, given.file)
    what = f"Another process labels scans into {folder}"
    label = partial(_label, run, stage, given, folder, device)
    do_once(folder, what, lambda: _due(run, stage, given, folder), label)


def _due(run: Run, stage: Stage, given: PseudoLabelled, folder: Path) -> list[tuple[Case, str]]:
    """The scans that are to be labelled, each with the key of what is stored then."""
    due = []
    for case in mixed_dataset(run, given.file).dataset.cases:
        key, stored = _key(case, stage, given), usable_key(folder, case.id, stage)
        if stored == key:
            continue
        if not case.has_scans:
            if stored is not None and stored.split("-")[0] == key.split("-")[0]:
                continue  # a run that was moved keeps what was made before
            raise AutosegError(f"the unlabelled scan {case.id} is gone; bring it back, or plan without --unlabelled.")
        due.append((case, key))
    return due


def _label(
    run: Run,
    stage: Stage,
    given: PseudoLabelled,
    folder: Path,
    device: torch.device,
    due: Sequence[tuple[Case, str]],
) -> None:
    files = fitted_source(stage, run.path, run.source_folder(stage))
    variant = inference_variant(stage, device, files)
    networks = [load_network(file, stage, device) for file in files]
    for network in networks:
        variant.prepare(network)
    window = SlidingWindow.of(stage, device, variant.dtype)
    sure = []
    with Steps("Labelling scans with the source", len(due)) as steps:
        for case, key in due:
            prepared = preprocess_case(load_case(case, stage.channel_names, with_label=False), stage)
            scores = window.scores(networks, torch.from_numpy(prepared.image))
            label = pseudo_label(scores, stage.target, given.confidence)
            sure.append(float(np.mean(label != stage.target.ignore)))
            save(folder, case.id, replace(prepared, label=label), key)
            steps.advance(note=case.id)
    say(f"The source is sure of {np.mean(sure):.1%} of the voxels of {len(due)} unlabelled scans; others are left out.")


def pseudo_label(scores: torch.Tensor, target: Target, confidence: float) -> np.ndarray:
    """The label map of a network's scores, with the ignore label where it is not sure.

    Args:
        scores: logits ``(heads, z, y, x)``.
        target: what the heads are; has an ignore label.
        confidence: smallest probability of what is taken: of a label, or of each region's being there or not.

    Returns:
        int64 ``(z, y, x)``, values of the target. Regions that no label value has together are left out, too.
    """
    assert target.ignore is not None
    if target.kind == "labels":
        highest, head = torch.softmax(scores.float(), dim=0).max(dim=0)
        values = torch.tensor([0, *(output.values[0] for output in target.outputs)], device=scores.device)
        label = values[head]
    else:
        probabilities = torch.sigmoid(scores.float())
        highest = torch.maximum(probabilities, 1 - probabilities).amin(dim=0)
        label = torch.full_like(highest, target.ignore, dtype=torch.long)
        for value in (value for value in target.values if value != target.ignore):
            wanted = torch.tensor([value in output.values for output in target.outputs], device=scores.device)
            label[((probabilities > 0.5) == wanted[:, None, None, None]).all(dim=0)] = value
    label[highest < confidence] = target.ignore
    return label.cpu().numpy()


def _key(case: Case, stage: Stage, given: PseudoLabelled) -> str:
    """A fingerprint of all that a labelled scan depends on: ``PLAN-FILES``, a digest of each."""
    (plan, files), start = case_key(case, stage).split("-"), stage.recipe.initialization
    return f"{digest([plan, stage.identity, start.ensemble, given.confidence, *start.names_part])}-{files}"
