"""Songs in, masters out, true to their loudness, and a table of what was done. ``--help`` says how."""

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
ahead.start(("pipeline.stages.decode.worker", "pipeline.workflows.jobs.master", "pipeline.engine.sink"))

import compose
import hydra
import interactive
import schema
import sweep
from omegaconf import DictConfig

from pipeline.workflows.master_config import MasterConfig

SWEEP = sweep.Sweep()
schema.of_job(MasterConfig, "master", "master.py")
compose.MOMENTS.update(shell=preflight.BEGAN, imports=time.time())


@hydra.main(version_base="1.3", config_path="../conf", config_name="master")
def master(config: DictConfig) -> None:
    """Run the workflow on the composed config and keep its exit code."""
    from pipeline.workflows.jobs.master import MASTER  # not for --cfg job: it imports what computes

    compose.carry_out(MASTER, config, SWEEP)


if __name__ == "__main__":
    compose.run_job(master, SWEEP.finish, asks=interactive.take_flag(sys.argv))
