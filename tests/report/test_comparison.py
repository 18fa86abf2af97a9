"""The table in the end of a sweep."""

from pipeline.report.comparison import Trial, comparison, comparison_markdown


def figures(wall_s: float, peak: int = 1 << 30) -> dict:
    return {
        "wall_s": wall_s, "real_time_factor": 100 / wall_s, "status": {"ok": 3, "failed": 1},
        "processes": [{"peak_rss_bytes": peak}, {"peak_rss_bytes": 5}],
        "actors": {"decode": {"compute_s": 1.5, "busy_s": None}, "clap": {"compute_s": 7.0, "busy_s": 8.0}},
    }  # fmt: skip


def test_the_fastest_comes_first_and_the_others_are_told_in_its_terms():
    trials = [
        Trial({"perf.threads": "1"}, "out/00", figures(30.0)),
        Trial({"perf.threads": "2"}, "out/01", None),
        Trial({"perf.threads": "4"}, "out/02", figures(20.0)),
    ]
    rows = comparison(trials)
    assert [row["settings"]["perf.threads"] for row in rows] == ["4", "1", "2"]
    assert [row["of_fastest"] for row in rows] == [1.0, 1.5, None]
    lines = comparison_markdown(rows).splitlines()
    assert lines[0].startswith("| perf.threads | wall, s | of fastest |")
    assert lines[2] == "| 4 | 20.0 | 1.00 | 5.0 | 1 | 1024 | 1.5 | 7.0 |"
    assert lines[4] == "| 2 | – | – | – | – | – | – | – |"
    assert len({line.count("|") for line in lines}) == 1


def test_a_sweep_of_which_nothing_is_left():
    assert comparison([]) == []
