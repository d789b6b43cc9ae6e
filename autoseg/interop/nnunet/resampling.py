"""nnU-Net's resampling functions with their arguments ↔ autoseg's resampling."""

from typing import Any

from autoseg.interop.nnunet.folder import Settings
from autoseg.plans.preprocessing import Resampling
from autoseg.utils.errors import AutosegError

#: nnU-Net's default function; the one with torch, which is linear; and the one that leaves images as they are.
_SPLINES, _TORCH, _NONE = "resample_data_or_seg_to_shape", "resample_torch_fornnunet", "no_resampling_hack"

#: Whether a function resamples an axis separately, where its arguments don't say so; None: an anisotropic one.
_SEPARATE_BY_DEFAULT = {_SPLINES: False, _TORCH: None}

#: The ratio of spacings above which an axis is anisotropic, where the arguments don't give one.
_ANISOTROPY = 3.0


def resampling_of(settings: Settings, where: str) -> Resampling | None:
    """How a configuration resamples; None where it leaves images as they are.

    Args:
        settings: of the configuration.
        where: file and configuration, for messages.

    Raises:
        AutosegError: autoseg does not resample so.
    """
    function = _function(settings, where)
    every = {
        "data": settings.resampling_fn_data_kwargs,
        "seg": settings.resampling_fn_seg_kwargs,
        "probabilities": settings.resampling_fn_probabilities_kwargs,
    }
    if function == _NONE:
        return None
    rules = {
        (
            given.get("force_separate_z", _SEPARATE_BY_DEFAULT[function]),
            float(given.get("separate_z_anisotropy_threshold", _ANISOTROPY)),
        )
        for given in every.values()
    }
    if function == _TORCH:
        orders = dict.fromkeys(every, 1)
        usual = all(
            (given.get("mode", "linear"), given.get("aniso_axis_mode", "nearest-exact")) == ("linear", "nearest-exact")
            for given in every.values()
        )
    else:
        orders = {kind: given.get("order", 3) for kind, given in every.items()}
        usual = orders["probabilities"] == 1 and orders["seg"] in (0, 1)
        usual = usual and not any(given.get("order_z", 0) for given in every.values())
    if not usual or len(rules) != 1:
        raise AutosegError(
            f"{where} resamples with {every}; only nnU-Net's own way (scores linearly, label maps at most linearly, "
            "nearest along an anisotropic axis, all by the same rule) can be imported."
        )
    separate, anisotropy = rules.pop()
    if separate is True:
        raise AutosegError(f"{where} has force_separate_z true; only null and false can be imported.")
    return Resampling(
        image_order=orders["data"],
        label_order=orders["seg"],
        separate_axis="auto" if separate is None else "never",
        anisotropy=anisotropy,
    )


def _function(settings: Settings, where: str) -> str:
    """The one function of a configuration."""
    images, labels = settings.resampling_fn_data, settings.resampling_fn_seg
    scores = settings.resampling_fn_probabilities
    known = (_SPLINES, _TORCH, _NONE)
    for what, function in (("images", images), ("label maps", labels), ("scores", scores)):
        if function not in known:
            raise AutosegError(
                f"{where}: {what} are resampled by {function}; only models with {', '.join(known)} can be imported."
            )
    if not images == labels == scores:
        raise AutosegError(
            f"{where}: images are resampled by {images}, label maps by {labels} and scores by {scores}; only models "
            "with one function for all three can be imported."
        )
    return images


def described_resampling(resampling: Resampling | None) -> dict[str, Any]:
    """Resampling as the entries of a configuration of nnU-Net's plans; None: images are left as they are."""
    if resampling is None:
        return {
            f"resampling_fn_{kind}{end}": value
            for kind in ("data", "seg", "probabilities")
            for end, value in (("", _NONE), ("_kwargs", {}))
        }
    across = {
        "order_z": 0,
        "force_separate_z": None if resampling.separate_axis == "auto" else False,
        **({} if resampling.anisotropy == _ANISOTROPY else {"separate_z_anisotropy_threshold": resampling.anisotropy}),
    }
    return {
        "resampling_fn_data": _SPLINES,
        "resampling_fn_seg": _SPLINES,
        "resampling_fn_data_kwargs": {"order": resampling.image_order, "is_seg": False, **across},
        "resampling_fn_seg_kwargs": {**across, "order": resampling.label_order, "is_seg": True},
        "resampling_fn_probabilities": _SPLINES,
        "resampling_fn_probabilities_kwargs": {**across, "order": 1, "is_seg": False},
    }
