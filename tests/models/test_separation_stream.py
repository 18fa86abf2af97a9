"""The stream around the backends: order, errors of one track, memory that runs out, memory that does not grow."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.audio.reader import ArrayReader
from pipeline.models.separation import SeparationPool, SeparationStream, StemFold
from pipeline.models.separation.base import Separator
from pipeline.models.separation.midside import MidSide
from pipeline.models.separation.window import Window


class Halves(Separator):
    """Gives half of the mix to each of two stems; fails when told to."""

    name, version, sources, cpu_speed = "halves", "1", ("vocals", "other"), 1.0
    segment = 1000 / 44100
    device = torch.device("cpu")
    batch_items = 4
    largest = 99
    poison = 77.0

    def model_id(self):
        return "halves:0"

    def windows(self, samples):
        for offset in range(0, samples, 1000):
            yield Window(offset, 1000, offset, min(1000, samples - offset))

    def separate(self, batch):
        if len(batch) > self.largest:
            raise torch.OutOfMemoryError("injected")
        if (batch == self.poison).any():
            raise RuntimeError("injected")
        return torch.stack([batch / 2, batch / 2], dim=1)


def track(samples: int, value: float = 0.5) -> np.ndarray:
    return np.full((2, samples), value, np.float32)


def collect(stream: SeparationStream, tracks: int):
    blocks, done, errors, order = [[] for _ in range(tracks)], [0] * tracks, {}, []
    for piece in stream:
        order.append(piece.track)
        if piece.block is not None:
            blocks[piece.track].append(piece.block)
        done[piece.track] += piece.done
        if piece.error is not None:
            errors[piece.track] = piece.error
    assert done == [1] * tracks, "each track ends exactly once"
    assert order == sorted(order), "one track after the other"
    return blocks, errors


def test_trouble_of_one_track_is_its_own():
    tracks = [track(2500), track(1200, np.nan), track(0), track(700, 77.0), np.zeros((1, 9)), track(3000)]
    blocks, errors = collect(SeparationStream(Halves(), [ArrayReader(t) for t in tracks]), 6)
    assert set(errors) == {1, 3, 4}
    assert "NaN" in str(errors[1])
    assert "injected" in str(errors[3])
    assert "stereo" in str(errors[4])
    for number, samples in ((0, 2500), (5, 3000)):
        np.testing.assert_array_equal(np.concatenate(blocks[number], axis=-1), np.full((2, 2, samples), 0.25))
    assert not blocks[2]


def test_when_memory_runs_out_batches_halve_and_the_tracks_say_so():
    separator = Halves()
    separator.largest = 1
    stream = SeparationStream(separator, [ArrayReader(track(3000)), ArrayReader(track(1000))])
    blocks, errors = collect(stream, 2)
    assert not errors
    assert sum(block.shape[-1] for block in blocks[0]) == 3000
    assert {(f.wanted, f.used) for f in stream.shares[0].fallbacks} == {
        ("batches of 4", "batches of 2"),
        ("batches of 2", "batches of 1"),
    }
    assert stream.shares[0].items == 1


def test_a_track_that_fits_nowhere_fails_alone():
    separator = Halves()
    separator.largest = 0
    _, errors = collect(SeparationStream(separator, [ArrayReader(track(900))]), 1)
    assert isinstance(errors[0], torch.OutOfMemoryError)


def test_batches_are_filled_up_to_sizes_that_have_run_and_to_no_others():
    """On torch's device without memory, which stands in for a GPU."""
    separator = Halves()
    separator.batch_items = 32
    pool = SeparationPool(separator)

    def seen(count: int) -> int:
        sizes = []
        separator.separate = lambda batch: sizes.append(len(batch)) or torch.stack([batch, batch], dim=1)
        stems = pool._separated(separator, torch.empty(count, 2, 1000, device="meta"))
        assert stems.shape == (count, 2, 2, 1000)
        return sizes[0]

    assert pool.sizes() == [8, 32]
    assert [seen(n) for n in (1, 2, 5, 20)] == [1, 2, 5, 20], "neither 8 nor 32 has run"
    assert [seen(n) for n in (8, 5, 20)] == [8, 8, 20]
    assert [seen(n) for n in (32, 20, 5, 2)] == [32, 32, 8, 2]

    def refuse(batch):
        raise torch.OutOfMemoryError("injected")

    separator.separate = refuse
    with pytest.raises(torch.OutOfMemoryError):
        pool._separated(separator, torch.empty(20, 2, 1000, device="meta"))
    assert seen(20) == 20, "32 do not fit any more"


class Generated:
    """A track that is made while it is read."""

    channels = 2

    def __init__(self, seconds: float) -> None:
        self.samples = int(seconds * 44100)

    def read(self, start: int, stop: int) -> np.ndarray:
        time = np.arange(start, stop, dtype=np.float32) % 44100 / 44100
        return 0.1 * np.stack([np.sin(2000 * time), np.sin(3000 * time)])


def peak_rss_bytes(work) -> int:
    """Growth of the resident set while ``work`` runs: torch's memory is not Python's."""
    page, seen, stop = 4096, [], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            seen.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)

    watcher = threading.Thread(target=watch)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * page
    watcher.start()
    work()
    stop.set()
    watcher.join()
    return max(seen, default=before) - before


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_track():
    separator = MidSide()

    def separate(seconds: float) -> None:
        fold = StemFold(separator.sources)
        for piece in SeparationStream(separator, [Generated(seconds)]):
            if piece.block is not None:
                fold.add(piece.block)
        assert fold.statistics().shares["vocals"] is not None

    separate(120)  # caches and workspaces are there
    short_growth, long_growth = (peak_rss_bytes(lambda s=s: separate(s)) for s in (120, 600))
    # The stems of the longer one alone have 420 MB.
    assert long_growth - short_growth < 80e6
