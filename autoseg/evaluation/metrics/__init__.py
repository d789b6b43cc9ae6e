"""The metrics that autoseg brings; each file registers some (see :mod:`autoseg.evaluation.metric`)."""
