"""How busy the cards were: added up over processes, and said in words."""

from __future__ import annotations

import json

from report_tables import build_small, write_run

from pipeline.dataset.output import Output
from pipeline.engine.progress import Progress
from pipeline.report.cards import gpu_section, markdown_lines, sentences
from pipeline.report.html import render
from pipeline.report.performance import markdown, performance

ENVIRONMENT = {"cpu_count": 1, "python": "3", "packages": {"ray": "2", "torch": "2"}}


def card(uuid: str = "GPU-1", busy: float = 0.83, seconds: float = 50.0) -> dict:
    return {
        "card": uuid, "name": "Played <Card>", "busy_share": busy, "samples": round(5 * seconds), "seconds": seconds,
        "memory_bytes": 3 << 30, "memory_total_bytes": 80 << 30,
    }  # fmt: skip


def note(stage: str, pid: int, seen: dict | None = None, **figures: float) -> dict:
    found = {"stage": stage, "node": "n", "pid": pid, "peak_rss_bytes": 1 << 30, **figures}
    return found | ({"card": seen} if seen else {})


CLAP = note("clap", 1, card(seconds=50.0), device_s=40.0, host_s=4.0, starved_s=6.0)
SEPARATION = [
    note("separation", pid, card(busy=0.9, seconds=60.0 + pid), device_s=30.0, host_s=10.0, starved_s=20.0)
    for pid in (2, 3)
]


def test_a_card_is_what_the_process_that_watched_longest_saw():
    gpu = gpu_section([CLAP, *SEPARATION])
    [found] = gpu["cards"]
    assert (found["busy_share"], found["seconds"]) == (0.9, 63.0)
    assert found["stages"] == ["clap", "separation"]
    assert gpu["stages"]["separation"] == {
        "device_s": 60.0,
        "host_s": 20.0,
        "starved_s": 40.0,
        "processes": 2,
    }


def test_a_run_without_a_card_has_no_section():
    assert gpu_section([note("clap", 1)]) is None
    assert sentences(None) == markdown_lines(None) == []


def test_one_stage_on_one_card_is_said_in_one_sentence():
    said = sentences(gpu_section([CLAP]))
    assert said[0] == "The card (Played <Card>) was busy 83 % of 50 s; it waited 12 % for earlier stages."
    assert said[1] == (
        "clap had work on the card 80 % of its time, prepared the next 8 %, and waited 12 % for earlier stages."
    )


def test_two_cards_are_told_apart_and_the_busiest_is_first():
    gpu = gpu_section([CLAP, note("separation", 4, card("GPU-2", 0.95))])
    assert [c["card"] for c in gpu["cards"]] == ["GPU-2", "GPU-1"]
    assert [s.split(" (")[0] for s in sentences(gpu)[:2]] == ["Card 1", "Card 2"]


def test_the_figures_of_the_stages_are_said_without_a_driver_too():
    gpu = gpu_section([note("clap", 1, device_s=3.0, host_s=1.0, starved_s=0.0)])
    assert gpu["cards"] == []
    assert sentences(gpu) == [
        "clap had work on the card 75 % of its time, prepared the next 25 %, and waited 0 % for earlier stages."
    ]


def progress_on(device: str) -> Progress:
    sums = {"compute_s": 1.0, "wait_s": 0.0, "padding_weighted": 0.0, "rows": 4, "device": device}
    return Progress(files=4, stages={"clap": sums}, processes={("n", 1): CLAP})


def test_the_section_is_in_the_numbers_and_in_the_text():
    numbers = performance("r", progress_on("cuda"), 60.0, 0.0, {})
    assert numbers["gpu"]["cards"][0]["busy_share"] == 0.83
    json.dumps(numbers)
    text = markdown(numbers, ENVIRONMENT)
    assert "## How busy the card was" in text
    assert "it waited 12 % for earlier stages" in text


def test_a_stage_on_the_cpu_is_none_of_a_card():
    """There the seconds in flight are those of the processor, and every run would have them."""
    numbers = performance("r", progress_on("cpu"), 60.0, 0.0, {})
    assert numbers["gpu"] is None
    assert "How busy the card was" not in markdown(numbers, ENVIRONMENT)


def test_the_page_says_it_and_an_older_run_does_not(tmp_path):
    output = build_small(Output(str(tmp_path)))
    numbers = write_run(output, 10, 29.0, device="cuda")
    assert "How busy the card was" not in render(output, numbers, {})
    page = render(output, {**numbers, "gpu": gpu_section([CLAP])}, {})
    assert "was busy 83 % of 50 s; it waited 12 % for earlier stages" in page
    assert "Played &lt;Card&gt;" in page
