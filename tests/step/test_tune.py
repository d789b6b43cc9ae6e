"""Which variant of a step is taken, by times that are given; and once by real ones."""

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from autoseg.step import findings, training_step, tune
from autoseg.step.setup import StepSetup
from autoseg.step.training_step import TrainingStep
from autoseg.step.tune import Extent, VariantChoice, choose_variant, fastest_forward, known_variant, plain_variants
from autoseg.step.variant import Variant
from autoseg.utils.errors import AutosegError
from planners.rules.compute import time_step
from tests.builders import LABELS, make_network, make_recipe, step_setup
from tests.devices import DEVICES

CPU = torch.device("cpu")
PLAIN, LAST = Variant(), Variant(channels_last=True)
HALF, HALF_LAST = Variant(torch.bfloat16), Variant(torch.bfloat16, channels_last=True)
HOUR = Extent(seconds=3600)

Choose = Callable[..., VariantChoice]
REHEARSAL_SECONDS = tune._rehearsal_seconds


def setup_of(**recipe: Any) -> StepSetup:
    return step_setup(make_network(3), (1, 2, [16, 16, 16], 2), **recipe)


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(findings, "_here", {})
    monkeypatch.setattr("autoseg.step.precision.has_fast_bfloat16", lambda: False)
    monkeypatch.setattr(tune, "emulates_bfloat16", lambda dimensions: False)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[Variant, list[float]]:
    """Variant → seconds of its first and of every further step; one without fails. ``asked`` steps are counted."""
    table: dict[Variant, list[float]] = {}
    asked: list[Variant] = []

    def lookup(step: TrainingStep, setup: StepSetup, device: torch.device) -> float:
        asked.append(step.variant)
        if step.variant not in table:
            raise RuntimeError("no such kernel")
        first, later = table[step.variant]
        return first if asked.count(step.variant) == 1 else later

    monkeypatch.setattr(tune, "timed_step", lookup)
    return table


def test_the_fastest_is_taken_and_kept(timed: dict[Variant, list[float]], monkeypatch: pytest.MonkeyPatch) -> None:
    timed |= {PLAIN: [0.3, 0.2], LAST: [0.3, 0.1], HALF: [0.9, 0.8], HALF_LAST: [0.3, 0.15]}
    choice = choose_variant(setup_of(), CPU, Extent(seconds=600))
    assert choice.variant == LAST
    assert choice.reason.startswith("fp32 channels-last: 100 ms a step on ")
    assert "fp32 200 ms" in choice.reason
    # A later process reads it from the user's file.
    monkeypatch.setattr(findings, "_here", {})
    timed.clear()
    assert choose_variant(setup_of(), CPU, Extent(seconds=600)).variant == LAST
    assert known_variant(setup_of(), CPU) == LAST
    assert known_variant(setup_of(memory_format="contiguous"), CPU) == PLAIN
    assert known_variant(setup_of().at([32, 32, 32], 2), CPU) is None


