"""Writes the pins anew: ``python tests/pins/renew.py``, or with ``--hashes`` only the hashes of this machine.

When that is legitimate
    ``--hashes``: at any time on a machine that has none; all other pins must hold there first, and it says so.
    Without: when what the job computes or writes was to change, and CHANGELOG.md says so: a column is added or mended,
    an extractor's version is raised, a library is updated. Look at the diff of the JSON files: it must hold that
    change and nothing else. Never to make a refactoring pass: that moved code computes what it computed is what the
    pins are for. ``output_v1`` is never renewed: it is what an older version left behind (`make_output_v1.py`).

Needs the real audio, see CONTRIBUTING.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
sys.path[:0] = [str(REPO), str(HERE), str(REPO / "tests" / "sequences")]

import pin_checkpoint  # noqa: E402
import pin_outputs  # noqa: E402
import pin_runs  # noqa: E402
import pin_seams  # noqa: E402
import pin_sources  # noqa: E402
from pin_compare import differences, fingerprint, load, save  # noqa: E402


def shared_audio() -> Path:
    """As the fixture of that name finds it."""
    return Path(os.environ.get("SOUNDMILL_TEST_AUDIO", REPO.parent / "shared" / "audio"))


def main(arguments: list[str]) -> str:
    """Compute and write; what was done, in a line."""
    if not pin_sources.SYNTHETIC.is_dir():
        pin_sources.make_synthetic(pin_sources.SYNTHETIC)
    if not (shared_audio() / "music").is_dir():
        return (
            f"no real audio at {shared_audio()}; set SOUNDMILL_TEST_AUDIO to a folder with music/ and speech/"
        )
    with tempfile.TemporaryDirectory() as scratch, pin_seams.in_this_process():
        root = Path(scratch)
        checkpoint = pin_checkpoint.write_checkpoint(root / "clap.pt")
        default = pin_runs.run_default(root / "default")
        everything = pin_runs.run_everything(root / "everything", checkpoint, shared_audio())
        content = {
            "declared": {"parts": pin_runs.parts(), **{r.name: r.declared for r in (default, everything)}},
            "values": {r.name: pin_outputs.values(r.output, r.source) for r in (default, everything)},
            "sources": everything.sources(),
        }
        bits = {r.name: pin_outputs.hashes(r.output, r.source) for r in (default, everything)}
    own: dict[str, Any] = {"machine": fingerprint(), "hashes": bits}
    if "--hashes" in arguments:
        apart = [line for name in content for line in differences(load(name), content[name], name)]
        if apart:
            return "other pins do not hold here, and nothing was written:\n" + "\n".join(apart)
        others = [h for h in load("hashes") if h["machine"] != own["machine"]]
        save("hashes", [*others, own])
        return "the hashes of this machine were written"
    for name, pins in content.items():
        save(name, pins)
    save("hashes", [own])  # those of other machines may be of what is no longer computed
    return "all pins were written"


if __name__ == "__main__":
    print(main(sys.argv[1:]))
