"""What a kind of result is, and the registry of them.

One more kind is a subclass of :class:`ResultWriter` in one file, registered under the name that asks for it::

    class Uncertainty(ResultWriter):
        fractions = True
        groups = ("fold",)

        def names(self, ensemble):
            return ["uncertainty"]

        def volumes(self, prediction):
            return {"uncertainty": prediction.opinions["fold"].disagreement().numpy()}

    RESULTS.register("uncertainty", Uncertainty())
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from autoseg.data.file_names import holds_fractions, plain_name
from autoseg.data.image import write_image
from autoseg.inference.ensemble import Ensemble
from autoseg.inference.formats.format import LabelContent, ResultFormat, numbers_ending, write_label
from autoseg.inference.opinions import Group
from autoseg.inference.prediction import Prediction
from autoseg.utils.registry import Registry

#: The result that every case gets.
LABEL = "label"


@dataclass(frozen=True)
class Destination:
    """Where results of a case go.

    Attributes:
        label: file of the label map; other results go beside it.
        case: name of the case.
        form: format that the user asked for; None for that of the label map's ending.
        content: what the label map holds.
    """

    label: Path
    case: str
    form: ResultFormat | None
    content: LabelContent


class ResultWriter:
    """A kind of result: which files a case gets, and what is in them.

    Attributes:
        fractions: whether its volumes hold numbers between 0 and 1, which some formats of pictures can't.
        label_maps: whether its volumes are label maps with the plan's values, which some formats name and colour.
        probabilities: whether it needs :attr:`Prediction.probabilities`.
        each_answer: whether it needs :attr:`Prediction.answers`.
        groups: which of :attr:`Prediction.opinions` it needs; ``fold`` and ``mirroring`` take another prediction each.
    """

    fractions: ClassVar[bool] = False
    label_maps: ClassVar[bool] = False
    probabilities: ClassVar[bool] = False
    each_answer: ClassVar[bool] = False
    groups: ClassVar[tuple[Group, ...]] = ()

    def check(self, ensemble: Ensemble) -> None:
        """Refuse to be asked for where the ensemble can't give it.

        Raises:
            UsageError: it can't.
        """
        if self.each_answer or "rater" in self.groups:
            ensemble.require_answers()

    def names(self, ensemble: Ensemble) -> list[str]:
        """Names of a case's volumes: ``disagreement`` is in ``CASE_disagreement.nii.gz``, "" in ``CASE.nii.gz``."""
        raise NotImplementedError

    def volumes(self, prediction: Prediction) -> Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]]:
        """Name → volume ``(z, y, x)``, in canonical axes; or pairs of both, where not all fit into memory at once."""
        raise NotImplementedError

    def provenance(self, ensemble: Ensemble) -> dict[str, Any]:
        """What ``predictions.json`` says about it."""
        return {}

    def path(self, label: Path, case: str, name: str) -> Path:
        """Where a volume is written.

        Args:
            label: file of the case's label map.
            case: its name.
            name: of the volume.
        """
        if self.fractions:
            return beside(label, case, name)
        ending = _ending(label, case)
        ending = ending if self.label_maps else numbers_ending(ending)
        return label.with_name(f"{case}_{plain_name(name)}{ending}") if name else label

    def write(self, prediction: Prediction, to: Destination) -> None:
        """Write a case's volumes.

        Args:
            prediction: of the case.
            to: where they go.
        """
        write = write_image if self.fractions else write_label
        volumes = self.volumes(prediction)
        for name, volume in volumes.items() if isinstance(volumes, Mapping) else volumes:
            path = self.path(to.label, to.case, name)
            if self.label_maps and to.form is not None:
                to.form.write(path, volume, prediction.geometry, to.content)
            else:
                write(path, volume, prediction.geometry)


#: Kinds of results by the name that asks for one: ``autoseg predict --results NAME``.
RESULTS: Registry[ResultWriter] = Registry("result", option="--results", package="autoseg.inference.results")


def chosen_writers(names: Iterable[str], ensemble: Ensemble) -> list[ResultWriter]:
    """The writers of these results, and last that of the label map, whose file says that a case is done.

    Raises:
        UsageError: no such result, or the ensemble can't give it.
    """
    others = [name for name in dict.fromkeys(names) if name != LABEL]
    writers = [RESULTS.find(name) for name in (*others, LABEL)]
    for writer in writers:
        writer.check(ensemble)
    return writers


def beside(label: Path, case: str, name: str) -> Path:
    """Where a volume of numbers between 0 and 1 is written, given the file of the case's label map."""
    ending = numbers_ending(_ending(label, case))
    return label.with_name(f"{case}_{plain_name(name)}{ending if holds_fractions(ending) else '.tiff'}")


def _ending(label: Path, case: str) -> str:
    return label.name[len(case) :]
