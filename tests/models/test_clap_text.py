"""The text half against transformers, on random weights and a tokenizer written here."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.clap_hub import TEXT, load_hub_model, write_hub_model, write_tokenizer
from helpers.clap_reference import REPO, tiny_checkpoint

from pipeline.errors import UserError
from pipeline.models.clap.text import TextQueries, TextUnavailable, embed_queries

TEXTS = ["a sad piano", "applause", "a long " + "and loud " * 60 + "drum"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of transformers with a tokenizer beside it."""
    return write_tokenizer(write_hub_model(tmp_path_factory.mktemp("hub")))


@pytest.fixture(scope="module")
def laion(folder):
    """The same model as LAION would store it."""
    from safetensors.torch import load_file

    path = folder / "laion" / "clap.pt"
    path.parent.mkdir()
    state = {}
    for name, value in load_file(folder / "model.safetensors").items():
        name = name.replace("text_model.", "text_branch.")
        state[name.replace("linear1", "0").replace("linear2", "2")] = value
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    return path


@pytest.fixture(scope="module")
@torch.inference_mode()
def expected(folder):
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder, local_files_only=True)(
        TEXTS, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    )
    found = load_hub_model(folder).get_text_features(
        input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
    )
    return getattr(found, "pooler_output", found).numpy()


def test_queries_equal_those_of_transformers(folder, expected):
    queries = embed_queries(TEXTS, folder)
    assert queries.texts == tuple(TEXTS)
    assert queries.vectors.dtype == np.float32
    np.testing.assert_allclose(queries.vectors, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(np.linalg.norm(queries.vectors, axis=1), 1, atol=1e-6)
    assert np.abs(queries.vectors @ queries.vectors.T - np.eye(3)).max() < 0.99
    # Alone, without the padding that the others bring.
    alone = embed_queries(TEXTS[1:2], folder).vectors
    np.testing.assert_allclose(alone[0], queries.vectors[1], atol=1e-5, rtol=0)


def test_queries_with_a_checkpoint_in_laions_format(folder, laion, expected):
    # Its heads are 64 wide, as roberta-base's are.
    assert TEXT["hidden_size"] // TEXT["num_attention_heads"] == 64
    queries = embed_queries(TEXTS, laion, str(folder))
    np.testing.assert_allclose(queries.vectors, expected, atol=1e-5, rtol=0)


def test_similarity_is_the_cosine():
    vectors = np.eye(2, 512, dtype=np.float32)
    queries = TextQueries(("a", "b"), vectors, "x")
    angle = np.zeros(512, np.float32)
    angle[:3] = 0.6, 0, 0.8
    found = queries.similarity(angle)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0.6, 0], atol=1e-7)


def test_a_checkpoint_without_a_text_tower_says_so(tmp_path, folder):
    with pytest.raises(TextUnavailable, match="has no text tower"):
        embed_queries(TEXTS, tiny_checkpoint(tmp_path), str(folder))


def test_a_tokenizer_that_is_not_there(folder, laion, tmp_path):
    with pytest.raises(UserError, match="clap.tokenizer=/nowhere is not a folder"):
        embed_queries(TEXTS, folder, "/nowhere")
    with pytest.raises(TextUnavailable, match="holds no tokenizer"):
        embed_queries(TEXTS, folder, str(tmp_path))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("offline", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_a_hub_out_of_reach_is_one_line_and_does_not_hang(laion, tmp_path, offline):
    code = (
        "import sys\nfrom pipeline.models.clap.text import TextUnavailable, embed_queries\n"
        "try:\n    embed_queries(['a'], sys.argv[1])\nexcept TextUnavailable as error:\n    print(error)"
    )
    environment = {"PATH": "/usr/bin:/bin", "HF_HOME": str(tmp_path), "PYTHONPATH": str(REPO), **offline}
    done = subprocess.run(
        [sys.executable, "-c", code, str(laion)], env=environment, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("\n") == 1
    assert "the tokenizer roberta-base" in done.stdout
    assert "clap.tokenizer=FOLDER" in done.stdout


def test_without_transformers_the_line_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TextUnavailable, match=r"pip install 'transformers>=4\.44'"):
        embed_queries(TEXTS, folder)


def test_words_that_the_tower_does_not_know_are_refused(folder, laion, tmp_path):
    large = write_tokenizer(tmp_path / "large", extra=400)
    with pytest.raises(TextUnavailable, match="has more words than the text tower"):
        embed_queries(["word399"], laion, str(large))
