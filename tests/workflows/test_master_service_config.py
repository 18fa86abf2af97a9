"""What can be typed after ``jobs/master_service.py``, and what can be wished for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.workflows.master_service_config import MasterServiceConfig

JOBS = str(Path(__file__).resolve().parents[2] / "jobs")
ROOTS = "listening.roots=[/music]"


@pytest.fixture
def load() -> Iterator[Callable[[Sequence[str]], MasterServiceConfig]]:
    """What loads a command line's config, told which job it is."""
    if JOBS not in sys.path:
        sys.path.insert(0, JOBS)
    import compose
    import schema

    before = dict(vars(schema.CURRENT))
    schema.of_job(MasterServiceConfig, "master_service", "master_service.py")
    try:
        compose.register()
        yield compose.load
    finally:
        vars(schema.CURRENT).update(before)


def test_the_defaults_are_those_of_the_dataclass(load, monkeypatch):
    monkeypatch.delenv("SOUNDMILL_LISTENING_TOKEN", raising=False)
    config, plain = load([ROOTS]), MasterServiceConfig()
    plain.listening.roots = ["/music"]
    assert config.listening == plain.listening
    assert config.master == plain.master


def test_a_token_comes_from_the_environment(load, monkeypatch):
    monkeypatch.setenv("SOUNDMILL_LISTENING_TOKEN", "from-the-environment")
    assert load([ROOTS, "listening.host=0.0.0.0"]).listening.token == "from-the-environment"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_this_machine_needs_no_token(load, monkeypatch, host):
    monkeypatch.delenv("SOUNDMILL_LISTENING_TOKEN", raising=False)
    assert load([ROOTS, f"listening.host='{host}'"]).listening.token is None


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ([], "listening.roots is empty"),
        (["listening.roots=[music]"], "is relative"),
        (["listening.roots=['s3://k:s@bucket/x']"], "carries credentials"),
        ([ROOTS, "listening.host=0.0.0.0"], "needs a token"),
        ([ROOTS, "listening.host='::'"], "needs a token"),
        ([ROOTS, "listening.host=192.168.0.1"], "needs a token"),
        ([ROOTS, "listening.token=short"], "at least 16 characters"),
        ([ROOTS, "listening.token=ünglaublich-lange-Zeichen"], "of ASCII"),
        ([ROOTS, "listening.port=65536"], "within 0..65535"),
        ([ROOTS, "listening.songs=0"], "greater than 0"),
        ([ROOTS, "listening.workers=0"], "greater than 0"),
        ([ROOTS, "listening.folder=/no/such/folder"], "is no folder"),
        ([ROOTS, "listening.bits=20"], "16, 24 or 32"),
        ([ROOTS, "source.uri=x"], "source.uri is not for the service"),
        ([ROOTS, "output.uri=x"], "output.uri is not for the service"),
        ([ROOTS, "source.manifest=x.csv"], "source.manifest is not for the service"),
        ([ROOTS, "source.limit=3"], "source.limit is not for the service"),
        ([ROOTS, "ray.address=auto"], "ray.address is not for the service"),
        ([ROOTS, "hardware.max_track_hours=1"], "hardware.max_track_hours is not for the service"),
        ([ROOTS, "dry_run=true"], "dry_run is not for the service"),
        (
            ["listening.roots=['s3://bucket/x']", "source.storage_options={access_key: k}"],
            "access_key would not be used",
        ),
        ([ROOTS, "listening.token='seventeen letters'"], "without blanks"),
        ([ROOTS, "listening.token=sixteen+letters+"], "without blanks"),
        ([ROOTS, "master.mode=reference", "master.reference=[a,b,c,d,e,f,g,h,i]"], "has 9 songs"),
        ([ROOTS, "master.format=mp3"], "master.format is not for the service"),
        ([ROOTS, "master.preset=worm"], "did you mean warm?"),
        (["listening=[/music]"], "listening is a group of keys"),
    ],
)
def test_what_cannot_work_is_refused(load, monkeypatch, given, word):
    monkeypatch.delenv("SOUNDMILL_LISTENING_TOKEN", raising=False)
    with pytest.raises(UserError) as refused:
        load(given)
    assert word in str(refused.value)
    assert "short" not in str(refused.value)


