"""Speech preparation: from its config and the networks that were found to its stages."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.dataset.output import Output
from pipeline.dataset.storage import one_line
from pipeline.engine.declare import Pipeline, Product, Stage
from pipeline.errors import Fallback, UserError
from pipeline.features.golden import Golden
from pipeline.models.speech.transcribe.names import AUTO
from pipeline.stages.clips.spec import CLIPS, PARTS, TEXTS, WORDS, clips_products, clips_stage
from pipeline.stages.denoise.spec import DENOISED, denoise_product, denoise_stage
from pipeline.stages.diarize.spec import diarize_product, diarize_stage
from pipeline.stages.transcribe.spec import transcribe_product, transcribe_stage
from pipeline.stages.vad.spec import VIEW, vad_product, vad_stage
from pipeline.workflows import whisper_choice
from pipeline.workflows.job import Found, Job
from pipeline.workflows.speech_config import SpeechConfig, config_from
from pipeline.workflows.whisper_choice import WHISPER

NETWORKS = ("vad", "denoise", "diarize", "transcribe")
"""The steps that need weights."""


@dataclass(frozen=True)
class FoundBackend:
    """What does a step here.

    Args:
        name: of the backend.
        model: its version and weights.
        sample_rate: that it works at, Hz.
        reason: why it is this one.
        size: of the model, where there are several.
    """

    name: str
    model: str
    sample_rate: int = 16_000
    reason: str = ""
    size: str = ""


UNSOUGHT = {
    "vad": FoundBackend("energy", ""),
    "denoise": FoundBackend("deepfilternet", "", 48_000),
    "diarize": FoundBackend("campplus", ""),
    "transcribe": FoundBackend("whisper", "", size="base"),
}


@dataclass
class SpeechModels(Found):
    """What was found.

    Args:
        backends: step → what does it.
        dnsmos: version and weights of what judges clips; None where nobody does.
    """

    backends: dict[str, FoundBackend] = field(default_factory=lambda: dict(UNSOUGHT))
    dnsmos: str | None = None

    def pipeline(
        self,
        config: SpeechConfig,
        output: Output | None = None,
        *,
        everywhere: bool = False,
        golden: Golden | None = None,
    ) -> Pipeline:
        """Listen, denoise, tell voices apart, write down, cut, see `Found.pipeline`."""
        makers: dict[str, Callable[[FoundBackend], Stage]] = {
            "vad": lambda b: vad_stage(b.name, b.model, config.vad.parameters(), choice=b.reason),
            "denoise": lambda b: _denoise(config, b, output),
            "diarize": lambda b: diarize_stage(
                b.name,
                b.model,
                config.diarize.parameters(),
                source=config.diarize.model,
                threads=config.perf.threads,
                linked=config.diarize.link,
            ),
            "transcribe": lambda b: _transcribe(config, b),
        }
        stages = [make(self.backends[step]) for step, make in makers.items() if config.has(step)]
        wanted = _cut(config, self.dnsmos)
        if wanted:
            stages.append(clips_stage(wanted, redact=tuple(config.speech.redact), output=output))
        return Pipeline(tuple(stages), known_products()).linked()

    def settle(self, config: SpeechConfig, audio_s: float) -> tuple[SpeechConfig, Sequence[str]]:
        """What cannot be on a card stays on the CPU, see `Found.settle`."""
        shares = config.hardware.gpu_shares
        kept = [s.name for s in self.pipeline(config).stages if s.gpu is None and shares.get(s.name)]
        if not kept:
            return config, ()
        hardware = replace(config.hardware, gpu_shares={**shares, **dict.fromkeys(kept, 0)})
        why = f"{', '.join(kept)} on the CPU: it hears what denoising makes, in one process with it"
        return replace(config, hardware=hardware), (why,)

    def about(self, config: SpeechConfig) -> str:
        """The steps with what does them."""
        said = [f"{step} by {self.backends[step].name}" for step in NETWORKS if config.has(step)]
        return ", ".join([*said, *(step for step in ("split", "clips") if config.has(step))])


def _denoise(config: SpeechConfig, found: FoundBackend, output: Output | None) -> Stage:
    hears = config.has("transcribe") and config.transcribe.audio == "denoised"
    return denoise_stage(
        found.name,
        found.model,
        found.sample_rate,
        limit_db=config.denoise.limit_db,
        view_limit_db=config.denoise.heard_limit_db,
        makes_view=hears,
        output=output,
    )


def _transcribe(config: SpeechConfig, found: FoundBackend) -> Stage:
    return transcribe_stage(
        found.name,
        found.model,
        hears=DENOISED if config.transcribe.audio == "denoised" else VIEW,
        language=config.transcribe.language,
        redact=tuple(config.speech.redact),
        options={**config.transcribe.parameters(), "model": found.size or config.transcribe.model},
        # The others run on the CPU alone.
        card_bytes=whisper_choice.card_bytes(found.size) if found.name == WHISPER else 0,
    )


def _cut(config: SpeechConfig, dnsmos: str | None) -> dict[str, dict[str, Any]]:
    """Parameters of each product of the stage that cuts."""
    wanted: dict[str, dict[str, Any]] = {}
    if config.has("transcribe"):
        wanted[WORDS] = {}
    if config.has("split"):
        wanted[PARTS] = {name: getattr(config.split, name) for name in ("method", "max_seconds", "files")}
    if config.has("clips"):
        wanted[CLIPS] = {**config.clips.parameters(), "dnsmos": dnsmos if config.clips.dnsmos else None}
    if config.has("diarize") or config.has("transcribe"):
        wanted[TEXTS] = {}
    return wanted


def find_models(config: SpeechConfig) -> SpeechModels:
    """Look for what the config asks for. Raises `UserError` where a step cannot be done here."""
    from pipeline.models.speech.base import BackendUnavailable

    found = SpeechModels()
    lacking: dict[str, str] = {}
    for step in (step for step in NETWORKS if config.has(step)):
        try:
            found.backends[step], fallback = _FINDERS[step](config)
        except BackendUnavailable as missing:
            lacking[step] = str(missing)
            continue
        if fallback is not None:
            found.fallbacks.append(fallback)
            found.warnings.append(
                f"{fallback.stage}: {fallback.used} instead of {fallback.wanted} ({fallback.reason})"
            )
    if config.has("clips") and config.clips.dnsmos:
        try:
            from pipeline.models.speech.quality import Dnsmos

            judge = Dnsmos.load(threads=config.perf.threads)
            found.dnsmos = f"{judge.version}:{judge.model_id()}"
        except BackendUnavailable as missing:
            lacking["clips.dnsmos"] = str(missing)
    found.warnings += whisper_choice.passed_over(config)
    _forget()
    if lacking:
        raise _cannot(config, lacking)
    return found


def _forget() -> None:
    """Give the memory back: what works is loaded where it works."""
    for step in ("voice_activity", "denoise", "transcribe"):
        importlib.import_module(f"pipeline.models.speech.{step}.choose").forget_backends()


def _cannot(config: SpeechConfig, lacking: dict[str, str]) -> UserError:
    """What is missing, all of it; and what can be typed to do without, where that leaves something to do."""
    what = ", ".join(lacking)
    why = "; ".join(f"{step}: {reason}" for step, reason in lacking.items())
    without = replace(config.speech, steps=[step for step in config.speech.steps if step not in lacking])
    less = [] if without.steps == config.speech.steps else [f"speech.steps=[{','.join(without.steps)}]"]
    less += ["clips.dnsmos=false"] if "clips.dnsmos" in lacking and "clips" in without.steps else []
    trial = replace(config, speech=without)
    if "denoise" in lacking and config.transcribe.audio == "denoised" and trial.has("transcribe"):
        trial = replace(trial, transcribe=replace(config.transcribe, audio="raw"))
        less.append("transcribe.audio=raw")
    if "diarize" in lacking and config.diarize.link:
        trial = replace(trial, diarize=replace(trial.diarize, link=False))
        less.append("diarize.link=false")
    try:
        trial.check()
    except UserError:
        less = []
    return UserError(f"{what} cannot run here", why, " ".join(less))


def _find_vad(config: SpeechConfig) -> tuple[FoundBackend, Fallback | None]:
    from pipeline.models.speech.base import BackendUnavailable
    from pipeline.models.speech.voice_activity.activity import ActivityOptions
    from pipeline.models.speech.voice_activity.choose import choose, load_backend

    options = ActivityOptions(**config.vad.parameters())
    choice = choose([config.vad.backend], lambda name: load_backend(name, options, config.perf.threads))
    if choice.backend is None:
        raise BackendUnavailable(choice.reason)
    return _described(choice.backend, choice.reason), choice.fallback


def _find_denoise(config: SpeechConfig) -> tuple[FoundBackend, Fallback | None]:
    from pipeline.models.speech.base import BackendUnavailable
    from pipeline.models.speech.denoise.choose import choose, load_backend

    choice = choose([config.denoise.backend], lambda name: load_backend(name, "cpu", config.perf.threads))
    if choice.denoiser is None:
        raise BackendUnavailable(choice.reason)
    return _described(choice.denoiser, choice.reason), choice.fallback


def _find_diarize(config: SpeechConfig) -> tuple[FoundBackend, Fallback | None]:
    from pipeline.models.speech.diarize import load_backend

    return _described(load_backend(config.diarize.backend, model=config.diarize.model), ""), None


def _find_transcribe(config: SpeechConfig) -> tuple[FoundBackend, Fallback | None]:
    if config.transcribe.backend != WHISPER:
        return _transcriber(config, "")
    wanted = whisper_choice.sizes(config)
    size, lacking = whisper_choice.first_here(wanted)
    found, fallback = _transcriber(config, size)
    if fallback is None and size != wanted[0]:
        fallback = Fallback("transcribe", f"whisper {wanted[0]}", f"whisper {size}", lacking)
    return found, fallback


def _transcriber(config: SpeechConfig, size: str) -> tuple[FoundBackend, Fallback | None]:
    """What transcribes. Whisper is known without being loaded, unless there is a language that it may not know."""
    if config.transcribe.backend != WHISPER:
        return _loaded_transcriber(config, size)
    model = whisper_choice.whisper_model(config, size)
    if config.transcribe.language is None:
        return FoundBackend(WHISPER, model, reason="listed", size=size), None
    found, fallback = _loaded_transcriber(config, size)
    return replace(found, model=model), fallback


def _loaded_transcriber(config: SpeechConfig, size: str) -> tuple[FoundBackend, Fallback | None]:
    from pipeline.models.speech.base import BackendUnavailable
    from pipeline.models.speech.transcribe.choose import choose, load_backend
    from pipeline.models.speech.transcribe.names import TranscribeOptions

    given = {**config.transcribe.parameters(), "model": size}
    if whisper_choice.precision_device(config, size) != "cpu":
        given["precision"] = AUTO  # it is looked at here, and works elsewhere
    options = TranscribeOptions(**given, threads=config.perf.threads)
    choice = choose(
        [config.transcribe.backend],
        lambda name: load_backend(name, "cpu", options),
        language=config.transcribe.language,
    )
    if choice.transcriber is None:
        raise BackendUnavailable(choice.reason)
    return replace(_described(choice.transcriber, choice.reason), size=size), choice.fallback


def _described(backend: Any, reason: str) -> FoundBackend:
    model = f"{backend.version}:{backend.model_id()}"
    return FoundBackend(backend.name, model, backend.sample_rate, reason)


_FINDERS = {
    "vad": _find_vad,
    "denoise": _find_denoise,
    "diarize": _find_diarize,
    "transcribe": _find_transcribe,
}


def known_products() -> tuple[Product, ...]:
    """Every product that this job can have, none of them computed."""
    return (vad_product(), denoise_product(), diarize_product(), transcribe_product(), *clips_products())


def _afterwards(config: SpeechConfig, output: Output) -> tuple[str, ...]:
    """Name the voices of all recordings, where that is asked for. Raises `UserError` with what does it later."""
    if not config.diarize.link:
        return ()
    from pipeline.workflows.voices import link_voices  # reads tables and computes: not for --help

    try:
        return (link_voices(output, config.diarize.threshold()).text(),)
    except Exception as error:
        keys = f"output.uri={output.uri} threshold={config.diarize.threshold():g}"
        raise UserError(
            "the voices of all recordings were not linked", one_line(error), f"python jobs/voices.py {keys}"
        ) from error


def _seeks(config: SpeechConfig) -> str:
    return "looking for the models" if any(map(config.has, NETWORKS)) else ""


SPEECH = Job(
    "speech",
    "prepare_speech.py",
    config=config_from,
    find=find_models,
    unsought=SpeechModels,
    known=known_products,
    seeks=_seeks,
    afterwards=_afterwards,
)
