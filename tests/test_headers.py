"""Remembered headers are the ones that reading gives, and never outlive a changed file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gemma_cli.errors import ModelFileError, ModelNotFoundError
from gemma_cli.models.gguf import read_header
from gemma_cli.models.headers import known_header


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEMMA_HOME", str(tmp_path))
    return tmp_path / "cache" / "headers"


def test_a_remembered_header_equals_the_one_read(demo_gguf: Path, cache: Path) -> None:
    read = read_header(demo_gguf)
    assert known_header(demo_gguf) == read
    assert len(list(cache.iterdir())) == 1
    assert known_header(demo_gguf) == read


def test_a_changed_file_is_read_anew(demo_gguf: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    os.link(demo_gguf, model)
    known_header(model)
    model.unlink()
    model.write_bytes(b"<html>")
    with pytest.raises(ModelFileError, match="web page"):
        known_header(model)
    model.unlink()
    with pytest.raises(ModelNotFoundError):
        known_header(model)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": []}', '{"state": 1, "header": {}}'])
def test_a_broken_entry_is_read_anew(demo_gguf: Path, cache: Path, content: str) -> None:
    known_header(demo_gguf)
    (entry,) = cache.iterdir()
    state = json.loads(entry.read_text())["state"]
    entry.write_text(content)
    assert known_header(demo_gguf) == read_header(demo_gguf)
    entry.write_text(json.dumps({"state": state, "header": {"name": "x", "tensors": []}}))
    assert known_header(demo_gguf) == read_header(demo_gguf)


def test_a_folder_that_cannot_be_written_to_is_no_failure(
    demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GEMMA_HOME", str(tmp_path / "file"))
    assert known_header(demo_gguf) == read_header(demo_gguf)


def test_the_cache_does_not_grow_without_end(demo_gguf: Path, tmp_path: Path, cache: Path) -> None:
    for number in range(70):
        link = tmp_path / f"{number}.gguf"
        os.link(demo_gguf, link)
        if number == 0:
            known_header(link)
            (first,) = cache.iterdir()
            content = first.read_text()
        else:
            (cache / f"{number}.json").write_text(content)
    last = tmp_path / "last.gguf"
    os.link(demo_gguf, last)
    known_header(last)
    assert len(list(cache.glob("*.json"))) == 64
