"""Planner ``inflated``: any of timm's 2D encoders for volumes, with this project's own recipe."""

from autoseg.data.fingerprint import Fingerprint
from autoseg.networks.inflated import encoder_maps
from autoseg.planning.planners import Abilities, planner_can
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.families import Inflated
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Initialization, Recipe
from planners.rules.fitting import Wanted, fit
from planners.rules.recipe import optimizer
from planners.rules.systems import assemble, base_recipe, configure
from planners.rules.task import open_task

#: Encoder where the user names none: small, plain, and its weights are everywhere. 11 million parameters.
_ENCODER = "resnet18"

#: The patch before it is made smaller; flat, as the encoder does not reduce the slices.
_PATCH = (32, 192, 192)
_BATCH = 4

#: Slices in which a patch is made smaller, and the fewest.
_SLICES = 4
_FEWEST = 8

#: Channels of the decoder's stages, the highest resolution last, for encoders that reduce the plane by 64 at most; a
#: stage's first convolution has twice as many. AlbuNet's numbers, made to grow steadily.
_FEATURES = (256, 128, 128, 64, 32, 16)


@planner_can(Abilities(encoders=True, image_weights=True))
def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for an inflated encoder, ``request.options["encoder"]``.

    Raises:
        UsageError: unknown channels or regions are asked for.
        AutosegError: timm is missing or has no such encoder, it can't be inflated, or not even the smallest patch fits.
    """
    task = open_task(fingerprint, request)
    network = _network(request.options.get("encoder", ""))
    reduction = network.reduction
    least = (_FEWEST, 2 * reduction, 2 * reduction)
    chosen, _, ema = optimizer(request.device, _BATCH)
    wanted = Wanted(_PATCH, _BATCH, (_SLICES, reduction, reduction), least, origin="the largest tried")
    size = fit(task.full, network, Recipe(optimizer=chosen, ema_decay=ema), wanted)
    base, inference = base_recipe(task.full, size.patch, size.batch)
    recipe = base.model_copy(
        update={
            "initialization": Initialization(
                reasons={"source": "nothing is downloaded unasked; --weights imagenet does, or --weights FILE"}
            )
        }
    )
    configuration = configure(task.full, network, size, recipe, inference)
    return assemble(task, "inflated", {"3d_fullres": configuration}, "3d_fullres", "the only one")


def _network(encoder: str) -> Inflated:
    maps = encoder_maps(encoder or _ENCODER)
    reduction = max(maps)
    stages = reduction.bit_length() - 1
    features = list(_FEATURES[-stages:])
    return Inflated(
        encoder=encoder or _ENCODER,
        decoder_features=features,
        decoder_widths=[2 * count for count in features],
        reduction=reduction,
        reasons={
            "encoder": "asked for with --encoder" if encoder else "small and plain; --encoder takes any of timm's",
            "reduction": f"its maps are reduced by {', '.join(map(str, maps))}",
            "decoder_features": "as AlbuNet's, growing steadily",
        },
    )
