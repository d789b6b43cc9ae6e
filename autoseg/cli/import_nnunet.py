"""``autoseg import nnunet``: a run folder from a trained nnU-Net v2 model."""

from pathlib import Path
from typing import Annotated

import typer

from autoseg.utils.shell import quoted


def command(
    model: Annotated[
        Path,
        typer.Argument(
            help="The model's folder (plans.json, dataset.json, fold_0, …), such as "
            "nnUNetTrainer__nnUNetPlans__3d_fullres.",
            metavar="MODEL_FOLDER",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Run folder to make.")],
) -> None:
    """Make a run folder of a trained nnU-Net v2 model; it predicts as nnU-Net does.

    Nothing is unpickled but tensors, numbers and text.
    """
    from autoseg.interop import import_nnunet
    from autoseg.utils.progress import say

    run = import_nnunet(model, out)
    plan = run.plan
    folds = run.trained_folds(plan.recommended)
    say(
        f"{out}: {plan.recommended} of {plan.dataset}, {', '.join(plan.channel_names)} → "
        f"{', '.join(output.name for output in plan.target.outputs)}; fold {', '.join(map(str, folds))}."
    )
    say(f"Next: autoseg predict {quoted(out)} SCANS --out RESULTS")
