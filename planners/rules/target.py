"""Which channels go in and which labels or regions come out, as the user asked."""

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import refuse_unknown
from autoseg.plans.target import Output, Target


def choose_channels(fingerprint: Fingerprint, wanted: tuple[str, ...]) -> list[str]:
    """The channels to use, in the dataset's order.

    Raises:
        UsageError: one that the dataset does not have.
    """
    refuse_unknown("--channels", wanted, fingerprint.channels)
    return [name for name in fingerprint.channels if not wanted or name in wanted]


def choose_target(fingerprint: Fingerprint, wanted: tuple[str, ...]) -> Target:
    """What to segment: the dataset's regions where it has any, else its labels; or those of them that are wanted.

    Regions are painted from the largest to the smallest, each with the label value that is in no later one, so that
    nested regions give back the original label map.

    Raises:
        UsageError: a name that is neither a region nor a label.
    """
    known = {**{name: [value] for name, value in fingerprint.labels.items()}, **fingerprint.regions}
    refuse_unknown("--regions", wanted, list(known))
    names = list(dict.fromkeys(wanted)) or list(fingerprint.regions or fingerprint.labels)
    sets = {name: sorted(set(known[name])) for name in names}
    volume: dict[int, int] = {}
    for case in fingerprint.cases:
        for value, voxels in case.label_voxels.items():
            volume[value] = volume.get(value, 0) + voxels
    if not any(name in fingerprint.regions for name in names):
        return Target(
            kind="labels",
            outputs=[Output(name=name, values=sets[name], paint=sets[name][0]) for name in names],
            ignore=fingerprint.ignore_label,
            reasons={"kind": "labels exclude each other: softmax"},
        )
    # A region holds every region nested in it, so it can't be the smaller one.
    names.sort(key=lambda name: (-sum(volume.get(v, 0) for v in sets[name]), -len(sets[name])))
    outputs = []
    for index, name in enumerate(names):
        later = {value for other in names[index + 1 :] for value in sets[other]}
        own = [value for value in sets[name] if value not in later] or sets[name]
        paint = max(own, key=lambda value: volume.get(value, 0))
        outputs.append(
            Output(
                name=name,
                values=sets[name],
                paint=paint,
                reasons={"paint": f"of its values outside later regions ({_join(own)}), the one with most voxels"},
            )
        )
    return Target(
        kind="regions",
        outputs=outputs,
        ignore=fingerprint.ignore_label,
        reasons={
            "kind": "regions may overlap: a sigmoid each",
            "outputs": "by decreasing volume, so that smaller regions are painted over larger ones",
        },
    )


def _join(items: list[int]) -> str:
    return ", ".join(str(item) for item in items)
