"""The record of a folder of results, ``predictions.json``: how they were made, and what is known of each case."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoseg.data.result_files import PREDICTIONS, results_in, told_in
from autoseg.utils.files import write_json
from autoseg.utils.progress import say

#: Keys that are about cases and files; all others say how the results were made.
_OF_CASES = {"cases", "kept_from_before", "failed", "files"}

#: Keys that say what the values of a label map mean.
_MEANING = ("outputs", "structures", "label_values")

#: Key of a case's entry: what of all this was otherwise where it was predicted by an earlier command.
_OTHERWISE = "made_with"


@dataclass(frozen=True)
class Record:
    """What ``predictions.json`` says, beside the cases of the command that writes it.

    Attributes:
        folder: of the results.
        made: how this command makes results.
        earlier: case → what is known of it, of results of the same model that lie there from earlier commands.
        files: names of the results that lie there, or are about to.
    """

    folder: Path
    made: Mapping[str, Any]
    earlier: Mapping[str, Mapping[str, Any]]
    files: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path, made: Mapping[str, Any], cases: Collection[str], files: Iterable[Path]) -> "Record":
        """The record of a folder, with what earlier commands left in it.

        Args:
            folder: of the results.
            made: how they are made, of plain values.
            cases: names of those that the command is about.
            files: that are about to be written.
        """
        made = json.loads(json.dumps(made))
        there, told = results_in(folder), told_in(folder)
        entries = told["cases"] if isinstance(told.get("cases"), dict) else {}
        entries = {**{str(case): {} for case in told.get("kept_from_before") or ()}, **entries}
        # The label map of CASE is CASE.nii.gz, CASE.seg.nrrd, CASE.dcm, …
        named = {path.name[:at] for path in there for at, letter in enumerate(path.name) if letter == "."}
        entries = {case: entry for case, entry in entries.items() if case in named}
        how = {key: value for key, value in told.items() if key not in _OF_CASES}
        if not _of_one_model(how, made):
            if others := [case for case in entries if case not in cases]:
                say(
                    f"{folder} holds results of {len(others)} other case(s), by another model: they stay, but "
                    f"{PREDICTIONS} says no more of them, and 'autoseg volumes' leaves them out."
                )
            entries = {}
        earlier = {case: _with_what_differs(entry, how, made) for case, entry in entries.items()}
        names = {path.name for path in (*there, *files)}
        return cls(folder, made, earlier, tuple(sorted(names)))

    def ended(self) -> "Record":
        """The same when all is written: it names the files that are there."""
        return replace(self, files=tuple(name for name in self.files if (self.folder / name).is_file()))

    def write(
        self, cases: Mapping[str, Mapping[str, object]], written: Iterable[str], failed: Mapping[str, str]
    ) -> None:
        """Write the file.

        Args:
            cases: predicted by this command so far → what is known of them.
            written: cases that have a result; those not among ``cases`` were kept.
            failed: case → why.
        """
        told = {
            **self.made,
            "cases": {**self.earlier, **{case: found for case, found in cases.items() if case not in failed}},
            "kept_from_before": [case for case in written if case not in cases],
            "failed": dict(failed),
            "files": list(self.files),
        }
        write_json(self.folder / PREDICTIONS, told)


def _of_one_model(how: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether results are of the same configurations of the same runs, with values that mean the same."""
    same = [
        [(Path(run["run"]).resolve(), run.get("configuration")) for run in one.get("runs", ())] for one in (how, other)
    ]
    return same[0] == same[1] and all(how.get(key) == other.get(key) for key in _MEANING)


def _with_what_differs(entry: Mapping[str, Any], how: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with what was otherwise when the case was predicted, as mirroring or the number of folds."""
    then = {**how, **entry.get(_OTHERWISE, {})}
    differs = {key: then.get(key) for key in sorted({*then, *made}) if then.get(key) != made.get(key)}
    kept = {key: value for key, value in entry.items() if key != _OTHERWISE}
    return {**kept, _OTHERWISE: differs} if differs else kept
