"""report.html in headless Chromium, with ten tracks and with 100,000, and what hostile names do to it: nothing."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers.chromium import chromium
from report_tables import HOSTILE, LARGE, RUN, build_large, build_small, digest, identity

from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import RunFolder
from pipeline.report.embedding_map import POINTS
from pipeline.report.html import script_json, write_report
from pipeline.workflows import report


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Output, Path]:
    """Ten tracks, and the page about them."""
    output = build_small(Output(str(tmp_path_factory.mktemp("small"))))
    return output, Path(report.run(output))


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """The page about 100,000 tracks."""
    return Path(report.run(build_large(Output(str(tmp_path_factory.mktemp("large"))))))


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def opened(browser) -> Callable[[Path], None]:
    """``opened(page, dark=False, width=None)``: the page is drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    def load(page: Path, dark: bool = False, width: int | None = None) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        if width is None:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        else:
            size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": True}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get_log("browser")
        browser.get(page.as_uri())
        WebDriverWait(browser, 60).until(
            lambda b: b.execute_script("return document.documentElement.dataset.ready") == "yes"
        )

    return load


# Marks of a chart that are really there: bars, sectors and points with an extent.
MARKS = """
return Object.fromEntries([...document.querySelectorAll(".chart")].map((chart) => [
  chart.id.slice(6),
  [...chart.querySelectorAll("svg .point")].filter((mark) => {
    const box = mark.getBoundingClientRect();
    return box.width + box.height > 0;
  }).length,
]));
"""
CHARTS = {"durations", "loudness", "tempo", "peaks", "keys", "formats", "map", "compute", "waiting", "memory"}


def check_page(browser) -> dict[str, int]:
    """No complaint, nothing loaded, nothing wider than the screen; returns the marks of each chart."""
    severe = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert severe == []
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    assert browser.execute_script("return window.hacked") is None
    width, available = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert width <= available
    return browser.execute_script(MARKS)


@pytest.mark.parametrize(("dark", "width"), [(False, None), (True, None), (False, 390)])
def test_ten_tracks(browser, opened, small, dark, width):
    opened(small[1], dark, width)
    marks = check_page(browser)
    assert set(marks) == CHARTS
    assert all(marks.values()), marks
    assert marks["formats"] == 1
    assert marks["durations"] >= 2
    assert browser.execute_script("return innerWidth") == (width or 1280)


def test_colours_follow_the_scheme_while_the_page_is_open(browser, opened, small):
    bar = "return getComputedStyle(document.querySelector('#chart-durations .point path')).fill"
    opened(small[1])
    light = browser.execute_script(bar)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
    browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 300))")
    assert light == "rgb(29, 111, 138)"
    assert browser.execute_script(bar) == "rgb(98, 182, 214)"


PANEL = """
const image = document.querySelector("#map-mel img");
return [document.getElementById("map-name").textContent, image.naturalWidth, image.src, image.alt,
        document.querySelector("#map-chroma img").naturalHeight];
"""


def test_a_point_under_the_pointer_shows_its_pictures(browser, opened, small):
    from selenium.webdriver import ActionChains

    opened(small[1])
    page = browser.execute_script("return JSON.parse(document.getElementById('data').textContent).map")
    names = [uri.rpartition("/")[2] for uri in page["uris"]]
    assert len(page["pictures"]) == len(names) == 7, "all that sound"
    sources = set()
    for number in (1, 4):
        [point] = browser.execute_script(
            "return [document.querySelectorAll('#chart-map .scatterlayer .trace .point')[arguments[0]]]",
            number,
        )
        browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", point)
        ActionChains(browser).move_to_element(point).pause(0.3).perform()
        name, width, source, alt, chroma = browser.execute_script(PANEL)
        assert name == names[number]
        assert (width, chroma) == (160, 12)
        assert alt == f"mel spectrogram of {name}"
        sources.add(source)
    assert len(sources) == 2
    # Away from the point, the panel shows the one that was chosen.
    browser.execute_script("document.getElementById('map-next').click()")
    chosen = browser.execute_script("return document.getElementById('chart-map').data[2].x[0]")
    assert browser.execute_script(PANEL)[0] == names[page["x"].index(chosen)]
    select = browser.find_element("id", "map-colour")
    assert select.text.split()[:2] == ["key", "loudness"]


