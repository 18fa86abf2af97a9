"""Several tracks in one buffer: what comes out is that of each alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.features import masks, packed, packed_cqt
from pipeline.features.cqt import chroma_cqt, plan_octaves
from pipeline.features.stft import power_spectrogram

LENGTHS = (60_000, 41_007, 1, 50_003)


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    """Noise, each track ten times as loud as the one before: what leaks into a neighbour shows."""
    generator = np.random.default_rng(0)
    return [(10.0**i * generator.standard_normal(n)).astype(np.float32) for i, n in enumerate(LENGTHS)]


@pytest.mark.parametrize(("gap", "multiple"), [(0, 1), (100, 1), (1000, 128)])
def test_tracks_lie_apart_in_the_buffer(waveforms, gap, multiple):
    layout = packed.lay_out(waveforms, gap, "cpu", multiple)
    rest = layout.samples.clone()
    stops = layout.starts + layout.lengths
    for start, stop, waveform in zip(layout.starts, stops, waveforms, strict=True):
        assert np.array_equal(layout.samples[start:stop], waveform)
        rest[start:stop] = 0.0
    assert not rest.any()
    assert not (layout.starts % multiple).any()
    before = layout.starts - np.concatenate([[0], stops[:-1]])
    assert (before >= gap).all()
    assert len(layout.samples) == stops[-1] + gap
    assert int(layout.inside().sum()) == sum(LENGTHS)


@pytest.mark.parametrize(("n_fft", "hop_length"), [(2048, 512), (1001, 333), (256, 700)])
def test_packed_power_is_that_of_each_track(waveforms, n_fft, hop_length, monkeypatch):
    monkeypatch.setattr(packed, "SAMPLES_PER_CALL", 37 * n_fft)
    power = packed.packed_power(waveforms, n_fft, hop_length, "cpu")
    spans = packed.frame_spans(LENGTHS, hop_length)
    assert power.shape[1] == spans[-1].stop
    for waveform, span in zip(waveforms, spans, strict=True):
        frames = 1 + len(waveform) // hop_length
        expected = power_spectrogram(torch.from_numpy(waveform), n_fft, hop_length, frames=frames)
        assert torch.allclose(power[:, span], expected, rtol=1e-6, atol=0.0)


def test_tracks_without_samples_have_no_columns():
    assert packed.frame_spans([0, 1024, 0, 1], 512) == [slice(0, 0), slice(0, 3), slice(3, 3), slice(3, 4)]


@pytest.mark.parametrize(("rate", "hop_length"), [(22050, 512), (22050, 441), (44100, 1000), (9000, 77)])
def test_packed_chroma_is_that_of_each_track_at_its_own_tuning(waveforms, rate, hop_length):
    tunings = [0.31, -2.0, 0.31, 1.9]
    found = packed_cqt.packed_chroma_cqt(waveforms, rate, hop_length, tunings, "cpu")
    for waveform, tuning, chroma in zip(waveforms, tunings, found, strict=True):
        expected = chroma_cqt(torch.from_numpy(waveform), rate, hop_length, tuning)
        assert chroma.shape == expected.shape
        assert torch.allclose(chroma, expected, rtol=1e-5, atol=1e-5 * float(expected.max()))


def test_tunings_may_differ_in_where_the_rate_is_halved():
    plans = [[octave.halvings for octave in plan_octaves(22050, tuning)] for tuning in (0.31, 1.9)]
    assert plans[0] != plans[1]


@pytest.mark.parametrize("size", [1, 2, 16, 31])
@pytest.mark.parametrize("group", [1, 22, 1000])
def test_packed_energies_are_those_of_each_track(size, group):
    counts = (100, 1, 3, 250)
    generator = torch.Generator().manual_seed(size)
    parts = [10.0**i * torch.rand((129, n), generator=generator) for i, n in enumerate(counts)]
    ends = np.cumsum(counts)
    spans = [slice(int(end) - n, int(end)) for n, end in zip(counts, ends, strict=True)]
    masking = masks.Masking(kernel_size=size)
    found = masks.energy_by_group_of_each(torch.cat(parts, dim=1), spans, masking, group)
    for part, energies in zip(parts, found, strict=True):
        expected = masks.energy_by_group(part, masking, group, 0)
        assert energies.dtype == torch.float64
        assert torch.allclose(energies, expected, rtol=1e-5, atol=0.0)


def test_on_a_gpu_every_operand_is_on_the_gpu(waveforms, monkeypatch):
    """Tensors without values, which need no card: an operator refuses those of two devices."""
    spans = packed.frame_spans(LENGTHS, 512)
    frames = [span.stop - span.start for span in spans]
    windows = masks._windows_of_each(np.array(frames), 5)
    monkeypatch.setattr(masks, "_windows_of_each", lambda *_: windows)
    with FakeTensorMode(allow_non_fake_inputs=True):
        power = packed.packed_power(waveforms, 2048, 512, "cuda")
        chroma = packed_cqt.packed_chroma_cqt(waveforms, 22050, 512, [0.0, 0.3, 0.3, 1.9], "cuda")
        energies = masks.energy_by_group_of_each(power, spans, masks.Masking(5), 22)
    assert {x.device.type for x in (power, *chroma, *energies)} == {"cuda"}
    assert power.shape == (1025, spans[-1].stop)
    assert [c.shape for c in chroma] == [(12, n) for n in frames]
    assert [e.shape for e in energies] == [(2, -(-n // 22), 1025) for n in frames]
