"""The page of the service that masters are listened to by, in headless Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.chromium import chromium
from helpers.listening import WAIT_S, Service, closed_gate, service, shorten_stretches, write_song

TOKEN = "a-token-of-this-test"


PLAYS = ("--autoplay-policy=no-user-gesture-required", "--mute-audio")


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator:
    with chromium(
        tmp_path_factory.mktemp("profile"), "--autoplay-policy=no-user-gesture-required", "--mute-audio"
    ) as started:
        yield started


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    return write_song(tmp_path_factory.mktemp("music") / "song.wav", 12.0).parent


@pytest.fixture
def running(music, monkeypatch) -> Iterator[Service]:
    shorten_stretches(monkeypatch)
    with service(music) as found:
        yield found


def until(browser, script: str) -> Callable:
    """Wait until the script returns what counts as true, and return it."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, WAIT_S).until(lambda b: b.execute_script(f"return {script}"))


def opened(browser, url: str) -> None:
    browser.get_log("browser")
    browser.get(url)


def asked(browser, place: Path | str, preset: str) -> None:
    browser.execute_script(
        "at('place').value = arguments[0]; at('preset').value = arguments[1]; at('form').requestSubmit()",
        str(place),
        preset,
    )


def complaints(browser) -> list[str]:
    return [
        entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
    ]


def test_a_master_is_heard_and_another_preset_goes_on_where_it_was(browser, running, music, monkeypatch):
    opened(browser, running.url)
    until(browser, "document.documentElement.dataset.ready === 'yes'")
    assert browser.execute_script("return [...at('preset').options].map((o) => o.value)").count("warm") == 1
    with closed_gate(monkeypatch) as gate:
        asked(browser, music / "song.wav", "warm")
        assert gate.reached.wait(WAIT_S)
        # It plays, and is not rendered yet.
        until(browser, "at('audio').readyState >= 3 && at('progress').value > 0")
        assert browser.execute_script("return at('audio').duration") == pytest.approx(12.0, abs=0.01)
        until(browser, "at('audio').play() && at('audio').currentTime > 0.3")
        assert browser.execute_script("return at('status').textContent") == "rendering"
        assert browser.execute_script("return at('progress').value") < 1.0
        gate.open()
        until(browser, "at('status').textContent === 'done'")
    assert browser.execute_script("return at('progress').value") == 1.0
    assert "-13.0 LUFS" in browser.execute_script("return at('fact-after').textContent")
    assert '"target_lufs": -13' in browser.execute_script("return at('plan').textContent")
    browser.execute_script("at('audio').pause(); at('audio').currentTime = 7")
    first = browser.execute_script("return at('audio').src")
    browser.execute_script("at('preset').value = 'club'; at('preset').dispatchEvent(new Event('change'))")
    until(browser, f"at('audio').src !== {first!r} && at('status').textContent === 'done'")
    until(browser, "Math.abs(at('audio').currentTime - 7) < 0.01")
    assert browser.execute_script("return at('audio').paused")
    assert running.songs.analysis.heard.made == 1
    assert complaints(browser) == []
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [name for name in loaded if not name.startswith((running.url, "data:"))] == []


def test_after_stop_and_after_a_restart_it_goes_on(browser, running, music, monkeypatch):
    opened(browser, running.url)
    until(browser, "document.documentElement.dataset.ready === 'yes'")
    with closed_gate(monkeypatch) as gate:
        asked(browser, music / "song.wav", "punchy")
        assert gate.reached.wait(WAIT_S)
        browser.execute_script("at('stop').click()")
        until(browser, "at('status').textContent === 'cancelled' && at('stop').disabled")
    browser.execute_script("at('preset').value = 'warm'; at('preset').dispatchEvent(new Event('change'))")
    until(browser, "at('status').textContent === 'done'")
    # It gave way to others, which the page learns from an answer.
    running.songs.remove(running.songs.all()[0])
    browser.execute_script("at('preset').value = 'club'; at('preset').dispatchEvent(new Event('change'))")
    until(browser, "at('status').textContent === 'done' && current.asked.preset === 'club'")
    # The service is another one, which knows no song: the page says so, and asks no more.
    running.songs.remove(running.songs.all()[0])
    browser.execute_script("follow(current)")
    said = until(browser, "at('status').className === 'error' && at('status').textContent")
    assert said.startswith("there is no song")
    before = browser.execute_script("return socket.readyState === 3 && socket.url")
    assert before
    browser.execute_script("window.opened = 0; const S = WebSocket; WebSocket = class extends S {"
                           " constructor(u) { super(u); window.opened++; } }")  # fmt: skip
    browser.execute_script("at('preset').value = 'warm'; at('preset').dispatchEvent(new Event('change'))")
    until(browser, "at('status').textContent === 'done' && current.asked.preset === 'warm'")
    assert browser.execute_script("return window.opened") == 1


def test_what_is_wrong_is_said_on_the_page(browser, running, tmp_path):
    opened(browser, running.url)
    until(browser, "document.documentElement.dataset.ready === 'yes'")
    asked(browser, tmp_path / "<img src=x onerror=window.hacked=1>.wav", "warm")
    said = until(browser, "at('status').className === 'error' && at('status').textContent")
    assert said.startswith("the path lies below none of the allowed roots")
    assert browser.execute_script("return window.hacked") is None


def test_the_policy_lets_nothing_in(browser, running):
    opened(browser, running.url)
    until(browser, "document.documentElement.dataset.ready === 'yes'")
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s)"
    )
    assert browser.execute_script("return window.hacked") is None
    assert any("Content Security Policy" in line for line in complaints(browser))


def test_a_token_comes_with_the_address_and_does_not_stay_there(browser, music, monkeypatch):
    shorten_stretches(monkeypatch)
    with service(music, token=TOKEN) as running:
        opened(browser, running.url)
        until(browser, "!at('tokens').hidden && at('status').className === 'error'")
        opened(browser, f"{running.url}/presets?token=wrong")  # so that the next address is another page
        opened(browser, f"{running.url}/#token={TOKEN}")
        until(browser, "document.documentElement.dataset.ready === 'yes'")
        assert browser.current_url == f"{running.url}/"
        asked(browser, music / "song.wav", "warm")
        until(browser, "at('status').textContent === 'done' && at('audio').readyState >= 1")
        assert TOKEN not in browser.page_source.partition("<audio")[0]
    assert TOKEN not in running.log.getvalue()
