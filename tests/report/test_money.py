"""What a run costs, against sums done by hand."""

from __future__ import annotations

import pytest

from pipeline.engine.progress import Progress
from pipeline.report.money import Prices, cost, held, markdown_lines, money, sentences
from pipeline.report.performance import markdown, performance

STAGES = {
    "decode": {"device": "cpu", "compute_s": 10.0},
    "features.mel": {"device": "cpu", "compute_s": 30.0},
    "clap": {"device": "cuda", "compute_s": 45.0},
    "separation": {"device": "cuda", "compute_s": 15.0},
    "write": {"device": "cpu", "compute_s": None},
}


def test_all_that_is_held_is_paid_for_from_the_command_to_its_end():
    c = cost(Prices(0.04, 2.5), 48, 8, 1800.0, 100.0, stages=STAGES)
    assert c["total"] == pytest.approx(0.5 * (48 * 0.04 + 8 * 2.5))
    assert c["per_audio_hour"] == pytest.approx(c["total"] / 100)


def test_stages_share_the_cores_by_busy_time_and_those_on_a_card_the_cards():
    c = cost(Prices(0.1, 4.0), 10, 1, 3600.0, 2.0, stages=STAGES)
    assert c["stages"] == pytest.approx(
        {"decode": 0.1, "features.mel": 0.3, "clap": 0.45 + 3.0, "separation": 0.15 + 1.0}
    )
    assert sum(c["stages"].values()) == pytest.approx(c["total"])


def test_a_card_that_nobody_uses_is_paid_for_by_all():
    on_cpu = {name: {**s, "device": "cpu"} for name, s in STAGES.items()}
    c = cost(Prices(None, 4.0), 10, 1, 3600.0, 2.0, stages=on_cpu)
    assert c["total"] == 4.0
    assert c["stages"]["decode"] == pytest.approx(0.4)


def test_the_ends_of_a_plan_and_its_parts():
    c = cost(Prices(1.0), 2, 0, {"low": 1800.0, "expected": 3600.0, "high": 7200.0}, None, stages=STAGES)
    assert (c["low"], c["expected"], c["high"], c["per_audio_hour"]) == (1.0, 2.0, 4.0, None)
    assert sum(c["stages"].values()) == pytest.approx(2.0)


def test_without_prices_there_is_nothing_to_say_and_free_is_a_price():
    assert cost(Prices(), 2, 0, 10.0, 1.0, stages=STAGES) is None
    assert sentences(None) == markdown_lines(None) == []
    assert cost(Prices(0.0), 2, 0, 10.0, 1.0, stages=STAGES)["total"] == 0.0


def test_what_has_no_price_is_said():
    told = held(cost(Prices(0.04), 48, 1, 60.0, 1.0, stages=STAGES))
    assert told == "48 cores at 0.040 an hour and 1 card without a price"
    assert held(cost(Prices(0.04), 1, 0, 60.0, 1.0, stages=STAGES)) == "1 core at 0.040 an hour"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (0.0, "0.00"),
        (0.00012345, "0.00012"),
        (0.0434, "0.043"),
        (12.345, "12.35"),
        (1204.4, "1\u202f204"),
    ],
)
def test_amounts(value, said):
    assert money(value) == said


def test_the_record_of_a_run_has_a_section_with_all_parts():
    numbers = performance("r", Progress(files=0), 1.0, 0.0, {})
    about = {"cpu_count": 2, "python": "3.11", "packages": {"ray": "2.60", "torch": "2.11"}}
    assert "## Cost" not in markdown(numbers, about)
    page = markdown({**numbers, "cost": cost(Prices(0.1, 4.0), 10, 1, 3600.0, 2.0, stages=STAGES)}, about)
    assert (
        "The run cost 5.00, 2.50 per hour of audio: 10 cores at 0.10 an hour and 1 card at 4.00 an hour."
        in page
    )
    for row in ("| clap | 3.45 |", "| decode | 0.10 |", "| all | 5.00 |", "start-up included"):
        assert row in page
