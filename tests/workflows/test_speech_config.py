"""What can be typed after ``jobs/prepare_speech.py``, what is refused, and that what is said to be typed is taken."""

from __future__ import annotations

import importlib
import shlex
from dataclasses import fields, replace

import pytest

from pipeline.errors import UserError
from pipeline.models.speech.diarize import BACKEND_NAMES as DIARIZER_NAMES
from pipeline.speech.clips import Thresholds
from pipeline.speech.clustering import SpeakerCounts
from pipeline.workflows import whisper_choice
from pipeline.workflows.jobs import speech
from pipeline.workflows.run_config import redacted
from pipeline.workflows.speech_config import DIARIZERS, STEPS, SpeechConfig, config_from
from pipeline.workflows.stages import stage_weights

BASE = ["source.uri=calls", "output.uri=out"]


@pytest.fixture
def compose(repo, monkeypatch):
    """The command line's composer, told which job it is."""
    monkeypatch.syspath_prepend(repo / "jobs")
    compose, schema = importlib.import_module("compose"), importlib.import_module("schema")
    for name, value in (("config", SpeechConfig), ("name", "speech"), ("script", "prepare_speech.py")):
        monkeypatch.setattr(schema.CURRENT, name, value)
    compose.register()
    return compose


def test_the_defaults_of_the_files_are_those_of_the_classes(compose):
    config, bare = compose.load(BASE), SpeechConfig()
    for section in ("speech", "split", "vad", "denoise", "diarize", "transcribe", "clips"):
        assert getattr(config, section) == getattr(bare, section), section
    assert config.pools() == tuple(config.hardware.actors)


@pytest.mark.parametrize("profile", ["cpu", "auto", "gpu_small", "gpu_large", "low", "mid", "high"])
def test_profiles_that_name_stages_of_other_jobs_are_taken(compose, profile):
    assert "clap" not in compose.load([*BASE, f"hardware={profile}"]).hardware.actors


def test_what_a_run_wrote_down_is_read_again(compose):
    config = compose.load([*BASE, "speech.redact=[text]", "diarize.num_speakers=2", "clips.min_words=null"])
    assert config_from(redacted(config)) == config


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["speech.steps=[vad,diarise]"], "speech.steps=diarise"),
        (["speech.steps=[]"], "nothing to do"),
        (["speech.steps=[transcribe]"], "transcribe and not vad"),
        (["speech.redact=[names]"], "speech.redact=names"),
        (["vad.backend=silerro"], "vad.backend=silerro"),
        (["vad.threshold=1.5"], "vad.threshold=1.5"),
        (["vad.pad_s=-1"], "vad.pad_s=-1"),
        (["denoise.backend=rnnoise"], "denoise.backend=rnnoise"),
        (["denoise.limit_db=0"], "denoise.limit_db=0"),
        (["diarize.backend=pyanote"], "diarize.backend=pyanote"),
        (["diarize.model=some/model"], "diarize.model=some/model is for diarize.backend=ecapa and pyannote"),
        (["diarize.max_speakers=0"], "diarize.max_speakers=0"),
        (["diarize.num_speakers=2", "diarize.min_speakers=2"], "does not go with bounds"),
        (["diarize.min_speakers=3", "diarize.max_speakers=2"], "more than diarize.max_speakers=2"),
        (["transcribe.precision=int4"], "transcribe.precision=int4"),
        (["transcribe.audio=clean"], "transcribe.audio=clean"),
        (["transcribe.beam=0"], "transcribe.beam=0"),
        (["transcribe.language=English"], "transcribe.language=English"),
        (["transcribe.audio=denoised", "speech.steps=[vad,transcribe]"], "needs the step denoise"),
        (["speech.steps=[clips]"], "nothing that listens"),
        (["speech.steps=[split]"], "nothing that listens"),
        (["speech.steps=[vad,vad]"], "a step twice"),
        (["clips.min_words=-3"], "clips.min_words=-3"),
        (["clips.max_overlap_ratio=7"], "clips.max_overlap_ratio=7"),
        (["clips.max_seconds=1000"], "clips.max_seconds=1000"),
        (["split.method=words"], "split.method=words"),
        (["split.max_seconds=0"], "split.max_seconds=0"),
        (["clips.min_seconds=30"], "leaves no room"),
        (["clips.pause_seconds=100"], "clips.pause_seconds=100"),
        (["clips.dnsmos_hop_seconds=0"], "clips.dnsmos_hop_seconds=0"),
        (["clips.max_sconds=10"], "clips.max_sconds"),
        (["diarize.link=true", "speech.steps=[vad]"], "diarize.link=true needs the step diarize"),
        (["diarize.link_threshold=2"], "diarize.link_threshold=2"),
        (["diarize.link=true", "diarize.backend=resemblyzer"], "needs diarize.link_threshold"),
        (["hardware.time_limit=-1"], "hardware.time_limit=-1"),
        (["hardware.processes=-1"], "hardware.processes=-1"),
        (["hardware=mid", "hardware.models.transcribe=large"], "hardware.models.transcribe=large"),
    ],
)
def test_a_mistake_is_one_line_and_what_it_says_to_type_is_taken(compose, overrides, says):
    with pytest.raises(UserError) as refused:
        compose.load([*BASE, *overrides]).check()
    assert says in str(refused.value)
    typed = [word for word in shlex.split(refused.value.do or "") if "=" in word]
    keys = {word.partition("=")[0] for word in typed}
    kept = [word for word in overrides if word.partition("=")[0] not in keys]
    if typed:
        compose.load([*BASE, *kept, *typed]).check()


