"""The main job from Python: what the commands do, as five calls.

    python examples/train_from_python.py DATASET RUN NEW_SCANS RESULTS

DATASET is a folder in any layout that ``autoseg inspect`` knows, NEW_SCANS another one (or a folder of images).
"""

import sys

import autoseg


def main(dataset_folder: str, run_folder: str, new_scans: str, results: str) -> None:
    # 1. What is on disk, and what is wrong with it.
    dataset = autoseg.Dataset.open(dataset_folder)
    for problem in autoseg.check(dataset):
        print(f"{problem.severity}: {problem.case}: {problem.what} {problem.remedy}")

    # 2. Look at the data and decide. The plan is a validated object and a JSON file in the run folder.
    run = autoseg.plan(dataset, run_folder)
    for path, value, reason in autoseg.explanations(run.plan):
        print(f"{path} = {value}: {reason}")

    # 3. Cross-validated training, half an hour for each fold.
    evaluation = autoseg.train(run, length=autoseg.Length(seconds=30 * 60))
    print(f"cross-validated Dice: {evaluation.mean('dice'):.3f}")

    # 4. Segment new scans with the average of all folds.
    predictor = autoseg.Predictor.load(run_folder)
    outcome = predictor.predict(autoseg.cases_to_predict(new_scans, run.plan, like=dataset), results)
    for case, reason in outcome.failed.items():
        print(f"{case} failed: {reason}")

    # 5. A page with results, pictures, curves, and the plan with its reasons.
    print(autoseg.write_report(run))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
