import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import soxr
import torch
from helpers.clap_reference import REPO, SAMPLE_RATE, laion_embeddings, synthetic_clips, tiny_checkpoint
from helpers.clap_towers import load_tower
from torch.nn.functional import cosine_similarity

from pipeline.errors import UserError
from pipeline.models.clap.checkpoint import read_checkpoint
from pipeline.models.clap.clips import CLIP_SAMPLES
from pipeline.models.clap.embed import ClapEmbedder
from pipeline.models.clap.tower import AudioTower

SYNTHETIC = len(synthetic_clips())


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def tower(tiny):
    return load_tower(tiny)[0]


def real_clips(folder):
    """Ten seconds of two songs, at 44.1 kHz on disk, and a prompt at 8 kHz."""
    clips = []
    for song in ("feelings", "escape_from_chaosland"):
        path = folder / "music" / song / "song.ogg"
        clips.append((path, 30))
    clips.append((min((folder / "speech").glob("*/vm-options.wav")), 0))
    for path, start in clips:
        with soundfile.SoundFile(path) as file:
            file.seek(start * file.samplerate)
            x = file.read(10 * file.samplerate, dtype="float32", always_2d=True).mean(axis=1)
            yield soxr.resample(x, file.samplerate, SAMPLE_RATE)[:CLIP_SAMPLES]


@pytest.fixture(scope="module")
def clips(request):
    """Synthetic clips, then real ones where there are any."""
    try:
        folder = request.getfixturevalue("shared_audio")
    except pytest.skip.Exception:
        return synthetic_clips()
    return [*synthetic_clips(), *real_clips(folder)]


@pytest.fixture(scope="module")
def laion(tiny, clips):
    """laion_clap's own embeddings and raw projections of `clips`."""
    return laion_embeddings(tiny, clips)


@pytest.fixture(scope="module")
def ours(tiny, clips):
    tracks, _ = ClapEmbedder(tiny, amp="false").embed_tracks(clips)
    return [track.windows[0] for track in tracks]


def cosines(a, b):
    return cosine_similarity(torch.as_tensor(a), torch.as_tensor(b), dim=-1).numpy()


def assert_same(ours, laion):
    unit, raw = laion
    assert cosines(np.stack([w.embedding for w in ours]), unit).min() >= 0.9999
    np.testing.assert_allclose([w.embedding for w in ours], unit, atol=1e-4)
    np.testing.assert_allclose([w.norm for w in ours], np.linalg.norm(raw, axis=1), rtol=1e-4)


def test_embeddings_equal_laions_on_synthetic_clips(ours, laion):
    assert_same(ours[:SYNTHETIC], [x[:SYNTHETIC] for x in laion])


def test_embeddings_equal_laions_on_music_and_speech(shared_audio, ours, laion):
    assert len(ours) == SYNTHETIC + 3
    assert_same(ours[SYNTHETIC:], [x[SYNTHETIC:] for x in laion])


def test_the_comparison_with_laion_can_tell_clips_apart(tower, clips, laion):
    unit, _ = laion
    between = unit @ unit.T - 2 * np.eye(len(unit))
    assert between.max() < 0.999
    # The short clip, padded with zeros instead of repeated, is already another one.
    short = clips[SYNTHETIC - 1]
    padded = np.pad(np.clip(short, -1, 1), (0, CLIP_SAMPLES - len(short)))
    assert cosines(tower(torch.from_numpy(padded)[None]), unit[SYNTHETIC - 1]) < 0.999


def test_unit_norm_float32_and_repeatable(tower):
    x = torch.from_numpy(np.stack(synthetic_clips()[:2]))
    unit, raw = tower(x, return_raw=True)
    assert unit.dtype == raw.dtype == torch.float32
    assert unit.shape == raw.shape == (2, 512)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(unit, raw / raw.norm(dim=1, keepdim=True))
    assert torch.equal(tower(x), unit)
    assert not unit.requires_grad


def test_bfloat16_stays_close_and_returns_float32(tiny, tower):
    x = torch.from_numpy(np.stack(synthetic_clips()[:4]))
    half = load_tower(tiny, dtype=torch.bfloat16)[0](x)
    assert half.dtype == torch.float32
    similar = cosines(half, tower(x))
    assert similar.min() >= 0.999
    assert similar.max() < 1 - 1e-7


def test_building_leaves_the_random_generator_alone(tiny):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_tower(tiny)
    assert torch.equal(torch.rand(3), expected)


def test_the_tower_does_not_train(tower):
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    with pytest.raises(ValueError, match="only infers"):
        tower.train()


@pytest.mark.parametrize("shape", [(CLIP_SAMPLES,), (1, CLIP_SAMPLES - 1), (1, 1, CLIP_SAMPLES)])
def test_other_shapes_are_refused(tower, shape):
    with pytest.raises(ValueError, match="expected"):
        tower(torch.zeros(shape))


MEL = "audio_branch.logmel_extractor.melW"
KERNEL = "audio_branch.spectrogram_extractor.stft.conv_real.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("audio_branch.norm.bias"), "it lacks audio_branch.norm.bias and 0 more"),
        (lambda s: s.update({"audio_branch.x": torch.ones(1)}), "it has audio_branch.x and 0 more"),
        (lambda s: s.update({"audio_projection.2.bias": torch.ones(3)}), r"should be \[512\], it is \[3\]"),
        (lambda s: s.update({KERNEL: s[KERNEL] * 1.01}), "should be the DFT under a Hann window"),
        (lambda s: s.update({MEL: s[MEL].roll(1)}), "should be Slaney's mel filters from 50 to 14,000 Hz"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(tiny, change, message):
    checkpoint = read_checkpoint(tiny)
    state = dict(checkpoint.state)
    change(state)
    with pytest.raises(UserError, match=message) as refused:
        AudioTower(dataclasses.replace(checkpoint, state=state))
    assert "\n" not in str(refused.value)
    assert str(tiny) in str(refused.value)


def test_nothing_of_laion_clap_or_transformers_is_imported():
    code = """
import sys
before = list(sys.path)
import pipeline.models.clap.tower, pipeline.workflows.availability
assert sys.path == before
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"laion_clap", "clap_module", "torchlibrosa", "transformers", "ray", "hydra"}, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)
