"""Curves of a study: validation Dice over the epochs, mean and deviation over the trainings of each setting."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.runs.run import Run
from autoseg.study.grid import Setting
from autoseg.study.preparation import Study
from autoseg.utils.files import atomic, write_csv

#: Columns of a history that are drawn: ``validation_dice`` and one for each structure.
DRAWN = "validation_dice"

#: Points of a curve up to which each is marked; a single one would not be seen otherwise.
MARKED = 12


@dataclass(frozen=True)
class SettingCurve:
    """One curve: the same column of a setting's trainings (seeds × folds), epoch by epoch.

    Attributes:
        setting: name.
        column: of the histories: ``validation_dice``, or ``validation_dice_STRUCTURE``.
        epochs: with a value in every training.
        mean: over the trainings.
        std: sample standard deviation over the trainings; 0 for a single one.
        trainings: how many there are.
    """

    setting: str
    column: str
    epochs: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    trainings: int

    @property
    def structure(self) -> str:
        """The structure's name; ``mean`` over all."""
        return self.column.removeprefix(DRAWN).removeprefix("_") or "mean"


def collect_curves(study: Study) -> list[SettingCurve]:
    """The curves of all trainings that are finished: of the study's structures, and of the mean."""
    wanted = {DRAWN, *(f"{DRAWN}_{structure.name}" for structure in study.structures)}
    found = []
    for setting in study.settings:
        histories = [history for path in _histories(study, setting) if (history := _read(path))]
        columns = dict.fromkeys(column for history in histories for column in history if column in wanted)
        found += [curve for column in columns if (curve := _curve(setting.name, column, histories)) is not None]
    return found


def _histories(study: Study, setting: Setting) -> list[Path]:
    return [
        Run(study.run_folder(setting, seed)).fold(study.plans[setting.name].stage(), fold).history
        for seed in study.grid.seeds
        for fold in study.folds
        if study.is_trained(setting, seed, fold)
    ]


def _read(path: Path) -> dict[str, dict[int, float]]:
    """Column → epoch → value."""
    found: dict[str, dict[int, float]] = {}
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for column, text in row.items():
                    if column.startswith(DRAWN) and text:
                        found.setdefault(column, {})[int(row["epoch"])] = float(text)
    return found


def _curve(name: str, column: str, histories: Sequence[dict[str, dict[int, float]]]) -> SettingCurve | None:
    """Where all trainings were validated: with a time budget they may have another number of epochs each."""
    trainings = [history.get(column, {}) for history in histories]
    epochs = sorted(set.intersection(*(set(training) for training in trainings)))
    if not epochs:
        return None
    values = np.array([[training[epoch] for epoch in epochs] for training in trainings])
    std = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(len(epochs))
    return SettingCurve(name, column, np.array(epochs), values.mean(axis=0), std, len(values))


def write_curves(study: Study, out: Path) -> None:
    """Write ``curves.csv`` and ``curves.png`` (a panel a structure), where any training was validated on the way."""
    curves = collect_curves(study)
    if not curves:
        return
    header = ["setting", "structure", "epoch", "mean", "std", "trainings"]
    rows = [
        [curve.setting, curve.structure, int(epoch), f"{mean:.6g}", f"{std:.6g}", str(curve.trainings)]
        for curve in curves
        for epoch, mean, std in zip(curve.epochs, curve.mean, curve.std, strict=True)
    ]
    write_csv(out / "curves.csv", [header, *rows])
    with atomic(out / "curves.png", suffix=".png") as temporary:
        _draw(curves, temporary)


def _draw(curves: Sequence[SettingCurve], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    structures = list(dict.fromkeys(curve.structure for curve in curves))
    if len(structures) == 2:  # the mean is the only structure's
        structures = [name for name in structures if name != "mean"]
    settings = list(dict.fromkeys(curve.setting for curve in curves))
    figure = Figure(figsize=(4.6 * len(structures), 3.6), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(structures), squeeze=False, sharey=True)[0]
    for panel, structure in zip(panels, structures, strict=True):
        for curve in curves:
            if curve.structure != structure:
                continue
            colour = f"C{settings.index(curve.setting) % 10}"
            marker = "o" if len(curve.epochs) <= MARKED else ""
            panel.plot(
                curve.epochs, curve.mean, color=colour, label=curve.setting, linewidth=1.8, marker=marker, markersize=4
            )
            if curve.trainings > 1:
                low, high = curve.mean - curve.std, curve.mean + curve.std
                panel.fill_between(curve.epochs, low, high, color=colour, alpha=0.2, linewidth=0)
        panel.set(title=structure, xlabel="epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("validation Dice")
    if len(settings) <= 12:
        panels[-1].legend(fontsize=7)
    figure.savefig(path)
