"""The main job: audio files in, tables out. ``--help`` says how."""

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
ahead.start()

import compose
import hydra
import interactive
import sweep
from omegaconf import DictConfig

SWEEP = sweep.Sweep()
compose.MOMENTS.update(shell=preflight.BEGAN, imports=time.time())


@hydra.main(version_base="1.3", config_path="../conf", config_name="extract")
def extract(config: DictConfig) -> None:
    """Run the workflow on the composed config and keep its exit code."""
    from pipeline.workflows.jobs.extract import EXTRACT  # not for --cfg job: it imports what computes

    compose.carry_out(EXTRACT, config, SWEEP)


if __name__ == "__main__":
    compose.run_job(extract, SWEEP.finish, asks=interactive.take_flag(sys.argv))
