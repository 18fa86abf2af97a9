"""musicnn: against its published graph in numpy and librosa's spectrogram, and what becomes of odd tracks."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch
from helpers.music_weights import musicnn  # noqa: F401  a fixture
from helpers.musicnn_reference import musicnn as reference
from helpers.musicnn_reference import random_variables

from pipeline.audio.reader import ArrayReader
from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.tags import checkpoint, tagger
from pipeline.models.tags.filters import Affine, TemporalFilters, TimbralFilters
from pipeline.models.tags.front_end import log_mel, patch_span, patches_of, read_patches
from pipeline.models.tags.names import EMBEDDING_SIZE, NETWORKS, SAMPLE_RATE
from pipeline.models.tags.network import Musicnn
from pipeline.models.tags.tagger import BLOCK_PATCHES, Tagger, embedding_of

TOLERANCE = 1e-4


def music(seconds: float, seed: int = 0) -> np.ndarray:
    """Chords with noise bursts that change every half second, float32 at 16 kHz."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitches = 110.0 * 2 ** (rng.integers(0, 36, (int(seconds * 2) + 1, 3)) / 12)
    place = (t * 2).astype(int)
    tones = sum(np.sin(2 * np.pi * pitches[place, n] * t) for n in range(3)) * np.exp(-4 * (t * 2 % 1))
    return (0.2 * tones + rng.normal(0, 0.01, len(t))).astype(np.float32)


def librosa_log_mel(audio: np.ndarray) -> np.ndarray:
    """As musicnn's ``extractor.py`` has it, with the defaults that librosa had, and without its 16-bit floats."""
    mel = librosa.feature.melspectrogram(
        y=audio, sr=SAMPLE_RATE, hop_length=256, n_fft=512, n_mels=96, pad_mode="reflect"
    )
    return np.log10(10000 * mel.T + 1)


@pytest.fixture(scope="module")
def real(musicnn):  # noqa: F811
    return Tagger(keep_patches=True)


@pytest.mark.parametrize("seconds", [3.1, 7.0, 30.0])
def test_the_front_end_is_librosas(seconds):
    audio = music(seconds)
    expected = librosa_log_mel(audio)
    count = patches_of(len(audio))
    found = log_mel(torch.from_numpy(read_patches(ArrayReader(audio[None]), 0, count)))
    assert count == len(expected) // 187
    np.testing.assert_allclose(found.flatten(0, 1), expected[: 187 * count], atol=2e-5)


def test_patches_in_the_middle_are_those_of_the_whole_track():
    audio = music(20.0)
    reader = ArrayReader(audio[None])
    whole = log_mel(torch.from_numpy(read_patches(reader, 0, 6)))
    middle = log_mel(torch.from_numpy(read_patches(reader, 2, 5).copy()))
    np.testing.assert_allclose(middle, whole[2:5], atol=1e-6)


def test_frames_of_a_short_track_are_repeated():
    audio = music(1.0)
    expected = librosa_log_mel(audio)
    [found] = log_mel(torch.from_numpy(read_patches(ArrayReader(audio[None]), 0, 1)))
    np.testing.assert_allclose(found, np.tile(expected, (3, 1))[:187], atol=2e-5)
    assert [patches_of(n) for n in (0, 1, 511, 512, 186 * 256, 187 * 256 * 2 - 256)] == [0, 0, 0, 1, 1, 2]
    assert patch_span(0, len(audio)) == (0, 16000)


@pytest.mark.parametrize("size", [(7, 38), (7, 67), (128, 1), (32, 1)])
def test_the_quick_way_of_a_cpu_is_a_convolution(size):
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn((5, 1, *size), generator=generator)
    scale = torch.tensor([1.0, -1.0, 2.0, -0.5, 1.0])
    kind = TemporalFilters if size[1] == 1 else TimbralFilters
    filters = kind(kernel, torch.zeros(5), Affine(scale, torch.zeros(5)))
    x = torch.randn((2, 1, 187 + size[0] - 1, 96), generator=generator)
    expected = torch.nn.functional.conv2d(x, kernel * torch.sign(scale)[:, None, None, None]).amax(dim=3)
    np.testing.assert_allclose(filters.largest(x), expected, atol=2e-4 if size[1] > 1 else 1e-5)


@pytest.mark.parametrize("dead", [0.0, 0.7])
def test_any_network_is_the_published_graph(dead):
    """Also one whose batch norms have negative factors, and filters that are left out because they are dead."""
    variables = random_variables(dead=dead)
    network = Musicnn(variables)
    patches = torch.from_numpy(np.random.default_rng(1).gamma(0.5, 1.0, (2, 187, 96)).astype(np.float32))
    alive = sum(len(filters.kernel) for filters in network.filters)
    assert (alive == 561) if not dead else (alive < 250)
    expected = np.stack([reference(variables, patch) for patch in patches.numpy()])
    np.testing.assert_allclose(network(patches), expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda v: v.pop("dense/bias"), "dense/bias is missing"),
        (lambda v: v.update({"dense/bias": np.zeros(3, np.float32)}), r"has shape \[3\], not \[200\]"),
        (lambda v: v["dense/bias"].__setitem__(0, np.nan), "holds NaN"),
    ],
)
def test_variables_that_are_not_musicnns_are_refused(damage, says):
    variables = random_variables()
    damage(variables)
    with pytest.raises(ValueError, match=says):
        Musicnn(variables)


