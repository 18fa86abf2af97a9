"""The stages with the result cache off, cold and warm: the same rows, bit for bit, and less work."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from helpers.clap_reference import tiny_checkpoint

from pipeline.audio.views import View
from pipeline.dataset.cache.cache import Cache
from pipeline.dataset.cache.entry import Entry
from pipeline.dataset.cache.upkeep import evict
from pipeline.dataset.sources.listing import list_source
from pipeline.engine.batch import collect
from pipeline.engine.packing import pack, planned
from pipeline.engine.results import DECODE, Results
from pipeline.features import REGISTRY
from pipeline.models.clap.embed import ClapEmbedder
from pipeline.models.separation import base
from pipeline.models.separation.choose import forget_backends
from pipeline.stages.clap.worker import ClapWorker
from pipeline.stages.decode.worker import DecodeWorker
from pipeline.stages.features.worker import FeaturesWorker
from pipeline.stages.separation.worker import SeparationWorker

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_separation_stage import Louder

VIEWS = [
    View("native", None, None),
    View("mono", 22050, 1),
    View("clap", 48000, 1),
    View("separation", 44100, 2),
]
EXTRACTORS = ("mel", "loudness", "key", "tempo", "quality", "mfcc", "hpss")
NAMES = (*EXTRACTORS, "clap", "separation")
STAGES = {name: name if name in ("clap", "separation") else "features" for name in NAMES}
KEYS = {name: f"key of {name}" for name in (DECODE, *NAMES)}
# When and where a row was made, and through how many processes.
PASSING = ("timings@", "process@", "done_at", "pcm@", "views", "cached@")


@pytest.fixture(autouse=True)
def louder(monkeypatch):
    monkeypatch.setitem(base.REGISTRY, "louder", Louder)
    forget_backends()
    yield
    forget_backends()


@pytest.fixture(scope="module", autouse=True)
def cold():
    """CLAP computes its first window for real: a third of these tests' time would be silence that nobody asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClapEmbedder, "warm_up", lambda self: None)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Music in stereo, a NaN among it, silence, and a file that is none."""
    folder = tmp_path_factory.mktemp("audio")
    time = np.arange(6 * 44100) / 44100
    chord = sum(np.sin(2 * np.pi * f * time) for f in (261.6, 329.6, 392.0)) / 4
    noise = np.random.default_rng(0).standard_normal((2, len(time)))
    music = (chord + 0.1 * np.where(time % 0.5 < 0.02, 1, 0.05) * noise).astype(np.float32)
    music[:, 1000] = np.nan
    soundfile.write(folder / "a.wav", music.T, 44100, subtype="FLOAT")
    soundfile.write(folder / "b.flac", 0.5 * noise[0, : 3 * 32000], 32000)
    soundfile.write(folder / "c.wav", np.zeros(22050), 22050)
    (folder / "d.wav").write_bytes(b"no music")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.getbasetemp()))


@dataclass
class Job:
    """The stages on one source; ``table`` runs them as new processes would."""

    source: Path
    checkpoint: str
    cache: str | None = None
    keys: dict = field(default_factory=lambda: dict(KEYS))
    audio: bool = False
    extractors: tuple = EXTRACTORS
    todo: list | None = None

    def results(self) -> Results | None:
        stages = {n: s for n, s in STAGES.items() if s != "features" or n in self.extractors}
        return Results(Cache(self.cache), self.keys, stages, self.audio) if self.cache else None

    def table(self, between=lambda: None) -> pa.Table:
        [block] = pack(planned(list_source(str(self.source))), 1000, 10)
        extractors = [REGISTRY[name]() for name in self.extractors]
        decoded = DecodeWorker(VIEWS, results=self.results())(block)
        between()
        stages = [
            FeaturesWorker(extractors, 22050, blob_names=("mel", "hpss_harmonic"), max_inline_elements=1000,
                          results=self.results()),
            ClapWorker(self.checkpoint, window_seconds=4.0, hop_seconds=2.0, results=self.results()),
            SeparationWorker(["louder"], results=self.results()),
        ]  # fmt: skip
        for stage in stages:
            decoded = stage(decoded)
        return decoded


@pytest.fixture
def job(source, checkpoint, tmp_path):
    return lambda **options: Job(source, checkpoint, **{"cache": str(tmp_path / "cache"), **options})


