"""Masters that are listened to before they are done, by HTTP and WebSocket. ``--help`` says how."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import preflight

preflight.check()
preflight.say("loading packages")

import environment_file

environment_file.load()

import compose
import hydra
import schema
from omegaconf import DictConfig

from pipeline.errors import UserError
from pipeline.workflows.master_service_config import MasterServiceConfig

schema.of_job(MasterServiceConfig, "master_service", "master_service.py")


@hydra.main(version_base="1.3", config_path="../conf", config_name="master_service")
def serve(config: DictConfig) -> None:
    """Run the service on the composed config and keep its exit code."""
    from pipeline.workflows.master_service import run_service  # not for --cfg job: it imports what computes

    try:
        compose.EXIT_CODES.append(run_service(compose.typed(config)))
    except KeyboardInterrupt:
        compose.leave_stopped()
    except UserError as error:  # here, because Hydra would print a traceback and exit with 1
        compose.leave(error)


if __name__ == "__main__":
    compose.run_job(serve)
