"""Generated head phantoms: four MR sequences of a skull-stripped brain with a tumour, in the manifest layout.

The brain is a warped ellipsoid with cortex, white matter, ventricles, deep nuclei, cerebellum and brain stem; the
tumour pushes it aside, and has edema around an enhancing rim around necrosis, as a glioblastoma has. It resembles
a scan enough to show and test every step of the pipeline; it is no model of disease.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from autoseg.data.image import Geometry, write_image
from autoseg.utils.errors import UsageError
from autoseg.utils.files import write_text

#: Sequences of a case, in the dataset's order.
PHANTOM_CHANNELS = ("t1", "t1c", "t2", "flair")

#: Label name → value, as in BraTS 2023.
LABELS = {"necrosis": 1, "edema": 2, "enhancing": 3}

REGIONS = {"whole_tumor": [1, 2, 3], "tumor_core": [1, 3], "enhancing_tumor": [3]}

#: Brightness of each tissue in each sequence, relative to the sequence's brightest normal tissue.
_CONTRAST: dict[str, dict[str, float]] = {
    "t1": {"csf": 0.16, "grey": 0.58, "white": 0.84, "edema": 0.50, "enhancing": 0.50, "necrosis": 0.28},
    "t1c": {"csf": 0.16, "grey": 0.60, "white": 0.82, "edema": 0.50, "enhancing": 1.30, "necrosis": 0.26},
    "t2": {"csf": 1.00, "grey": 0.55, "white": 0.38, "edema": 0.80, "enhancing": 0.66, "necrosis": 0.92},
    "flair": {"csf": 0.12, "grey": 0.56, "white": 0.42, "edema": 0.95, "enhancing": 0.78, "necrosis": 0.45},
}

#: Half axes of the brain in mm (z, y, x): about 120 × 158 × 132 mm, an adult's.
_BRAIN = np.array([60.0, 79.0, 66.0])


@dataclass(frozen=True)
class Look:
    """What is different about all images and labels of a cohort; the values here change nothing.

    Attributes:
        contrast: exponent of the intensities of every sequence: above 1 bright tissues stand out, below 1 dark ones.
        thickness: slices that are averaged to one along z, as of a thicker slice, on the same grid.
        bias: strength of the bias field in place of the cohort's.
        noise: standard deviation of the noise in place of the cohort's.
        lacks: a sequence that no case has; empty for none.
        habit: how far outside the true borders labels are drawn, as a share of the tumour's radius; negative inside.
    """

    contrast: float = 1.0
    thickness: int = 1
    bias: float | None = None
    noise: float | None = None
    lacks: str = ""
    habit: float = 0.0

    def __post_init__(self) -> None:
        if self.contrast <= 0 or self.thickness < 1 or min(self.bias or 0, self.noise or 0) < 0:
            raise UsageError("--look: contrast must be above 0, thickness 1 or more, bias and noise 0 or more.")
        if self.lacks not in ("", *PHANTOM_CHANNELS):
            raise UsageError(f"--look lacks={self.lacks}: phantoms have {', '.join(PHANTOM_CHANNELS)}.")


@dataclass(frozen=True)
class Cohort:
    """Parameters of a generated cohort; the same values give the same files.

    Attributes:
        cases: labelled cases.
        unlabelled: further cases without a label, to predict.
        shape: voxels ``(z, y, x)``; the brain is scaled down to fit.
        spacing: mm ``(z, y, x)``.
        sites: scanners, each with its own brightness, contrast, sharpness, noise and bias; assigned to cases in turn.
        noise: standard deviation of the (Rician) noise, relative to the brightest normal tissue.
        bias: strength of the bias field: the standard deviation of its logarithm.
        missing: share of the sequences that are left out at random; each case keeps one.
        raters: with 2 or more, number of further label maps of each case, each with a bias of its own.
        look: what is different about all of them, to make a gap of a known kind to another cohort.
        seed: of all random choices.
    """

    cases: int = 12
    unlabelled: int = 0
    shape: tuple[int, int, int] = (48, 56, 48)
    spacing: tuple[float, float, float] = (3.0, 3.0, 3.0)
    sites: int = 1
    noise: float = 0.03
    bias: float = 0.12
    missing: float = 0.0
    raters: int = 1
    look: Look = Look()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("cases", "sites", "raters"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)}: a cohort of phantoms needs at least 1.")
        if self.unlabelled < 0 or self.noise < 0 or self.bias < 0:
            raise UsageError("unlabelled, noise and bias of a cohort of phantoms can't be negative.")
        if not 0 <= self.missing < 1:
            raise UsageError(f"missing = {self.missing}: the share of left-out sequences must be from 0 to below 1.")
        if min(self.shape) < 16 or min(self.spacing) <= 0:
            raise UsageError("a phantom needs at least 16 voxels an axis and a spacing above 0 mm.")


@dataclass(frozen=True)
class Site:
    """Appearance of a scanner's images.

    Attributes:
        gain: sequence → intensity of the brightest normal tissue.
        gamma: sequence → exponent that changes the contrast between tissues.
        blur: standard deviation in voxels.
        noise: as in :class:`Cohort`.
        bias: as in :class:`Cohort`.
        thickness: as in :class:`Look`.
    """

    gain: dict[str, float]
    gamma: dict[str, float]
    blur: float
    noise: float
    bias: float
    thickness: int = 1


class Phantom(NamedTuple):
    """One generated head, all arrays ``(z, y, x)``.

    Attributes:
        images: sequence → int16 intensities, zero outside the brain.
        label: uint8, the truth.
        raters: uint8, each rater's label map.
        mask: bool, the brain.
    """

    images: dict[str, np.ndarray]
    label: np.ndarray
    raters: list[np.ndarray]
    mask: np.ndarray


def generate(out: str | Path, cohort: Cohort | None = None) -> Path:
    """Write a cohort as a dataset folder, one folder a case and an ``autoseg.toml``.

    Args:
        out: the folder; made where it does not exist.
        cohort: what to generate.

    Returns:
        The folder, for :meth:`autoseg.Dataset.open`.
    """
    cohort, out = cohort or Cohort(), Path(out)
    sites = [make_site(cohort, number) for number in range(cohort.sites)]
    geometry = Geometry(
        size=(cohort.shape[2], cohort.shape[1], cohort.shape[0]),
        spacing=(cohort.spacing[2], cohort.spacing[1], cohort.spacing[0]),
        origin=(0.0, 0.0, 0.0),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )
    for number in range(cohort.cases + cohort.unlabelled):
        name = f"phantom_{number + 1:03d}"
        if cohort.sites > 1:
            name += f"_site{number % cohort.sites + 1}"
        phantom = make_phantom(cohort, sites[number % cohort.sites], number)
        folder = out / name
        for channel, image in phantom.images.items():
            write_image(folder / f"{channel}.nii.gz", image, geometry)
        if number < cohort.cases:
            write_image(folder / "seg.nii.gz", phantom.label, geometry)
            for rater, drawn in enumerate(phantom.raters, start=1):
                write_image(folder / f"seg_rater{rater}.nii.gz", drawn, geometry)
    write_text(out / "autoseg.toml", _describe(cohort))
    return out


def make_site(cohort: Cohort, number: int) -> Site:
    """The appearance of a cohort's scanner with this number; the first one is the plainest."""
    rng = np.random.default_rng([cohort.seed, 1, number])
    apart = 0.0 if number == 0 else 1.0
    look = cohort.look
    bias, noise = (
        own if given is None else given for own, given in ((cohort.bias, look.bias), (cohort.noise, look.noise))
    )
    return Site(
        gain={channel: float(600 * 2 ** (apart * rng.uniform(-1.5, 1.5))) for channel in PHANTOM_CHANNELS},
        gamma={channel: look.contrast * float(2 ** (apart * rng.uniform(-0.5, 0.5))) for channel in PHANTOM_CHANNELS},
        blur=float(apart * rng.uniform(0.0, 0.8)),
        noise=noise * float(1 + apart * rng.uniform(-0.4, 1.0)),
        bias=bias * float(1 + apart * rng.uniform(-0.4, 1.0)),
        thickness=look.thickness,
    )


