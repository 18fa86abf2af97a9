"""The configuration of speech preparation: plain typed dataclasses, see `pipeline.workflows.run_config`."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from pipeline.errors import UserError
from pipeline.models.speech.denoise.names import BACKEND_NAMES as DENOISERS
from pipeline.models.speech.denoise.names import LEAST_DB, MOST_DB
from pipeline.models.speech.diarize_names import BACKEND_NAMES as DIARIZERS
from pipeline.models.speech.diarize_names import OWN_MODELS
from pipeline.models.speech.transcribe.names import BACKEND_NAMES as TRANSCRIBERS
from pipeline.models.speech.transcribe.names import PRECISIONS, SIZES
from pipeline.models.speech.voice_activity.names import BACKEND_NAMES as DETECTORS
from pipeline.speech.clips import Thresholds
from pipeline.speech.linking import THRESHOLD
from pipeline.speech.splitting import METHODS, MIN_PART_S
from pipeline.workflows.config_checks import each_of, filled, one_of, positive, refused
from pipeline.workflows.hardware_config import HardwareConfig
from pipeline.workflows.run_config import RunConfig

GPU_STAGES = ("transcribe",)
POOLS = ("decode", "vad", "denoise", "diarize", "transcribe", "clips")
STEPS = ("split", "denoise", "vad", "diarize", "transcribe", "clips")
MOST_CLIP_S = 600.0
MOST_HOP_S = 60
LISTENING = ("vad", "diarize", "transcribe")
"""Of which clips and parts are made."""
AUTO = "auto"
WITHHELD = ("text", "words")
HEARD = ("raw", "denoised")
_LANGUAGE = re.compile(r"[a-z]{2,3}")

# Optional[...] rather than X | None below: OmegaConf reads these annotations at run time.
# ruff: noqa: UP045


@dataclass
class SpeechOptions:
    """``steps`` are those that are done, in whatever order they are named; ``redact`` is what no table and no file may
    hold: ``text`` (of passages, clips and reports) and ``words``."""

    steps: list[str] = field(default_factory=lambda: list(STEPS))
    redact: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        each_of("speech.steps", self.steps, STEPS)
        each_of("speech.redact", self.redact, WITHHELD)
        if not self.steps:
            raise UserError("speech.steps=[] leaves nothing to do", do=f"speech.steps=[{','.join(STEPS)}]")
        if len(set(self.steps)) < len(self.steps):
            once = ",".join(dict.fromkeys(self.steps))
            raise UserError("speech.steps names a step twice", do=f"speech.steps=[{once}]")
        if "transcribe" in self.steps and "vad" not in self.steps:
            raise UserError(
                "speech.steps has transcribe and not vad",
                "what is written down is looked for where somebody speaks",
                f"speech.steps=[{','.join(s for s in STEPS if s in self.steps or s == 'vad')}]",
            )


@dataclass
class VadOptions:
    """``backend`` is one of `DETECTORS`, or ``auto``: the best by what is heard beside the voice. The others make
    frames a region: ``threshold`` (null is the backend's own), and lengths in seconds."""

    backend: str = AUTO
    threshold: Optional[float] = None
    min_speech_s: float = 0.25
    min_silence_s: float = 0.2
    pad_s: float = 0.03

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        one_of("vad.backend", self.backend, (AUTO, *DETECTORS))
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise refused(self, "vad.threshold", "must lie between 0 and 1, or be null for the backend's own")
        for name in ("min_speech_s", "min_silence_s", "pad_s"):
            if not 0 <= getattr(self, name) < 60:
                raise refused(self, f"vad.{name}", "must lie within 0..60 s")

    def parameters(self) -> dict[str, Any]:
        """Of `pipeline.models.speech.voice_activity.activity.ActivityOptions`."""
        return {k: v for k, v in asdict(self).items() if k != "backend"}


@dataclass
class DenoiseOptions:
    """``backend`` is one of `DENOISERS`, or ``auto``: the first that is here. ``limit_db`` is the most that is taken
    away in the files (null: all that the backend would), ``heard_limit_db`` the same of what is heard where
    ``transcribe.audio=denoised``."""

    backend: str = AUTO
    limit_db: Optional[float] = None
    heard_limit_db: float = 12.0

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        one_of("denoise.backend", self.backend, (AUTO, *DENOISERS))
        for name in ("limit_db", "heard_limit_db"):
            value = getattr(self, name)
            if value is not None and not LEAST_DB <= value <= MOST_DB:
                raise refused(self, f"denoise.{name}", f"must lie within {LEAST_DB:g}..{MOST_DB:g} dB")


@dataclass
class DiarizeOptions:
    """``model`` is of the backends that have several: a folder, or a name in the hub's cache; null is their own. How
    many speak in a recording: ``num_speakers`` is exact, the others are bounds; null is unknown. ``link`` names the
    same voice alike in all recordings of the output, at the end of a run: voices are one from a similarity (cosine) of
    ``link_threshold`` on; null is that of the first backend, which nobody knows of the others."""

    backend: str = DIARIZERS[0]
    model: Optional[str] = None
    num_speakers: Optional[int] = None
    min_speakers: Optional[int] = None
    max_speakers: Optional[int] = None
    link: bool = False
    link_threshold: Optional[float] = None

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        one_of("diarize.backend", self.backend, DIARIZERS)
        if self.model is not None and self.backend not in OWN_MODELS:
            why = f"is for diarize.backend={' and '.join(OWN_MODELS)}: {self.backend} has one model only"
            raise refused(self, "diarize.model", why)
        for name in ("num_speakers", "min_speakers", "max_speakers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise refused(self, f"diarize.{name}", "must be at least 1, or null where nobody knows")
        if self.num_speakers is not None and (self.min_speakers, self.max_speakers) != (None, None):
            raise UserError(
                f"diarize.num_speakers={self.num_speakers} does not go with bounds",
                "it is exact",
                "diarize.min_speakers=null diarize.max_speakers=null",
            )
        low, high = self.min_speakers or 1, self.max_speakers
        if high is not None and low > high:
            raise UserError(
                f"diarize.min_speakers={low} is more than diarize.max_speakers={high}",
                do=f"diarize.max_speakers={low}",
            )
        if not -1 <= self.threshold() <= 1:
            raise refused(self, "diarize.link_threshold", "must lie within -1..1: it is a cosine")
        if self.link and self.link_threshold is None and self.backend != DIARIZERS[0]:
            raise UserError(
                f"diarize.link=true needs diarize.link_threshold with diarize.backend={self.backend}",
                f"{THRESHOLD:g} is for the voices of {DIARIZERS[0]}",
                "diarize.link_threshold=0.85",
            )

    def threshold(self) -> float:
        """From which similarity on two voices are one."""
        return THRESHOLD if self.link_threshold is None else self.link_threshold

    def parameters(self) -> dict[str, Any]:
        """Of `pipeline.speech.clustering.SpeakerCounts`."""
        return {"num": self.num_speakers, "minimum": self.min_speakers or 1, "maximum": self.max_speakers}


@dataclass
class TranscribeConfig:
    """``model`` is ``auto``, the largest that is here of those that the machine is for (``hardware.models.transcribe``;
    ``base`` without a card); ``base`` (many languages), ``tiny.en``, the name of another Whisper model that lies in the
    hub's cache here, or a folder. ``language`` is ISO 639-1; null finds it out. ``audio`` is what it hears: ``raw``, or
    ``denoised`` with at most ``denoise.heard_limit_db`` taken away."""

    backend: str = TRANSCRIBERS[0]
    model: str = AUTO
    precision: str = AUTO
    beam: int = 5
    language: Optional[str] = None
    audio: str = "raw"

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        one_of("transcribe.backend", self.backend, TRANSCRIBERS)
        one_of("transcribe.precision", self.precision, PRECISIONS)
        one_of("transcribe.audio", self.audio, HEARD)
        if not 1 <= self.beam <= 10:
            raise refused(self, "transcribe.beam", "must lie within 1..10")
        if self.language is not None and not _LANGUAGE.fullmatch(self.language):
            raise refused(self, "transcribe.language", "must be a code such as en, or null to find it out")

    def parameters(self) -> dict[str, Any]:
        """Of `pipeline.models.speech.transcribe.names.TranscribeOptions`."""
        return {"model": self.model, "precision": self.precision, "beam": self.beam}


@dataclass
class SplitOptions:
    """How a recording is cut into parts of at most ``max_seconds``: never in a word and never across speakers
    (``word``), in the longest silences (``silence``), or at exact times (``time``). ``files`` writes their audio."""

    method: str = "word"
    max_seconds: float = 300.0
    files: bool = False

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        one_of("split.method", self.method, METHODS)
        positive(self, "split.max_seconds")
        if self.max_seconds < MIN_PART_S:
            raise refused(self, "split.max_seconds", f"must be at least {MIN_PART_S:g}")


@dataclass
class ClipOptions:
    """Clips of one speaker of ``min_seconds`` to ``max_seconds``. ``files`` writes those that are kept, and
    ``files_of_dropped`` the others, too. ``dnsmos`` predicts the quality of each, from windows
    ``dnsmos_hop_seconds`` apart. The thresholds say what is kept; null asks for nothing."""

    min_seconds: float = 5.0
    max_seconds: float = 20.0
    margin_seconds: float = 0.2
    pause_seconds: float = 1.0
    files: bool = True
    files_of_dropped: bool = False
    dnsmos: bool = True
    dnsmos_hop_seconds: int = 3
    max_overlap_ratio: Optional[float] = 0.1
    min_speech_ratio: Optional[float] = 0.5
    max_no_speech_prob: Optional[float] = 0.6
    min_words: Optional[int] = 2
    min_word_probability: Optional[float] = 0.5
    min_avg_logprob: Optional[float] = -1.0
    max_compression_ratio: Optional[float] = 2.4

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        for name in ("min_seconds", "max_seconds"):
            positive(self, f"clips.{name}")
        for name in ("margin_seconds", "pause_seconds"):
            if not 0 <= getattr(self, name) < 60:
                raise refused(self, f"clips.{name}", "must lie within 0..60 s")
        for name in ("max_overlap_ratio", "min_speech_ratio", "max_no_speech_prob", "min_word_probability"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise refused(self, f"clips.{name}", "must lie within 0..1, or be null to ask for nothing")
        for name in ("min_words", "max_compression_ratio"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise refused(self, f"clips.{name}", "must not be negative, or be null to ask for nothing")
        if not 1 <= self.dnsmos_hop_seconds <= MOST_HOP_S:
            raise refused(self, "clips.dnsmos_hop_seconds", f"must lie within 1..{MOST_HOP_S} s")
        if self.max_seconds > MOST_CLIP_S:
            raise refused(
                self, "clips.max_seconds", f"must be at most {MOST_CLIP_S:g}: longer pieces are parts"
            )
        if self.max_seconds - 2 * self.margin_seconds < self.min_seconds:
            raise UserError(
                f"clips.max_seconds={self.max_seconds:g} leaves no room",
                "a clip of clips.min_seconds with a margin on both sides has to fit",
                f"clips.max_seconds={self.min_seconds + 2 * self.margin_seconds:g}",
            )

    def thresholds(self) -> dict[str, Any]:
        """Of `pipeline.speech.clips.Thresholds`."""
        own = {name: getattr(self, name) for name in Thresholds.__dataclass_fields__ if hasattr(self, name)}
        return {**own, "min_s": self.min_seconds, "max_s": self.max_seconds}

    def parameters(self) -> dict[str, Any]:
        """Of the stage."""
        names = (
            "min_seconds",
            "max_seconds",
            "margin_seconds",
            "pause_seconds",
            "files",
            "files_of_dropped",
            "dnsmos",
            "dnsmos_hop_seconds",
        )
        return {**{name: getattr(self, name) for name in names}, "thresholds": self.thresholds()}


@dataclass
class SpeechConfig(RunConfig):
    """Everything ``jobs/prepare_speech.py`` can be told."""

    hardware: HardwareConfig = field(default_factory=lambda: HardwareConfig.for_stages(POOLS, GPU_STAGES))
    speech: SpeechOptions = field(default_factory=SpeechOptions)
    split: SplitOptions = field(default_factory=SplitOptions)
    vad: VadOptions = field(default_factory=VadOptions)
    denoise: DenoiseOptions = field(default_factory=DenoiseOptions)
    diarize: DiarizeOptions = field(default_factory=DiarizeOptions)
    transcribe: TranscribeConfig = field(default_factory=TranscribeConfig)
    clips: ClipOptions = field(default_factory=ClipOptions)

    def pools(self) -> tuple[str, ...]:
        """All steps but splitting, which clips do."""
        return POOLS

    def gpu_stages(self) -> tuple[str, ...]:
        """Words are recognised on a card, where there is one; all else runs on the CPU."""
        return GPU_STAGES

    def chosen_by_machine(self) -> tuple[str, ...]:
        """What recognises words: there is a Whisper for every machine."""
        return GPU_STAGES

    def questions(self) -> tuple[str, ...]:
        """The places, the steps, and what is worth asking of each that is wanted."""
        of_steps = {
            "split": ("split.method", "split.max_seconds"),
            "diarize": ("diarize.num_speakers",),
            "transcribe": ("transcribe.model", "transcribe.language"),
        }
        wanted = (key for step, keys in of_steps.items() if self.has(step) for key in keys)
        return (*super().questions(), "speech.steps", *wanted)

    def has(self, step: str) -> bool:
        """Whether a step is wanted."""
        return step in self.speech.steps

    def check(self) -> None:
        """Refuse what cannot work, in words that name the key. Raises `UserError`."""
        super().check()
        for stage, model in self.hardware.models.items():
            one_of(f"hardware.models.{stage}", model, SIZES)
        for section in (
            self.speech,
            self.split,
            self.vad,
            self.denoise,
            self.diarize,
            self.transcribe,
            self.clips,
        ):
            section.check()
        self._check_steps()

    def _check_steps(self) -> None:
        """Raises `UserError` where a step lacks what it is made of."""
        if not any(map(self.has, LISTENING)):
            for step in ("clips", "split"):
                if self.has(step) and not (step == "split" and self.split.method == "time"):
                    raise UserError(
                        f"speech.steps has {step} and nothing that listens",
                        f"{step} is made of what {', '.join(LISTENING)} find",
                        f"speech.steps=[{','.join(s for s in STEPS if self.has(s) or s in LISTENING)}]",
                    )
        if self.diarize.link and not self.has("diarize"):
            raise UserError(
                "diarize.link=true needs the step diarize",
                "it compares the voices that diarize tells apart",
                f"speech.steps=[{','.join(s for s in STEPS if self.has(s) or s == 'diarize')}]",
            )
        if self.has("transcribe") and self.transcribe.audio == "denoised" and not self.has("denoise"):
            raise UserError(
                "transcribe.audio=denoised needs the step denoise",
                "nobody takes the noise away otherwise",
                f"speech.steps=[{','.join(s for s in STEPS if self.has(s) or s == 'denoise')}]",
            )


def config_from(values: dict[str, Any]) -> SpeechConfig:
    """The config that a run wrote down as ``config.yaml``; what it does not say, or this version does not know, is
    the default."""
    config = filled(SpeechConfig(), values)
    if config.hardware.name == AUTO:
        # What was worked out for the cards of that run is worked out anew for those of this one.
        hardware = config.hardware
        hardware.gpu_shares, hardware.batch_items = (dict.fromkeys(GPU_STAGES, 0) for _ in range(2))
    return config
