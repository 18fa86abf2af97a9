"""The main job on local Ray: the output contract, on a folder with good and bad files."""

import json
import re
from collections import Counter

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import BAD, ODD, SECONDS
from helpers.standard_schemas import products, segments_of

from pipeline.audio.resample import make_view
from pipeline.dataset.output import Output
from pipeline.dataset.tables.schemas import FAILURES, TIMINGS, tracks_schema
from pipeline.features import REGISTRY
from pipeline.report.overview import overview
from pipeline.stages.separation.spec import STEM_FILES, separation_product

pytestmark = pytest.mark.timeout(600)

# Those that run where `features.enabled` does not say which do.
BY_DEFAULT = sorted(name for name, cls in REGISTRY.items() if cls.by_default)


@pytest.fixture(scope="module")
def tracks(local_run) -> pd.DataFrame:
    table = pd.read_parquet(local_run.output / "tracks")
    table["name"] = table["uri"].str.rsplit("/", n=1).str[-1]
    return table.set_index("name")


def test_it_ends_well_despite_bad_files(local_run):
    assert local_run.result.exit_code == 0


def test_every_input_is_exactly_one_row(local_run, tracks):
    expected = {t.name for t in local_run.truth} | set(BAD) | set(ODD)
    assert sorted(tracks.index) == sorted(expected)
    status = tracks["status"].to_dict()
    assert {name: status[name] for name in BAD} == dict.fromkeys(BAD, "failed")
    assert {status[t.name] for t in local_run.truth} == {"ok"}
    assert {status[name] for name in ODD} == {"ok"}
    assert (tracks["run_id"] == local_run.result.run_id).all()


def test_every_failure_is_a_row_with_stage_class_and_message(local_run):
    failures = pd.read_parquet(local_run.output / "failures")
    failures["name"] = failures["uri"].str.rsplit("/", n=1).str[-1]
    assert failures.set_index("name")["error_class"].to_dict() == BAD
    assert set(failures["stage"]) == {"decode"}
    assert failures["message"].str.len().min() > 5
    assert not failures["message"].str.contains("\n").any()
    assert not failures["worker_died"].any()
    assert failures["first_seen"].notna().all()


def test_what_is_known_of_the_demo_tracks_is_measured(local_run, tracks):
    for track in local_run.truth:
        row = tracks.loc[track.name]
        assert row["container"] == track.container
        assert row["sample_rate"] == track.sample_rate
        assert row["channels"] == track.channels
        assert row["duration_s"] == pytest.approx(SECONDS, abs=0.1)
        assert row["loudness_integrated_lufs"] == pytest.approx(track.lufs, abs=0.3)
        assert row["loudness_true_peak_dbtp"] < 0


def test_voices_are_told_from_instruments(local_run, tracks):
    """Spleeter's real weights: random ones would split everything alike."""
    share = tracks["stem_share_vocals"]
    assert share["voice_16k.wav"] > 0.9
    assert share["chords_c_major.wav"] < 0.1
    assert share["drums_120.wav"] < 0.1
    good = tracks.loc[[t.name for t in local_run.truth]]
    np.testing.assert_allclose(good["stem_share_vocals"] + good["stem_share_accompaniment"], 1, atol=1e-5)
    assert set(good["separation_backend"]) == {"spleeter"}
    assert "stem_share_drums" not in tracks.columns, "no backend that can run here makes drums"


def test_one_sample_gives_null_where_nothing_is_defined(tracks):
    row = tracks.loc["one_sample.wav"]
    assert row["loudness_integrated_lufs"] is None or np.isnan(row["loudness_integrated_lufs"])
    assert row["loudness_sample_peak_dbfs"] == pytest.approx(20 * np.log10(0.5), abs=0.01)


def test_more_channels_than_two_are_an_input(tracks):
    assert tracks.loc["eight.wav"]["channels"] == 8
    assert tracks.loc["three.wav"]["separation_backend"] == "spleeter"
    assert tracks.loc["three.wav"]["loudness_integrated_lufs"] < 0
    assert len(tracks.loc["eight.wav"]["clap_embedding"]) == 512


def test_columns_units_and_order_follow_the_contract(local_run):
    extractors = [REGISTRY[name]() for name in BY_DEFAULT]
    stems = separation_product("key", ("vocals", "accompaniment"), arrays=False)
    tracks = tracks_schema((*products(extractors, clap=True), stems))
    expected = {"tracks": tracks, "segments": segments_of(), "timings": TIMINGS}
    for table, schema in {**expected, "failures": FAILURES}.items():
        for part in (local_run.output / table).glob("*.parquet"):
            found = pq.read_schema(part)
            assert found.equals(schema), table
            assert all(found.field(n).metadata[b"unit"] for n in found.names), "every column has a unit"


def test_no_value_is_nan_or_infinite(local_run):
    for part in (local_run.output / "tracks").glob("*.parquet"):
        for row in pq.read_table(part).to_pylist():
            for name, value in row.items():
                numbers = value if isinstance(value, list) else [value]
                assert all(np.isfinite(v) for v in numbers if isinstance(v, float)), name


