"""What a plan makes of costs that are known, and the command that it gives back."""

import shlex
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import RunFolder, new_run_id
from pipeline.dataset.sources.sampling import Range
from pipeline.engine.resources import StageResources
from pipeline.errors import UserError
from pipeline.stages.clap.spec import GPU as CLAP_ON_A_CARD
from pipeline.stages.separation.spec import GPU as SEPARATION_ON_A_CARD
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.hardware_config import HardwareConfig
from pipeline.workflows.plan.advice import advise, command
from pipeline.workflows.plan.cost import (
    FIRST_BLOCK_S,
    PER_BLOCK_S,
    RAY_OVERHEAD,
    Load,
    Machine,
    StageSample,
    better_actors,
    estimate,
    fit,
)
from pipeline.workflows.plan_config import PlanConfig
from pipeline.workflows.plan_file import adopt_plan, fingerprint, save_plan

LENGTHS = (4.0, 8.0, 15.0, 30.0, 60.0, 120.0)


def exactly(seconds: float) -> Range:
    return Range(seconds, seconds, seconds)


def sample(per_file: float, per_second: float, **about) -> StageSample:
    return StageSample(tuple((x, per_file + per_second * x) for x in LENGTHS), **about)


@pytest.mark.parametrize(("each", "per_s"), [(0.02, 0.01), (0.0, 0.5), (0.3, 0.0), (0.0, 0.0)])
def test_costs_per_file_and_per_second_are_told_apart(each, per_s):
    x = np.array(LENGTHS)
    assert fit(x, each + per_s * x) == pytest.approx((each, per_s), abs=1e-9)


def test_neither_cost_is_ever_negative():
    x = np.array([1.0, 2.0, 3.0])
    each, per_s = fit(x, np.array([0.0, 1.0, 3.0]))
    assert each == 0
    assert per_s > 0
    each, per_s = fit(x, np.array([3.0, 2.0, 1.0]))
    assert each > 0
    assert per_s == 0


def test_equal_lengths_cost_by_the_second_and_silence_by_the_file():
    assert fit(np.array([5.0, 5.0]), np.array([1.0, 3.0])) == pytest.approx((0.0, 0.4))
    assert fit(np.array([0.0, 0.0]), np.array([1.0, 3.0])) == pytest.approx((2.0, 0.0))


def pools(**actors) -> dict[str, StageResources]:
    return {name: StageResources(n, 0.3) for name, n in actors.items()}


LOAD = Load(files=1000, audio_s=exactly(36_000.0), longest_s=300.0, blocks=64)


def test_the_cores_share_the_work_of_all_stages():
    stages = {"decode": sample(0.01, 0.01), "features": sample(0.05, 0.02)}
    found = estimate(stages, LOAD, Machine(4, 0, pools(decode=4, features=4)))
    work = 1000 * 0.06 + 36_000 * 0.03
    tail = work / 64 * (1 - 1 / 4)
    wanted = FIRST_BLOCK_S + RAY_OVERHEAD * work / 4 + 64 * PER_BLOCK_S + tail
    assert found.wall_s.expected == pytest.approx(wanted)
    assert found.limit == "cores"
    assert found.alone_s == pytest.approx({"decode": 370.0, "features": 770.0})
    assert found.wall_s.low < found.wall_s.expected < found.wall_s.high
    assert found.gpus == 0


def test_a_pool_of_one_bounds_the_run_and_the_plan_gives_it_more():
    stages = {"decode": sample(0.0, 0.001), "features": sample(0.0, 0.05)}
    machine = Machine(8, 0, pools(decode=6, features=1))
    found = estimate(stages, LOAD, machine)
    assert found.limit == "features"
    assert found.wall_s.expected > 36_000 * 0.05
    better = better_actors(stages, LOAD, machine, threads=1)
    assert better["features"] > 6
    wider = Machine(8, 0, pools(**{"decode": 6, "features": 1} | better))
    assert estimate(stages, LOAD, wider).wall_s.expected < 0.5 * found.wall_s.expected
    assert better_actors(stages, LOAD, Machine(2, 0, pools(decode=1, features=3)), threads=1) == {}


