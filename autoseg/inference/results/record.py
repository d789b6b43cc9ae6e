"""The record of a folder of results, ``predictions.json``: how they were made, and what is known of each case."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoseg.data.dataset import Case
from autoseg.data.file_names import without_ending
from autoseg.data.result_files import PREDICTIONS, is_further_result, results_in, told_in
from autoseg.utils.digest import digest, file_digest
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import lacks_room, write_json
from autoseg.utils.lock import waited_for
from autoseg.utils.progress import say

#: Keys that are about cases and files; all others say how the results were made.
_OF_CASES = {"cases", "kept_from_before", "failed", "files"}

#: Keys that say what the values of a label map mean.
_MEANING = ("outputs", "structures", "label_values")

#: Keys of a case's entry: what of all this was otherwise where it was predicted by an earlier command; and by what its
#: scans are known again (:func:`scans_of`).
_OTHERWISE, SCANS = "made_with", "scans"

#: Key of a run's entry where it predicts with the source that it was fine-tuned from: the share, which says how.
KEPT_SHARE = "source_share"


def scans_of(case: Case) -> list[str]:
    """By what the scans of a case are known again: digests of each file's place, and of what is in it.

    The places themselves may tell whose scans they are.

    Args:
        case: with files that can be read.
    """
    paths = _scan_paths(case)
    return [*map(_place, paths), *map(_content, paths)]


def _are_among(case: Case, known: Collection[str]) -> bool:
    """Whether any scan of a case is known: of an exam, one may have been corrected, or another channel added."""
    paths = _scan_paths(case)
    if not paths or any(_place(path) in known for path in paths):
        return True
    try:
        return any(_content(path) in known for path in paths)
    except OSError:  # said where it is read for the prediction
        return True


def _scan_paths(case: Case) -> list[Path]:
    return list(dict.fromkeys(file.path for file in case.channels.values()))


def _place(path: Path) -> str:
    return digest(str(path.resolve()))


def _content(path: Path) -> str:
    """Of a file, or of all files of a folder, as that of a DICOM series."""
    if not path.is_dir():
        return file_digest(path)
    return digest(sorted(file_digest(file) for file in path.iterdir() if file.is_file()))


@dataclass(frozen=True)
class FoundResults:
    """What lies in a folder of results, by its ``predictions.json``.

    Attributes:
        how: they were made, as the last command has it.
        cases: case → what is known of it, of those that have a result.
        files: names of the results.
    """

    how: Mapping[str, Any]
    cases: Mapping[str, Mapping[str, Any]]
    files: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> "FoundResults":
        """Those of a folder."""
        there, told = results_in(folder), told_in(folder)
        entries = told["cases"] if isinstance(told.get("cases"), dict) else {}
        entries = {**{str(case): {} for case in told.get("kept_from_before") or ()}, **entries}
        # The label map of CASE is CASE.nii.gz, CASE.seg.nrrd, CASE.dcm, …
        named = {path.name[:at] for path in there for at, letter in enumerate(path.name) if letter == "."}
        how = {key: value for key, value in told.items() if key not in _OF_CASES}
        known = {case: entry for case, entry in entries.items() if case in named}
        return cls(how, known, tuple(path.name for path in there))

    def by(self, made: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The cases, each with what was otherwise for it, where it was the same model that made them; else none."""
        if not _of_one_model(self.how, made):
            return {}
        return {case: _with_what_differs(entry, self.how, made) for case, entry in self.cases.items()}

    def alike(self, other: "FoundResults") -> set[str]:
        """The cases whose results are of the same model, settings and scans as those of another folder."""
        here, there = self.by(other.how), other.by(other.how)
        same = (_OTHERWISE, SCANS)
        return {
            case
            for case, entry in here.items()
            if case in there and all(entry.get(key) == there[case].get(key) for key in same)
        }


