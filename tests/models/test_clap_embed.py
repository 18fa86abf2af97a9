import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers.clap_reference import SAMPLE_RATE, synthetic_clips, tiny_checkpoint

from pipeline.errors import Fallback, UserError
from pipeline.models import precision
from pipeline.models.batching import FITS
from pipeline.models.clap import clips, embed
from pipeline.models.clap.clips import ClipBlock, quantise
from pipeline.models.clap.embed import ClapEmbedder


def filled(window: np.ndarray, length: int) -> np.ndarray:
    return clips.repeat_pad(torch.from_numpy(window), length).numpy()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def embedder(tiny):
    """Batches of three windows."""
    return ClapEmbedder(tiny, amp="false", max_batch_audio_seconds=30)


CHORD, SWEEP, PULSES, NOISE, SHORT = synthetic_clips()


def tracks():
    """Of 12, 3.3, 10 and 17 seconds: 2 + 1 + 1 + 3 windows."""
    return [np.r_[SWEEP, CHORD[: 2 * SAMPLE_RATE]], SHORT, PULSES, np.r_[NOISE, CHORD[: 7 * SAMPLE_RATE]]]


@pytest.fixture(scope="module")
def embedded(embedder):
    return embedder.embed_tracks(tracks())


def test_windows_carry_their_real_ends_levels_and_unit_vectors(embedded):
    results, _ = embedded
    spans = [[(w.start_s, w.end_s) for w in result.windows] for result in results]
    assert spans == [[(0, 10), (5, 12)], [(0, 3.3)], [(0, 10)], [(0, 10), (5, 15), (10, 17)]]
    for track, result in zip(tracks(), results, strict=True):
        assert result.error is None
        for w in result.windows:
            x = track[round(w.start_s * SAMPLE_RATE) : round(w.end_s * SAMPLE_RATE)].astype(np.float64)
            assert w.rms_dbfs == pytest.approx(20 * np.log10(np.sqrt(np.mean(x**2))), abs=1e-4)
            assert w.embedding.shape == (512,)
            assert w.embedding.dtype == np.float32
            assert np.linalg.norm(w.embedding) == pytest.approx(1, abs=1e-5)
            assert w.norm > 0


def vectors(results):
    return [np.stack([w.embedding for w in result.windows]) for result in results]