def test_blobs_are_where_the_rows_say_and_as_the_manifest_says(local_run, tracks):
    manifest = json.loads((local_run.folder / "manifest.json").read_text())
    shapes = {
        payload["path"]: (payload["shape"], payload["elements"])
        for asset in manifest["assets"]
        for extractor in asset["extractors"]
        for payload in (extractor["payload"] or {}).values()
        if isinstance(payload, dict)
    }
    columns = [name for name in tracks.columns if name.endswith("_blob")]
    assert {"mel_blob", "chroma_blob", "hpss_harmonic_blob"} <= set(columns)
    assert len(tracks["mel_blob"].dropna()) == len(local_run.truth) + 2, (
        "all but the one sample are too large"
    )
    references = {path for name in columns for path in tracks[name].dropna()}
    for path in references:
        array = np.load(local_run.output / path, allow_pickle=False)
        assert array.dtype == np.float16
        assert array.flags.c_contiguous
        assert (list(array.shape), array.size) == shapes[path]
        assert np.isfinite(array).all()
    one = tracks.loc["one_sample.wav"]
    assert one["mel_blob"] is None
    assert len(one["mel_inline"]) == np.prod(one["mel_shape"])
    on_disk = {str(p.relative_to(local_run.output)) for p in (local_run.output / "blobs").rglob("*.npy")}
    assert on_disk == references, "no orphan, none missing"


def test_stems_add_up_to_the_mix(local_run, tracks):
    row = tracks.loc["song_a_major_96.flac"]
    folder = local_run.output / "stems" / row["asset_id"][:2] / row["asset_id"]
    stems = {p.stem: soundfile.read(p)[0] for p in folder.glob("*.flac")}
    assert set(stems) == {"vocals", "accompaniment"}
    assert soundfile.info(folder / "vocals.flac").subtype == "PCM_24"
    mix, rate = soundfile.read(row["uri"])
    assert rate == 44100
    rest = mix - stems["vocals"] - stems["accompaniment"]
    # Spleeter's masks end at 11 kHz: what is above is in neither stem.
    assert np.square(rest).sum() < 0.05 * np.square(mix).sum()


def test_segments_hold_unit_embeddings_that_average_to_the_track(local_run, tracks):
    segments = pd.read_parquet(local_run.output / "segments").sort_values(["asset_id", "segment_index"])
    for _, row in tracks[tracks["clap_embedding"].notna()].iterrows():
        own = segments[segments["asset_id"] == row["asset_id"]]
        heard = np.stack(own["clap_embedding"].dropna())
        np.testing.assert_allclose(np.linalg.norm(heard, axis=1), 1, atol=1e-5)
        mean = heard.mean(axis=0)
        np.testing.assert_allclose(row["clap_embedding"], mean / np.linalg.norm(mean), atol=1e-5)
        assert row["clap_windows"] == len(heard)
        assert own["end_s"].max() == pytest.approx(row["duration_s"], abs=1e-3)
    assert tracks.loc["song_a_major_96.flac"]["clap_model"].startswith("HTSAT-tiny:")


def test_fallbacks_are_recorded_per_row(tracks):
    fallbacks = tracks.loc["song_a_major_96.flac"]["fallbacks"]
    assert [(f["stage"], f["wanted"], f["used"]) for f in fallbacks] == [("separation", "demucs", "spleeter")]


def test_the_manifest_counts_the_fallbacks_of_all_rows(local_run, tracks):
    manifest = json.loads((local_run.folder / "manifest.json").read_text())
    kinds = ("stage", "wanted", "used", "reason")
    rows = Counter(tuple(f[k] for k in kinds) for found in tracks["fallbacks"] for f in found)
    assert {tuple(f[k] for k in kinds): f["count"] for f in manifest["fallbacks"]} == rows
    assert any(f["wanted"] == "demucs" for f in manifest["fallbacks"])


def test_saved_stems_add_up_to_each_track_once_their_gains_are_undone(local_run, tracks):
    """Spleeter's, above 11 kHz too, as files of 24 bits; of what any decoder reads alike."""
    lossless = [t for t in local_run.truth if t.name.endswith((".wav", ".flac"))]
    assert len(lossless) >= 4
    for track in lossless:
        row = tracks.loc[track.name]
        audio, rate = soundfile.read(row["uri"].removeprefix("file://"), dtype="float32", always_2d=True)
        mix = make_view(np.ascontiguousarray(audio.T), rate, 44100, 2)
        total = np.zeros(mix.shape)
        for stem in ("vocals", "accompaniment"):
            path = local_run.output / STEM_FILES.path(row["asset_id"], f"{stem}.flac")
            samples, _ = soundfile.read(path, dtype="float64", always_2d=True)
            total += samples.T / 10 ** (row[f"stem_gain_{stem}_db"] / 20)
        error = np.square(total - mix).sum() / np.square(mix.astype(np.float64)).sum()
        assert 10 * np.log10(error) < -100, track.name


