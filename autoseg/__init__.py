"""autoseg: self-configuring segmentation of medical images.

The same verbs as on the command line, in the order of the flow:

    if __name__ == "__main__":
        dataset = autoseg.Dataset.open("DATASET")
        run = autoseg.plan(dataset, "RUN")
        evaluation = autoseg.train(run)
        scans = autoseg.cases_to_predict("SCANS", run.plan, like=dataset)
        autoseg.Predictor.load("RUN").predict(scans, "RESULTS")
        autoseg.write_report(run)

The first line is needed in a script: cases are read by new processes, each of which imports the script.

Names are imported when they are first used, so that ``import autoseg`` is quick and the tensor modules (networks,
training, sliding window) work where SimpleITK is not installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoseg.clinical.cohort import PreparationRequest, prepare_exams
    from autoseg.clinical.settings import ExamPreparation
    from autoseg.clinical.volumes import volumes
    from autoseg.crossvalidation.job import Length
    from autoseg.crossvalidation.jobs import train
    from autoseg.data.checks import check
    from autoseg.data.dataset import Dataset
    from autoseg.data.fingerprint import fingerprint
    from autoseg.evaluation.agreement_folders import agreement
    from autoseg.evaluation.folders import evaluate
    from autoseg.evaluation.tables import compare
    from autoseg.inference.inputs import cases_to_predict
    from autoseg.inference.predictor import Predictor
    from autoseg.planning.making import plan_dataset as plan
    from autoseg.planning.request import Request
    from autoseg.plans.reasons import explanations
    from autoseg.postprocessing.choice import postprocess
    from autoseg.preprocessing.dataset import preprocess
    from autoseg.report.html import write_report
    from autoseg.runs.run import Run
    from autoseg.study.channel_subsets import evaluate_channel_subsets
    from autoseg.study.running import sweep
    from autoseg.transfer.initial_weights import InitialWeights
    from autoseg.transfer.source import Source
    from autoseg.transfer.source_cases import SourceCases
    from autoseg.transfer.teacher import Teacher
    from autoseg.utils.device import Compute

__version__ = "0.1.0"

_WHERE = {
    "Compute": "autoseg.utils.device",
    "Dataset": "autoseg.data.dataset",
    "Length": "autoseg.crossvalidation.job",
    "InitialWeights": "autoseg.transfer.initial_weights",
    "Predictor": "autoseg.inference.predictor",
    "ExamPreparation": "autoseg.clinical.settings",
    "PreparationRequest": "autoseg.clinical.cohort",
    "Request": "autoseg.planning.request",
    "Run": "autoseg.runs.run",
    "Source": "autoseg.transfer.source",
    "SourceCases": "autoseg.transfer.source_cases",
    "agreement": "autoseg.evaluation.agreement_folders",
    "Teacher": "autoseg.transfer.teacher",
    "cases_to_predict": "autoseg.inference.inputs",
    "check": "autoseg.data.checks",
    "compare": "autoseg.evaluation.tables",
    "evaluate": "autoseg.evaluation.folders",
    "evaluate_channel_subsets": "autoseg.study.channel_subsets",
    "explanations": "autoseg.plans.reasons",
    "fingerprint": "autoseg.data.fingerprint",
    "plan": "autoseg.planning.making:plan_dataset",
    "postprocess": "autoseg.postprocessing.choice",
    "prepare_exams": "autoseg.clinical.cohort",
    "preprocess": "autoseg.preprocessing.dataset",
    "sweep": "autoseg.study.running",
    "train": "autoseg.crossvalidation.jobs",
    "volumes": "autoseg.clinical.volumes",
    "write_report": "autoseg.report.html",
}

__all__ = [
    "Compute",
    "Dataset",
    "ExamPreparation",
    "InitialWeights",
    "Length",
    "Predictor",
    "PreparationRequest",
    "Request",
    "Run",
    "Source",
    "SourceCases",
    "Teacher",
    "__version__",
    "agreement",
    "cases_to_predict",
    "check",
    "compare",
    "evaluate",
    "evaluate_channel_subsets",
    "explanations",
    "fingerprint",
    "plan",
    "postprocess",
    "prepare_exams",
    "preprocess",
    "sweep",
    "train",
    "volumes",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'autoseg' has no attribute '{name}'")
    module, _, function = _WHERE[name].partition(":")
    return getattr(import_module(module), function or name)
