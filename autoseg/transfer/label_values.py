"""Label values of one target in those of another, by the outputs that they belong to."""

from autoseg.plans.target import Target


def outputs_of(value: int, target: Target) -> frozenset[str]:
    """Names of the outputs that a voxel of this label value belongs to."""
    return frozenset(output.name for output in target.outputs if value in output.values)


def values_by_outputs(target: Target) -> dict[frozenset[str], int]:
    """Outputs that share a voxel → the smallest label value that belongs to just these, 0 for none."""
    own = {outputs_of(value, target): value for value in sorted(target.values, reverse=True) if value != target.ignore}
    return {**own, frozenset(): 0}


def painted_values(source: Target, target: Target) -> dict[int, int] | None:
    """Value that a source's label maps are painted with → the target's that belongs to the same of its outputs.

    Outputs that the target has not count for nothing. Where several values would do, it is the one that the target is
    painted with.

    Args:
        source: outputs that both have go by the target's names.
        target: what is to be written.

    Returns:
        The values; None where outputs of the target share a voxel that no label value of it belongs to.
    """
    names = {output.name for output in target.outputs}
    painted = {outputs_of(output.paint, target): output.paint for output in target.outputs}
    known = {**values_by_outputs(target), **painted, frozenset(): 0}
    wanted = {output.paint: outputs_of(output.paint, source) & names for output in source.outputs}
    return None if set(wanted.values()) - known.keys() else {value: known[shared] for value, shared in wanted.items()}
