"""Plans without a card: what a published card takes, and only where its rate is known."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from pipeline.workflows.config import ClapConfig
from pipeline.workflows.plan import _notes
from pipeline.workflows.plan.cost import StageSample
from pipeline.workflows.plan.gpu_rates import FILE, GpuRates, as_on_a_card, read_rates
from pipeline.workflows.plan.trial import Tried

RATES = GpuRates("Played Card (2026-01-01)", {"HTSAT-base": 100.0}, {"demucs": 500.0})
SLOW = StageSample(((30.0, 9.0), (5.0, 2.0)), cpu_ratio=1.9, startup_s=4.0, on_gpu=True)
CLAP = ClapConfig(window_seconds=10.0, hop_seconds=5.0)


def test_clap_is_rated_by_its_windows():
    found = as_on_a_card("clap", SLOW, {"HTSAT-base float32": 2}, CLAP, RATES)
    assert found.files == ((30.0, pytest.approx(0.05)), (5.0, pytest.approx(0.01)))
    assert (found.cpu_ratio, found.startup_s, found.rated_on) == (1.0, 4.0, "Played Card (2026-01-01)")


def test_separation_is_rated_by_its_audio():
    found = as_on_a_card("separation", SLOW, {"demucs": 2}, CLAP, RATES)
    assert [seconds for _, seconds in found.files] == pytest.approx([0.06, 0.01])


@pytest.mark.parametrize(
    ("stage", "backends"),
    [
        ("clap", {"HTSAT-tiny float32": 1}),
        ("separation", {"midside": 1}),
        ("features", {"": 1}),
        ("clap", {}),
    ],
)
def test_what_has_no_rate_keeps_what_was_measured(stage, backends):
    assert as_on_a_card(stage, SLOW, backends, CLAP, RATES) is SLOW


def test_a_version_without_rates_is_read_as_none(tmp_path):
    path = tmp_path / "rates.json"
    assert read_rates(path) is None
    path.write_text("{")
    assert read_rates(path) is None
    path.write_text(json.dumps({"card": None}))
    assert read_rates(path) is None
    path.write_text(
        json.dumps({"card": "C", "date": "2026-01-01", "clap_windows_per_s": {"HTSAT-base": 3.0}})
    )
    assert read_rates(path) == GpuRates("C (2026-01-01)", {"HTSAT-base": 3.0}, {})


def test_the_file_is_part_of_the_package():
    assert FILE.is_file()
    json.loads(FILE.read_text())


def test_the_plan_says_whose_rates_it_took():
    stage = SimpleNamespace(stage="clap", left=0, devices={"cpu": 2})
    costs = {"clap": as_on_a_card("clap", SLOW, {"HTSAT-base float32": 2}, CLAP, RATES)}
    config = SimpleNamespace(
        hardware=SimpleNamespace(gpu_shares={"clap": 4}), output=SimpleNamespace(uri="out"), plan=None
    )
    work = SimpleNamespace(models=SimpleNamespace(warnings=()), work=SimpleNamespace(files=()))
    notes = _notes(
        config,
        work,
        SimpleNamespace(address="local"),
        Tried(stages=[stage], costs=costs),
        SimpleNamespace(too_long=0),
    )
    assert notes == [
        "clap is to run on a GPU and was measured on the CPU: there is none here; its time is what "
        "Played Card (2026-01-01) takes"
    ]
