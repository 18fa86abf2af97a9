"""The flags of older scripts for preparing speech, ``--input X --output Y``: understood, and said as keys.

Only ``jobs/prepare_speech.py`` takes them; Hydra never sees one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from commandline import known_keys
from interactive import FLAG, as_command
from schema import CURRENT

from pipeline.errors import UserError
from pipeline.workflows.config_checks import nearest_of
from pipeline.workflows.speech_config import STEPS

KEYS = {
    "input": "source.uri",
    "output": "output.uri",
    "steps": "speech.steps",
    "chunk_duration": "split.max_seconds",
    "split_method": "split.method",
    "use_gpu": "hardware",
    "workers": "ray.num_cpus",
}
"""Old flag, without its dashes → the key that it is now."""
EXAMPLES = {
    "source.uri": "FOLDER",
    "output.uri": "FOLDER",
    "speech.steps": "[vad,diarize,transcribe]",
    "split.max_seconds": "300",
    "split.method": "word",
    "hardware": "auto",
    "ray.num_cpus": "4",
}
METHODS = {
    "word_boundary": "word",
    "words": "word",
    "silences": "silence",
    "fixed": "time",
    "duration": "time",
}
STEP_WORDS = {
    **dict.fromkeys(("splitting", "chunk", "chunks", "chunking"), "split"),
    **dict.fromkeys(("denoising", "noise_reduction", "enhance", "enhancement"), "denoise"),
    **dict.fromkeys(("voice_activity", "voice_activity_detection", "speech_detection"), "vad"),
    **dict.fromkeys(("diarization", "diarisation", "diarise", "speakers"), "diarize"),
    **dict.fromkeys(("transcription", "transcript", "asr", "stt"), "transcribe"),
    **dict.fromkeys(("clip", "clipping", "segments"), "clips"),
}
"""What the steps were called elsewhere."""
HYDRA = (
    "--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun",
    "--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun", "--info",
)  # fmt: skip
"""Hydra's own long options, which it takes shortened, too."""
_SWITCH = {"true": "auto", "1": "auto", "yes": "auto", "false": "cpu", "0": "cpu", "no": "cpu"}


@dataclass
class Translation:
    """A command line without old flags.

    Args:
        words: what it is now.
        notes: what is not plain from the new spelling, a line each.
        found: whether there was an old flag.
    """

    words: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    found: bool = False


def take(words: list[str]) -> None:
    """Translate a command line in place, its first word being the script, and show what it was understood as.

    Raises:
        UserError: a flag that nobody knows, or one without its value.
    """
    made = translated(words[1:])
    if made.found:
        words[1:] = made.words
        for line in (f"understood as: {as_command(made.words)}", *made.notes):
            print(line, file=sys.stderr, flush=True)


def translated(words: Sequence[str]) -> Translation:
    """The command line with a key for each old flag. Raises `UserError`, see `take`."""
    made, left = Translation(), list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--") or _is_hydras(word):
            made.words.append(word)
            continue
        flag, given, value = word.partition("=")
        name = flag[2:].lower().replace("-", "_")
        if name not in KEYS:
            raise unknown(flag, name)
        values = [value] if given else list(_taken(name, left))
        if name != "use_gpu" and not "".join(values).strip():
            key = KEYS[name]
            raise UserError(f"{flag} has no value", do=f"{key}={EXAMPLES[key]}")
        made.found = True
        made.words.append(f"{KEYS[name]}={_value(name, values, made.notes)}")
    return made


def unknown(flag: str, name: str) -> UserError:
    """What to say of a flag that is none of the old ones, nor Hydra's: the nearest flag or key, and what to type.

    Args:
        flag: as it was typed.
        name: the same without dashes.
    """
    keys = [key for key in known_keys() if "." in key and not key.endswith("*")]
    leaves = {key.rpartition(".")[2] for key in keys}
    options = {option[2:].replace("-", "_"): option for option in HYDRA}
    near = nearest_of(name, (*KEYS, *options, *sorted(leaves - KEYS.keys())))
    if near in KEYS:
        do = f"{KEYS[near]}={EXAMPLES[KEYS[near]]}"
    elif near in options:
        do = options[near]
    elif near:
        do = " or ".join(f"{key}=VALUE" for key in keys if key.rpartition(".")[2] == near)
    else:
        do = "python jobs/prepare_speech.py --help"
    return UserError(f"{flag} is not an option here", "settings are keys with a value: key=value", do)


def _is_hydras(word: str) -> bool:
    name = word.partition("=")[0]
    return name in ("--", FLAG) or any(option.startswith(name) for option in HYDRA)


def _taken(name: str, left: list[str]) -> Iterator[str]:
    """Take the words of a flag's value from what follows it: one, of steps all that are no option and no override."""
    while left and not left[0].startswith("-"):
        if name == "use_gpu" and left[0].lower() not in _SWITCH:
            return
        if name == "steps" and "=" in left[0]:
            return
        yield left.pop(0)
        if name != "steps":
            return


def _value(name: str, values: list[str], notes: list[str]) -> str:
    """The new value of an old one; what it does not say by itself is added to the notes."""
    if name == "steps":
        return _steps(values, notes)
    if name == "use_gpu":
        return _hardware(values, notes)
    [value] = values
    if name == "split_method":
        return METHODS.get(value.lower().replace("-", "_"), value)
    if name == "workers":
        notes.append(
            "note: ray.num_cpus are the cores of this machine for the whole run, not workers of each step"
        )
    return value


def _steps(values: list[str], notes: list[str]) -> str:
    """The list of steps; a word that is no step stays, and is refused by the config's own check."""
    words = [word for word in re.split(r"[\s,\[\]'\"]+", " ".join(values).lower()) if word]
    if "all" in words:
        return f"[{','.join(STEPS)}]"
    steps = [STEP_WORDS.get(word.replace("-", "_"), word) for word in words]
    if "transcribe" in steps and "vad" not in steps:
        notes.append("note: vad is added: what is written down is looked for where somebody speaks")
        steps.insert(steps.index("transcribe"), "vad")
    return f"[{','.join(dict.fromkeys(steps))}]"


def _hardware(values: list[str], notes: list[str]) -> str:
    """The profile; a word that is neither yes nor no stays, and is refused as one that is no profile."""
    word = values[0].lower() if values else "true"
    if _SWITCH.get(word) == "auto":
        on_cards = ", ".join(CURRENT.config().gpu_stages()) or "nothing"
        notes.append(
            f"note: hardware=auto takes a GPU for {on_cards}, and all else of this job runs on the CPU"
        )
    return _SWITCH.get(word, word)


if __name__ == "__main__":
    import preflight

    preflight.no_job(__doc__, "python jobs/prepare_speech.py --help")
