"""What a run of the main job would take, measured on a sample; writes no table. ``--help`` says how."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import preflight

preflight.check()
preflight.say("loading packages")

import compose
import hydra
from omegaconf import DictConfig

from pipeline.errors import UserError


@hydra.main(version_base="1.3", config_path="../conf", config_name="plan_job")
def plan(config: DictConfig) -> None:
    """Plan the composed config."""
    # Not for --cfg job: it loads torch and Ray.
    from pipeline.workflows import plan as planning
    from pipeline.workflows.jobs.extract import EXTRACT

    try:
        planning.plan(EXTRACT, compose.typed(config), compose.GIVEN, began=preflight.BEGAN)
        compose.EXIT_CODES.append(0)
    except KeyboardInterrupt:
        compose.leave_stopped()
    except UserError as error:  # here, because Hydra would print a traceback and exit with 1
        compose.leave(error)


if __name__ == "__main__":
    compose.run_job(plan)
