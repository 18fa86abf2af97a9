"""What a run of a job would take, measured on a sample; writes no table. ``--help`` says how."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import preflight

preflight.check()
preflight.say("loading packages")

import compose
import hydra
import interactive
import schema
from commandline import known_keys
from omegaconf import DictConfig

from pipeline.errors import UserError
from pipeline.workflows.config_checks import nearest


def take_job(words):
    """Take the name of a job from the beginning of a command line, and let the rest be of that job's config.

    Args:
        words: of the command line, the first is the script; a name is taken out.

    Returns:
        the name; that of the main job where the first word is a key or an option.

    Raises:
        UserError: it is none of these.
    """
    word = words[1] if len(words) > 1 else ""
    if not word or word[0] in "-+~" or "=" in word:
        return schema.CURRENT.name
    from pipeline.workflows.known_jobs import JOBS  # here: it loads what declares the stages of all jobs

    if word not in JOBS:
        if word in known_keys():  # of the main job, and its value was forgotten, which is said later
            return schema.CURRENT.name
        raise UserError(f"{word} is not a job: there are {', '.join(JOBS)}{nearest(word, JOBS)}")
    del words[1]
    job = JOBS[word]
    if not {"-h", "--help"}.intersection(words):  # which is that of this file, whatever the job
        schema.of_job(type(job.config({})), job.name, job.script)
    return job.name


ASKS = interactive.take_flag(sys.argv)
try:
    JOB = take_job(sys.argv)
except UserError as error:
    compose.leave(error)
# The main job's keys, and what this file has to say of itself; or those of another job.
CONFIG = "plan_job" if schema.Schema() == schema.CURRENT else schema.CURRENT.name


@hydra.main(version_base="1.3", config_path="../conf", config_name=CONFIG)
def plan(config: DictConfig) -> None:
    """Plan the composed config."""
    # Not for --cfg job: it loads torch and Ray.
    from pipeline.workflows import plan as planning
    from pipeline.workflows.known_jobs import JOBS

    try:
        planning.plan(JOBS[JOB], compose.typed(config), compose.GIVEN, began=preflight.BEGAN)
        compose.EXIT_CODES.append(0)
    except KeyboardInterrupt:
        compose.leave_stopped()
    except UserError as error:  # here, because Hydra would print a traceback and exit with 1
        compose.leave(error)


if __name__ == "__main__":
    compose.run_job(plan, asks=ASKS, about=CONFIG)
