"""Recipe: the training settings of a configuration."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from autoseg.plans.augmentation import TRANSFORMS as TRANSFORMS
from autoseg.plans.augmentation import Augmentation as Augmentation
from autoseg.plans.augmentation import Axis as Axis
from autoseg.plans.augmentation import Transform as Transform
from autoseg.plans.components import by_name
from autoseg.plans.loss import LOSS_TERMS as LOSS_TERMS
from autoseg.plans.loss import Loss as Loss
from autoseg.plans.loss import LossTerm as LossTerm
from autoseg.plans.mixing import Mixed
from autoseg.plans.postprocessing import Step
from autoseg.plans.reasons import Reasoned, without_reasons
from autoseg.plans.schedule import SCHEDULES as SCHEDULES
from autoseg.plans.schedule import Schedule as Schedule
from autoseg.plans.untouched import Untouched
from autoseg.utils.digest import digest

if TYPE_CHECKING:
    from typing import Self

#: Precision of a network; ``auto``: the fastest on the device, as measured.
Precision = Literal["auto", "fp32", "bf16", "fp16"]

#: How images and weights lie in memory; ``auto``: the fastest, as measured.
MemoryFormat = Literal["auto", "contiguous", "channels_last"]

#: Parts of an initialization that tell something of the model and change no step of a training.
ABOUT_MODEL = {"postprocessing", "learned", "untouched"}

#: Name of several annotators' label maps: of the array in a stored case, of the result and the folder that hold each
#: one's, and in fingerprints.
ANNOTATORS_KEY = "raters"


class Optimizer(Reasoned):
    """Optimizer and its hyperparameters.

    Attributes:
        name: ``sgd`` (with Nesterov momentum), ``adam``, ``adamw``, or ``ranger21`` (Wright & Demeure 2021; needs the
            extra ``ranger21``).
        learning_rate: the maximum, which the schedule scales.
        weight_decay: as the optimizer defines it.
        momentum: of ``sgd``.
        eps: added to the denominator of ``adam``, ``adamw`` and ``ranger21`` (torch: 1e-8; Keras: 1e-7).
        layer_decay: the first layer's rate as a share of the last's and the heads'; those between follow geometrically
            in the order of the layers (discriminative fine-tuning, Howard & Ruder 2018). 1: all the same.
    """

    #: Name → keys that not all optimizers read, and it does.
    READS: ClassVar[dict[str, set[str]]] = {
        "sgd": {"momentum"},
        "adam": {"eps"},
        "adamw": {"eps"},
        "ranger21": {"eps"},
    }

    name: Literal["sgd", "adam", "adamw", "ranger21"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    momentum: float = Field(0.99, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    layer_decay: float = Field(1.0, gt=0, le=1)


class Sampling(Reasoned):
    """Positions of training patches.

    Attributes:
        foreground_share: share of each batch's patches that are centred on a random foreground voxel (at least one of
            several where it is above 0; of batches of one this share).
        foreground: of a random ``class``, with equal probability among those the case has, or any ``voxel`` of the
            structures, so that large ones come more often.
        background: where the other patches are: ``anywhere`` in the image, centred inside the ``mask`` (the brain
            mask, or the voxels that are non-zero in any channel), or on ``healthy`` tissue (of these, those without a
            label).
        cases_per_batch: most cases that the patches of one batch come from; where None, every patch comes from another
            case (if there are as many).
    """

    foreground_share: float = Field(0.33, ge=0, le=1)
    foreground: Literal["class", "voxel"] = "class"
    background: Literal["anywhere", "mask", "healthy"] = "anywhere"
    cases_per_batch: int | None = Field(None, ge=1)


class Initialization(Reasoned):
    """The initial weights of a training.

    Attributes:
        source: ``random``; ``imagenet``: the encoder's, from timm, which downloads them; ``file``: the encoder's, from
            a file in the run folder; ``model``: all weights of another model that fit, from a file in the run folder.
        file: name of that file.
        content: fingerprint of its weights, to detect that the file was replaced.
        source_channels: of ``model``: names of its input channels, in order.
        source_outputs: of ``model``: names of its heads, in order, the background included.
        source_raters: of ``model``: annotators that it learned separately, one decoder each.
        channels: of ``model``: channel → the model's channel that its weights come from; the others are new.
        outputs: of ``model``: output → the model's output that its weights come from; the others are new.
        harmonized: of ``model``: channels that it was itself trained on with harmonized intensities; where the plan
            harmonizes others, the model as it is sees those without.
        ensemble: of ``model``: files in the run folder with the weights of all its folds, which predict together where
            it is used as it is; empty where it can't be, as its channels or outputs are others.
        postprocessing: of ``model``: steps on the label maps that it predicts as it is, by the plan's names: a part of
            what it is scored with, and of what is predicted where it is kept so.
        untouched: of ``model``: what it has more than the plan, or mirrors otherwise, as its own run predicts; None
            where it is used as the plan says.
        learned: of ``model``: cases of the dataset that it was trained on → what tells: the same ``file``, or the
            ``name``, where the model's files are gone. Its scores on them are better than on new ones, so that they
            have no say in how much of it is kept where there are others.
        begin: of ``model``: what the training starts from: the ``fold`` whose weights ``file`` has, or the ``best`` of
            ``ensemble`` and the average of their weights on the training cases of each fold
            (:mod:`autoseg.transfer.source_start`).
        keep: of ``model``: share of the initial weights in the average that is saved at the end. ``auto``: chosen on
            cases that were not trained on (:mod:`autoseg.crossvalidation.source_share`). A number is halved while it
            raises the loss on training cases by more than a tolerance (:mod:`autoseg.training.source_average`).
        pull: of ``model``: how strongly weights are drawn back to the initial ones: by pull · rate · (weight − initial)
            a step (L2-SP of Li et al. 2018, "Explicit inductive bias for transfer learning with convolutional
            networks", decoupled from the gradient like AdamW's decay).
        rank: of ``model``: largest rank of what is added to each kernel, as a matrix of its first axis by all others
            (low rank adaptation, Hu et al. 2022); 0 for any. Scales, shifts and biases are free. A GPU
            keeps to it every so many steps, and in what is saved (:class:`autoseg.training.near_source.LowRank`).
    """

    source: Literal["random", "imagenet", "file", "model"] = "random"
    file: str = ""
    content: str = ""
    source_channels: list[str] = Field(default_factory=list)
    source_outputs: list[str] = Field(default_factory=list)
    source_raters: list[str] = Field(default_factory=list)
    channels: dict[str, str] = Field(default_factory=dict)
    outputs: dict[str, str] = Field(default_factory=dict)
    harmonized: list[str] = Field(default_factory=list)
    ensemble: list[str] = Field(default_factory=list)
    postprocessing: list[Step] = Field(default_factory=list)
    untouched: Untouched | None = None
    learned: dict[str, Literal["file", "name"]] = Field(default_factory=dict)
    begin: Literal["fold", "best"] = "fold"
    keep: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = 0.0
    pull: float = Field(0.0, ge=0)
    rank: int = Field(0, ge=0)

    @property
    def is_chosen(self) -> bool:
        """Whether held-out cases choose how much of the initial weights is kept."""
        return self.keep == "auto"

    @property
    def averaged(self) -> float:
        """The share of the initial weights in the final ones where it is set; 0 where it is chosen."""
        return 0.0 if self.keep == "auto" else self.keep

    @property
    def source_annotators(self) -> list[str]:
        """Annotators that the model learned separately, one decoder each."""
        return self.source_raters

    @property
    def names(self) -> str:
        """A fingerprint of which of the model's channels, outputs and annotators become which of the plan's."""
        return digest([self.source_channels, self.source_outputs, self.source_raters, self.channels, self.outputs])

    @property
    def names_part(self) -> list[str]:
        """The names' part of fingerprints of scores; empty where all are the model's own, as older scores have it."""
        pairs = [*self.channels.items(), *self.outputs.items()]
        return [] if all(name == other for name, other in pairs) else [self.names]

    @property
    def untouched_part(self) -> dict[str, Any]:
        """The part of fingerprints of scores for what the model has more; empty without, as of older scores."""
        own = self.untouched
        return {} if own is None else {"untouched": without_reasons(own.model_dump(mode="json", exclude_defaults=True))}

    @property
    def steps_as_it_is(self) -> list[Step]:
        """The post-processing of what the model predicts as it is, by its own outputs where it has more."""
        own = self.untouched
        return self.postprocessing if own is None or own.target is None else own.postprocessing

    def from_annotators(self, names: Sequence[str]) -> "Initialization":
        """The same, for a model that learned these annotators separately."""
        return self.model_copy(update={"source_raters": list(names)})

    @model_validator(mode="after")
    def _named(self) -> "Self":
        if self.source in ("file", "model") and (not self.file or "/" in self.file or "\\" in self.file):
            raise ValueError(f"source {self.source} needs the name of a file in the run folder")
        if self.keep and self.source != "model":
            raise ValueError(f"keep is {self.keep}, but source is {self.source}; only weights of a model can be kept")
        if self.pull and self.source != "model":
            raise ValueError(f"pull is {self.pull:g}, but source is {self.source}; only a model's weights can pull")
        if self.rank and self.source != "model":
            raise ValueError(f"rank is {self.rank}, but source is {self.source}; only a model's kernels are added to")
        if self.keep == "auto" and not self.ensemble:
            raise ValueError("keep is auto, but the source can't be used as it is; give a share from 0 to below 1")
        if self.begin == "best" and len(self.ensemble) < 2:
            raise ValueError("begin is best, but the source has no folds to choose among; give fold")
        for name, known in (("channels", self.source_channels), ("outputs", self.source_outputs)):
            unknown = sorted(set(getattr(self, name).values()) - set(known))
            if unknown:
                raise ValueError(f"{name} names {', '.join(unknown)}, which source_{name} has not")
        if unknown := sorted({step.output for step in self.postprocessing} - set(self.outputs)):
            raise ValueError(f"postprocessing names {', '.join(unknown)}, which is none of outputs")
        own = self.untouched
        if own is not None and own.channels and len(own.channels) != len(self.source_channels):
            raise ValueError("untouched.channels must be as many as source_channels")
        if own is not None and own.target is not None and own.target.heads != len(self.source_outputs):
            raise ValueError("untouched.target must have as many heads as source_outputs")
        return self


class Freeze(Reasoned):
    """Part of a network that is frozen at first, so that few cases do not overwrite what a model has learned.

    Attributes:
        part: ``none``; ``encoder``; ``body``: everything but the heads; or ``kernels``: all but scales, shifts
            and biases (of a batch normalization the statistics are not frozen either).
        until: share of the budget after which the whole network is trained; 1 for never.
    """

    part: Literal["none", "encoder", "body", "kernels"] = "none"
    until: float = Field(1.0, ge=0, le=1)


class Distillation(Reasoned):
    """A trained model's outputs as a further term of the loss (Hinton et al. 2015).

    The term is weight · T² · KL(teacher ‖ student), both softened by the temperature T, averaged over the voxels that
    the teacher has scores for. T² keeps the size of its gradient independent of the temperature (section 2.1 there).

    Attributes:
        weight: of the term; 0 trains as without a teacher.
        temperature: T, which logits are divided by; the larger, the more the less likely classes count.
        teacher: fingerprint of the teacher in the run folder.
    """

    weight: float = Field(1.0, ge=0)
    temperature: float = Field(2.0, gt=0)
    teacher: str = Field(min_length=1)


class Recipe(Reasoned):
    """Training settings of a configuration.

    Attributes:
        epochs: default length of a training.
        iterations_per_epoch: optimizer steps an epoch; where an epoch is a pass, what the planner expects them to be.
        epoch_length: of an epoch: the ``iterations`` given, or a ``pass``: as many steps as it takes to draw from every
            training case of the fold once (:meth:`steps_of_epoch`).
        loss: to minimise.
        optimizer: name and hyperparameters.
        schedule: of the learning rate.
        augmentation: of training batches.
        channel_dropout: probability that a channel of a sample is set to zero, as if the case lacked it; at least one
            is kept (:mod:`autoseg.training.missing_channels`). Channels of the previous stage are never dropped.
        sampling: of training patches.
        initialization: where the weights come from.
        freeze: which of them are frozen, and how long.
        distillation: term of the loss with a teacher's outputs, if any.
        source_cases: cases of a source's data that are mixed into the batches, if any.
        gradient_clip: largest norm of the gradient; 0 for no clipping.
        ema_decay: of the exponential moving average of the weights that is validated and saved; 0 for none.
        precision: of the step's autocast; ``auto``: the fastest on the device, as measured before the training
            (:mod:`autoseg.step.tune`).
        memory_format: of images and weights; ``auto``: the fastest, as measured with the precision.
        compile: whether the network is compiled (``torch.compile``); ``auto``: where that pays within the training.
        validate_every: epochs between validations on whole images (without test-time augmentation).
        validate_cases: validation cases used for these, at most; those that have a structure first.
        validate_always: whether all of these validations are made; else they are skipped as long as they have taken
            more than 5 % of the time, unless the learning rate, the end or the weights depend on them.
        validation_loss: what these validations take the loss of: the ``images`` as a whole, tiled as at inference (the
            mean over them); ``patches``: a fixed set drawn from the same cases, where whole images take too long; or
            ``none``. It is the ``loss`` alone, without augmentation, dropout or a teacher's term.
        validation_batches: batches in that set of patches.
        early_stopping: validations without improvement after which training stops; 0 for never.
        early_stopping_follows: what has to improve: the ``validation_dice`` or the ``validation_loss``.
    """

    epochs: int = Field(200, ge=1)
    iterations_per_epoch: int = Field(250, ge=1)
    epoch_length: Literal["iterations", "pass"] = "iterations"
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    schedule: Annotated[Schedule, BeforeValidator(by_name(SCHEDULES, "name", "cosine")), SerializeAsAny()] = Schedule()
    augmentation: Augmentation = Augmentation()
    channel_dropout: float = Field(0.0, ge=0, lt=1)
    sampling: Sampling = Sampling()
    initialization: Initialization = Initialization()
    freeze: Freeze = Freeze()
    distillation: Distillation | None = None
    source_cases: Mixed | None = None
    gradient_clip: float = Field(12.0, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    precision: Precision = "auto"
    memory_format: MemoryFormat = "auto"
    compile: Literal["auto", "never", "always"] = "auto"
    validate_every: int = Field(10, ge=1)
    validate_cases: int = Field(8, ge=1)
    validate_always: bool = False
    validation_loss: Literal["images", "patches", "none"] = "images"
    validation_batches: int = Field(8, ge=1)
    early_stopping: int = Field(0, ge=0)
    early_stopping_follows: Literal["validation_dice", "validation_loss"] = "validation_dice"

    @model_validator(mode="after")
    def _has_what_is_followed(self) -> "Self":
        if self.validation_loss == "none":
            if self.schedule.follows_validation:
                raise ValueError("schedule follows the validation loss, and validation_loss is none; use images")
            if self.early_stopping and self.early_stopping_follows == "validation_loss":
                raise ValueError("early_stopping follows the validation loss, and validation_loss is none; use images")
        return self

    def steps_of_epoch(self, cases: int, batch: int) -> int:
        """Optimizer steps of an epoch.

        Args:
            cases: training cases of the fold.
            batch: patches a step, which come from as many cases, or from ``sampling.cases_per_batch`` at most.
        """
        if self.epoch_length == "iterations":
            return self.iterations_per_epoch
        return max(1, math.ceil(cases / min(batch, self.sampling.cases_per_batch or batch)))

    @property
    def looks_at_judges(self) -> str:
        """What would look, on the way, at the cases that choose how much of a source is kept, and the way out.

        A part of a sentence; empty where nothing does. Plans of earlier versions may, and still predict.
        """
        looking = {
            "recipe.early_stopping=0": self.early_stopping > 0,
            "recipe.schedule.follows=training_loss": self.schedule.follows_validation,
        }
        instead = [value for value, looks in looking.items() if looks]
        if not (instead and self.initialization.is_chosen):
            return ""
        return (
            "held-out cases choose how much of the source is kept (recipe.initialization.keep=auto), and may not "
            f"decide on the tuning before; set {' and '.join(instead)}, or keep to a number such as 0.5"
        )

    @property
    def taught(self) -> Distillation | None:
        """The distillation, where its weight in the loss is not 0."""
        return self.distillation if self.distillation is not None and self.distillation.weight > 0 else None
