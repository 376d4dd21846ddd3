"""Which format a model file gets: its own template, its generation's, or a transcript."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Env, Gemma
from tests.test_template import GEMMA_1_AND_2, GEMMA_3, TURNS

BOS, START, END = 2, 105, 106
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Why?\n"},
]


def with_text_key(source: Path, target: Path, key: str, value: str) -> None:
    """Write a copy of a GGUF file with one more text in its metadata.

    The key goes in front of the others, its value padded (a template by a
    comment) so that what follows moves by a multiple of GGUF's alignment, 32.
    """
    raw = source.read_bytes()
    (count,) = struct.unpack_from("<Q", raw, 16)
    name = key.encode()
    size = 8 + len(name) + 4 + 8 + len(value.encode())
    room = -size % 32 + 32
    padding = "{#" + " " * (room - 4) + "#}" if key.endswith("template") else " " * room
    text = (value + padding).encode()
    entry = struct.pack("<Q", len(name)) + name + struct.pack("<IQ", 8, len(text)) + text
    target.write_bytes(raw[:16] + struct.pack("<Q", count + 1) + entry + raw[24:])


@pytest.fixture(autouse=True)
def _demo(with_demo: Env) -> None:
    """Every test here has the embedded model at hand."""


def shown(gemma: Gemma, model: Path) -> dict[str, Any]:
    done = gemma(
        "run", "-m", str(model), "--messages", "-", "--show-prompt", input=json.dumps(TALK)
    )
    assert done.returncode == 0, done.stderr
    prompt: dict[str, Any] = json.loads(done.stdout)
    return prompt


def check_turns(prompt: dict[str, Any]) -> None:
    assert prompt["text"].removeprefix("<bos>") == TURNS
    tokens = prompt["tokens"]
    assert tokens.count(BOS) == 1
    assert tokens[0] == BOS
    assert tokens.count(START) == 4
    assert tokens.count(END) == 3
    words = [s["text"] for s in prompt["segments"] if not s["control"]]
    assert words == ["Be brief.", "Hi", "Hello!", "Why?"]


def test_a_chat_model_without_a_template_gets_its_generations(
    gemma: Gemma, demo_gguf: Path, tmp_path: Path
) -> None:
    model = tmp_path / "gemma-3-270m-it-Q4_K_M.gguf"
    os.link(demo_gguf, model)
    check_turns(shown(gemma, model))
    assert "base model" not in gemma("run", "-m", str(model), "-n", "1", "x").stderr


@pytest.mark.parametrize("template", [GEMMA_1_AND_2, GEMMA_3], ids=["Gemma 1 and 2", "Gemma 3"])
def test_the_template_in_the_file_is_used(
    gemma: Gemma, demo_gguf: Path, tmp_path: Path, template: str
) -> None:
    model = tmp_path / "model.gguf"
    with_text_key(demo_gguf, model, "tokenizer.chat_template", template)
    check_turns(shown(gemma, model))
    done = gemma("run", "-m", str(model), "-t", "0", "-n", "4", "Say hello.")
    assert done.returncode == 0, done.stderr
    assert "base model" not in done.stderr


def test_a_template_that_cannot_be_used_is_an_error_of_its_own(
    gemma: Gemma, demo_gguf: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.gguf"
    with_text_key(demo_gguf, model, "tokenizer.chat_template", "{% for %}")
    done = gemma("run", "-m", str(model), "x")
    assert done.returncode == 1
    assert "template" in done.stderr
    assert "Traceback" not in done.stderr
    assert gemma("run", "-m", str(model), "--raw", "-n", "1", "x").returncode == 0


def test_a_tuning_that_says_pre_trained_is_a_base_model(
    gemma: Gemma, demo_gguf: Path, tmp_path: Path
) -> None:
    model = tmp_path / "gemma-3-270m-it.gguf"
    with_text_key(demo_gguf, model, "general.finetune", "pt ")
    # the padding of the key's value makes it "pt" and spaces
    assert "base model" in gemma("run", "-m", str(model), "-n", "1", "x").stderr
