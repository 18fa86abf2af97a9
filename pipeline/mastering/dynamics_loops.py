"""The loops of the compressor, in which a value needs the one before: run as machine code, see `pipeline.dsp.jitted`.

What they compute, and why, is said in `pipeline.mastering.dynamics`.
"""

from __future__ import annotations

import numpy as np

BLOCKS_PER_STEP = 8
"""Short blocks per step: a constant where the loops are compiled."""


def measure(samples: np.ndarray, lows: np.ndarray, block: int, powers: np.ndarray) -> None:
    """Mean square of each short block of each band, over all channels; float64 ``[bands, blocks]``."""
    channels, corners = samples.shape[0], lows.shape[0]
    for band in range(corners + 1):
        upper = samples if band == corners else lows[band]
        powers[band, :] = 0.0
        for channel in range(channels):
            for number in range(powers.shape[1]):
                total = 0.0
                if band == 0:
                    for i in range(number * block, number * block + block):
                        value = np.float64(upper[channel, i])
                        total += value * value
                else:
                    for i in range(number * block, number * block + block):
                        value = np.float64(upper[channel, i]) - np.float64(lows[band - 1, channel, i])
                        total += value * value
                powers[band, number] += total
        powers[band, :] /= block * channels


def detect(powers: np.ndarray, window: np.ndarray, runs: np.ndarray, levels: np.ndarray) -> None:
    """Level of each short block of each band as a mean square, ``[bands, blocks]``.

    A run of blocks is so short that it tells when a sound begins or ends, and so long that its mean follows no wave
    above some 700 Hz; of a slower wave a single block has at most twice the mean square.

    Args:
        powers: of `measure`, with one window and one step more before the blocks, and behind them.
        window: ``[2, steps]``; what a step weighs in the window behind a moment, and how much more its end than its
            beginning. It is a line in each step: weights that jump would let fast waves through as slow ones.
        runs: blocks per run of each band, up to a step.
        levels: the result.
    """
    per_step = BLOCKS_PER_STEP
    length = window.shape[1]
    steps = powers.shape[1] // per_step
    # Of each step: mean, how much more its end has than its beginning, and the loudest run that ends (begins) in it.
    means, tilts = np.empty(steps), np.empty(steps)
    ended, begun = np.zeros(steps), np.zeros(steps)
    ending, beginning = np.zeros(powers.shape[1]), np.zeros(powers.shape[1])
    still_to_come = np.empty(per_step)
    for band in range(powers.shape[0]):
        power, run = powers[band], runs[band]
        for step in range(steps):
            mean, tilt = 0.0, 0.0
            for i in range(per_step):
                mean += power[step * per_step + i]
                tilt += power[step * per_step + i] * ((i + 0.5) / per_step - 0.5)
            means[step], tilts[step] = mean / per_step, tilt / per_step
        for step in range(1, steps - 1):
            ended[step], begun[step] = 0.0, 0.0
            for i in range(step * per_step, (step + 1) * per_step):
                before, behind = 0.0, 0.0
                for k in range(run):
                    before += power[i - k]
                    behind += power[i + k]
                ending[i] = max(before / run, power[i] / 2.0)
                beginning[i] = max(behind / run, power[i] / 2.0)
                ended[step] = max(ended[step], ending[i])
                begun[step] = max(begun[step], beginning[i])
        ahead, behind = 0.0, 0.0
        for step in range(length, steps - length - 1):
            next_ahead, next_behind, lately, coming = 0.0, 0.0, 0.0, 0.0
            for i in range(length):
                next_ahead += window[0, i] * means[step + 1 + i] + window[1, i] * tilts[step + 1 + i]
                next_behind += window[0, i] * means[step - i] - window[1, i] * tilts[step - i]
                lately = max(lately, ended[step - 1 - i])
                coming = max(coming, begun[step + 1 + i])
            if step > length:
                first = step * per_step
                for i in range(per_step - 1, -1, -1):
                    coming = max(coming, beginning[first + i])
                    still_to_come[i] = coming
                for i in range(per_step):
                    part = (i + 0.5) / per_step
                    lately = max(lately, ending[first + i])
                    levels[band, first + i - (length + 1) * per_step] = max(
                        min(ahead + (next_ahead - ahead) * part, lately),
                        min(behind + (next_behind - behind) * part, still_to_come[i]),
                    )
            ahead, behind = next_ahead, next_behind