def make_phantom(cohort: Cohort, site: Site, number: int) -> Phantom:
    """Generate one head: anatomy, tumour, and their images from the site's scanner."""
    rng = np.random.default_rng([cohort.seed, 2, number])
    shape, spacing = cohort.shape, np.asarray(cohort.spacing)
    # Anatomy is built in brain coordinates: mm from the centre, of a brain of average size.
    scale = min(1.0, *(0.47 * np.asarray(shape) * spacing / _BRAIN)) * rng.uniform(0.95, 1.05)
    axes = [(np.arange(n) - (n - 1) / 2) * s / scale for n, s in zip(shape, spacing, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    voxel = float(spacing.mean() / scale)

    def field(wavelength: float) -> np.ndarray:
        return _smooth_noise(rng, shape, spacing / scale, wavelength)

    centre, radius = _tumour_place(rng)
    distance = np.sqrt(sum((grid[i] - centre[i]) ** 2 for i in range(3)))
    # Mass effect: look up the anatomy nearer to the tumour's centre, so that it appears pushed outward.
    push = 0.22 * np.exp(-((distance / (1.3 * radius)) ** 2))
    warped = grid - push * (grid - centre[:, None, None, None]) + 2.5 * np.stack([field(60) for _ in range(3)])
    csf, grey, white, brain = _tissues(warped, field(18), field(7), voxel)

    level = distance / radius + 0.16 * field(0.9 * radius) + 0.07 * field(0.35 * radius)
    offset = centre + rng.normal(0, 0.12 * radius, 3)
    core_radius = radius * rng.uniform(0.52, 0.72)
    core_distance = np.sqrt(sum((grid[i] - offset[i]) ** 2 for i in range(3)))
    core = core_distance / core_radius + 0.18 * field(core_radius) + 0.08 * field(0.4 * core_radius)
    rim = rng.uniform(0.6, 0.8)
    # Edema spreads through white matter; cortex and ventricles hold it back.
    spread = level + 0.35 * grey + 0.8 * csf

    mask = brain > 0.5
    label = _draw(spread - cohort.look.habit, core - cohort.look.habit, rim, mask)
    raters = []
    for rater in range(cohort.raters if cohort.raters > 1 else 0):
        habits = np.random.default_rng([cohort.seed, 3, rater])
        generous, inner = habits.normal(0, 0.06, 2)
        raters.append(
            _draw(spread - generous + 0.06 * field(12), core - inner + 0.06 * field(8), rim + 0.5 * inner, mask)
        )

    shares = _shares(spread, core, rim, voxel / radius, csf, grey, white)
    images = {
        channel: _acquire(rng, channel, shares, mask, site, field)
        for channel in _kept(np.random.default_rng([cohort.seed, 4, number]), cohort)
    }
    return Phantom(images, label, raters, mask)


def _kept(rng: np.random.Generator, cohort: Cohort) -> list[str]:
    draws = dict(zip(PHANTOM_CHANNELS, rng.random(len(PHANTOM_CHANNELS)), strict=True))
    draws.pop(cohort.look.lacks, None)
    return [channel for channel, draw in draws.items() if draw >= cohort.missing] or [max(draws, key=draws.__getitem__)]


def _tumour_place(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Centre (mm from the brain's centre) and radius (mm) of a tumour in one hemisphere's white matter."""
    side = rng.choice([-1.0, 1.0])
    centre = np.array([rng.uniform(-2, 26), rng.uniform(-36, 36), side * rng.uniform(22, 34)])
    return centre, float(rng.uniform(19, 31))


def _smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], spacing: np.ndarray, wavelength: float
) -> np.ndarray:
    """Random field of about zero mean and unit standard deviation that varies over ``wavelength`` mm."""
    step = np.maximum(wavelength / 2 / spacing, 1.0)
    nodes = [int(np.ceil(n / s)) + 4 for n, s in zip(shape, step, strict=True)]
    coarse = rng.normal(size=nodes)
    for axis, (n, s) in enumerate(zip(shape, step, strict=True)):  # cubic interpolation, one axis after the other
        at = 1.5 + np.arange(n) / s
        low = np.floor(at).astype(int)
        t = at - low
        weights = (
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        )
        form = [1, 1, 1]
        form[axis] = n
        coarse = sum(w.reshape(form) * np.take(coarse, low + k - 1, axis=axis) for k, w in enumerate(weights))
    return np.asarray(coarse / max(float(coarse.std()), 1e-9), np.float32)


def _inside(signed: np.ndarray, softness: float) -> np.ndarray:
    """1 where ``signed`` (mm, positive inside) is well inside, 0 outside, with a border one voxel wide."""
    return np.asarray(np.clip(0.5 + signed / softness, 0, 1), np.float32)


def _ellipsoid(p: np.ndarray, centre: tuple[float, float, float], half: tuple[float, float, float]) -> np.ndarray:
    """Approximate signed distance (mm, positive inside) to an ellipsoid, coordinates ``(z, y, x)``."""
    r = np.sqrt(sum(((p[i] - centre[i]) / half[i]) ** 2 for i in range(3)))
    return np.asarray((1 - r) * min(half))


def _tissues(
    p: np.ndarray, folds: np.ndarray, fine: np.ndarray, voxel: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shares of cerebrospinal fluid, grey and white matter (together 1), and of brain, per voxel.

    Args:
        p: ``(3, z, y, x)`` coordinates in mm; z to the top of the head, y to the back, x to the left.
        folds: random field that folds the cortex.
        fine: finer random field, for the cerebellum's folia.
        voxel: mm, the width of a border.
    """
    z, y, x = p
    # The base of the cerebrum is flat, and the cerebellum and stem hang below it.
    flat = np.where(z < 0, 1.35, 1.0)
    r = np.sqrt((z * flat / _BRAIN[0]) ** 2 + (y / _BRAIN[1]) ** 2 + (x / _BRAIN[2]) ** 2)
    cerebrum = (1 - r) * float(_BRAIN.min())
    cerebellum = _ellipsoid(p, (-37, 42, 0), (24, 30, 49))
    stem = _ellipsoid(p, (-42, 14, 0), (34, 12, 13))
    brain = np.maximum(np.maximum(cerebrum, cerebellum), stem)

    # Sulci wind along the zero crossings of a random field; grey matter lines them.
    away = np.abs(folds) / (1 + 0.02 * np.clip(cerebrum, 0, None))
    depth = cerebrum - 1.0
    white_depth = depth - 4.5 - 14.0 * np.exp(-((away / 0.42) ** 2))
    furrow = _inside(np.minimum(13.0 - depth, 10.0 * (0.13 - away)), 1.5 * voxel) * (cerebrum > -1)
    fissure = _inside(1.6 - np.abs(x), voxel) * _inside(np.maximum(z - 22, np.abs(y) - 48), voxel) * (cerebrum > 0)

    ventricles = np.full_like(z, -99.0)
    nuclei = np.full_like(z, -99.0)
    for side in (-1, 1):
        arch = z - 11 + 0.006 * y**2  # bodies rise over the thalamus, horns bend down
        spread = x - side * (9 + 0.10 * np.abs(y))
        q = np.stack([arch, y - 2, spread])
        ventricles = np.maximum(ventricles, _ellipsoid(q, (0, 0, 0), (9, 35, 7)))
        nuclei = np.maximum(nuclei, _ellipsoid(p, (0, 10, side * 12), (9, 14, 8)))  # thalamus
        nuclei = np.maximum(nuclei, _ellipsoid(p, (2, -13, side * 22), (10, 17, 6)))  # lentiform nucleus
    third = _ellipsoid(p, (-3, 4, 0), (10, 13, 1.8))

    white = np.maximum.reduce(
        [
            _inside(white_depth, voxel),
            _inside(stem - 1.5, voxel),
            _inside(cerebellum - 9 + 4 * fine, voxel) * 0.9,
        ]
    )
    white = white * (1 - _inside(nuclei, voxel))
    csf = np.maximum.reduce([_inside(ventricles, voxel), _inside(third, voxel), furrow * 0.8, fissure])
    csf = np.where(cerebellum > cerebrum, _inside(ventricles, voxel), csf)
    csf = np.maximum(csf, 0.7 * _inside(1.2 - brain, voxel))
    white = white * (1 - csf)
    grey = np.clip(1 - csf - white, 0, 1)
    return csf.astype(np.float32), grey.astype(np.float32), white.astype(np.float32), _inside(brain, voxel)


def _draw(spread: np.ndarray, core: np.ndarray, rim: float, mask: np.ndarray) -> np.ndarray:
    """The label map of fields of levels (below 1: inside); edema, core and necrosis are nested."""
    whole = (spread < 1) & mask
    inner = (core < 1) & mask
    label = np.zeros(spread.shape, np.uint8)
    label[whole] = LABELS["edema"]
    label[inner] = LABELS["enhancing"]
    label[inner & (core < rim)] = LABELS["necrosis"]
    return label


def _shares(
    spread: np.ndarray,
    core: np.ndarray,
    rim: float,
    softness: float,
    csf: np.ndarray,
    grey: np.ndarray,
    white: np.ndarray,
) -> dict[str, np.ndarray]:
    """Shares of all tissues, the tumour's painted over the normal ones with partial volume at its borders."""
    whole, inner, dead = (
        _inside(1 - spread, 3 * softness),
        _inside(1 - core, 2 * softness),
        _inside(rim - core, 2 * softness),
    )
    whole = np.maximum(whole, inner)
    normal = 1 - whole
    return {
        "csf": csf * normal,
        "grey": grey * normal,
        "white": white * normal,
        "edema": whole - inner,
        "enhancing": inner - np.minimum(dead, inner),
        "necrosis": np.minimum(dead, inner),
    }


def _acquire(
    rng: np.random.Generator,
    channel: str,
    shares: dict[str, np.ndarray],
    mask: np.ndarray,
    site: Site,
    field: Callable[[float], np.ndarray],
) -> np.ndarray:
    """The site's image of the tissues in one sequence."""
    contrast = _CONTRAST[channel]
    image: np.ndarray = np.zeros(mask.shape, np.float32)
    for tissue, share in shares.items():
        image += contrast[tissue] * share
    image = image * (1 + 0.04 * field(9))
    image = np.clip(image, 0, None) ** site.gamma[channel]
    if site.blur > 0:
        from scipy import ndimage  # takes longer to import than all else here

        image = np.asarray(ndimage.gaussian_filter(image, site.blur))
    if site.thickness > 1:
        starts = np.arange(0, len(image), site.thickness)
        counts = np.diff([*starts, len(image)])
        image = np.repeat(np.add.reduceat(image, starts, axis=0) / counts[:, None, None], counts, axis=0)
    image = image * np.exp(site.bias * field(110))
    noise = rng.normal(0, site.noise, (2, *mask.shape))
    image = np.hypot(image + noise[0], noise[1])  # magnitude of a complex signal: Rician
    image = np.clip(np.rint(image * site.gain[channel]), 1, 32767)
    return np.where(mask, image, 0).astype(np.int16)


def _describe(cohort: Cohort) -> str:
    names = [name for name in PHANTOM_CHANNELS if name != cohort.look.lacks]
    channels = "\n".join(f'{name} = "{name}.nii.gz"' for name in names)
    values = ", ".join(f"{name} = {value}" for name, value in LABELS.items())
    regions = ", ".join(f"{name} = {members}" for name, members in REGIONS.items())
    raters = ", ".join(f'rater{i} = "seg_rater{i}.nii.gz"' for i in range(1, cohort.raters + 1))
    return (
        f'# Generated head phantoms (seed {cohort.seed}).\nname = "Head phantoms"\n\n'
        f"[channels]\n{channels}\n\n"
        f'[label]\nfile = "seg.nii.gz" # the truth\n'
        + (f"raters = {{ {raters} }}\n" if cohort.raters > 1 else "")
        + f"values = {{ background = 0, {values} }}\nregions = {{ {regions} }}\n"
    )
