"""Which axes may be mirrored, in training and in test-time augmentation."""

from collections.abc import Sequence

from autoseg.data.fingerprint import Fingerprint
from autoseg.data.names import name_words

#: The axis of a canonical ``(z, y, x)`` array that runs from a patient's right to the left.
LEFT_RIGHT = 2

_SIDES = {"left", "right", "l", "r", "lh", "rh", "links", "rechts", "gauche", "droite"}


def is_sided(name: str) -> bool:
    """Whether a structure's name says on which side of the body it is (``kidney_left``, ``LungLeft``, ``kidneyR``)."""
    return any(word.lower() in _SIDES for word in name_words(name))


def flips(names: Sequence[str], transpose: Sequence[int]) -> list[int]:
    """Axes of a volume's patch that a published system mirrors: all, but left and right of sided structures.

    Args:
        names: of what is segmented.
        transpose: canonical axes in the order the network sees them.
    """
    sided = any(is_sided(name) for name in names)
    return [axis for axis in range(3) if not sided or transpose[axis] != LEFT_RIGHT]


def mirror_axes(
    fingerprint: Fingerprint, device: str, names: Sequence[str], transpose: Sequence[int], dimensions: int
) -> tuple[list[int], str]:
    """Axes of a patch that may be mirrored, and why.

    All of them, as in nnU-Net, with two exceptions that canonical orientation makes possible. A structure that is named
    after a side would be taught to be on the other one, too (in pictures, which may lie any way round, none is mirrored
    then). And the few thousand steps of a CPU are better spent on
    scans the way round they lie: one run each on hippocampus (some 800 steps of batch 4, the 40 cases of fold 1) gave
    a Dice of 0.874 with left–right mirroring only (learning rate 2e-3), 0.861 with all axes (3e-3). To repeat it:
    ``benchmarks/time_budget.py --fold 1 --max-time 5m``, without and with ``--set
    recipe.augmentation.mirror_axes=[0,1,2]``.

    Args:
        fingerprint: says whether there are volumes, and with them anatomical axes.
        device: that will train.
        names: of what is segmented.
        transpose: canonical axes in the order the network sees them.
        dimensions: axes of the patch, the last of the transposed ones.
    """
    axes = list(range(dimensions))
    sided = next((name for name in names if is_sided(name)), None)
    if fingerprint.dimension != 3 and sided is not None:
        return [], f"{sided} belongs to one side of the body, and nothing says which way round a picture lies"
    if fingerprint.dimension != 3:
        return axes, "pictures have no anatomical axes: all may be mirrored"
    side = list(transpose).index(LEFT_RIGHT) - (3 - dimensions)
    if sided is not None:
        rest = [axis for axis in axes if axis != side] if device != "cpu" else []
        return rest, f"{sided} belongs to one side of the body: left and right must not be swapped"
    if device == "cpu":
        return (
            [side] if side >= 0 else [],
            "few steps: scans stay the way round they lie, only left and right are swapped",
        )
    return axes, "many steps: every way round (nnU-Net)"
