"""Symmetric distances of the two surfaces: 95th percentile, maximum and average."""

from autoseg.evaluation.metric import METRICS, MaskPair, Metric


def _hausdorff_95(masks: MaskPair) -> float:
    return masks.surfaces.hausdorff(95)


def _hausdorff(masks: MaskPair) -> float:
    return masks.surfaces.hausdorff()


def _average(masks: MaskPair) -> float:
    return masks.surfaces.average()


for _name, _heading, _compute in (
    ("hd95", "HD95", _hausdorff_95),
    ("hd", "HD", _hausdorff),
    ("assd", "ASSD", _average),
):
    METRICS.register(
        _name, Metric(_compute, _heading, kind="distance", better="less", unit="mm", digits=2, symmetric=True)
    )