def test_a_single_long_file_is_never_split():
    load = Load(files=2, audio_s=exactly(36_060.0), longest_s=36_000.0, blocks=2)
    found = estimate({"features": sample(0.0, 0.1)}, load, Machine(64, 0, pools(features=64)))
    assert found.limit == "the longest file"
    assert found.wall_s.expected == pytest.approx(FIRST_BLOCK_S + 3600.0)


def test_cards_bound_what_runs_on_them_and_count_as_hours():
    stages = {"decode": sample(0.0, 0.001), "clap": sample(0.0, 0.02, on_gpu=True, cpu_ratio=0.1)}
    gpu = {"decode": StageResources(4, 0.3), "clap": StageResources(2, 0.3, 0.5)}
    found = estimate(stages, LOAD, Machine(16, 1, gpu))
    assert found.limit == "cards"
    assert found.gpus == 1
    assert found.wall_s.expected > 720


def test_what_the_cache_has_costs_nothing_and_starting_does():
    stages = {"features": sample(0.0, 0.02)}
    machine = Machine(2, 0, pools(features=2))
    whole = estimate(stages, LOAD, machine).wall_s.expected
    half = {"features": sample(0.0, 0.02, skipped=0.5)}
    assert estimate(half, LOAD, machine).alone_s["features"] == pytest.approx(360.0)
    slow = {"features": sample(0.0, 0.02, startup_s=100.0, startup_cpu_s=100.0)}
    assert estimate(slow, LOAD, machine).wall_s.expected == pytest.approx(whole + 100.0)


def test_the_range_grows_with_the_spread_of_the_sample():
    rng = np.random.default_rng(0)
    noisy = StageSample(tuple((30.0, float(s)) for s in rng.lognormal(0, 1, 12)))
    steady = StageSample(tuple((30.0, 1.6) for _ in range(12)))
    machine = Machine(2, 0, pools(features=2))
    one, other = (estimate({"features": s}, LOAD, machine).wall_s for s in (noisy, steady))
    assert one.high / one.low > 1.3 * other.high / other.low


def test_others_on_the_machine_raise_the_upper_end_only():
    stages = {"features": sample(0.0, 0.02)}
    alone = estimate(stages, LOAD, Machine(4, 0, pools(features=4))).wall_s
    shared = estimate(stages, LOAD, Machine(4, 0, pools(features=4), taken=2.0)).wall_s
    assert (shared.low, shared.expected) == (alone.low, alone.expected)
    assert 1.5 * alone.high < shared.high < 2.5 * alone.high


def test_cores_that_slow_each_other_down_take_longer():
    stages = {"features": sample(0.0, 0.02)}
    alone, crowded = (estimate(stages, LOAD, Machine(4, 0, pools(features=4), c)) for c in (1.0, 1.5))
    assert crowded.compute_s["features"] == pytest.approx(1.5 * alone.compute_s["features"])
    assert crowded.alone_s == alone.alone_s
    assert crowded.wall_s.expected > 1.4 * alone.wall_s.expected


def config(tmp_path, source="in") -> ExtractConfig:
    made = ExtractConfig()
    made.source.uri, made.output.uri = str(tmp_path / source), str(tmp_path / "out")
    return made


def test_only_the_plan_of_the_same_run_is_taken_along(tmp_path):
    keys = {"decode": "a", "mel": "b"}
    mine = config(tmp_path)
    output = Output(mine.output.uri)
    assert save_plan(output, {"fingerprint": fingerprint(mine, keys, 7), "date": "today"}) is None
    folder = RunFolder(output, new_run_id(), quiet=True)
    try:
        for other, other_keys, todo in (
            (mine, keys, 8),
            (mine, {**keys, "mel": "c"}, 7),
            (config(tmp_path, "elsewhere"), keys, 7),
        ):
            assert not adopt_plan(other, other_keys, todo, folder)
        assert not output.fs.exists(output.path(folder.relative("plan.json")))
        assert adopt_plan(mine, dict(reversed(keys.items())), 7, folder)
        assert output.read(folder.relative("plan.json")) == output.read("runs/plan.json")
        output.write("runs/plan.json", b"[1]")
        assert not adopt_plan(mine, keys, 7, folder)
        output.write("runs/plan.json", b"{")
        assert not adopt_plan(mine, keys, 7, folder)
        output.discard("runs/plan.json")
        assert not adopt_plan(mine, keys, 7, folder)
    finally:
        folder.close()