def test_the_real_networks_are_the_published_graph(real):
    audio = music(3.1, seed=3)
    patch = librosa_log_mel(audio)[:187]
    [found], _ = real.tag_tracks([audio])
    variables = checkpoint.read_checkpoint().variables
    rows = {name: reference(variables[name], patch) for name in NETWORKS}
    for name in NETWORKS:
        np.testing.assert_allclose(found.tags(name), rows[name][:50], atol=TOLERANCE)
    expected = embedding_of(np.concatenate([rows[name] for name in NETWORKS]))
    np.testing.assert_allclose(found.embedding(), expected, atol=TOLERANCE)


def test_what_shares_a_batch_changes_nothing(real):
    tracks = [music(seconds, seed) for seed, seconds in enumerate((1.0, 9.5, 4.0))]
    together, _ = real.tag_tracks(tracks)
    for track, shared in zip(tracks, together, strict=True):
        [alone], _ = real.tag_tracks([track])
        for name in NETWORKS:
            np.testing.assert_allclose(shared.tags(name), alone.tags(name), atol=1e-5)
        np.testing.assert_allclose(shared.embedding(), alone.embedding(), atol=1e-5)


def test_means_are_those_of_the_patches_with_sound(real):
    audio = np.concatenate([music(6.0), np.zeros(3 * 47872, np.float32), music(6.0, seed=1)])
    [found], [cost] = real.tag_tracks([audio])
    heard = [patch for patch in found.patches if patch.mtt is not None]
    assert len(found.patches) == patches_of(len(audio))
    assert found.heard == len(heard) == len(found.patches) - 2
    np.testing.assert_allclose(found.tags("mtt"), np.mean([p.mtt for p in heard], axis=0), atol=1e-6)
    assert {p.embedding.shape for p in heard} == {(EMBEDDING_SIZE,)}
    np.testing.assert_allclose(np.linalg.norm(found.embedding()), 1.0, atol=1e-6)
    assert [p.start_s for p in found.patches] == pytest.approx([n * 2.992 for n in range(len(found.patches))])
    assert 0 < cost.shared_s <= cost.compute_s
    assert cost.batch is not None


def test_silence_and_a_sample_have_no_tags_and_what_is_broken_fails_alone(real):
    broken = music(4.0)
    broken[100] = np.nan
    tracks = [np.zeros(60000, np.float32), np.full(1, 0.5, np.float32), broken, music(4.0)]
    silent, sample, failed, whole = real.tag_tracks(tracks)[0]
    for nothing in (silent, sample):
        assert (nothing.heard, nothing.error) == (0, None)
        assert nothing.tags("mtt") is nothing.embedding() is None
    assert isinstance(failed.error, ValueError)
    assert not failed.patches
    assert whole.heard == 1


class Watched(ArrayReader):
    """Says how much is read at a time."""

    largest = 0

    def read(self, start, stop):
        self.largest = max(self.largest, stop - start)
        return super().read(start, stop)


def test_a_long_track_is_read_in_blocks_and_only_sums_are_kept(musicnn, monkeypatch):  # noqa: F811
    monkeypatch.setattr(tagger, "BLOCK_PATCHES", 2)
    audio = music(20.0)
    reader = Watched(audio[None])
    plain = Tagger()
    [found], _ = plain.tag_tracks([reader])
    assert reader.largest <= 2 * 47872 + 512
    assert not found.patches
    monkeypatch.setattr(tagger, "BLOCK_PATCHES", BLOCK_PATCHES)
    [whole], _ = plain.tag_tracks([audio])
    np.testing.assert_allclose(found.tags("msd"), whole.tags("msd"), atol=1e-5)


def test_the_names_are_those_of_the_wheel_and_others_are_refused(musicnn, monkeypatch):  # noqa: F811
    assert checkpoint.read_checkpoint().model_id == checkpoint.model_id()
    other = {**checkpoint.NAMES, "mtt": ("harp", *checkpoint.NAMES["mtt"][1:])}
    monkeypatch.setattr(checkpoint, "NAMES", other)
    with pytest.raises(UserError, match="lists other mtt tags"):
        checkpoint.read_checkpoint()


def test_without_weights_it_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path))
    assert weights.find("musicnn") is None
    with pytest.raises(UserError, match=r"models\.py fetch musicnn"):
        checkpoint.read_checkpoint()


def test_songs_and_speech_get_tags_of_their_kind(real, shared_audio):
    import soundfile
    import soxr

    def heard(path, seconds):
        audio, rate = soundfile.read(
            shared_audio / path, frames=seconds * 44100, dtype="float32", always_2d=True
        )
        return soxr.resample(audio.mean(axis=1), rate, SAMPLE_RATE)

    voice = sorted((shared_audio / "speech" / "en_US_f_Allison").glob("*.wav"))[:2]
    tracks = [
        heard("music/feelings/guitar.ogg", 40)[20 * SAMPLE_RATE :],
        np.concatenate([heard(path, 60) for path in voice]),
    ]
    names = checkpoint.NAMES["mtt"]
    found = [track.tags("mtt") for track in real.tag_tracks(tracks)[0]]
    guitar, speech = (dict(zip(names, map(float, values), strict=True)) for values in found)
    assert max(guitar, key=guitar.get) == "guitar"
    assert speech["female"] > 3 * guitar["female"]
    assert max(speech["female"], speech["woman"]) > max(speech["male"], speech["man"])
