"""CLAP models in the format of `transformers`, with random weights, written by `transformers` itself."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

# As the laion/* repositories have them; the text half is cut down to what a test needs.
DIMENSIONS = {
    "HTSAT-tiny": {"patch_embeds_hidden_size": 96, "depths": [2, 2, 6, 2], "hidden_size": 768},
    "HTSAT-base": {"patch_embeds_hidden_size": 128, "depths": [2, 2, 12, 2], "hidden_size": 1024},
}
TEXT = {
    "vocab_size": 300,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
    "projection_dim": 512,
    "layer_norm_eps": 1e-5,
}


def write_hub_model(folder: Path, architecture: str = "HTSAT-tiny", seed: int = 0, **audio: object) -> Path:
    """Save a seeded `transformers.ClapModel` to ``folder``, spread so that clips come out different."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.ClapConfig(
        audio_config={**DIMENSIONS[architecture], "projection_dim": 512, **audio}, text_config=TEXT
    )
    model = transformers.ClapModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.audio_model.named_parameters():
            if ".layers." in name or ".patch_embed." in name:
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
                else:
                    # Norms and biases at their initial 1 and 0 would hide an exchange of two of them.
                    parameter.add_(0.1 * torch.randn_like(parameter))
        for name, parameter in model.named_parameters():
            if name.startswith(("text_", "audio_projection")) and parameter.ndim > 1:
                nn.init.normal_(parameter, std=1.0 / parameter[0].numel() ** 0.5)
        norm = model.audio_model.audio_encoder.batch_norm
        norm.running_mean.copy_(-30 + torch.randn(64))
        norm.running_var.copy_(400 + 20 * torch.rand(64))
        norm.weight.copy_(1 + 0.1 * torch.randn(64))
        norm.bias.copy_(0.1 * torch.randn(64))
    model.save_pretrained(folder)
    return folder


def load_hub_model(folder: Path):
    """`transformers`' own model of ``folder``."""
    import transformers

    return transformers.ClapModel.from_pretrained(folder, local_files_only=True).eval()


def write_tokenizer(folder: Path, extra: int = 0) -> Path:
    """Save a word-level tokenizer with RoBERTa's special tokens to ``folder``."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = ["a", "sad", "piano", "applause", "long", "and", "loud", "drum"]
    words += [f"word{i}" for i in range(extra)]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(special + words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    outer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    outer.save_pretrained(folder)
    return folder
