"""A configuration study: settings that differ in a few values, trained alike, in one table with paired statistics."""

from autoseg.study.grid import Grid, Setting, read_grid
from autoseg.study.options import StudyOptions
from autoseg.study.preparation import Study, prepare
from autoseg.study.results import StudyTable
from autoseg.study.running import sweep
from autoseg.study.tables import tabulate

__all__ = ["Grid", "Setting", "Study", "StudyOptions", "StudyTable", "prepare", "read_grid", "sweep", "tabulate"]
