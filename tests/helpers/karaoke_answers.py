"""Songs to ask the karaoke service for, and whether its answers, its files and the search index say the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import requests
import soundfile

from helpers.songs import noise


def write_song(path: Path, seconds: float, *, seed: int = 0, rate: int = 44_100) -> Path:
    """A song of low noise in whatever format its name says; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(int(seconds * rate), seed=seed).T, rate)
    return path


def documents(url: str, index: str) -> dict[str, dict[str, Any]]:
    """All that the index has, by video."""
    requests.post(f"{url}/{index}/_refresh", timeout=30)
    found = requests.get(f"{url}/{index}/_search", params={"size": 1000}, timeout=30).json()
    return {hit["_id"]: hit["_source"] for hit in found["hits"]["hits"]}


def assert_good(answer: dict[str, Any], document: dict[str, Any]) -> None:
    """The answer of a song that was done agrees with the file, with what lies beside it, and with the index."""
    assert answer["status"] == "vocals_processed", answer
    file = Path(answer["vocals_removed_path"])
    record = json.loads(file.with_name(file.name + ".json").read_text())
    assert hashlib.sha256(file.read_bytes()).hexdigest() == record["sha256"]
    assert file.stat().st_size == record["size_bytes"]
    audio = document["processing_metadata"]["audio"]
    assert document["file_paths"]["vocals_removed"] == answer["vocals_removed_path"]
    assert audio["error"] is None
    assert answer["method_used"] == record["method"] == audio["method"]
    assert answer["quality_score"] == _rounded(record["score"], 4) == _rounded(audio["quality_score"], 4)
    assert answer["processing_time"] == round(record["seconds"], 2) == round(audio["processing_time"], 2)


def assert_failed(answer: dict[str, Any], document: dict[str, Any], code: str) -> None:
    """The answer of a song that failed says why, as the index does."""
    assert answer["status"] == "failed", answer
    assert answer["error"]["code"] == code, answer
    assert "\n" not in answer["error"]["message"]
    audio = document["processing_metadata"]["audio"]
    assert {key: audio["error"][key] for key in ("code", "message")} == {
        key: answer["error"][key] for key in ("code", "message")
    }


def _rounded(number: float | None, digits: int) -> float | None:
    return None if number is None else round(number, digits)
