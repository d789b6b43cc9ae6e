"""Planner ``inflated``: any of timm's 2D encoders for volumes, with this project's own recipe."""

from autoseg.data.fingerprint import Fingerprint
from autoseg.networks.inflated import encoder_maps
from autoseg.planning.planners import Abilities, planner_can
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.families import Inflated
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Initialization, Recipe
from planners.rules.recipe import optimizer
from planners.rules.systems import assemble, base_recipe, configure, fit, open_setting

#: Encoder where the user names none: small, plain, and its weights are everywhere. 11 million parameters.
ENCODER = "resnet18"

#: The patch before it is made smaller; flat, as the encoder does not reduce the slices.
PATCH = (32, 192, 192)
BATCH = 4

#: Slices in which a patch is made smaller, and the fewest.
SLICES = 4
FEWEST = 8

#: Channels of the decoder's stages, the highest resolution last, for encoders that reduce the plane by 64 at most; a
#: stage's first convolution has twice as many. AlbuNet's numbers, made to grow steadily.
FEATURES = (256, 128, 128, 64, 32, 16)


@planner_can(Abilities(encoders=True, image_weights=True))
def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for an inflated encoder, ``request.options["encoder"]``.

    Raises:
        UsageError: unknown channels or regions are asked for.
        AutosegError: timm is missing or has no such encoder, it can't be inflated, or not even the smallest patch fits.
    """
    setting = open_setting(fingerprint, request)
    network = _network(request.options.get("encoder", ""))
    reduction = network.reduction
    least = (FEWEST, 2 * reduction, 2 * reduction)
    chosen, _, ema = optimizer(request.device)
    size = fit(
        setting,
        network,
        PATCH,
        BATCH,
        Recipe(optimizer=chosen, ema_decay=ema),
        unit=(SLICES, reduction, reduction),
        least=least,
    )
    base, inference = base_recipe(setting, size.patch, size.batch)
    recipe = base.model_copy(
        update={
            "initialization": Initialization(
                reasons={"source": "nothing is downloaded unasked; --weights imagenet does, or --weights FILE"}
            )
        }
    )
    configuration = configure(
        setting,
        network,
        size,
        recipe,
        inference,
        reasons={
            "patch_size": size.patch_reason.replace("the paper's", "the largest tried"),
            "batch_size": size.batch_reason.replace("the paper's", "the largest tried"),
        },
    )
    return assemble(setting, "inflated", {"3d_fullres": configuration}, "3d_fullres", "the only one")


def _network(encoder: str) -> Inflated:
    maps = encoder_maps(encoder or ENCODER)
    reduction = max(maps)
    stages = reduction.bit_length() - 1
    features = list(FEATURES[-stages:])
    return Inflated(
        encoder=encoder or ENCODER,
        decoder_features=features,
        decoder_widths=[2 * count for count in features],
        reduction=reduction,
        reasons={
            "encoder": "asked for with --encoder" if encoder else "small and plain; --encoder takes any of timm's",
            "reduction": f"its maps are reduced by {', '.join(map(str, maps))}",
            "decoder_features": "as AlbuNet's, growing steadily",
        },
    )
