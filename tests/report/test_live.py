"""The progress view: what it shows on a terminal, and what it says where there is none."""

import io
import time

import pytest
from rich.console import Console

from pipeline.engine.progress import Progress
from pipeline.engine.stage_state import StageState
from pipeline.engine.within import Part
from pipeline.report.live import MOST_PARTS, ProgressView, Rates, mean_audio_s, progress_text, stages_text

STATES = {"decode": StageState(40, 3, 2, 2), "clap": StageState(25, 1, 1, 1)}


def receipt(indexes, gpu_peak_bytes=0) -> dict:
    """What the sink says of a part with two minutes per file."""
    sums = {"compute_s": 4.0, "wait_s": 1.0, "rows": len(indexes), "cache_hits": 0, "padding_weighted": 0.0}
    return {
        "indexes": indexes, "copies": [], "status": {"ok": len(indexes) - 1, "failed": 1}, "bytes": 100,
        "audio_s": 120.0 * len(indexes), "write_s": 0.1, "failures": [], "fallbacks": [], "processes": [],
        "stages": {"clap": {**sums, "device": "cuda", "gpu_peak_bytes": gpu_peak_bytes}},
    }  # fmt: skip


def shown(view: ProgressView, states) -> str:
    view.console.print(view.picture(states))
    return view.console.file.getvalue()


def terminal(width=120) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def test_the_live_view_shows_every_stage_with_its_queue_and_its_memory_on_the_gpu():
    progress = Progress(files=100)
    progress.add(receipt(range(25), gpu_peak_bytes=3 << 30))
    progress.add(receipt(range(25, 30), gpu_peak_bytes=2 << 30))
    view = ProgressView(progress, lambda: STATES, terminal())
    view._rates.add(0.0, {"decode": 0, "clap": 0})
    view._rates.add(10.0, {"decode": 40, "clap": 25})
    text = shown(view, STATES)
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    # 4 and 2.5 files a second, of two minutes each; what one stage has seen is not what another has.
    assert lines["decode"] == ["40", "480", "3", "2", "2", "–"]
    assert lines["clap"] == ["25", "300", "1", "1", "1", "3.0", "GiB"]
    assert "30/100 files" in text
    assert "2 failed" in text
    assert "30%" in text


def test_a_narrow_terminal_leaves_columns_out_and_wraps_nothing():
    text = shown(ProgressView(Progress(files=4), lambda: STATES, terminal(width=60)), STATES)
    assert "actors" not in text
    assert "audio-s/s" in text


def test_before_the_first_picture_it_says_what_it_waits_for():
    assert "waiting for the workers" in shown(ProgressView(Progress(files=4), dict, terminal()), {})


def test_elsewhere_it_is_a_plain_line_now_and_then():
    said = []
    progress = Progress(files=4)
    console = Console(file=io.StringIO())
    with ProgressView(progress, lambda: STATES, console, lambda *line: said.append(line), plain_every_s=0.0):
        deadline = time.monotonic() + 30
        while not said and time.monotonic() < deadline:
            time.sleep(0.05)
    text, fields = said[0]
    assert text.startswith("0/4 files")
    assert text.endswith("(decode 40, clap 25 files)")
    assert fields["files"] == 4
    assert "\x1b" not in console.file.getvalue()


def test_a_line_of_the_log_is_printed_as_it_is():
    console = Console(file=io.StringIO(), width=20)
    ProgressView(Progress(files=1), dict, console).say(
        "12:00:00 [red]a file[/red] with a name longer than 20 columns"
    )
    assert console.file.getvalue() == "12:00:00 [red]a file[/red] with a name longer than 20 columns\n"


def test_the_rate_is_of_the_last_seconds_only():
    rates = Rates(window_s=10)
    assert rates.per_second("decode") is None
    for second in range(31):
        rates.add(float(second), {"decode": 5 * min(second, 20)})
    assert rates.per_second("decode") == pytest.approx(0.0), "stood still for ten seconds"


def test_a_further_pass_counts_anew():
    rates = Rates()
    rates.add(0.0, {"decode": 100})
    rates.add(1.0, {"decode": 2})
    assert rates.per_second("decode") is None
    rates.add(3.0, {"decode": 6})
    assert rates.per_second("decode") == pytest.approx(2.0)


def test_words_for_what_is_not_known_yet():
    progress = Progress(files=3)
    assert mean_audio_s(progress) is None
    assert progress_text(progress.fields()).endswith("ETA –")
    assert stages_text({}) == ""


def test_the_last_picture_of_a_short_run_has_all_that_was_done():
    """Its files are committed between two pictures, and those that are copies after the last receipt."""
    progress = Progress(files=3, bytes=300)
    console = terminal()
    with ProgressView(progress, lambda: STATES, console):
        progress.add(receipt(range(2)))
        progress.add_copy(2, "ok", 100, audio_s=120.0)
    last = console.file.getvalue().rsplit("files, ", 1)[0].rsplit("\n", 1)[-1]
    assert "100%" in last
    assert "3/3 " in last


def test_it_is_drawn_where_the_stages_are_gone():
    def gone():
        raise RuntimeError("Ray has left")

    progress = Progress(files=2)
    console = terminal()
    view = ProgressView(progress, dict, console)
    with view:
        progress.add(receipt(range(2)))
        view.states = gone
    assert "2/2 files" in console.file.getvalue()


def test_all_files_are_all_of_the_work_whatever_their_sizes_say():
    progress = Progress(files=2, bytes=1000)
    progress.add_unseen(0, "ok")
    assert progress.fields()["share_done"] == 0.0
    progress.add_unseen(1, "ok")
    assert progress.fields()["share_done"] == 1.0


def test_one_file_is_a_file_and_copies_are_named():
    assert progress_text(Progress(files=1).fields()).startswith("0/1 file, ")
    progress = Progress(files=3)
    progress.add(receipt(range(2)))
    assert "cop" not in progress_text(progress.fields())
    progress.add_copy(2, "ok", 100, audio_s=120.0)
    assert ", 1 copy, " in progress_text(progress.fields())
    assert progress.fields()["audio_hours"] == round(240 / 3600, 4), "what was worked on"


def in_work(count: int) -> Progress:
    """Of two files more than ``count``, the first of which has a row."""
    parts = [
        Part(n, "master", n / 10, name=f"{n}.flac", text=f"rendering {10 * n} %, -14.2 LUFS so far")
        for n in range(count + 1)
    ]
    progress = Progress(files=count + 2, parts=lambda: parts)
    progress.add_unseen(0, "ok")
    return progress


def test_files_in_work_are_shown_with_how_far_they_are_those_first_of_which_most_is_left():
    text = shown(ProgressView(in_work(MOST_PARTS + 2), lambda: STATES, terminal()), STATES)
    lines = [line.rstrip() for line in text.splitlines() if "flac" in line or "more" in line]
    assert lines[0] == "1.flac: rendering 10 %, -14.2 LUFS so far"
    assert len(lines) == MOST_PARTS + 1
    assert lines[-1] == "and 2 files more in work"


def test_and_they_are_lines_of_the_log_now_and_then():
    said = []
    view = ProgressView(
        in_work(1),
        lambda: STATES,
        Console(file=io.StringIO()),
        note_part=lambda *line: said.append(line),
        parts_every_s=0.0,
    )
    with view:
        deadline = time.monotonic() + 30
        while not said and time.monotonic() < deadline:
            time.sleep(0.05)
    assert said[0] == ("1.flac: rendering 10 %, -14.2 LUFS so far", {"stage": "master", "share": 0.1})
