"""A job in a file: a stage makes a view, another writes a table and a text of what is loud in it (1/2 is too much)."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.dataset.cache.entry import Entry
from pipeline.engine.batch import Blob
from pipeline.engine.declare import Artifact, Pipeline, Product, Stage, Table, View
from pipeline.engine.made_views import MadeView
from pipeline.engine.worker import Worker
from pipeline.features.base import column, stable_key
from pipeline.workflows.job import Found, Job
from pipeline.workflows.run_config import RunConfig

RATE = 8000
MONO, SOFT = View("mono", RATE, 1), View("soft", RATE, 1, maker="soften")
SECONDS = Table(
    "seconds",
    (column("second", pa.int32(), "s", "which"), column("peak", pa.float32(), "1", "of the second")),
    key="second",
    count="loud_seconds",
)
NOTES = Artifact("notes", ".txt", b"loud: ", files={"loud_seconds": "loud.txt"}, noun="note")


@dataclass
class ToyConfig(RunConfig):
    """How much is left of the level, and from which peak on a second is loud."""

    factor: float = 0.5
    loud: float = 0.1


class Soften(Worker):
    def process(self, tracks, clock):
        for track in tracks:
            made = MadeView(track, SOFT, 1, RATE)
            total = sum(made.write(self.factor * block) for block in self.blocks(track, MONO))
            made.done()
            if track.due:
                track.values["soft_samples"] = total
                self.done(track, "soft", Entry({"soft_samples": total}))


class Listen(Worker):
    def process(self, tracks, clock):
        for track in tracks:
            peaks = [float(np.abs(block).max()) for block in self.blocks(track, SOFT, RATE)]
            if max(peaks) == 0.5:
                self.fail(track, "loud", ValueError("too loud"))
                continue
            loud = [(n, peak) for n, peak in enumerate(peaks) if peak >= self.loud]
            track.rows["seconds"] = [{"second": n, "peak": peak} for n, peak in loud]
            track.values["loud_seconds"] = len(loud)
            path, text = NOTES.path(track.asset_id, "loud.txt"), f"loud: {[n for n, _ in loud]}\n".encode()
            track.blobs.append(Blob(path, "loud", [len(text)], text))
            self.done(track, "loud")


class Toy(Found):
    def pipeline(self, config, output=None, *, everywhere=False, golden=None):
        samples = column("soft_samples", pa.int64(), "1", "at 8 kHz")
        count = column("loud_seconds", pa.int32(), "1", "seconds that are loud")
        soft = Product("soft", (samples,), key=stable_key({"factor": config.factor}))
        key = stable_key({"loud": config.loud})
        loud = Product("loud", (count,), key=key, tables=(SECONDS,), artifacts=(NOTES,), rank=1)
        gain, least = {"factor": config.factor}, {"loud": config.loud}
        soften = Stage("soften", f"{__name__}:Soften", (soft,), (MONO,), (SOFT,), arguments=gain, torch=False)
        listen = Stage("listen", f"{__name__}:Listen", (loud,), (SOFT,), arguments=least, torch=False)
        return Pipeline((soften, listen)).linked()


TOY = Job("toy", "toy.py", config=lambda values: ToyConfig(), find=lambda config: Toy(), unsought=Toy)
