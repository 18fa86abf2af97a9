"""The main job: audio files in, tables out. ``--help`` says how."""

import sys
from pathlib import Path

# A job that is submitted to a cluster runs from an uploaded copy that nothing has installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import compose
import hydra
from omegaconf import DictConfig

from pipeline.errors import UserError
from pipeline.workflows import features


@hydra.main(version_base="1.3", config_path="../conf", config_name="extract")
def extract(config: DictConfig) -> None:
    """Run the workflow on the composed config and keep its exit code."""
    try:
        compose.EXIT_CODES.append(features.run(compose.typed(config), given=compose.GIVEN).exit_code)
    except UserError as error:  # here, because Hydra would print a traceback and exit with 1
        compose.leave(error)


if __name__ == "__main__":
    compose.run_job(extract)