def test_steps_are_stages_and_what_they_need_comes_before(compose):
    models = speech.SpeechModels()

    def stages(*steps: str) -> list[str]:
        config = compose.load([*BASE, f"speech.steps=[{','.join(steps)}]"])
        return [stage.name for stage in models.pipeline(config).stages]

    assert stages(*STEPS) == ["vad", "denoise", "diarize", "transcribe", "clips"]
    assert stages("vad") == ["vad"]
    assert stages("diarize", "vad") == ["vad", "diarize", "clips"]  # the last for RTTM
    assert stages("denoise") == ["denoise"]
    exact = compose.load([*BASE, "speech.steps=[split]", "split.method=time"])
    assert [stage.name for stage in models.pipeline(exact).stages] == ["clips"]


def test_what_lacks_weights_is_told_with_what_does_without(compose):
    config = compose.load(BASE)
    refused = speech._cannot(config, {"denoise": "no weights", "clips.dnsmos": "no weights either"})
    assert refused.do == "speech.steps=[split,vad,diarize,transcribe,clips] clips.dnsmos=false"
    compose.load([*BASE, *refused.do.split()]).check()
    everything = dict.fromkeys(("vad", "denoise", "diarize", "transcribe"), "none")
    assert not speech._cannot(config, everything).do
    heard = compose.load([*BASE, "transcribe.audio=denoised"])
    assert "transcribe.audio=raw" in speech._cannot(heard, {"denoise": "none"}).do
    linked = compose.load([*BASE, "diarize.link=true"])
    assert "diarize.link=false" in speech._cannot(linked, {"diarize": "none"}).do


def test_the_transcriber_hears_the_denoised_view_where_it_is_asked_to(compose):
    models = speech.SpeechModels()
    heard = {}
    for audio in ("raw", "denoised"):
        config = compose.load([*BASE, f"transcribe.audio={audio}"])
        pipeline = models.pipeline(config)
        heard[audio] = {s.name: [v.name for v in s.reads] for s in pipeline.stages}["transcribe"]
        assert bool(pipeline.made_views()) == (audio == "denoised")
    assert heard == {"raw": ["speech"], "denoised": ["denoised"]}


def test_a_clip_s_parameters_make_only_clips_stale(compose):
    models = speech.SpeechModels()

    def keys(*overrides: str) -> dict[str, str]:
        return models.pipeline(compose.load([*BASE, *overrides])).keys()

    def changed(*overrides: str) -> set[str]:
        before, after = keys(), keys(*overrides)
        return {name for name in before if before[name] != after[name]}

    assert changed("clips.max_seconds=15") == {"clips"}
    assert changed("split.max_seconds=60") == {"parts"}
    cut = {"words", "parts", "clips", "texts"}
    assert changed("diarize.num_speakers=2") == {"diarize", *cut}
    assert changed("transcribe.language=en") == {"transcribe", *cut}
    assert changed("vad.threshold=0.4") == {"vad", "transcribe", *cut}
    assert changed("perf.threads=2") == set()
    assert changed("diarize.link=true") == set(), "voices are compared in the end, of what the tables have"
    assert changed("hardware.time_limit=3") == set()