@pytest.mark.parametrize("limit", [1, 1000])
def test_results_do_not_depend_on_batches_or_order(tiny, embedded, limit):
    order = [2, 0, 3, 1]
    given = tracks()
    other = ClapEmbedder(tiny, amp="false", max_batch_audio_seconds=limit)
    shuffled, report = other.embed_tracks([given[i] for i in order])
    assert max(batch.items for batch in report.batches) == min(max(limit // 10, 1), 7)
    expected = vectors(embedded[0])
    for i, found in zip(order, vectors(shuffled), strict=True):
        np.testing.assert_allclose(found, expected[i], atol=1e-5, rtol=0)
        # The tolerance says something: neighbouring windows of one track are farther apart.
        if len(found) > 1:
            assert np.abs(found[0] - found[1]).max() > 1e-3


def test_batches_fill_across_tracks_and_costs_add_up(embedded):
    _, report = embedded
    assert [batch.items for batch in report.batches] == [3, 3, 1]
    assert [batch.audio_s for batch in report.batches] == pytest.approx([20.3, 30, 7])
    assert [batch.padding_fraction for batch in report.batches] == pytest.approx([1 - 20.3 / 30, 0, 0.3])
    batches = sum(batch.compute_s for batch in report.batches)
    spent = sum(cost.compute_s for cost in report.tracks)
    prepared = spent - batches
    assert 0 < prepared < batches
    first, second, third, last = report.tracks
    assert first.batch is second.batch is report.batches[0]
    assert third.batch is last.batch is report.batches[1]
    shared = report.batches[0].compute_s
    assert first.compute_s >= shared * 17 / 20.3
    assert second.compute_s == pytest.approx(shared * 3.3 / 20.3, abs=prepared)


def test_silent_windows_have_a_place_but_no_embedding(embedder):
    step = 1 / 32767
    silence = np.zeros(10 * SAMPLE_RATE, np.float32)
    results, report = embedder.embed_tracks([silence, silence + 0.9 * step, np.r_[silence, NOISE]])
    (digital,), (below,) = results[0].windows, results[1].windows
    assert (digital.rms_dbfs, digital.embedding, digital.norm) == (None, None, None)
    assert below.embedding is None
    assert below.rms_dbfs == pytest.approx(20 * np.log10(0.9 * step), abs=1e-3)
    assert [w.embedding is None for w in results[2].windows] == [True, False, False]
    assert sum(batch.items for batch in report.batches) == 2
    assert report.tracks[0].batch is None
    assert results[0].aggregate("mean") is None
    assert np.linalg.norm(results[2].aggregate("weighted")) == pytest.approx(1, abs=1e-6)


def test_tracks_of_no_one_and_few_samples(embedder):
    results, _ = embedder.embed_tracks([np.zeros(0, np.float32), np.full(1, 0.5, np.float32), CHORD[:700]])
    assert [len(result.windows) for result in results] == [0, 1, 1]
    assert results[0].error is None
    assert results[0].aggregate("robust") is None
    assert all(np.isfinite(result.windows[0].embedding).all() for result in results[1:])
    assert embedder.embed_tracks([])[0] == []


def test_a_shorter_window_is_repeated_up_to_the_clip(tiny, embedder):
    results, report = ClapEmbedder(tiny, amp="false", window_seconds=3, hop_seconds=3).embed_tracks(
        [SWEEP[: 6 * SAMPLE_RATE]]
    )
    by_hand = [filled(SWEEP[i * 3 * SAMPLE_RATE :][: 3 * SAMPLE_RATE], 10 * SAMPLE_RATE) for i in range(2)]
    expected, _ = embedder.embed_tracks(by_hand)
    np.testing.assert_allclose(vectors(results)[0], np.concatenate(vectors(expected)), atol=1e-5)
    assert report.batches[0].padding_fraction == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.r_[CHORD, NOISE[:-1], np.float32(np.nan)], "NaN or infinity"),
        (np.r_[NOISE, np.float32(-np.inf)], "NaN or infinity"),
        (
            np.zeros((2, 100), np.float32),
            r"expected a mono track of floats \[samples\], got float32 \[2, 100\]",
        ),
        (np.zeros(100, np.int16), "got int16"),
    ],
)
def test_a_bad_track_fails_alone(embedder, embedded, bad, message):
    first, _, third, _ = tracks()
    results, _ = embedder.embed_tracks([first, bad, third])
    with pytest.raises(ValueError, match=message):
        raise results[1].error
    assert results[1].windows == []
    expected = vectors(embedded[0])
    np.testing.assert_allclose(vectors([results[0]])[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(vectors([results[2]])[0], expected[2], atol=1e-5)


class StandInFault:
    """A stand-in for whatever a network may choke on: raises while a clip starts with ``marker``."""

    def __init__(self, tower, marker, error):
        self.marker, self.error, self.batches = marker, error, []
        self.handle = tower.register_forward_pre_hook(self)

    def __call__(self, _, inputs):
        self.batches.append(len(inputs[0]))
        if (inputs[0][:, :100] == quantise(torch.from_numpy(self.marker[:100]))).all(dim=1).any():
            raise self.error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


def test_a_batch_that_fails_is_retried_track_by_track(embedder, embedded):
    error = RuntimeError("the network choked")
    with StandInFault(embedder.tower, SHORT, error) as fault:
        results, report = embedder.embed_tracks(tracks())
    assert fault.batches == [3, 2, 1, 3, 1]
    assert [batch.items for batch in report.batches] == [2, 3, 1]
    assert [result.error for result in results] == [None, error, None, None]
    assert results[1].windows == []
    expected = vectors(embedded[0])
    for i in (0, 2, 3):
        np.testing.assert_allclose(vectors([results[i]])[0], expected[i], atol=1e-5)
    # The failed attempts cost time too, and somebody has to carry it.
    assert sum(c.compute_s for c in report.tracks) > sum(b.compute_s for b in report.batches)
    assert report.tracks[1].compute_s > 0
    assert report.tracks[1].batch is None


def test_the_rest_of_a_failed_track_is_not_computed(tiny):
    embedder = ClapEmbedder(tiny, amp="false", max_batch_audio_seconds=10)
    long = np.r_[SHORT, NOISE, NOISE]
    with StandInFault(embedder.tower, SHORT, RuntimeError("the network choked")) as fault:
        results, _ = embedder.embed_tracks([long, PULSES])
    assert len(fault.batches) == 2
    assert results[0].windows == []
    assert len(results[1].windows) == 1


class StandInMemory:
    """A stand-in for a device that refuses batches above ``limit`` items, with the error torch raises."""

    def __init__(self, tower, limit, error):
        self.limit, self.error, self.batches = limit, error, []
        self.handle = tower.register_forward_pre_hook(self)

    def __call__(self, _, inputs):
        self.batches.append(len(inputs[0]))
        if len(inputs[0]) > self.limit:
            raise self.error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), MemoryError()])