def test_another_job_disturbs_one_round(timed: dict[Variant, list[float]], monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first two variants are timed for the first time, everything takes ten times as long."""
    timed |= {PLAIN: [0.3, 0.2], LAST: [0.3, 0.1], HALF: [0.9, 0.8], HALF_LAST: [0.3, 0.15]}
    given, steps = tune.timed_step, [0]

    def disturbed(step: TrainingStep, setup: StepSetup, device: torch.device) -> float:
        steps[0] += 1
        return given(step, setup, device) * (10 if steps[0] <= 2 * (1 + tune.TIMED_STEPS) else 1)

    monkeypatch.setattr(tune, "timed_step", disturbed)
    choice = choose_variant(setup_of(), CPU, Extent(seconds=600))
    assert choice.variant == LAST
    assert choice.reason.startswith("fp32 channels-last: 100 ms a step on ")


def test_what_a_cpu_emulates_is_not_timed(timed: dict[Variant, list[float]], monkeypatch: pytest.MonkeyPatch) -> None:
    timed |= {PLAIN: [0.3, 0.2], LAST: [0.3, 0.1], HALF: [9.0, 9.0], HALF_LAST: [9.0, 9.0]}
    monkeypatch.setattr(tune, "emulates_bfloat16", lambda dimensions: True)
    choice = choose_variant(setup_of(), CPU, Extent(seconds=600))
    assert choice.variant == LAST
    assert "bf16" not in choice.reason
    # Who asks for it gets it.
    assert choose_variant(setup_of(precision="bf16"), CPU, Extent(seconds=600)).variant.dtype == torch.bfloat16


def test_what_the_plan_pins(timed: dict[Variant, list[float]]) -> None:
    timed |= {HALF: [0.3, 0.2], HALF_LAST: [0.3, 0.1], LAST: [0.01, 0.01]}
    assert choose_variant(setup_of(precision="bf16"), CPU, Extent(seconds=600)).variant == HALF_LAST
    pinned = setup_of(precision="fp32", memory_format="channels_last", compile="never")
    assert choose_variant(pinned, CPU, HOUR) == VariantChoice(LAST, "fp32 channels-last, as planned")


def test_compiling_must_pay(timed: dict[Variant, list[float]]) -> None:
    timed |= {PLAIN: [0.2, 0.2], replace(PLAIN, compiled=True): [60.0, 0.1]}
    setup = setup_of(precision="fp32", memory_format="contiguous")
    assert choose_variant(setup, CPU, Extent(steps=1000)).variant == PLAIN  # too short to try
    assert choose_variant(setup, CPU, Extent(steps=20_000)).variant == replace(PLAIN, compiled=True)
    assert choose_variant(setup, CPU, Extent(steps=500)).variant == PLAIN  # known, but 60 s are not won back
    never = setup_of(precision="fp32", memory_format="contiguous", compile="never")
    assert choose_variant(never, CPU, Extent(steps=20_000)).variant == PLAIN


def test_without_a_compiler(timed: dict[Variant, list[float]], no_compiler: None) -> None:
    """What a node that has one found is not taken on one that has none; a plan that insists is refused."""
    compiled = replace(PLAIN, compiled=True)
    setup = setup_of(precision="fp32", memory_format="contiguous")
    known = {PLAIN: findings.Timing(0.2, 0.2), compiled: findings.Timing(0.1, 60.0)}
    findings.Findings.of(setup, CPU).keep(known)
    choice = choose_variant(setup, CPU, Extent(steps=20_000))
    assert choice.variant == PLAIN
    assert "compiled" not in choice.reason
    assert findings.Findings.of(setup, CPU).timings == known
    for memory_format in ("contiguous", "auto"):
        always = setup_of(precision="fp32", memory_format=memory_format, compile="always")
        with pytest.raises(AutosegError, match=r"fails on this machine \(Inv.* found\); .*recipe.compile=never"):
            choose_variant(always, CPU, HOUR)


def test_a_fused_optimizer_must_save_something(timed: dict[Variant, list[float]]) -> None:
    timed |= {PLAIN: [0.2, 0.2], replace(PLAIN, fused=True): [0.2, 0.199]}
    setup = setup_of(precision="fp32", memory_format="contiguous")
    assert choose_variant(setup, CPU, Extent(seconds=600)).variant == PLAIN


def test_what_fails_is_skipped(timed: dict[Variant, list[float]]) -> None:
    timed |= {PLAIN: [0.3, 0.2]}
    assert choose_variant(setup_of(), CPU, HOUR).variant == PLAIN
    timed.clear()
    choice = choose_variant(setup_of(precision="bf16"), CPU, HOUR)
    assert choice.variant == HALF


def test_what_is_known_stays_known(timed: dict[Variant, list[float]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest was timed before, when one of the others had failed; that one is timed again, and only that one."""
    timed |= {PLAIN: [0.3, 0.1], LAST: [0.3, 0.2], HALF: [0.3, 0.3]}
    assert choose_variant(setup_of(), CPU, HOUR).variant == PLAIN
    timed |= {HALF_LAST: [0.3, 0.15]}
    choice = choose_variant(setup_of(), CPU, HOUR)
    assert choice.variant == PLAIN
    assert "150 ms" in choice.reason
    # … and where it fails again, too; also where nothing else is known.
    del timed[HALF_LAST]
    monkeypatch.setattr(findings, "_here", {})
    findings.Findings.of(setup_of(), CPU).keep({PLAIN: findings.Timing(0.1, 0.1)})
    timed.clear()
    assert choose_variant(setup_of(), CPU, HOUR).variant == PLAIN


def test_only_what_the_plan_leaves_open_is_compiled(timed: dict[Variant, list[float]]) -> None:
    """Though something else was found fastest under another plan."""
    timed |= {PLAIN: [0.3, 0.2], LAST: [0.3, 0.3], HALF: [0.3, 0.1], HALF_LAST: [0.3, 0.4]}
    timed |= {replace(PLAIN, compiled=True): [60.0, 0.05], replace(HALF, compiled=True): [60.0, 0.07]}
    assert choose_variant(setup_of(), CPU, Extent(seconds=600)).variant == HALF
    pinned = setup_of(precision="fp32", memory_format="contiguous")
    assert choose_variant(pinned, CPU, Extent(seconds=36_000)).variant == replace(PLAIN, compiled=True)


def test_a_short_training_measures_nothing(timed: dict[Variant, list[float]]) -> None:
    """Not even one step: there is no time in the table."""
    choice = choose_variant(setup_of(), CPU, Extent(seconds=9))
    assert (choice.variant, choice.reason) == (PLAIN, "fp32: the training is too short to measure what is faster")


def test_the_time_is_kept_to(timed: dict[Variant, list[float]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a step takes 10 s and 5 % are 15 s, the second variant is the last."""
    now = [0.0]
    given = tune.timed_step

    def passing(step: TrainingStep, setup: StepSetup, device: torch.device) -> float:
        seconds = given(step, setup, device)
        now[0] += seconds
        return seconds

    monkeypatch.setattr(tune, "timed_step", passing)
    monkeypatch.setattr("autoseg.step.tune.time.perf_counter", lambda: now[0])
    timed |= {variant: [2.0, 2.0] for variant in (PLAIN, LAST, HALF, HALF_LAST)}
    choose_variant(setup_of(), CPU, Extent(seconds=100))
    assert now[0] <= 5 + 2 * 4  # the 5 s, and at most one variant begun within them


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}'])
def test_a_damaged_file_is_made_again(timed: dict[Variant, list[float]], tmp_path: Path, content: str) -> None:
    file = tmp_path / "autoseg" / "steps.json"
    file.parent.mkdir()
    file.write_text(content)
    timed |= {PLAIN: [0.3, 0.2]}
    assert choose_variant(setup_of(), CPU, Extent(seconds=600)).variant == PLAIN
    assert len(json.loads(file.read_text())) in (1, 2)


def test_a_place_that_can_not_be_written(timed: dict[Variant, list[float]], tmp_path: Path) -> None:
    (tmp_path / "autoseg").write_text("a file where the folder should be")
    timed |= {PLAIN: [0.3, 0.2]}
    assert choose_variant(setup_of(), CPU, Extent(seconds=600)).variant == PLAIN
    assert known_variant(setup_of(), CPU) == PLAIN  # in this process


def test_a_real_measurement_leaves_random_numbers_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    choice = choose_variant(setup_of(), CPU, Extent(seconds=60))
    assert choice.variant.compiled is False
    assert "measured" in choice.reason
    assert torch.equal(torch.get_rng_state(), before)


def test_forward_passes_are_measured_where_there_are_many() -> None:
    setup = setup_of().at([8, 8, 8], 1)
    assert fastest_forward(setup, CPU, passes=20) == PLAIN
    assert findings.Findings.of(setup, CPU, "forward").timings == {}
    assert fastest_forward(setup, CPU, passes=1000) in (PLAIN, LAST, HALF, HALF_LAST)
    assert set(findings.Findings.of(setup, CPU, "forward").timings) == {PLAIN, LAST, HALF, HALF_LAST}


@pytest.mark.parametrize(("batch", "least"), [(1, 1), (2, 2), (9, 2)])
def test_a_step_that_is_timed_in_small_keeps_two_patches(batch: int, least: int) -> None:
    """A single small patch takes another, slower kernel, so that it says nothing of a batch."""
    small = StepSetup(make_network(width=8, stages=3), 1, LABELS, [96, 96, 96], batch, make_recipe()).reduced()
    assert small.batch_size >= least
    assert small.voxels <= 1.5 * 60_000
    assert all(side % 4 == 0 for side in small.patch_size)


def test_a_step_that_is_timed_in_small_can_be_computed() -> None:
    """Five times halved, 32³ would leave one voxel, which instance norm refuses; the product is over the usual size."""
    setup = StepSetup(make_network(width=2, stages=6), 1, LABELS, [128, 128, 128], 2, make_recipe())
    small = setup.reduced()
    assert setup.network.fits(small.patch_size) is None
    assert sorted(small.patch_size) == [32, 32, 64]
    assert time_step(setup.network, 1, LABELS.heads, [128, 128, 128], 2) > 0


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU as far as the measurement asks for it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(tune, "_apart", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(tune, "device_name", lambda device: "GPU")
    monkeypatch.setattr(findings, "device_name", lambda device: "GPU")
    monkeypatch.setattr(tune, "_step_of", lambda variant, setup, device: SimpleNamespace(variant=variant))
    monkeypatch.setattr(tune, "_rehearsal_seconds", lambda step, setup, device: 0.0)
    return torch.device("cuda")


@pytest.mark.parametrize(("seconds", "graphs"), [(0.018, True), (0.0195, False)])
def test_graphs_are_taken_where_they_save_more_than_their_memory_is_worth(
    timed: dict[Variant, list[float]], gpu: torch.device, seconds: float, graphs: bool
) -> None:
    half = Variant(torch.float16)
    timed |= {half: [0.5, 0.02], replace(half, graphs=True): [0.6, seconds]}
    assert choose_variant(setup_of(compile="never"), gpu, HOUR).variant == replace(half, graphs=graphs)


def variants_timed(monkeypatch: pytest.MonkeyPatch) -> list[Variant]:
    """The variants whose step is timed from now on, in order."""
    asked: list[Variant] = []
    given = tune.timed_step

    def noted(step: TrainingStep, setup: StepSetup, device: torch.device) -> float:
        asked.append(step.variant)
        return given(step, setup, device)

    monkeypatch.setattr(tune, "timed_step", noted)
    return asked


class Rehearsed:
    """A step whose gradients wait for the device after the first times, as torch finds where it is asked to."""

    def __init__(self, variant: Variant, modes: list[str | int], waits: int) -> None:
        self.variant, self.modes, self.left = variant, modes, waits

    def gradients(self, batch: object) -> None:
        self.left -= 1
        if self.left >= 0 and self.modes[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")


@pytest.mark.parametrize(("waits", "graphs"), [(0, True), (1, True), (9, False)], ids=["never", "first", "always"])
def test_a_step_that_waits_is_never_recorded(
    timed: dict[Variant, list[float]], gpu: torch.device, monkeypatch: pytest.MonkeyPatch, waits: int, graphs: bool
) -> None:
    """As a loss term that looks at a value; what waits the first time alone may be recorded."""
    monkeypatch.setattr(tune, "_rehearsal_seconds", REHEARSAL_SECONDS)
    monkeypatch.setattr(tune, "wait_for", lambda device: None)
    monkeypatch.setattr(StepSetup, "batch", lambda setup, device, random: None)
    modes: list[str | int] = [1]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(tune, "_step_of", lambda variant, setup, device: Rehearsed(variant, modes, waits))
    asked = variants_timed(monkeypatch)
    half = Variant(torch.float16)
    timed |= {half: [0.5, 0.02], replace(half, graphs=True): [0.6, 0.01]}
    assert choose_variant(setup_of(compile="never"), gpu, HOUR).variant == replace(half, graphs=graphs)
    assert any(variant.graphs for variant in asked) == graphs
    assert modes == [1, "error", 1]  # once, and as it was


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_loss_that_waits_leaves_torch_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = training_step.objective

    def waiting(*arguments: Any) -> torch.Tensor:
        loss = real(*arguments)
        return loss if float(loss) < 1e6 else loss / 2

    monkeypatch.setattr(training_step, "objective", waiting)
    device, before = torch.device("cuda"), torch.cuda.current_stream()
    choice = choose_variant(setup_of(compile="never"), device, HOUR)
    assert not choice.variant.graphs
    assert not torch.cuda.is_current_stream_capturing()
    assert torch.cuda.current_stream() == before
    assert torch.cuda.get_sync_debug_mode() == 0
    monkeypatch.setattr(training_step, "objective", real)
    monkeypatch.setattr(findings, "_here", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing known"))
    assert "with CUDA graphs" in choose_variant(setup_of(compile="never"), device, Extent(steps=10**6)).reason


def test_loading_cudas_libraries_is_not_measuring(
    timed: dict[Variant, list[float]], gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process's first step takes 5 s, more than the 3.75 s of 75 that measuring may take; the others are timed."""
    now = [0.0]
    given = tune.timed_step

    def passing(step: TrainingStep, setup: StepSetup, device: torch.device) -> float:
        seconds = 5.0 if not now[0] else given(step, setup, device)
        now[0] += seconds
        return seconds

    monkeypatch.setattr(tune, "timed_step", passing)
    monkeypatch.setattr("autoseg.step.tune.time.perf_counter", lambda: now[0])
    half = Variant(torch.float16)
    timed |= {HALF: [0.02, 0.02], half: [0.3, 0.019], replace(half, graphs=True): [0.6, 0.013]}
    choice = choose_variant(setup_of(compile="never"), gpu, Extent(seconds=75))
    assert choice.variant == replace(half, graphs=True)
    assert now[0] <= 5 + 3.75


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_what_a_short_training_had_no_time_for_is_timed_in_a_longer_one(
    timed: dict[Variant, list[float]], gpu: torch.device, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It knew all plain variants, and not what may save more of the fastest; the others are not timed again."""
    device, setup = CPU if kind == "cpu" else gpu, setup_of(compile="never")
    best, *others = plain_variants(setup, device)
    further = replace(best, fused=True) if kind == "cpu" else replace(best, graphs=True)
    short = {best: findings.Timing(0.1, 0.2), **dict.fromkeys(others, findings.Timing(0.2, 0.3))}
    findings.Findings.of(setup, device).keep(short)
    timed |= {best: [0.2, 0.1], further: [0.2, 0.05]}
    assert choose_variant(setup, device, Extent(seconds=9)).variant == best  # too short, again
    asked = variants_timed(monkeypatch)
    assert choose_variant(setup, device, HOUR).variant == further
    assert set(asked) == ({best, further} if kind == "cpu" else {further})
    asked.clear()
    assert choose_variant(setup, device, HOUR).variant == further
    assert asked == []


def test_what_may_save_more_is_compared_on_the_same_batch(timed: dict[Variant, list[float]]) -> None:
    """A short training timed a smaller one, whose optimizer takes more of a step."""
    setup, fused = setup_of(precision="fp32", compile="never"), replace(PLAIN, fused=True)
    short = {PLAIN: findings.Timing(0.1, 0.1), LAST: findings.Timing(0.3, 0.3)}
    findings.Findings.of(setup, CPU).keep(short)
    timed |= {PLAIN: [0.08, 0.08], fused: [0.0795, 0.0795]}
    choice = choose_variant(setup, CPU, HOUR)
    assert choice.variant == PLAIN
    assert choice.reason.startswith("fp32: 80 ms a step on ")
    # Where the real batch fails, what was known stays.
    findings.Findings.of(setup, CPU).keep(short)
    timed.clear()
    assert choose_variant(setup, CPU, HOUR).variant == PLAIN
    assert findings.Findings.of(setup, CPU).timings == short


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_missing_is_really_timed(device: str) -> None:
    setup, where = setup_of(compile="never"), torch.device(device)
    known = {variant: findings.Timing(1e-3, 1e-3) for variant in plain_variants(setup, where)}
    findings.Findings.of(setup, where).keep(known)
    choose_variant(setup, where, HOUR)
    (further,) = findings.Findings.of(setup, where).timings.keys() - known.keys()
    assert (further.fused, further.graphs) == (device == "cpu", device == "cuda")


def test_what_the_first_step_imports_is_not_measuring(
    timed: dict[Variant, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its 1.4 s are nearly all of the 1.5 s of 30 that measuring may take; channels-last is timed nevertheless."""
    now = [0.0]
    given, made = tune.timed_step, tune._step_of

    def passing(step: TrainingStep, setup: StepSetup, device: torch.device) -> float:
        seconds = given(step, setup, device)
        now[0] += seconds
        return seconds

    def importing(variant: Variant, setup: StepSetup, device: torch.device) -> TrainingStep:
        now[0] += 0.0 if now[0] else 1.4
        return made(variant, setup, device)

    monkeypatch.setattr(tune, "timed_step", passing)
    monkeypatch.setattr(tune, "_step_of", importing)
    monkeypatch.setattr("autoseg.step.tune.time.perf_counter", lambda: now[0])
    timed |= {PLAIN: [0.2, 0.2], LAST: [0.15, 0.15], HALF: [0.3, 0.3]}
    choice = choose_variant(setup_of(compile="never"), CPU, Extent(seconds=30))
    assert replace(choice.variant, fused=False) == LAST
    assert now[0] <= 1.4 + 1.5 + 0.2


def test_a_single_measurement_is_not_called_the_fastest(
    timed: dict[Variant, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed |= {PLAIN: [1.0, 1.0], LAST: [math.nan], HALF: [math.nan]}
    choice = choose_variant(setup_of(compile="never"), CPU, Extent(seconds=60))
    assert choice.variant == PLAIN
    assert "1.00 s a step" in choice.reason
    assert "all that there was time to measure" in choice.reason
    assert "fastest" not in choice.reason


def test_a_shared_cpu_is_timed_by_what_this_process_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step during which others have the CPU for a while takes no longer by that clock."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    setup = setup_of()

    def step(batch: object) -> None:
        time.sleep(0.2)

    assert tune.timed_step(cast(TrainingStep, step), setup, CPU) < 0.1
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert tune.timed_step(cast(TrainingStep, step), setup, CPU) >= 0.2