def test_a_limit_of_the_denoised_file_is_nothing_to_who_hears_another(compose):
    """What is heard has a limit of its own, and the file is not written anew because of that."""
    models = speech.SpeechModels()

    def changed(audio: str, *overrides: str) -> set[str]:
        hears = [*BASE, f"transcribe.audio={audio}"]
        before, after = (models.pipeline(compose.load([*hears, *more])).keys() for more in ((), overrides))
        return {name for name in before if before[name] != after[name]}

    words = {"transcribe", "words", "parts", "clips", "texts"}
    assert changed("raw", "denoise.limit_db=20") == changed("denoised", "denoise.limit_db=20") == {"denoise"}
    assert changed("raw", "denoise.heard_limit_db=6") == set()
    assert changed("denoised", "denoise.heard_limit_db=6") == words
    raw, heard = (
        models.pipeline(compose.load([*BASE, f"transcribe.audio={a}"])).keys() for a in ("raw", "denoised")
    )
    assert raw["denoise"] == heard["denoise"]


@pytest.mark.parametrize(
    ("overrides", "here", "size"),
    [
        (["hardware=low"], {"large-v3", "base"}, "base"),
        (["hardware=cpu"], {"large-v3", "base"}, "base"),
        (["hardware=mid"], {"large-v3", "medium", "small", "base"}, "medium"),
        (["hardware=high"], {"large-v3", "medium", "base"}, "large-v3"),
        (["hardware=high"], {"base"}, "base"),
        (["hardware=high", "transcribe.model=tiny.en"], {"large-v3"}, "tiny.en"),
    ],
)
def test_the_machine_says_which_whisper_it_is_for_and_the_largest_that_is_here_is_taken(
    compose, monkeypatch, overrides, here, size
):
    from pipeline.models.speech.base import BackendUnavailable
    from pipeline.models.speech.transcribe import whisper_models

    def find(name: str) -> None:
        if name not in here:
            raise BackendUnavailable(f"Whisper {name} is not in the hub's cache: type `hf download {name}`")

    monkeypatch.setattr(whisper_models, "find_model", find)
    found = speech.FoundBackend("whisper", "m")
    monkeypatch.setattr(speech, "_transcriber", lambda config, wanted: (replace(found, size=wanted), None))
    config = compose.load([*BASE, *overrides])
    taken, fallback = speech._find_transcribe(config)
    wanted = whisper_choice.sizes(config)[0]
    assert taken.size == size
    assert (fallback is None) == (size == wanted)
    if fallback is not None:
        assert (fallback.wanted, fallback.used) == (f"whisper {wanted}", f"whisper {size}")
        assert f"type `hf download {wanted}`" in fallback.reason
    [stage] = [
        s
        for s in speech.SpeechModels(backends={**speech.UNSOUGHT, "transcribe": taken})
        .pipeline(config)
        .stages
        if s.name == "transcribe"
    ]
    assert stage.arguments["options"]["model"] == size


@pytest.mark.parametrize(
    ("overrides", "size"),
    [
        (["transcribe.audio=denoised"], "base"),
        (["hardware.gpu_shares.transcribe=0"], "base"),
        ([], "large-v3"),
    ],
)
def test_what_will_run_on_the_cpu_does_not_take_the_model_of_a_card(compose, overrides, size):
    config = compose.load([*BASE, "hardware=high", *overrides])
    assert whisper_choice.sizes(config)[0] == size
    if size == "base":
        [why] = whisper_choice.passed_over(config)
        assert "whisper base" in why
        assert "transcribe.model=large-v3 takes it" in why
    else:
        assert whisper_choice.passed_over(config) == []
    named = compose.load([*BASE, "hardware=high", *overrides, "transcribe.model=large-v3"])
    assert whisper_choice.sizes(named) == ("large-v3",)
    assert whisper_choice.passed_over(named) == []