def test_a_plan_that_cannot_be_written_says_why(tmp_path):
    (tmp_path / "out").write_text("a file where the folder should be")
    assert "Error" in save_plan(Output(str(tmp_path / "out")), {})


@pytest.fixture
def compose(repo, monkeypatch):
    monkeypatch.syspath_prepend(str(repo / "jobs"))
    import compose

    compose.register()
    return compose


@pytest.mark.parametrize(
    "given",
    [
        ["source.uri=it's here", "output.uri=out", "separation.backends=[spleeter,midside]"],
        ["source.uri=in", "output.uri=out", "hardware=cpu", "features.enabled=[mel]", "hardware.actors.decode=3"],
        ["source.uri=in", "output.uri=out", 'clap.text_queries=["a sad piano", applause]'],
    ],
)  # fmt: skip
def test_the_command_of_a_plan_is_the_run(compose, given):
    typed = [*given, "dry_run=true", "plan.sample=5"]
    advised = ["hardware=auto", "hardware.actors.decode=2"]
    told, secret = command(compose.load(typed), typed, advised)
    program, script, *overrides = shlex.split(told)
    assert (program, script, secret) == ("python", "jobs/extract_features.py", False)
    again = compose.load(overrides)
    assert not again.dry_run
    assert again.plan == PlanConfig()
    assert again.hardware.name == "auto"
    assert again.hardware.actors["decode"] == 2
    plain = compose.load(given)
    assert (again.source, again.output, again.features, again.clap, again.separation) == (
        plain.source, plain.output, plain.features, plain.clap, plain.separation,
    )  # fmt: skip


def test_a_network_that_takes_more_of_a_card_than_its_batch_should_is_told_to_auto():
    config = ExtractConfig()
    config.hardware = HardwareConfig("auto", batch_items={"clap": 64, "separation": 8})
    networks = {"clap": CLAP_ON_A_CARD.networks, "separation": SEPARATION_ON_A_CARD.networks}
    resources = SimpleNamespace(gpu="a card", memory_bytes=None, networks=networks)
    peaks = {"decode": 0, "features": 0, "clap": 1 << 30, "separation": 5 << 30}
    tried = SimpleNamespace(
        stages=[SimpleNamespace(stage=s, vram_bytes=n) for s, n in peaks.items()], files=0
    )
    overrides, hints = advise(config, resources, Machine(16, 1, {}), tried, LOAD, estimated=None, memory={})
    need = int(1.3 * (5 << 30)) >> 20 << 20
    assert overrides == [f"hardware.vram_bytes.separation={need}", "hardware.batch_items.separation=8"]
    assert hints == []
    config.hardware.name = "gpu_small"
    assert advise(config, resources, Machine(16, 1, {}), tried, LOAD, estimated=None, memory={}) == ([], [])


def test_the_job_has_the_keys_of_the_main_job_and_says_what_is_wrong_in_one_line(compose, repo):
    given = ["source.uri=in", "output.uri=out", "hardware=auto", "plan.sample=3"]
    assert compose.load(given, "plan_job") == compose.load(given)
    command = [sys.executable, "jobs/plan.py", *given, "plan.sampl=3"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert "\nerror: plan.sampl is not a config key; did you mean plan.sample?\n" in done.stderr


def test_the_command_repeats_no_secret(compose):
    given = [
        "source.uri=s3://bucket/a",
        "output.uri=s3://bucket/o",
        "source.storage_options={key: K, secret: hush}",
    ]
    given += ["output.storage_options.secret=hush", "output.storage_options.endpoint=http://h:1"]
    told, secret = command(compose.load(given), given, [])
    assert secret
    assert "hush" not in told
    assert "output.storage_options.endpoint=http://h:1" in told


def test_without_a_command_line_the_places_are_named(tmp_path):
    told, _ = command(config(tmp_path), (), [])
    assert shlex.split(told)[2:] == [f"source.uri={tmp_path}/in", f"output.uri={tmp_path}/out"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("sample", -1), ("headers", 0), ("max_minutes", 0.0), ("stage_seconds", float("nan"))],
)
def test_impossible_keys_are_refused(tmp_path, key, value):
    made = config(tmp_path)
    setattr(made.plan, key, value)
    with pytest.raises(UserError, match=rf"plan\.{key}="):
        made.check()
