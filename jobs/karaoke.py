"""Songs in, instrumentals out, and a table of how good each is. ``--help`` says how."""

import sys
import time
from pathlib import Path

# A job that is submitted to a cluster runs from an uploaded copy that nothing has installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import ahead
import preflight

preflight.check()
preflight.say("loading packages")
ahead.start(("pipeline.stages.decode.worker", "pipeline.workflows.jobs.karaoke", "pipeline.engine.sink"))

import compose
import hydra
import interactive
import schema
import sweep
from omegaconf import DictConfig

from pipeline.workflows.karaoke_config import KaraokeConfig

SWEEP = sweep.Sweep()
schema.of_job(KaraokeConfig, "karaoke", "karaoke.py")
compose.MOMENTS.update(shell=preflight.BEGAN, imports=time.time())


@hydra.main(version_base="1.3", config_path="../conf", config_name="karaoke")
def karaoke(config: DictConfig) -> None:
    """Run the workflow on the composed config and keep its exit code."""
    from pipeline.workflows.jobs.karaoke import KARAOKE  # not for --cfg job: it imports what computes

    compose.carry_out(KARAOKE, config, SWEEP)


if __name__ == "__main__":
    compose.run_job(karaoke, SWEEP.finish, asks=interactive.take_flag(sys.argv))