def test_out_of_memory_halves_the_batch_and_is_told(tiny, embedded, error):
    FITS.clear()
    embedder = ClapEmbedder(tiny, amp="false", max_batch_audio_seconds=50)
    with StandInMemory(embedder.tower, 2, error) as memory:
        results, report = embedder.embed_tracks(tracks())
    FITS.clear()
    assert memory.batches == [5, 2, 2, 1, 2]
    assert [batch.items for batch in report.batches] == [2, 2, 1, 2]
    step = Fallback("clap", "batches of 5", "batches of 2", "out of memory")
    assert [result.fallbacks for result in results] == [[step], [step], [step], [step]]
    for found, expected in zip(vectors(results), vectors(embedded[0]), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    # The attempt that failed is part of what was spent.
    assert sum(c.compute_s for c in report.tracks) > sum(b.compute_s for b in report.batches)


def test_a_track_that_the_device_has_no_memory_for_fails_alone(tiny, embedded, monkeypatch):
    copied = clips.upload

    def upload(audio, device):
        if len(audio) == len(SHORT):
            raise torch.OutOfMemoryError("injected")
        return copied(audio, device)

    monkeypatch.setattr(clips, "upload", upload)
    results, _ = ClapEmbedder(tiny, amp="false", max_batch_audio_seconds=30).embed_tracks(tracks())
    assert [type(r.error) for r in results] == [type(None), torch.OutOfMemoryError, type(None), type(None)]
    for i in (0, 2, 3):
        np.testing.assert_allclose(vectors([results[i]])[0], vectors(embedded[0])[i], atol=1e-5)


def test_a_single_window_that_does_not_fit_costs_its_track_only(tiny, embedded):
    FITS.clear()
    embedder = ClapEmbedder(tiny, amp="false", max_batch_audio_seconds=30)
    error = torch.OutOfMemoryError("out of memory")
    with StandInFault(embedder.tower, SHORT, error):
        results, _ = embedder.embed_tracks(tracks())
    FITS.clear()
    assert [type(result.error) for result in results] == [type(None), type(error), type(None), type(None)]
    for i in (0, 2, 3):
        np.testing.assert_allclose(vectors([results[i]])[0], vectors(embedded[0])[i], atol=1e-5)


def test_an_embedding_that_is_not_finite_is_an_error_not_a_row(tiny):
    embedder = ClapEmbedder(tiny, amp="false")
    # The tower is shared within the process: break a copy.
    embedder.tower = copy.deepcopy(embedder.tower)
    embedder.tower.audio_projection[2].bias.fill_(torch.inf)
    (result,), _ = embedder.embed_tracks([SHORT])
    with pytest.raises(FloatingPointError, match="zero, NaN or infinite"):
        raise result.error


def test_warm_up_runs_and_changes_nothing(embedder, embedded):
    assert embedder.warm_up() > 0
    again, _ = embedder.embed_tracks(tracks()[1:2])
    np.testing.assert_allclose(vectors(again)[0], vectors(embedded[0])[1], atol=1e-5)


def test_the_model_is_named_by_its_weights(embedder):
    assert embedder.model_id == f"HTSAT-tiny:{embedder.info.sha256[:12]}"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"window_seconds": 10.1}, "clap.window_seconds=10.1: the tower takes 10 s at most"),
        ({"window_seconds": 0}, "clap.window_seconds=0 must be above 0"),
        ({"hop_seconds": -1}, "clap.hop_seconds=-1 must be above 0"),
        ({"hop_seconds": float("nan")}, "clap.hop_seconds=nan must be above 0"),
        ({"max_batch_audio_seconds": 0}, "clap.max_batch_audio_seconds=0 must be above 0"),
        ({"max_batch_audio_seconds": float("inf")}, "clap.max_batch_audio_seconds=inf must be"),
    ],
)
def test_parameters_out_of_range_are_refused(tiny, parameters, message):
    with pytest.raises(UserError, match=message):
        ClapEmbedder(tiny, **parameters)


def bfloat16_embedder(tiny, monkeypatch, **parameters):
    """As on a CPU with bfloat16 instructions: without them torch gives the same numbers, slowly."""
    monkeypatch.setattr(precision, "cpu_computes_bf16", lambda: True)
    return ClapEmbedder(tiny, amp="auto", **parameters)


def test_bfloat16_keeps_the_direction_and_the_batch_does_not_matter(tiny, embedded, monkeypatch):
    order = [2, 1, 0]
    given = [np.r_[SWEEP[: 12 * SAMPLE_RATE]], SHORT, PULSES]
    expected = [embedded[0][i] for i in range(3)]
    one = bfloat16_embedder(tiny, monkeypatch, max_batch_audio_seconds=10)
    assert (one.precision.name, one.backend, one.fallbacks) == ("bfloat16", "HTSAT-tiny bfloat16", [])
    alone, _ = one.embed_tracks(given[1:])
    three = bfloat16_embedder(tiny, monkeypatch, max_batch_audio_seconds=30)
    together, report = three.embed_tracks([given[i] for i in order[:2]])
    assert [batch.items for batch in report.batches] == [2]
    for single, shared, whole in zip(alone, together[::-1], expected[1:], strict=True):
        np.testing.assert_allclose(
            shared.windows[0].embedding, single.windows[0].embedding, atol=1e-3, rtol=0
        )
        cosine = float(single.windows[0].embedding @ whole.windows[0].embedding)
        assert 0.999 < cosine < 1 - 1e-7


