"""What the headers say of the files to do: hours of audio, formats, what cannot be read; and which files to try."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from pipeline.dataset.sources.addresses import file_name
from pipeline.dataset.sources.probing import Header, read_headers
from pipeline.dataset.sources.sampling import Range, choose, extrapolate, strata, wilson
from pipeline.engine.packing import PlannedFile, estimated_seconds
from pipeline.workflows.plan_config import PlanConfig

BROKEN_TRIED = 8
"""Files without a readable header that are decoded all the same: what is wrong with them shows only then."""


@dataclass
class Look:
    """What was seen.

    Args:
        files: to do.
        headers: number in ``files`` → its header; of a sample where there are many.
        sizes: bytes of each file, None where nobody says.
        audio_s: of all files whose header can be read.
        unreadable: share of files without a readable header, with its range.
    """

    files: Sequence[PlannedFile]
    headers: dict[int, Header]
    sizes: list[int | None]
    audio_s: Range
    unreadable: Range
    _: KW_ONLY
    formats: list[dict[str, Any]] = field(default_factory=list)

    @property
    def good(self) -> list[int]:
        """Those with a readable header."""
        return [i for i, h in self.headers.items() if h.probe is not None]

    @property
    def broken(self) -> list[int]:
        """Those without."""
        return [i for i, h in self.headers.items() if h.probe is None]

    @property
    def complete(self) -> bool:
        """Whether every header was read."""
        return len(self.headers) == len(self.files)

    def seconds(self, index: int) -> float | None:
        """What the header of a file says; None where it says nothing."""
        header = self.headers.get(index)
        return header.probe.duration_s if header is not None and header.probe is not None else None

    def durations(self) -> np.ndarray:
        """Of the files whose header says one, seconds, sorted."""
        return np.sort(np.array([s for s in map(self.seconds, self.headers) if s is not None]))


def look(
    files: Sequence[PlannedFile],
    options: dict[str, Any],
    plan: PlanConfig,
    said: Callable[[int, int], None] = lambda done, of: None,
) -> Look:
    """Read the headers: all of them, or of more than ``plan.headers`` files those of a sample by suffix and size.

    Args:
        options: storage options of the source.
        said: told how many of how many are read.
    """
    items = [f.item for f in files]
    sizes = [i.size_bytes for i in items]
    names = [i.uri for i in items]
    groups = strata([_suffix(name) for name in names], sizes)
    chosen = list(range(len(items)))
    if len(items) > plan.headers:
        chosen = sorted(choose(groups, sizes, names, plan.headers, plan.seed))
    found = read_headers([items[i] for i in chosen], options, said=lambda done: said(done, len(chosen)))
    headers = dict(zip(chosen, found, strict=True))
    sizes = [headers[i].size_bytes if i in headers and s is None else s for i, s in enumerate(sizes)]
    known = {i: 0.0 if h.probe is None else h.probe.duration_s for i, h in headers.items()}
    audio = extrapolate(groups, sizes, {i: s for i, s in known.items() if s is not None}, plan.seed)
    bad = sum(h.probe is None for h in found)
    low, high = wilson(bad, len(found))
    rate = bad / len(found) if found else 0.0
    if len(chosen) == len(items):
        low = high = rate
    return Look(files, headers, sizes, audio, Range(low, rate, high), formats=_formats(found, len(items)))


def _suffix(name: str) -> str:
    return PurePosixPath(file_name(name)).suffix.lower()


def _formats(headers: Sequence[Header], files: int) -> list[dict[str, Any]]:
    """The forms of audio, the most frequent first; ``files`` is scaled up where a sample was read."""
    counts: Counter[tuple] = Counter()
    seconds: Counter[tuple] = Counter()
    for header in headers:
        if header.probe is not None:
            p = header.probe
            form = (p.container, p.codec, p.sample_rate, p.channels)
            counts[form] += 1
            seconds[form] += p.duration_s or 0.0
    scale = files / len(headers) if headers else 0.0
    names = ("container", "codec", "sample_rate", "channels")
    return [
        {
            **dict(zip(names, form, strict=True)),
            "files": round(count * scale),
            "audio_s": seconds[form] * scale,
        }
        for form, count in counts.most_common()
    ]


@dataclass(frozen=True)
class Picked:
    """The files of the measured sample, as numbers in the list of files to do.

    Args:
        files: with a readable header.
        broken: without.
        too_long: how many with a header were passed over for their length.
        longest_s: so long a file could be.
    """

    files: list[int]
    broken: list[int]
    too_long: int = 0
    longest_s: float = 0.0


def pick(seen: Look, plan: PlanConfig) -> Picked:
    """Choose them by suffix and size: no more audio than ``plan.max_minutes`` and a quarter of all there is, but for
    a minute; and no file longer than half of that. Where all are longer, the shortest one alone.
    """
    if not plan.sample:
        return Picked([], [])

    def length(index: int) -> float:
        seconds = seen.seconds(index)
        return estimated_seconds(seen.files[index].item) if seconds is None else seconds

    most = min(60.0 * plan.max_minutes, max(60.0, seen.audio_s.expected / 4))
    good = seen.good
    short = [i for i in good if length(i) <= most / 2]
    pool = short or sorted(good, key=length)[:1]
    chosen: list[int] = []
    total = 0.0
    for index in _ordered(seen, pool, plan.sample, plan.seed):
        if not chosen or total + length(index) <= most:
            chosen.append(index)
            total += length(index)
    broken = _ordered(seen, seen.broken, BROKEN_TRIED, plan.seed)
    return Picked(chosen, broken, len(good) - len(short), most / 2)


def _ordered(seen: Look, pool: Sequence[int], count: int, seed: int) -> list[int]:
    names = [seen.files[i].item.uri for i in pool]
    sizes = [seen.sizes[i] for i in pool]
    kinds = [(_suffix(name), seen.files[i].todo) for name, i in zip(names, pool, strict=True)]
    return [pool[k] for k in choose(strata(kinds, sizes), sizes, names, count, seed)]