def follow(
    levels: np.ndarray, table: np.ndarray, entering: int, state: np.ndarray, result: np.ndarray
) -> None:
    """Gains at the borders of short blocks and the reduction in dB at their ends.

    Args:
        levels: of `detect`.
        table: rows of threshold in dB, slope above it, knee and limit in dB, the shares of what is missing that a block
            makes up (attack, release, and release of what has not lasted), and the mix.
        entering: the block at which the song is entered: the gain begins with what it wants. Negative: it was before.
        state: ``[bands, 4]``, carried on: reduction in dB, its average, the gain reached, the largest reduction.
        result: ``[2, bands, blocks + 1]``, gains and reduction, which has none in the last place.
    """
    gains, reduction = result[0], result[1]
    per_db = -np.log(10.0) / 20.0
    for band in range(levels.shape[0]):
        threshold, slope, knee, limit, attack, release, fast, mix = table[band]
        lowest = 10.0 ** ((threshold - knee / 2.0) / 10.0)
        held, average, gain, largest = state[band]
        gains[band, 0] = gain
        for place in range(levels.shape[1]):
            wanted = 0.0
            if levels[band, place] > lowest:
                over = 10.0 * np.log10(levels[band, place]) - threshold
                wanted = slope * (over if 2.0 * over >= knee else (over + knee / 2.0) ** 2 / (2.0 * knee))
                wanted = min(wanted, limit)
            if place <= entering:
                held, average = wanted, wanted
            elif wanted > held:
                held += attack * (wanted - held)
            else:
                lasting = min(max(average, wanted), held)
                held -= release * (lasting - wanted) + fast * (held - lasting)
            # From 1e-7 dB on, nothing is what it is: the very input comes out again.
            if held < 1e-7:
                held = 0.0
            average += release * (held - average)
            if average < 1e-7:
                average = 0.0
            gain = 1.0
            if held > 0.0:
                gain += mix * (np.exp(held * per_db) - 1.0)
            if place <= entering:
                gains[band, place] = gain
            gains[band, place + 1] = gain
            taken = held if mix == 1.0 else np.log(gain) / per_db
            reduction[band, place] = taken
            largest = max(largest, taken)
        state[band, 0], state[band, 1], state[band, 2], state[band, 3] = held, average, gain, largest


def apply(samples: np.ndarray, lows: np.ndarray, gains: np.ndarray, block: int, result: np.ndarray) -> None:
    """Each band times its gain, which runs straight from border to border of short blocks, and their sum.

    Written as the input times the gain of the highest band plus each low-passed copy times the difference of the gains
    below and above its corner: where all gains are one, this is the input, bit for bit.
    """
    highest = gains.shape[0] - 1
    values, parts = np.empty(block), np.arange(block) / block
    for number in range(gains.shape[1] - 1):
        start = number * block
        still = True
        for band in range(highest + 1):
            still = still and gains[band, number] == 1.0 and gains[band, number + 1] == 1.0
        if still:
            for channel in range(samples.shape[0]):
                for i in range(start, start + block):
                    result[channel, i] = samples[channel, i]
            continue
        for channel in range(samples.shape[0]):
            first = gains[highest, number]
            rise = gains[highest, number + 1] - first
            for i in range(block):
                values[i] = np.float64(samples[channel, start + i]) * (first + rise * parts[i])
            for band in range(highest):
                first = gains[band, number] - gains[band + 1, number]
                rise = gains[band, number + 1] - gains[band + 1, number + 1] - first
                for i in range(block):
                    values[i] += np.float64(lows[band, channel, start + i]) * (first + rise * parts[i])
            for i in range(block):
                result[channel, start + i] = values[i]
