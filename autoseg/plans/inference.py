"""Inference settings: sliding window and test-time augmentation."""

from typing import Literal

from pydantic import Field, PositiveInt

from autoseg.plans.reasons import Reasoned
from autoseg.plans.recipe import Axis, Precision
from autoseg.plans.tiles import Edges


class Inference(Reasoned):
    """Inference settings of a configuration for whole images.

    Attributes:
        overlap: share of a patch that neighbouring tiles have in common.
        gaussian_sigma: width of the weight over a tile, as share of the patch (nnU-Net: 1/8); 0 for equal weights.
        mirror_axes: axes flipped in test-time augmentation; all their combinations are averaged.
        tile_batch: tiles in one forward pass.
        patch_size: voxels of a tile, where it is not the training's patch.
        step: voxels from one tile to the next along each axis, at most; instead of ``overlap`` where given.
        edges: what gives way where tiles do not fit an image: their distance, which is made smaller so that they
            ``spread`` evenly; or the image, which is ``padded`` with zeros, so that they are exactly ``step`` apart.
        precision: of the network in predictions, where it is not the recipe's.
        checkpoint: a fold's weights, in cross-validation, ensembles and sweeps: ``weights``, those at the end of its
            training; or ``best``, those of the validation on the way with the highest mean Dice.
        average: what tiles, mirrorings and folds are averaged as: ``logits`` (nnU-Net's folds), or ``probabilities``
            after softmax or sigmoid. Runs are averaged as probabilities in any case.
        manner: ``nnunet`` reproduces nnU-Net exactly: first voxels of tiles of an odd size, Gaussian weights half a
            voxel off the centre and rounded to 16 bits, and, when scores are resampled to the scan, the anisotropic
            axis first taken from the target's spacing.
    """

    overlap: float = Field(0.5, ge=0, lt=1)
    gaussian_sigma: float = Field(0.125, ge=0)
    mirror_axes: list[Axis] = Field(default_factory=lambda: [0, 1, 2])
    tile_batch: int = Field(1, ge=1)
    patch_size: list[PositiveInt] | None = None
    step: list[PositiveInt] | None = None
    edges: Edges = "spread"
    precision: Precision | None = None
    checkpoint: Literal["weights", "best"] = "weights"
    average: Literal["logits", "probabilities"] = "logits"
    manner: Literal["autoseg", "nnunet"] = "autoseg"