def test_a_wish_is_that_of_the_config_but_for_what_it_says():
    config = MasterServiceConfig()
    config.master.preset, config.master.amount = "live", 0.5
    plain, other = (
        config.understood({}),
        config.understood({"preset": "warm", "lufs": -10, "fingerprint": True}),
    )
    assert (plain.wish.name, plain.wish.amount, plain.wish.own, plain.fingerprint) == (
        "live",
        0.5,
        (),
        False,
    )
    assert (other.wish.name, other.wish.amount, other.wish.own, other.fingerprint) == (
        "warm",
        0.5,
        ("lufs",),
        True,
    )
    assert (plain.wish.preset.lufs, other.wish.preset.lufs) == (-13.5, -10.0)
    like = config.understood({"mode": "hybrid", "reference": "/a.wav", "reference_weight": 0.25})
    assert (like.references, like.wish.reference_weight) == (("/a.wav",), 0.25)
    assert config.understood({"mode": "reference", "reference": ["/a", "/b"]}).references == ("/a", "/b")
    assert config.understood({"lufs": None, "crossovers_hz": [200, 2000]}).wish.preset.crossovers_hz == (
        200.0,
        2000.0,
    )


@pytest.mark.parametrize(
    "said",
    [{"lufs": -(10**400)}, {"crossovers_hz": [200, 10**400]}, {"amount": 10**400},
     {"mode": "reference", "reference": [f"/{n}" for n in range(9)]},
     {"preset": 1}, {"preset": None}, {"amount": None}, {"lufs": "x"}, {"lufs": False}, {"fingerprint": 1},
     {"reference": 5}, {"reference": ["/a", 5]}, {"crossovers_hz": "x"}, {"crossovers_hz": [1, "x"]},
     {"mode": ["reference"]}, {"bits": 16}, {"preview": 3}, {"": 1}, {"lufs": float("nan")}],
)  # fmt: skip
def test_a_wish_that_cannot_be_is_refused(said):
    with pytest.raises(UserError) as refused:
        MasterServiceConfig().understood(said)
    assert refused.value.what
    assert "master." not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "word"),
    [("ceiling_dbtp", "a number"), ("lufs", "a number"), ("crossovers_hz", "a list of numbers"), ("preset", "a text"),
     ("reference", "a list"), ("fingerprint", "true or false")],
)  # fmt: skip
def test_what_a_key_must_be_is_said(key, word):
    with pytest.raises(UserError) as refused:
        MasterServiceConfig().understood({key: {}})
    assert refused.value.what == f"{key} must be {word}"


def test_the_same_number_is_the_same_wish():
    config, whole = (
        MasterServiceConfig(),
        {"lufs": -10, "ceiling_dbtp": -1, "amount": 1, "crossovers_hz": [200, 2000]},
    )
    parts = {"lufs": -10.0, "ceiling_dbtp": -1.0, "amount": 1.0, "crossovers_hz": [200.0, 2000.0]}
    assert json.dumps(config.understood(whole).wish.to_dict()) == json.dumps(
        config.understood(parts).wish.to_dict()
    )


def test_a_reference_is_listened_to_once():
    said = {"mode": "reference", "reference": ["/a", "/b", "/a"] * 4}
    assert MasterServiceConfig().understood(said).references == ("/a", "/b")


def test_a_token_that_nobody_sees_is_no_advice():
    config = MasterServiceConfig()
    config.listening.roots, config.listening.host = ["/music"], "192.168.0.1"
    with pytest.raises(UserError) as refused:
        config.check()
    line = refused.value.do.replace("python3", sys.executable)
    said = subprocess.run(
        ["bash", "-c", f"{line}; printenv SOUNDMILL_LISTENING_TOKEN"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    shown, exported = said.splitlines()
    assert shown == exported
    config.listening.token = shown
    config.check()