@dataclass(frozen=True)
class Record:
    """What ``predictions.json`` says, beside the cases of the command that writes it.

    Other commands may predict other cases into the folder at the same time.

    Attributes:
        folder: of the results.
        made: how this command makes results.
        cases: names of those that it is about.
        there: what lay there when it began.
        earlier: case → what is known of it, of those of the same model.
        files: case → names of the results that it makes.
    """

    folder: Path
    made: Mapping[str, Any]
    cases: frozenset[str]
    there: FoundResults
    earlier: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, made: Mapping[str, Any], cases: Iterable[str]) -> "Record":
        """The record of a folder, with what earlier commands left in it.

        Args:
            folder: of the results.
            made: how they are made, of plain values.
            cases: names of those that the command is about.
        """
        made, there = json.loads(json.dumps(made)), FoundResults.of(folder)
        return cls(folder, made, frozenset(cases), there, there.by(made))

    def refuse_other_scans(self, cases: Iterable[Case]) -> None:
        """Refuse cases that are called as others whose results lie there, as two exams of one file name.

        Of results of earlier versions, it is not known which scans they are of.

        Args:
            cases: that the command is about.

        Raises:
            UsageError: names the first of them.
        """
        for case in cases:
            known = self.there.cases.get(case.id, {}).get(SCANS)
            if known and not _are_among(case, known):
                raise UsageError(
                    f"--out {self.folder} holds a result of other scans under the name {case.id}; choose another "
                    "folder or name (with --channel: --name), or delete that result, if it is not needed."
                )

    def refuse_keeping(self) -> None:
        """Refuse to keep results of another model as this one's.

        Raises:
            UsageError: there are some, of cases that the command is about.
        """
        others = [case for case in self.there.cases if case in self.cases and case not in self.earlier]
        if others:
            raise UsageError(
                f"--no-overwrite: {self.folder} holds results of {len(others)} of these cases, as {others[0]}, by "
                "another model, by other weights of it or with other label values; leave the option out to predict "
                "them again, or choose another folder."
            )

    def begun(self, files: Mapping[str, Iterable[Path]]) -> "Record":
        """The same with the files that are about to be written; results of another model are said to lie there.

        Args:
            files: case → its files in the folder.
        """
        if others := [] if self.earlier else [case for case in self.there.cases if case not in self.cases]:
            say(
                f"{self.folder} holds results of {len(others)} other case(s), by another model or by other weights of "
                f"it: they stay, but {PREDICTIONS} says no more of them, and 'autoseg evaluate' and 'autoseg volumes' "
                "leave them out."
            )
        return replace(self, files={case: tuple(path.name for path in paths) for case, paths in files.items()})

    def ended(self) -> "Record":
        """The same when nothing more is written: it names the files that are there."""
        there = {
            case: tuple(name for name in names if (self.folder / name).is_file()) for case, names in self.files.items()
        }
        return replace(self, files=there)

    def clear(self, case: str, scans: Sequence[str]) -> None:
        """Remove what was left of a case by other means: once the case is told of, it is made as this command does.

        That is what lies in the place of its results, which a killed command does not come to replace: of another model
        or earlier weights, of other settings, as without mirroring, or of scans that were corrected since. And of
        another model what lies beside the label map, as probabilities, which this command may not make.

        Args:
            case: of those that are about to be written.
            scans: by what its scans are known again.
        """
        earlier = self.earlier.get(case)
        if earlier is not None and _OTHERWISE not in earlier and earlier.get(SCANS) == list(scans):
            return
        for name in self.there.files:
            beside = earlier is None and name.startswith(case) and self._is_beside(without_ending(name), case)
            if name in self.files[case] or beside:
                (self.folder / name).unlink(missing_ok=True)

    def _is_beside(self, called: str, case: str) -> bool:
        """Whether a result is called as one beside the label map of a case, and not as that of another case."""
        return is_further_result(called, {case}) and called not in self.cases and called not in self.there.cases

    @contextmanager
    def kept_up(
        self, cases: Mapping[str, Mapping[str, object]], written: Iterable[str], failed: Mapping[str, str]
    ) -> Iterator[Callable[[], None]]:
        """Write the file now, at each call of what is given, and at the end of the block, however that comes.

        Args:
            cases: as for :meth:`write`, of which more is known at each call.
            written: likewise.
            failed: likewise.

        Raises:
            AutosegError: the disk, or the user's quota, is full.
        """
        self.write(cases, written, failed)
        try:
            yield lambda: self.write(cases, written, failed)
        except BaseException as error:
            with suppress(OSError):  # what ended the block is to be told
                self.ended().write(cases, written, failed)
            if lacks_room(error):
                raise AutosegError(
                    f"{error.filename or self.folder}: {error.strerror}; {len(list(written))} case(s) have their "
                    f"results in {self.folder}. Make room, and go on with --no-overwrite."
                ) from None
            raise
        self.ended().write(cases, written, failed)

    def write(
        self, cases: Mapping[str, Mapping[str, object]], written: Iterable[str], failed: Mapping[str, str]
    ) -> None:
        """Write the file; what it says by now of other commands' cases and files stays.

        Files are named with their cases, and not before: what somebody draws under the name of one that is still to
        come is no result.

        Args:
            cases: predicted by this command so far → what is known of them.
            written: cases that have a result; those not among ``cases`` were kept.
            failed: case → why.
        """
        with waited_for(self.folder):
            there = FoundResults.of(self.folder)
            # Of its own cases, what is known was so before it began: what it wrote itself may have failed since.
            before = {case: entry for case, entry in self.earlier.items() if case in self.cases}
            known = {**there.by(self.made), **before}
            known = {case: entry for case, entry in known.items() if case in before or case not in self.cases}
            own = {case: found for case, found in cases.items() if case not in failed}
            told = {
                **self.made,
                "cases": {**known, **own},
                "kept_from_before": [case for case in written if case not in cases],
                "failed": dict(failed),
                "files": sorted({*there.files, *(name for case in own for name in self.files.get(case, ()))}),
            }
            write_json(self.folder / PREDICTIONS, told)


def _of_one_model(how: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether results are of the same configurations and weights of the same runs, with values that mean the same."""
    one, two = list(how.get("runs", ())), list(other.get("runs", ()))
    same = len(one) == len(two) and all(map(_is_same_run, one, two))
    return same and all(how.get(key) == other.get(key) for key in _MEANING)


def _is_same_run(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two entries are of the same run: by the weights of the folds that both took, else by its place.

    A run may have moved; one that was trained again is another, and so is one that keeps its source otherwise: on
    harmonized images or not. Earlier versions noted no weights, and no share.
    """
    if one.get("configuration") != other.get("configuration"):
        return False
    if KEPT_SHARE in one and KEPT_SHARE in other and one[KEPT_SHARE] != other[KEPT_SHARE]:
        return False
    weights, others = one.get("weights") or {}, other.get("weights") or {}
    if both := weights.keys() & others.keys():
        return all(weights[fold] == others[fold] for fold in both)
    return Path(one["run"]).resolve() == Path(other["run"]).resolve()


def _with_what_differs(entry: Mapping[str, Any], how: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with what was otherwise when the case was predicted, as mirroring or the number of folds."""
    then = {**how, **entry.get(_OTHERWISE, {})}
    differs = {key: then.get(key) for key in sorted({*then, *made}) if then.get(key) != made.get(key)}
    kept = {key: value for key, value in entry.items() if key != _OTHERWISE}
    return {**kept, _OTHERWISE: differs} if differs else kept
