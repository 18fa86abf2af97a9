"""What pyproject.toml cannot say: ``jobs/`` and ``conf/`` lie beside the library, and in a wheel inside `soundmill`."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
PATTERNS = ("jobs/*.py", "conf/**/*.yaml")


class WithJobs(build_py):
    """Copies the jobs and their configs into the package. An editable installation runs them where they are."""

    def _beside(self) -> dict[str, str]:
        """File of the checkout → file of the build."""
        found = sorted(path.relative_to(HERE) for pattern in PATTERNS for path in HERE.glob(pattern))
        return {str(path): str(Path(self.build_lib, "soundmill", path)) for path in found}

    def run(self) -> None:
        """Build the library, then add the jobs."""
        super().run()
        if not self.editable_mode:
            for source, target in self._beside().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target, preserve_mode=False)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Everything that `run` writes."""
        added = [] if self.editable_mode else list(self._beside().values())
        return [*super().get_outputs(include_bytecode), *added]


setup(cmdclass={"build_py": WithJobs})