def test_a_shared_tower_is_loaded_once(tiny, embedder):
    assert ClapEmbedder(tiny, amp="false", max_batch_audio_seconds=10).tower is embedder.tower


@pytest.mark.parametrize("samples", [1, 3, 333, 500, 501, 999, 1000])
def test_short_windows_are_filled_by_laions_formula(samples):
    window = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    tiled = np.tile(window, int(1000 / samples))
    expected = np.pad(tiled, (0, 1000 - len(tiled)))
    np.testing.assert_array_equal(filled(window, 1000), expected)


def test_the_tail_weighs_as_much_as_it_is_long(embedder):
    """A track of 10 s and a tail of 3 s, at the same level: by hand from its two windows."""
    track = np.r_[NOISE, CHORD[: 3 * SAMPLE_RATE] / rms(CHORD[: 3 * SAMPLE_RATE]) * rms(NOISE)]
    embedder = ClapEmbedder(embedder.info.path, hop_seconds=10)
    (result,), _ = embedder.embed_tracks([track.astype(np.float32)])
    first, tail = result.windows
    assert (tail.start_s, tail.end_s) == (10, 13)
    expected = 10 * first.embedding + 3 * tail.embedding
    np.testing.assert_allclose(
        result.aggregate("weighted"), expected / np.linalg.norm(expected), atol=2e-3, rtol=0
    )
    # Not what equal weights would give.
    assert np.abs(result.aggregate("weighted") - result.aggregate("mean")).max() > 5e-3


def rms(x):
    return np.sqrt(np.mean(np.square(x, dtype=np.float64)))


def test_quantising_clips_and_truncates_as_laion_does():
    x = torch.tensor([0, 0.99 / 32767, -0.99 / 32767, 1.5 / 32767, 0.5, 1, 1.7, -3])
    steps = np.array([0, 0, 0, 1, 16383, 32767, 32767, -32767], np.int16)
    np.testing.assert_array_equal(quantise(x).numpy(), steps.astype(np.float32) / np.float32(32767))


def rms_dbfs(x, step=1):
    x = np.asarray(x, np.float32)
    block = ClipBlock(x, 0, [(0, len(x))], step, torch.device("cpu"))
    block.settle()
    return block.rms_dbfs(0)


@pytest.mark.parametrize("step", [1, 7, 48000, 100000])
def test_rms_of_known_signals(step):
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    assert rms_dbfs(np.sin(2 * np.pi * 440 * t), step) == pytest.approx(-3.0103, abs=1e-3)
    assert rms_dbfs(np.ones(1), step) == 0
    assert rms_dbfs(np.full(10, 1e-30), step) == pytest.approx(-600, abs=1e-3)
    assert rms_dbfs(np.zeros(5), step) is None


def test_callers_in_several_threads_share_batches(tiny, embedded):
    embedder = ClapEmbedder(tiny, amp="false", max_batch_audio_seconds=30)
    given = tracks()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda track: embedder.embed_tracks([track]), given))
    batches = {(b.items, b.audio_s) for _, report in found for b in report.batches}
    assert max(items for items, _ in batches) > 1
    for (results, report), expected in zip(found, vectors(embedded[0]), strict=True):
        np.testing.assert_allclose(vectors(results)[0], expected, atol=1e-5, rtol=0)
        assert report.tracks[0].compute_s > 0


def test_a_track_longer_than_a_block_is_the_same_in_one(tiny, monkeypatch):
    track = np.concatenate([NOISE, CHORD, SWEEP])[: 24 * SAMPLE_RATE]
    embedder = ClapEmbedder(tiny, amp="false", hop_seconds=4)
    (whole,), _ = embedder.embed_tracks([track])
    monkeypatch.setattr(embed, "BLOCK_SECONDS", 11.0)
    (pieces,), _ = embedder.embed_tracks([track])
    assert [(w.start_s, w.end_s, w.rms_dbfs) for w in pieces.windows] == [
        (w.start_s, w.end_s, pytest.approx(w.rms_dbfs, abs=1e-9)) for w in whole.windows
    ]
    np.testing.assert_allclose(vectors([pieces])[0], vectors([whole])[0], atol=1e-5)