@pytest.mark.parametrize(
    ("gib", "overrides", "size"),
    [
        (80, [], "large-v3"),
        (12, [], "large-v3-turbo"),
        (4, [], "small"),
        (1, [], "base"),
        (80, ["transcribe.audio=denoised"], "base"),
        (80, ["hardware.models.transcribe=small"], "small"),
        (80, ["hardware.gpu_memory_fraction=0.1"], "large-v3-turbo"),
        (None, ["hardware.models.transcribe=large-v3"], "base"),
    ],
)
def test_auto_takes_the_model_that_its_card_will_have_a_share_for(compose, monkeypatch, gib, overrides, size):
    from pipeline.engine import process

    monkeypatch.setattr(whisper_choice, "has_card", lambda: gib is not None)
    monkeypatch.setattr(process, "card", lambda: (gib << 30, ""))
    config = compose.load([*BASE, "hardware=auto", *overrides])
    assert whisper_choice.sizes(config)[0] == size


@pytest.fixture
def whisper_files(monkeypatch):
    """A Whisper whose files are here, and which nobody may load; the CPU computes in int8 alone."""
    from pathlib import Path

    from pipeline.models.speech.base import BackendUnavailable
    from pipeline.models.speech.transcribe import choose, whisper_models

    def number_format(precision: str, device: str) -> str:
        if (precision, device) in (("auto", "cpu"), ("float16", "cuda")):
            return "int8" if device == "cpu" else precision
        raise BackendUnavailable(f"CTranslate2 does not compute in {precision} on this {device}")

    def load(*given):
        raise AssertionError("it is loaded where it works")

    files = whisper_models.ModelFiles(Path("x"), "base", "f" * 64)
    monkeypatch.setattr(whisper_models, "find_model", lambda size: files)
    monkeypatch.setattr(whisper_models, "compute_type", number_format)
    monkeypatch.setattr(choose, "load_backend", load)


def test_what_whisper_is_called_is_known_without_loading_it(compose, whisper_files):
    found, fallback = speech._find_transcribe(compose.load([*BASE, "transcribe.beam=3"]))
    assert (found.name, found.size, fallback) == ("whisper", "base", None)
    assert found.model == f"1:whisper-base@{'f' * 16}:int8:beam3"
    with pytest.raises(AssertionError):  # whether it knows a language only it can say
        speech._find_transcribe(compose.load([*BASE, "transcribe.language=fr"]))


@pytest.mark.parametrize("here", [True, False], ids=["a card", "a card elsewhere"])
def test_a_number_format_is_that_of_the_device_which_works(compose, monkeypatch, whisper_files, here):
    from pipeline.models.speech.base import BackendUnavailable

    monkeypatch.setattr(whisper_choice, "has_card", lambda: here)
    config = compose.load([*BASE, "hardware=mid", "transcribe.precision=float16"])
    assert ":float16:" in speech._find_transcribe(config)[0].model
    with pytest.raises(BackendUnavailable, match="on this cpu"):
        speech._find_transcribe(compose.load([*BASE, "transcribe.precision=float16"]))


def test_the_work_on_a_file_is_that_of_the_stages_which_have_some(compose):
    config, models = compose.load(BASE), speech.SpeechModels()
    whole, less = stage_weights(config, models), stage_weights(config, models, {"denoise", "transcribe"})
    assert {stage for stage in whole if less[stage] != whole[stage]} == {"denoise", "transcribe"}
    assert list(less) == list(whole)
    assert less["denoise"] == less["transcribe"] == 0.0


def test_what_hears_the_denoised_view_stays_on_the_cpu_with_its_maker(compose):
    models = speech.SpeechModels()
    config = compose.load([*BASE, "hardware=mid"])
    assert models.settle(config, 1.0) == (config, ())
    heard = compose.load([*BASE, "hardware=mid", "transcribe.audio=denoised"])
    settled, [why] = models.settle(heard, 1.0)
    assert settled.hardware.gpu_shares["transcribe"] == 0
    assert "transcribe on the CPU" in why


def test_names_of_the_config_are_those_of_what_they_are_for():
    assert DIARIZERS == DIARIZER_NAMES
    thresholds = {f.name for f in fields(Thresholds)} - {"min_s", "max_s", "min_speakers"}
    assert thresholds <= set(SpeechConfig().clips.thresholds())
    assert set(SpeechConfig().diarize.parameters()) == {f.name for f in fields(SpeakerCounts)}
