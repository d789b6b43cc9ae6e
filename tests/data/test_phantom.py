import hashlib

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.checks import check
from autoseg.data.dataset import Dataset
from autoseg.data.phantom import PHANTOM_CHANNELS, Cohort, Look, generate, make_phantom, make_site
from autoseg.utils.errors import UsageError


def digests(folder):
    found = {}
    for path in sorted(folder.rglob("*.nii.gz")):
        voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        found[path.relative_to(folder)] = hashlib.sha256(voxels.tobytes()).hexdigest()
    return found


def test_a_cohort_is_a_dataset_without_problems(tmp_path):
    cohort = Cohort(cases=3, unlabelled=1, shape=(24, 28, 24), spacing=(6.0, 6.0, 6.0), raters=2)
    dataset = Dataset.open(generate(tmp_path, cohort))
    assert dataset.channels == PHANTOM_CHANNELS
    assert len(dataset.cases) == 3
    assert len(dataset.unlabelled) == 1
    assert set(dataset.cases[0].raters) == {"rater1", "rater2"}
    assert check(dataset, workers=1) == []
    image = sitk.ReadImage(str(dataset.cases[0].channels["t1"].path))
    assert image.GetSize() == (24, 28, 24)
    assert image.GetSpacing() == (6.0, 6.0, 6.0)


def test_the_seed_decides_everything(tmp_path):
    small = {"cases": 2, "shape": (20, 20, 20), "spacing": (8.0, 8.0, 8.0), "sites": 2, "missing": 0.3}
    one = digests(generate(tmp_path / "one", Cohort(**small, seed=5)))
    again = digests(generate(tmp_path / "again", Cohort(**small, seed=5)))
    other = digests(generate(tmp_path / "other", Cohort(**small, seed=6)))
    assert one == again
    assert not set(one.values()) & set(other.values())


@pytest.mark.parametrize("number", range(4))
def test_tumours_are_nested_and_look_like_tumours(number):
    cohort = Cohort()
    phantom = make_phantom(cohort, make_site(cohort, 0), number)
    voxels = {value: int((phantom.label == value).sum()) for value in (1, 2, 3)}
    assert min(voxels.values()) > 50
    assert (phantom.mask[phantom.label > 0]).all(), "the tumour is inside the brain"
    means = {c: {v: float(image[phantom.label == v].mean()) for v in (1, 2, 3)} for c, image in phantom.images.items()}
    healthy = phantom.mask & (phantom.label == 0)
    assert means["t1c"][3] > np.percentile(phantom.images["t1c"][healthy], 90), "the rim takes up contrast agent"
    assert means["t1c"][3] > 1.5 * means["t1"][3]
    assert means["flair"][2] > np.percentile(phantom.images["flair"][healthy], 90), "edema is bright on FLAIR"
    assert means["t1c"][1] < means["t1c"][3] / 2, "necrosis is dark inside the rim"
    assert all((image[~phantom.mask] == 0).all() for image in phantom.images.values())


def test_raters_agree_about_as_well_as_people():
    cohort = Cohort(raters=3)
    phantom = make_phantom(cohort, make_site(cohort, 0), 0)
    truth = phantom.label > 0
    dice = [2 * (truth & (drawn > 0)).sum() / (truth.sum() + (drawn > 0).sum()) for drawn in phantom.raters]
    assert all(0.75 < value < 1 for value in dice)
    assert len({round(float(value), 6) for value in dice}) == 3


def test_missing_sequences(tmp_path):
    cohort = Cohort(cases=15, shape=(16, 16, 16), spacing=(10.0, 10.0, 10.0), missing=0.5)
    dataset = Dataset.open(generate(tmp_path, cohort))
    share = 1 - sum(len(case.channels) for case in dataset.cases) / (15 * len(PHANTOM_CHANNELS))
    assert 0.3 < share < 0.65
    assert all(case.channels for case in dataset.cases)


def test_sites_differ_in_brightness():
    cohort = Cohort(sites=3)
    sites = [make_site(cohort, number) for number in range(3)]
    assert len({site.gain["t1"] for site in sites}) == 3
    assert sites[0].blur == 0


@pytest.mark.parametrize(
    "wrong", [{"cases": 0}, {"missing": 1.0}, {"noise": -1.0}, {"shape": (8, 20, 20)}, {"raters": 0}]
)
def test_impossible_cohorts_are_refused(wrong):
    with pytest.raises(UsageError):
        Cohort(**wrong)


def test_looks_are_of_the_kind_that_is_asked_for(tmp_path):
    """The same heads; what is asked for differs, and nothing else."""

    def head(**look):
        cohort = Cohort(look=Look(**look))
        return make_phantom(cohort, make_site(cohort, 0), 0)

    plain = head()
    inside = plain.mask
    bright = head(contrast=2.0)
    flair, other = (phantom.images["flair"][inside].astype(float) for phantom in (plain, bright))
    assert np.corrcoef(np.argsort(np.argsort(flair)), np.argsort(np.argsort(other)))[0, 1] > 0.9
    assert other.std() / other.mean() > 1.4 * flair.std() / flair.mean()
    thick = head(thickness=4, noise=0.0, bias=0.0).images["t1"].astype(float)
    within = [
        np.abs(np.diff(thick[slab : slab + 4], axis=0))[:, inside[slab : slab + 4].all(axis=0)] for slab in (20, 24)
    ]
    assert all(differences.max() == 0 for differences in within)
    assert np.array_equal(head(noise=0.1).label, plain.label)
    assert head(noise=0.1).images["t1"][inside].std() > plain.images["t1"][inside].std()
    wide, tight = head(habit=0.1).label, head(habit=-0.1).label
    assert (tight > 0).sum() < (plain.label > 0).sum() < (wide > 0).sum()
    assert np.array_equal(head(habit=0.1).images["t2"], plain.images["t2"])
    without = Dataset.open(
        generate(tmp_path, Cohort(cases=2, shape=(20, 20, 20), spacing=(8.0, 8.0, 8.0), look=Look(lacks="t1")))
    )
    assert without.channels == tuple(name for name in PHANTOM_CHANNELS if name != "t1")
    assert all(set(case.channels) == set(without.channels) for case in without.cases)


@pytest.mark.parametrize("wrong", [{"contrast": 0}, {"thickness": 0}, {"lacks": "pd"}, {"noise": -1}])
def test_looks_that_make_no_sense(wrong):
    with pytest.raises(UsageError, match="--look"):
        Look(**wrong)