@pytest.mark.chaos
def test_a_hundred_thousand_tracks(browser, opened, large):
    assert large.stat().st_size < 8_000_000, "it does not grow with the dataset"
    opened(large)
    marks = check_page(browser)
    assert set(marks) == CHARTS
    assert all(marks.values()), marks
    text = browser.find_element("css selector", "main").text
    assert "5 000 points are shown: a random sample" in text.replace("\u202f", " ")
    drawn = "return document.querySelectorAll('#chart-map .scatterlayer .trace')[0].querySelectorAll('.point').length"
    assert browser.execute_script(drawn) == POINTS
    bars = "return Array.from(document.getElementById('chart-durations')._fullData[0].y)"
    assert sum(browser.execute_script(bars)) == LARGE


class Scripts(HTMLParser):
    """The tags of a page with their attributes, and what the element with the data holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.data = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags and self.tags[-1] == ("script", {"type": "application/json", "id": "data"}):
            self.data += data


def test_names_and_messages_are_text(small):
    page = small[1]
    found = Scripts(page.read_text())
    assert [tag for tag, _ in found.tags].count("script") == 3
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert HOSTILE in [found_uri(found.data, n) for n in range(7)]
    links = {a.get("src") or a.get("href") for _, a in found.tags} - {None}
    assert {link.partition(":")[0] for link in links if link[0] != "#"} == {"data", "file"}


def found_uri(data: str, number: int) -> str:
    points = json.loads(data)["map"]
    return points["folder"] + points["uris"][number]


def test_json_in_a_script_ends_nothing():
    value = {"</script><!--": ["<script>&\u2028", float(0)]}
    text = script_json(value)
    assert not re.search("[<>&\u2028]", text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(float("nan"))


def test_the_tables_can_be_read_without_a_script(small):
    text = small[1].read_text()
    for word in (
        "No embeddings in these tables", "features.mel", "UnrecognizedFormat", "clipped.wav", "silence.wav",
        "a copy.wav", "1 January 2026", "10 s (5.00 s – 12 s)", "&lt;i&gt;cuda",
    ):  # fmt: skip
        assert word in text, word


def test_a_report_is_the_same_each_time(small):
    output, page = small
    before = page.read_text()
    assert report.run(output) == str(page)
    assert page.read_text() == before


def test_a_report_that_cannot_be_made_costs_the_run_nothing(tmp_path):
    output = Output(str(tmp_path))
    output.write("tracks/part-000000000-0123abcd.parquet", b"cut off")
    folder = RunFolder(output, RUN, quiet=True)
    assert write_report(folder, {"run_id": RUN, "stages": {}}, {}) == ""
    folder.close()
    [line] = (tmp_path / f"runs/{RUN}/log.jsonl").read_text().splitlines()
    assert "python jobs/report.py" in json.loads(line)["text"]


@pytest.fixture
def job(repo):
    """jobs/report.py, in this process."""
    sys.path.insert(0, str(repo / "jobs"))
    try:
        import report as job

        yield job.main
    finally:
        sys.path.remove(str(repo / "jobs"))
        for name in ("report", "keyvalue"):
            sys.modules.pop(name, None)


def test_the_job_says_where_the_report_is_or_what_is_wrong(job, small, tmp_path, capsys):
    output, page = small
    page.unlink()
    assert job([f"output.uri={output.uri}"]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert page.exists()
    assert job([f"output.uri={tmp_path / 'nowhere'}"]) == 2
    assert job([f"output.uri={tmp_path}"]) == 2
    shutil.copytree(Path(output.uri) / "tracks", tmp_path / "tracks")
    assert job([f"output.uri={tmp_path}"]) == 2
    assert job(["output.url=x"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said] == ["error"] * 4
    assert "does not exist" in said[0]
    assert "holds no tables" in said[1]
    assert "performance.json" in said[2]


def test_identities_are_the_first_bits_of_the_digest():
    assert identity("x") == int(digest("x")[:16], 16)
    assert np.uint64(identity("x")) == identity("x")
