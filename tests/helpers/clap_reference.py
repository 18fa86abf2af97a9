"""What the CLAP tests compare with: checkpoints in LAION's format, and laion_clap's own audio path.

Run as a script, this file is the reference: it imports the whole of ``laion_clap`` and embeds clips with its
public ``CLAP_Module.get_audio_embedding_from_data``. It runs in a process of its own because that import
changes ``sys.path``, and because the text half, which the audio path never touches, has to be replaced by
named stand-ins: it would be fetched from a model hub.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

REPO = Path(__file__).resolve().parents[2]
SAMPLE_RATE = 48000


def seeded_state(architecture: str = "HTSAT-tiny", seed: int = 0) -> dict[str, torch.Tensor]:
    """Random audio weights under the names of a LAION model.

    The initial weights of HTSAT are so small that it maps all sounds to nearly one direction, where a
    comparison would prove nothing. Larger matrices make different clips come out different.
    """
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
        branch = laion_htsat().create_htsat_model(laion_audio_config(architecture))
    projection = nn.Sequential(nn.Linear(branch.num_features, 512), nn.ReLU(), nn.Linear(512, 512))
    with torch.no_grad():
        for name, parameter in branch.named_parameters():
            if name.startswith(("layers.", "patch_embed.")) and parameter.ndim > 1:
                nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
        # What training leaves here: the mean and the spread of log-mel bins.
        branch.bn0.running_mean.fill_(-30.0)
        branch.bn0.running_var.fill_(400.0)
    state = {f"audio_branch.{k}": v for k, v in branch.state_dict().items()}
    return state | {f"audio_projection.{k}": v for k, v in projection.state_dict().items()}


def laion_htsat() -> types.ModuleType:
    """LAION's ``clap_module.htsat``, imported on its own.

    ``import laion_clap`` fetches three tokenizers from a model hub and extends ``sys.path``. So the folder is
    entered under a private package name instead, whose ``__init__`` is empty.
    """
    name = "_soundmill_laion_htsat"
    if name not in sys.modules:
        package = types.ModuleType(name, "laion_clap/clap_module without its __init__")
        package.__path__ = [str(_clap_module_folder())]
        sys.modules[name] = package
    return importlib.import_module(f"{name}.htsat")


def laion_audio_config(architecture: str) -> types.SimpleNamespace:
    """The ``audio_cfg`` that laion-clap ships for ``architecture``: sample_rate, hop_size, mel_bins, ..."""
    text = (_clap_module_folder() / "model_configs" / f"{architecture}.json").read_text(encoding="utf-8")
    return types.SimpleNamespace(**json.loads(text)["audio_cfg"])


def _clap_module_folder() -> Path:
    return Path(importlib.util.find_spec("laion_clap").origin).parent / "clap_module"


def write_checkpoint(path: Path, state: dict[str, torch.Tensor], **torch_save: bool) -> Path:
    """Write ``state`` as LAION's training script does, with its bookkeeping and some of the text half."""
    text = {
        "text_branch.embeddings.position_ids": torch.arange(514)[None],
        "text_branch.embeddings.word_embeddings.weight": torch.zeros(8, 768),
        "text_projection.0.weight": torch.zeros(512, 768),
        "logit_scale_a": torch.tensor(2.66),
    }
    content = {
        "epoch": np.int64(45),
        "name": "PANN-Roberta-config",
        "top_performance": {0: np.float64(0.37), 1: np.float32(0.36)},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.99)}]},
        "state_dict": {f"module.{name}": value for name, value in (text | state).items()},
    }
    torch.save(content, path, **torch_save)
    return path


def tiny_checkpoint(folder: Path) -> Path:
    """A whole HTSAT-tiny checkpoint in ``folder``, written once."""
    path = folder / "clap-tiny.pt"
    return path if path.exists() else write_checkpoint(path, seeded_state())


def laion_embeddings(checkpoint: Path, clips: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Embed clips of at most 10 s at 48 kHz with laion_clap: unit and raw projections, each ``[n, 512]``."""
    given, wanted = checkpoint.with_suffix(".clips.npz"), checkpoint.with_suffix(".embeddings.npz")
    np.savez(given, **{f"{i:03d}": clip for i, clip in enumerate(clips)})
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(checkpoint), str(given), str(wanted)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode:
        raise RuntimeError(f"the laion_clap reference failed:\n{done.stderr[-4000:]}")
    with np.load(wanted, allow_pickle=False) as result:
        return result["unit"], result["raw"]


def synthetic_clips() -> list[np.ndarray]:
    """Ten seconds each: a chord, a sweep, pulses in noise, noise; the last is 3.3 s, to be repeated."""
    t = np.arange(10 * SAMPLE_RATE) / SAMPLE_RATE
    rng = np.random.default_rng(7)
    chord = sum(np.sin(2 * np.pi * f * t) * np.exp(-(t % 2)) for f in (220.0, 277.2, 329.6)) / 4
    sweep = 0.5 * np.sin(2 * np.pi * (100 * t + 350 * t**2))
    pulses = 0.01 * rng.standard_normal(t.size) + 0.9 * ((t % 0.5) < 0.002)
    noise = 0.2 * rng.standard_normal(t.size)
    # Beyond full scale: LAION clips.
    short = 1.4 * np.sin(2 * np.pi * 1000 * t[: int(3.3 * SAMPLE_RATE)])
    return [x.astype(np.float32) for x in (chord, sweep, pulses, noise, short)]


def _stand_in_text_half() -> None:
    """Replace what would come from a model hub: three tokenizers and RoBERTa, none used for audio."""
    import transformers

    class StandInTokenizer:
        def __call__(self, *_, **__):
            raise NotImplementedError("a stand-in: the audio path has no text")

    def tokenizer(*_, **__) -> StandInTokenizer:
        return StandInTokenizer()

    def small_roberta(*_, **__) -> transformers.RobertaModel:
        config = transformers.RobertaConfig(
            vocab_size=8, hidden_size=768, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
        return transformers.RobertaModel(config)

    for kind in (transformers.BertTokenizer, transformers.RobertaTokenizer, transformers.BartTokenizer):
        kind.from_pretrained = tokenizer
    transformers.RobertaModel.from_pretrained = small_roberta


def _main(checkpoint: str, given: str, wanted: str) -> None:
    torch.set_num_threads(1)
    _stand_in_text_half()
    import laion_clap
    from clap_module.factory import load_state_dict

    module = laion_clap.CLAP_Module(enable_fusion=False, amodel="HTSAT-tiny", device="cpu")
    state = load_state_dict(checkpoint)
    audio = {k: v for k, v in state.items() if k.startswith("audio_")}
    result = module.model.load_state_dict(audio, strict=False)
    unfilled = [k for k in result.missing_keys if k.startswith(("audio_branch.", "audio_projection."))]
    if unfilled or result.unexpected_keys:
        raise RuntimeError(f"not LAION's names: {unfilled} {result.unexpected_keys}")
    raw: list[torch.Tensor] = []
    module.model.audio_projection.register_forward_hook(lambda *args: raw.append(args[2]))
    with np.load(given, allow_pickle=False) as clips, torch.inference_mode():
        unit = module.get_audio_embedding_from_data([clips[name] for name in sorted(clips)])
    np.savez(wanted, unit=unit, raw=torch.cat(raw).numpy())


if __name__ == "__main__":
    _main(*sys.argv[1:])
