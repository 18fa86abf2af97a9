"""CLAP's text half: a sentence becomes a vector in the space of the audio embeddings.

Used once per run, on the driver, for ``clap.text_queries``; audio needs none of it. The network is
`transformers`' RobertaModel, which is imported only here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.models.clap.checkpoint import EMBEDDING_SIZE, laion_state, load_laion
from pipeline.models.clap.hub_format import hub_files, projection_name, read_hub_config, read_hub_state
from pipeline.places import expanded

# As LAION tokenizes: longer texts are cut.
MAX_TOKENS = 77
HUB_TOKENIZER = "roberta-base"
_PROBE_SECONDS = 10.0
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
# Of roberta-base, the text tower of every checkpoint in LAION's format; the file itself does not say.
_ROBERTA = {"layer_norm_eps": 1e-5, "head_size": 64}
# Entries that follow from the architecture.
_DERIVED = ("embeddings.position_ids", "embeddings.token_type_ids")


class TextUnavailable(Exception):
    """There is no text tower or no tokenizer; the message is one line that says what to do."""


@dataclass(frozen=True)
class TextQueries:
    """Texts and their vectors.

    Args:
        texts: as the user typed them.
        vectors: float32 ``[len(texts), 512]``, unit norm.
        model_id: what embedded them: number of layers, tokenizer.
    """

    texts: tuple[str, ...]
    vectors: np.ndarray
    model_id: str

    def similarity(self, embedding: np.ndarray) -> np.ndarray:
        """Cosine of each text to a unit vector ``[512]``: float32 ``[len(texts)]``, -1..1."""
        return np.clip(self.vectors @ embedding, -1, 1).astype(np.float32)


def embed_queries(texts: list[str], checkpoint: str | Path, tokenizer: str | None = None) -> TextQueries:
    """Embed ``texts`` with the text half of ``checkpoint``.

    Args:
        texts: at least one; each is cut to 77 tokens, as LAION does.
        checkpoint: as `pipeline.models.clap.checkpoint.read_checkpoint` takes it.
        tokenizer: folder or hub name of RoBERTa's tokenizer. None takes the one beside the checkpoint, or
            else ``roberta-base``, from the local cache or the hub.

    Raises:
        TextUnavailable: `transformers`, the text weights or the tokenizer are not there.
        UserError: the checkpoint is damaged, or a tokenizer was named by a path that is not there.
    """
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise TextUnavailable("text queries need transformers: pip install 'transformers>=4.44'") from None
    path = Path(checkpoint)
    tower = _tower(path)
    words, named = _load_tokenizer(tokenizer, path)
    found = words(list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    if int(found["input_ids"].max()) >= tower.roberta.config.vocab_size:
        raise TextUnavailable(f"the tokenizer {named} has more words than the text tower of {path}")
    vectors = tower(found["input_ids"], found["attention_mask"]).numpy()
    if not np.isfinite(vectors).all():
        raise UserError(f"clap.text_queries: the text tower of {path} gives NaN or infinity")
    return TextQueries(tuple(texts), vectors, f"RoBERTa-{tower.roberta.config.num_hidden_layers}:{named}")


class TextTower(nn.Module):
    """RoBERTa's pooled output, the projection into the shared space, and the unit norm.

    Args:
        state: ``text_branch.*`` under RoBERTa's names and ``text_projection.{0,2}.*``.
        settings: of RoBERTa, beside what the shapes say: ``layer_norm_eps`` and ``head_size``.

    Shape:
        - input_ids, attention_mask: integers ``[texts, tokens]``
        - returns: float32 ``[texts, 512]``, unit norm

    Raises:
        ValueError: the weights do not fit; the message names the first that does not.
    """

    def __init__(self, state: dict[str, torch.Tensor], settings: dict[str, Any]) -> None:
        super().__init__()
        from transformers import RobertaModel

        branch = {k.removeprefix("text_branch."): v for k, v in state.items() if k.startswith("text_branch.")}
        branch = {k: v for k, v in branch.items() if k not in _DERIVED}
        with torch.random.fork_rng(devices=[]):
            self.roberta = RobertaModel(_roberta_config(branch, settings))
            width = self.roberta.config.hidden_size
            self.projection = nn.Sequential(
                nn.Linear(width, EMBEDDING_SIZE), nn.ReLU(), nn.Linear(EMBEDDING_SIZE, EMBEDDING_SIZE)
            )
        projection = {
            k.removeprefix("text_projection."): v
            for k, v in state.items()
            if k.startswith("text_projection.")
        }
        for module, weights in ((self.roberta, branch), (self.projection, projection)):
            _load(module, weights)
        self.requires_grad_(False).eval()

    @torch.inference_mode()
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed tokenized texts."""
        pooled = self.roberta(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return F.normalize(self.projection(pooled), dim=-1)


def _load(module: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    expected = {k: v for k, v in module.state_dict().items() if k not in _DERIVED}
    odd = expected.keys() ^ weights.keys()
    if odd:
        raise ValueError(f"{min(odd)} is {'missing' if min(odd) in expected else 'not known'}")
    for name, value in expected.items():
        if value.shape != weights[name].shape:
            raise ValueError(f"{name} should be {list(value.shape)}, it is {list(weights[name].shape)}")
    module.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)


def _roberta_config(branch: dict[str, torch.Tensor], settings: dict[str, Any]) -> Any:
    from transformers import RobertaConfig

    words = branch["embeddings.word_embeddings.weight"]
    layers = {name.split(".")[2] for name in branch if name.startswith("encoder.layer.")}
    return RobertaConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        num_hidden_layers=len(layers),
        num_attention_heads=settings.get("num_attention_heads") or words.shape[1] // settings["head_size"],
        intermediate_size=branch["encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_position_embeddings=branch["embeddings.position_embeddings.weight"].shape[0],
        type_vocab_size=branch["embeddings.token_type_embeddings.weight"].shape[0],
        layer_norm_eps=settings["layer_norm_eps"],
        pad_token_id=settings.get("pad_token_id", 1),
    )


def _tower(path: Path) -> TextTower:
    files = hub_files(path)
    settings = dict(_ROBERTA)
    if files is not None:
        named = read_hub_config(files).get("text_config") or {}
        settings |= {
            k: named[k] for k in ("layer_norm_eps", "num_attention_heads", "pad_token_id") if k in named
        }
        # What transformers assumes where the file does not say.
        settings.setdefault("num_attention_heads", 12)
        if "layer_norm_eps" not in named:
            settings["layer_norm_eps"] = 1e-12
        state = {
            projection_name(k.replace("text_model.", "text_branch.", 1)): v
            for k, v in read_hub_state(files, "text_").items()
        }
    else:
        state = {k: v for k, v in laion_state(load_laion(path)).items() if k.startswith("text_")}
    needed = ("text_branch.embeddings.word_embeddings.weight", "text_branch.pooler.dense.weight")
    if not all(name in state for name in (*needed, "text_projection.0.weight")):
        raise TextUnavailable(f"{path} has no text tower, so there is nothing to embed text queries with")
    try:
        return TextTower(state, settings)
    except (ValueError, KeyError, RuntimeError) as error:
        raise TextUnavailable(f"the text tower of {path} is not a RoBERTa: {error}") from error


def _load_tokenizer(tokenizer: str | None, checkpoint: Path) -> tuple[Any, str]:
    """A tokenizer, local if there is one, and its name. The hub is asked only when nothing local was found."""
    from transformers import AutoTokenizer

    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if tokenizer is None and any((folder / name).is_file() for name in _TOKENIZER_FILES):
        tokenizer = str(folder)
    name = tokenizer or HUB_TOKENIZER
    local = expanded(name)
    if local.is_dir():
        name = str(local)
    elif "\\" in name or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise UserError(f"clap.tokenizer={name} is not a folder")
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True), name
    # transformers raises whatever its readers do: OSError, ValueError, KeyError, its own.
    except Exception as error:
        problem = _one_line(error)
        if local.is_dir():
            raise TextUnavailable(f"clap.tokenizer={name} holds no tokenizer: {problem}") from error
    _require_hub(name)
    try:
        return AutoTokenizer.from_pretrained(name), name
    except Exception as error:
        raise TextUnavailable(f"cannot fetch the tokenizer {name}: {_one_line(error)}") from error


def _require_hub(name: str) -> None:
    """Ask the hub for one small file with a time limit: its client alone would retry for minutes.

    Raises:
        TextUnavailable: it is off or out of reach.
    """
    import huggingface_hub
    from huggingface_hub.constants import HF_HUB_OFFLINE

    what = "type clap.tokenizer=FOLDER with RoBERTa's tokenizer.json or vocab.json and merges.txt"
    if HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE") == "1":
        raise TextUnavailable(f"the tokenizer {name} is not in the local cache and the hub is off: {what}")
    try:
        url = huggingface_hub.hf_hub_url(name, "config.json")
        huggingface_hub.get_hf_file_metadata(url, timeout=_PROBE_SECONDS)
    except Exception as error:
        raise TextUnavailable(f"cannot reach the tokenizer {name} ({_one_line(error)}): {what}") from error


def _one_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
