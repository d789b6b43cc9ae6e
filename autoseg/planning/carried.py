"""What is carried into a run from elsewhere (initial weights, a source model, a teacher): one protocol for all kinds.

A kind is a module in :mod:`autoseg.transfer`, or of another package (see :mod:`autoseg.utils.registry`), whose class
registers in :data:`CARRIED`. Planning goes through these steps, in this order:

1. ``check``: before the scans are read, what can be known to be wrong already. It returns what is carried from then on,
   with what it found out of the dataset; nothing is changed in place.
2. ``apply``: the plan that uses it. What needs to have been checked, and was not, refuses (:func:`unchecked`).
3. ``check_plan``: the final plan, with the user's overrides.
4. ``install``: into the run folder, under names that depend on the content, so that nothing which the plan of before
   uses is replaced. Only now is anything written.
5. plan.json is replaced. A kill before leaves the plan of before with all its files, a kill after the new one.
6. ``remove_unused``: of every kind, also of those that were not asked for: what only an earlier plan used.
"""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from autoseg.plans.plan import Plan
from autoseg.utils.errors import UsageError
from autoseg.utils.registry import Registry

if TYPE_CHECKING:
    from typing import Self

    from autoseg.data.dataset import Dataset
    from autoseg.planning.request import Request


class Carried(Protocol):
    """Something from elsewhere that a training needs in its run folder.

    Attributes:
        kind: what it is called in reasons, such as ``teacher``.
        option: that asks for it on the command line.
        provides: in words; two things that provide the same can't both be carried.
        start: what the plan has to start from for it: ``model``, or ``scratch``. Decides which planner is the default.
    """

    kind: ClassVar[str]
    option: ClassVar[str]
    provides: ClassVar[str]
    start: ClassVar[str]

    @property
    def content(self) -> str:
        """Fingerprint of what is carried, and how it is to be used."""

    def check(self, request: "Request", dataset: "Dataset", out: Path) -> "Self":
        """Refuse what can't be carried into a run of this dataset.

        Args:
            request: that asks for it.
            dataset: that the run will be trained on.
            out: the run folder.

        Returns:
            What is carried: itself, or a copy that knows of the dataset what it needs.

        Raises:
            AutosegError: it is missing, damaged or unfit.
        """

    def apply(self, plan: Plan) -> Plan:
        """The plan that uses it.

        Raises:
            AutosegError: the planner makes no plan that can.
            UsageError: it needs to be checked first, and is not.
        """

    def check_plan(self, plan: Plan) -> None:
        """Refuse a final plan that it does not fit.

        Raises:
            AutosegError: says what does not fit.
        """

    def install(self, plan: Plan, run: Path) -> None:
        """Copy what the plan needs into the run folder, beside whatever the plan of before uses."""

    @classmethod
    def remove_unused(cls, run: Path, plan: Plan) -> None:
        """Remove what earlier plans needed of this kind, and this plan does not."""


def unchecked(item: Carried) -> UsageError:
    """The error of something that was not compared with the dataset, and can't be carried without that."""
    return UsageError(
        f"{item.option}: it was not compared with the dataset; plan with autoseg.plan, or give make_plan the request "
        "that checked_request returns."
    )


#: Kinds of things that can be carried into a run.
CARRIED: Registry[type[Carried]] = Registry("carried", package="autoseg.transfer")
