"""Sample-rate conversion, and the views (mono, stereo, as is) models and extractors ask for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

from pipeline.audio.validate import Allocator, private_memory

# ITU-R BS.775-3, table 2: centre and surrounds enter each side at -3 dB, the LFE channel is left out.
_M3DB = float(np.sqrt(0.5))
_BS775 = {
    # FL FR FC LFE BL BR
    6: ([1, 0, _M3DB, 0, _M3DB, 0], [0, 1, _M3DB, 0, 0, _M3DB]),
    # FL FR FC LFE BL BR SL SR
    8: ([1, 0, _M3DB, 0, _M3DB, 0, _M3DB, 0], [0, 1, _M3DB, 0, 0, _M3DB, 0, _M3DB]),
}


def resample(x: np.ndarray, from_rate: int, to_rate: int, allocate: Allocator = private_memory) -> np.ndarray:
    """Change the sample rate with soxr at its HQ setting, librosa's default (``soxr_hq``).

    The same input gives the same bits. At equal rates the input itself is returned (if it is float32), otherwise an
    array from ``allocate``.

    Shape:
        - input: ``[..., samples]``
        - output: float32 ``[..., ceil(samples * to_rate / from_rate)]``

    Raises:
        ValueError: a rate is not positive.
    """
    if from_rate <= 0 or to_rate <= 0:
        raise ValueError(f"sample rates are positive, not {from_rate} and {to_rate} Hz")
    x = np.asarray(x, dtype=np.float32)
    if from_rate == to_rate:
        return x
    # In integers. In floats, as librosa counts, 441000 samples at 44.1 kHz become 480001 at 48 kHz.
    length = -(-x.shape[-1] * to_rate // from_rate)
    y = allocate((*x.shape[:-1], length))
    if x.shape[-1] == 0:
        return y
    for index in np.ndindex(x.shape[:-1]):
        converted = soxr.resample(np.ascontiguousarray(x[index]), from_rate, to_rate, quality="HQ")
        count = min(length, len(converted))
        y[index][:count] = converted[:count]
        y[index][count:] = 0.0
    return y


class StreamResampler:
    """`resample` of a signal that comes in blocks; together the blocks that go out are the same, within 1e-6.

    Args:
        from_rate: Hz.
        to_rate: Hz.
        channels: number of channels.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int) -> None:
        self.rates = from_rate, to_rate
        self._streams = [
            soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ") for _ in range(channels)
        ]
        self._taken, self._given = 0, 0

    def push(self, block: np.ndarray, last: bool = False) -> np.ndarray:
        """What is ready after the next block, ``[channels, n]`` → float32 ``[channels, any]``; all with ``last``."""
        self._taken += block.shape[-1]
        if self.rates[0] == self.rates[1]:
            return np.array(block, dtype=np.float32)
        ready = [
            stream.resample_chunk(np.ascontiguousarray(channel, dtype=np.float32), last)
            for stream, channel in zip(self._streams, block, strict=True)
        ]
        converted = np.stack(ready).reshape(len(block), -1)
        if last:
            rest = -(-self._taken * self.rates[1] // self.rates[0]) - self._given
            short = max(0, rest - converted.shape[1])
            converted = np.pad(converted[:, :rest], ((0, 0), (0, short)))
        self._given += converted.shape[1]
        return converted


def to_mono(samples: np.ndarray) -> np.ndarray:
    """Mean of the channels, as ``librosa.to_mono``: ``[channels, samples]`` to ``[1, samples]``."""
    return samples if samples.shape[0] == 1 else samples.mean(axis=0, keepdims=True, dtype=np.float32)


def to_stereo(samples: np.ndarray) -> np.ndarray:
    """``[channels, samples]`` to ``[2, samples]``.

    Mono is put on both sides. 5.1 and 7.1 (channels in WAV order) follow ITU-R BS.775-3 without the optional
    attenuation, so the result may exceed full scale. Any other number of channels is no known layout: the
    even ones (0, 2, ...) are averaged to the left, the odd ones to the right.
    """
    channels = samples.shape[0]
    if channels == 2:
        return samples
    if channels == 1:
        return np.repeat(samples, 2, axis=0)
    if channels in _BS775:
        return np.stack([_weighted(samples, weights) for weights in _BS775[channels]])
    return np.stack([samples[side::2].mean(axis=0, dtype=np.float32) for side in (0, 1)])


def _weighted(samples: np.ndarray, weights: list[float]) -> np.ndarray:
    # Not a matrix product: BLAS may sum in another order on another machine.
    total = np.zeros(samples.shape[1], np.float32)
    for channel, weight in zip(samples, weights, strict=True):
        if weight:
            total += np.float32(weight) * channel
    return total


def make_view(
    samples: np.ndarray,
    rate: int,
    target_rate: int,
    channels: int | None,
    allocate: Allocator = private_memory,
) -> np.ndarray:
    """Mix down, then resample: the mix is a sum, the resampler costs per channel.

    Args:
        samples: float32 ``[channels, samples]``.
        rate: its sample rate, Hz.
        target_rate: wanted rate, Hz.
        channels: 1 for `to_mono`, 2 for `to_stereo`, None to keep the channels as they are.
        allocate: where a resampled result lies.

    Returns:
        float32 ``[channels, samples]`` (``[1, samples]`` for mono); the input itself where nothing changes.

    Raises:
        ValueError: ``channels`` is none of 1, 2 and None, ``samples`` is not 2-D, or a rate is not positive.
    """
    if samples.ndim != 2 or samples.shape[0] == 0:
        raise ValueError(f"samples are [channels, samples], not {samples.shape}")
    if channels not in (1, 2, None):
        raise ValueError(f"channels is 1, 2 or None, not {channels}")
    mix = {1: to_mono, 2: to_stereo}.get(channels)
    return resample(mix(samples) if mix else samples, rate, target_rate, allocate)


def view_blocks(
    blocks: Iterable[np.ndarray], rate: int, target_rate: int, channels: int
) -> Iterator[np.ndarray]:
    """`make_view` of a signal that comes in blocks, ``[any, n]`` each, within 1e-6.

    Args:
        channels: 1 mixes down and 2 makes stereo; more are those that the blocks have.

    Yields:
        float32 ``[channels, n]`` blocks, copies.
    """
    mix = {1: to_mono, 2: to_stereo}.get(channels, np.asarray)
    resampler = StreamResampler(rate, target_rate, channels)
    for block in blocks:
        yield resampler.push(mix(block))
    yield resampler.push(np.zeros((channels, 0), np.float32), last=True)
