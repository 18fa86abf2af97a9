"""Which job a command line is of: the class of its config, and the file in conf/ that it begins with.

The main job's, unless the command says otherwise: `of_job`, before anything is composed.
"""

from dataclasses import dataclass

from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.run_config import RunConfig


@dataclass
class Schema:
    """What the command lines of this process are checked against.

    Args:
        config: a dataclass that fills itself with defaults.
        name: of the file in ``conf/``, without its suffix; ``<name>_schema`` is what that file builds on.
        script: the job, as it is typed.
    """

    config: type[RunConfig] = ExtractConfig
    name: str = "extract"
    script: str = "extract_features.py"


CURRENT = Schema()


def of_job(config: type[RunConfig], name: str, script: str) -> None:
    """Say which job this process is."""
    CURRENT.config, CURRENT.name, CURRENT.script = config, name, script


if __name__ == "__main__":
    import preflight

    preflight.no_job(__doc__, "python jobs/extract_features.py --help")
