"""Recordings in, who says what when out: regions, turns, words, clips. ``--help`` says how."""

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
ahead.start(("pipeline.stages.decode.worker", "pipeline.workflows.jobs.speech", "pipeline.engine.sink"))

import compose
import hydra
import interactive
import old_flags
import schema
import sweep
from omegaconf import DictConfig

from pipeline.errors import UserError
from pipeline.workflows.speech_config import SpeechConfig

SWEEP = sweep.Sweep()
schema.of_job(SpeechConfig, "speech", "prepare_speech.py")
compose.MOMENTS.update(shell=preflight.BEGAN, imports=time.time())


@hydra.main(version_base="1.3", config_path="../conf", config_name="speech")
def prepare_speech(config: DictConfig) -> None:
    """Run the workflow on the composed config and keep its exit code."""
    from pipeline.workflows.jobs.speech import SPEECH  # not for --cfg job: it imports what computes

    compose.carry_out(SPEECH, config, SWEEP)


if __name__ == "__main__":
    asks = interactive.take_flag(sys.argv)
    try:
        old_flags.take(sys.argv)
    except UserError as error:
        compose.leave(error)
    compose.run_job(prepare_speech, SWEEP.finish, asks=asks)