@pytest.fixture(scope="module")
def off(source, checkpoint):
    """The rows without a cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(base.REGISTRY, "louder", Louder)
        return Job(source, checkpoint).table()


def lasting(table: pa.Table) -> pa.Table:
    """What becomes rows and blobs."""
    names = [n for n in table.column_names if not n.startswith(PASSING)]
    return table.select(sorted(names)).combine_chunks()


def assert_bits(found: pa.Table, expected: pa.Table) -> None:
    """The same columns with the same bits; a failure is the same whenever it was seen."""
    found, expected = lasting(found), lasting(expected)
    assert found.schema == expected.schema
    for name in expected.column_names:
        if name.startswith("failures@"):
            rows = [[{**f, "first_seen": None} for f in row] for row in found[name].to_pylist()]
            assert rows == [[{**f, "first_seen": None} for f in row] for row in expected[name].to_pylist()]
        else:  # through IPC, so that NaN equals itself and -0.0 does not equal 0.0
            assert ipc(found.select([name])) == ipc(expected.select([name])), name


def ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(pa.Table.from_pylist(table.to_pylist(), schema=table.schema))
    return sink.getvalue().to_pybytes()


def hits(table: pa.Table) -> dict[str, list[bool]]:
    """Stage → per row with a timing, whether it came from the cache."""
    found: dict[str, list[bool]] = {}
    for row in collect(table, "timings"):
        for timing in row:
            found.setdefault(timing["stage"], []).append(timing["cache_hit"])
    return found


def forbid(monkeypatch, *methods: tuple[type, str]) -> None:
    def fail(*arguments, **named):
        raise AssertionError("this was in the cache")

    for owner, name in methods:
        monkeypatch.setattr(owner, name, fail)


def test_off_cold_and_warm_give_the_same_rows_and_blobs(job, off, monkeypatch):
    assert off["mel_blob"][0].as_py()
    assert off["fallbacks@decode"][0].as_py(), "the NaN is told"
    cold = job().table()
    assert_bits(cold, off)
    assert not any(map(any, hits(cold).values()))
    forbid(
        monkeypatch, (FeaturesWorker, "_computed"), (SeparationWorker, "_choose"), (DecodeWorker, "_describe")
    )
    warm = job().table()
    assert_bits(warm, off)
    found = hits(warm)
    assert found.pop("decode") == [True, True, True, False], "d.wav cannot be decoded, today as before"
    assert {tuple(hit) for hit in found.values()} == {(True,) * 3}
    assert set(found) == {"clap", "separation", *(f"features.{name}" for name in EXTRACTORS)}
    assert not [n for n in warm.column_names if n.startswith("cached@")], "each stage takes its own away"


def test_no_cache_leaves_no_trace(off):
    assert not [n for n in off.column_names if n.startswith("cached@")]
    assert not any(map(any, hits(off).values()))


def test_only_what_is_missing_is_computed(job, off, monkeypatch):
    job(extractors=("mel", "hpss")).table()
    computed = []
    whole = FeaturesWorker._computed

    def spy(stage, track, extractors):
        computed.append(tuple(e.name for e in extractors))
        return whole(stage, track, extractors)

    monkeypatch.setattr(FeaturesWorker, "_computed", spy)
    found = job().table()
    assert_bits(found, off)
    assert computed == [tuple(e for e in EXTRACTORS if e not in ("mel", "hpss"))] * 3
    assert hits(found)["decode"] == [False] * 4
    assert hits(found)["features.mel"] == hits(found)["clap"] == [True] * 3


def test_another_key_is_another_result(job, off):
    job().table()
    found = job(keys={**KEYS, "mel": "other parameters"}).table()
    assert_bits(found, off)
    assert hits(found)["features.mel"] == [False] * 3
    assert hits(found)["features.hpss"] == [True] * 3


def test_what_is_never_kept_makes_decoding_necessary(job, off):
    keys = {**KEYS, "separation": None}
    job(keys=keys).table()
    found = job(keys=keys).table()
    assert_bits(found, off)
    assert hits(found)["separation"] == [False] * 3
    assert hits(found)["features.mel"] == [True] * 3


def test_decoded_audio_is_kept_where_that_is_asked_for(job, off, monkeypatch):
    job(audio=True).table()
    forbid(monkeypatch, (DecodeWorker, "_describe"))
    found = job(audio=True, keys={**KEYS, "mel": "new", "clap": "new", "separation": "new"}).table()
    assert_bits(found, off)
    assert hits(found)["decode"] == [True, True, True, False]
    assert hits(found)["features.mel"] == [False] * 3


def test_audio_of_another_form_is_not_taken(job, off):
    results = job(audio=True).results()
    [block] = pack(planned(list_source(str(job().source))), 1000, 10)
    stage = DecodeWorker(VIEWS, results=results)
    asset = off["asset_id"][0].as_py()
    good = {"container": "wav", "codec": "pcm", "sample_rate": 44100, "channels": 2, "duration_s": 1.0}
    places = {v.name: ("x", v.sample_rate or 44100, v.channels or 2) for v in VIEWS}
    for values, samples in (
        ({**good, "views": places}, np.zeros((2, 9), np.float32)),  # mono has two channels
        ({**good, "views": {}}, np.zeros((2, 9), np.float32)),
        ({**good, "views": dict.fromkeys(places, 1)}, np.zeros((2, 9), np.float32)),
        ({**good, "duration_s": "long", "views": places}, np.zeros((1, 9), np.float32)),
    ):
        results.cache.put(asset, stage.audio_key, Entry(values, {"x": samples}))
        assert hits(stage(block))["decode"][0] is False


def test_what_is_evicted_after_decoding_is_still_there_for_the_later_stages(job, off, tmp_path):
    job().table()

    def evict_all():
        assert evict(Cache(str(tmp_path / "cache"), max_bytes=0))["removed_shards"]

    found = job().table(between=evict_all)
    assert_bits(found, off)
    assert hits(found)["features.mel"] == hits(found)["separation"] == [True] * 3


def test_a_damaged_cache_is_computed_anew_and_told_once(job, off, tmp_path):
    job().table()
    for path in (tmp_path / "cache" / "shards").iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.write_bytes(data)
    found = job().table()
    told = [f for row in collect(found, "fallbacks") for f in row if f["stage"] == "cache"]
    assert [(f["wanted"], f["used"]) for f in told] == [("cached results", "computed")]
    again = found.set_column(
        found.column_names.index("fallbacks@decode"),
        off.schema.field("fallbacks@decode"),
        off["fallbacks@decode"],
    )
    assert_bits(again, off)


def test_a_cache_that_cannot_be_used_costs_nothing_but_a_fallback(job, off, tmp_path):
    (tmp_path / "file").write_text("in the way")
    found = job(cache=str(tmp_path / "file" / "cache")).table()
    told = [f for row in collect(found, "fallbacks") for f in row if f["stage"] == "cache"]
    assert {(f["wanted"], f["used"]) for f in told} == {("cache", "none")}
    assert len(told) == 4, "each of the four processes says so once"
    same = [n for n in lasting(off).column_names if not n.startswith("fallbacks@")]
    assert_bits(found.select(same), off.select(same))


def test_an_entry_with_columns_of_others_fills_its_own_only(job, off):
    results = job().results()
    job().table()
    asset = off["asset_id"][0].as_py()
    bad = {"mel_mean": "no list", "key@loudness": "x", "asset_id": "y", "mel_blob": "../../etc/passwd"}
    results.cache.put(asset, KEYS["mel"], Entry(bad))
    results.cache.flush()
    [row, *_] = job().table().to_pylist()
    assert row["mel_mean"] is None
    assert row["mel_blob"] is None
    assert row["asset_id"] == asset
    assert row["key@loudness"] == off["key@loudness"][0].as_py()
    assert [f["stage"] for f in row["failures@features"]] == ["features.mel"]
    assert row["blobs@features"] == [b for b in off["blobs@features"][0].as_py() if b["name"] != "mel"]


def test_what_failed_or_holds_nan_is_not_kept(job, monkeypatch):
    whole = REGISTRY["loudness"].start

    def odd(extractor, track):
        running = whole(extractor, track)
        finish = running.finish

        def spoiled():
            found = finish()
            found.values["loudness_rms_dbfs"] = float("nan")
            return found

        running.finish = spoiled
        return running

    monkeypatch.setattr(REGISTRY["loudness"], "start", odd)
    for _ in range(2):
        found = job().table()
        assert hits(found)["features.loudness"] == [False] * 3
        assert found["failures@features"][0].as_py()[0]["error_class"] == "NonFiniteValue"


def test_what_moved_to_another_device_is_not_kept_under_the_wanted_ones_key(source, checkpoint, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, and nothing moves")
    cache = Cache(str(tmp_path / "cache"))
    results = Results(cache, KEYS, {"clap": "clap"})
    [block] = pack(planned(list_source(str(source))), 1000, 10)
    stage = ClapWorker(checkpoint, window_seconds=4.0, hop_seconds=2.0, device="cuda", results=results)
    row = stage(DecodeWorker(VIEWS, results=results)(block))
    assert row["key@clap"][0].as_py()
    assert not cache.has(row["asset_id"][0].as_py(), KEYS["clap"])