def test_the_last_three_lines_say_what_was_written_what_is_unsure_and_what_to_look_at(local_run, tracks):
    said = [json.loads(line) for line in (local_run.folder / "log.jsonl").read_text().splitlines()]
    assert [r["event"] for r in said[-3:]] == ["written", "doubts", "next"]
    written, doubts, following = (r["text"] for r in said[-3:])
    for table in ("tracks", "segments"):
        assert f"{pq.read_table(local_run.output / table).num_rows} rows in {table}" in written
    for folder, one in (("stems", "stems in stems/"), ("blobs", "arrays in blobs/")):
        assert f"{sum(p.is_file() for p in (local_run.output / folder).rglob('*'))} {one}" in written
    assert f"{len(BAD)} of {len(tracks)} files failed" in doubts
    assert "fallbacks (" in doubts
    keyless = int(tracks[tracks["status"] != "failed"]["key_name"].isna().sum())
    assert f"{keyless} without" in doubts
    assert following.endswith(f"{local_run.result.run_id}/report.html")


def test_timings_have_one_row_per_asset_and_stage_and_sum_to_the_busy_time(local_run, tracks):
    timings = pd.read_parquet(local_run.output / "timings")
    assert not timings.duplicated(["asset_id", "stage"]).any()
    stages = {"decode", "clap", "separation", "write", *(f"features.{name}" for name in BY_DEFAULT)}
    good = set(tracks.loc[[t.name for t in local_run.truth]]["asset_id"])
    for asset, group in timings[timings["asset_id"].isin(good)].groupby("asset_id"):
        assert set(group["stage"]) == stages, asset
    assert (timings["compute_s"] >= 0).all()
    assert (timings["wait_s"] >= 0).all()
    numbers = json.loads((local_run.folder / "performance.json").read_text())
    assert numbers["compute_s"] == pytest.approx(timings["compute_s"].sum())
    assert numbers["busy_s"] == pytest.approx(timings["compute_s"].sum(), rel=0.10), "Ray's own clock"


def test_the_run_folder_is_complete_and_readable(local_run):
    names = {p.name for p in local_run.folder.iterdir()}
    assert names == {
        "config.yaml", "environment.json", "manifest.json", "performance.json", "PERFORMANCE_METRICS.md",
        "report.html", "log.jsonl", "status.json",
    }  # fmt: skip
    events = [json.loads(line) for line in (local_run.folder / "log.jsonl").read_text().splitlines()]
    assert {"start", "device", "plan", "parameters", "fallback", "done", "report"} <= {
        e["event"] for e in events
    }
    assert all({"time", "level", "text"} <= set(e) for e in events)


def test_the_manifest_is_strict_json_with_an_entry_per_asset(local_run):
    def refuse(constant):
        raise AssertionError(f"{constant} in the manifest")

    manifest = json.loads((local_run.folder / "manifest.json").read_text(), parse_constant=refuse)
    assert manifest["schema_version"] == "audio_manifest_v1"
    assert len(manifest["assets"]) == manifest["assets_count"] == len(local_run.truth) + len(BAD) + len(ODD)
    asset = next(a for a in manifest["assets"] if a["uri"].endswith("song_a_major_96.flac"))
    entries = {e["name"]: e for e in asset["extractors"]}
    assert set(entries) == {*BY_DEFAULT, "clap", "separation"}
    for entry in entries.values():
        assert entry["success"]
        assert entry["error"] is None
        assert entry["processing_time"] > 0
        assert entry["version"]
    assert asset["segments"][0]["start_s"] == 0
    assert asset["aggregate_strategy"] == "mean"


def test_the_report_is_self_contained(local_run):
    html = (local_run.folder / "report.html").read_text()
    # Without the scripts: plotly's names addresses that it never loads, see tests/report/test_report_page.py.
    page = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    sources = re.findall(r"""<[^>]*\s(?:src|href)=["']?([#\w]*)""", page)
    assert set(sources) <= {"data", "file", *(s for s in sources if s.startswith("#"))}, "nothing is loaded"
    assert not re.findall(r"@import|url\(", page)
    for word in ("UnrecognizedFormat", "features.chroma", "spleeter", "vorbis", "prefers-color-scheme"):
        assert word in html
    found = overview(Output(str(local_run.output)))
    assert found.rows["tracks"] == len(local_run.truth) + len(BAD) + len(ODD)
    assert "<img src=x" not in html, "a file name is text, not markup"


def test_duckdb_reads_every_table(local_run):
    def query(sql):
        return duckdb.sql(sql.format(root=local_run.output)).fetchall()

    [[ok]] = query("SELECT count(*) FROM '{root}/tracks/*.parquet' WHERE status = 'ok'")
    assert ok == len(local_run.truth) + len(ODD)
    [[failed]] = query("SELECT count(*) FROM '{root}/failures/*.parquet'")
    assert failed == len(BAD)
    [[widths]] = query("SELECT max(len(clap_embedding)) FROM '{root}/segments/*.parquet'")
    assert widths == 512
    rows = query("SELECT stage, sum(compute_s) FROM '{root}/timings/*.parquet' GROUP BY 1 ORDER BY 2 DESC")
    assert len(rows) == 4 + len(BY_DEFAULT)
