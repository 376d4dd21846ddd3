"""A Gemma 4 that thinks, from the weights to the terminal: where its thoughts go, and where not."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Env, Gemma, program
from tests.scripted_model import gemma4_tokenizer, scripted_gemma4
from tests.test_template import GEMMA_4

SAYS = ["<|channel>", "thought\n", "Hmm", " let", " me see.\n", "<channel|>", "Hello", " you", "!"]
THOUGHTS, ANSWER = "Hmm let me see.", "Hello you!"
MARKS = ("<|channel>", "<channel|>", "thought", "<|turn>", "<turn|>", "model")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the manner of 12B and larger: asked not to think, it is shown an empty thought."""
    return scripted_gemma4(tmp_path_factory.mktemp("large") / "gemma-4-it.gguf", SAYS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted_gemma4(tmp_path_factory.mktemp("small") / "gemma-4-it.gguf", SAYS, small=True)


def shown(gemma: Gemma, model: Path, *options: str, talk: Any = "Hi") -> dict[str, Any]:
    messages = talk if isinstance(talk, list) else [{"role": "user", "content": talk}]
    done = gemma(
        "run", "-m", str(model), "--show-prompt", "--messages", "-", *options,
        input=json.dumps(messages),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    prompt: dict[str, Any] = json.loads(done.stdout)
    return prompt


def test_what_each_size_is_shown(gemma: Gemma, large: Path, small: Path) -> None:
    asks = "<|turn>user\nHi<turn|>\n<|turn>model\n"
    closed = "<|channel>thought\n<channel|>"
    thinks = "<|turn>system\n<|think|>\n<turn|>\n"
    assert shown(gemma, large)["text"] == asks + closed
    assert shown(gemma, large, "--no-think")["text"] == asks + closed
    assert shown(gemma, small)["text"] == asks
    assert shown(gemma, small, "--no-think")["text"] == asks
    for model in (large, small):
        assert shown(gemma, model, "--think")["text"] == thinks + asks
        system = shown(gemma, model, "--think", "-s", " Be brief. ")["text"]
        assert system == "<|turn>system\n<|think|>\nBe brief.<turn|>\n" + asks


def test_the_template_in_the_file_is_asked_the_same(
    gemma: Gemma, large: Path, tmp_path: Path
) -> None:
    model = scripted_gemma4(tmp_path / "gemma-4-it.gguf", SAYS, template=GEMMA_4)
    for options in ((), ("--think",), ("--no-think", "-s", "Be brief.")):
        own, theirs = shown(gemma, large, *options), shown(gemma, model, *options)
        assert theirs["text"] == "<bos>" + own["text"]
        assert theirs["tokens"] == own["tokens"]
    answer = json.loads(gemma("run", "-m", str(model), "--json", "--think", "Hi").stdout)
    assert (answer["thoughts"], answer["text"]) == (THOUGHTS, ANSWER)


def test_an_earlier_thought_is_not_shown_again(gemma: Gemma, large: Path) -> None:
    said = "<|channel>thought\nsecret<channel|>Hello."
    talk = [("user", "Hi"), ("assistant", said), ("user", "<|channel>thought\nmine<channel|>")]
    prompt = shown(gemma, large, talk=[{"role": r, "content": c} for r, c in talk])
    assert "secret" not in prompt["text"]
    assert "Hello.<turn|>" in prompt["text"]
    assert "<|channel>thought\nmine<channel|>" in prompt["text"]  # a user's words are words
    texts = gemma4_tokenizer(SAYS)["tokenizer.ggml.tokens"]
    assert isinstance(texts, list)
    assert prompt["tokens"].count(texts.index("<|channel>")) == 1  # the empty thought at the end


@pytest.mark.parametrize("options", [(), ("--think",), ("--no-think",)])
def test_standard_output_is_the_answer(
    gemma: Gemma, large: Path, small: Path, options: tuple[str, ...]
) -> None:
    for model in (large, small):
        done = gemma("run", "-m", str(model), "-t", "0", *options, "Hi")
        assert (done.returncode, done.stdout) == (0, f"{ANSWER}\n"), done.stderr
        assert THOUGHTS not in done.stderr  # no terminal


def test_json_has_the_thoughts_apart(gemma: Gemma, large: Path) -> None:
    done = gemma("run", "-m", str(large), "-t", "0", "--json", "--think", "Hi")
    answer = json.loads(done.stdout)
    assert answer["text"] == ANSWER
    assert answer["thoughts"] == THOUGHTS
    plain = json.loads(gemma("run", "-m", str(large), "-t", "0", "--json", "Hi").stdout)
    assert plain["text"] == ANSWER
    assert "thoughts" not in plain


def test_a_setting_and_a_variable_ask_too(home: Env, gemma: Gemma, large: Path) -> None:
    asked = gemma("run", "-m", str(large), "--json", "Hi", env={"GEMMA_THINK": "1"})
    assert json.loads(asked.stdout)["thoughts"] == THOUGHTS
    config = Path(home["GEMMA_HOME"]) / "config" / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("think = true\n")
    assert json.loads(gemma("run", "-m", str(large), "--json", "Hi").stdout)["thoughts"]
    config.write_text("think = 1\n")
    wrong = gemma("run", "-m", str(large), "Hi")
    assert wrong.returncode == 2
    assert "'think' must be true or false" in wrong.stderr


def test_an_answer_that_never_began_is_said(gemma: Gemma, large: Path) -> None:
    done = gemma("run", "-m", str(large), "--think", "-n", "4", "Hi")
    assert done.stdout == ""
    assert "--max-tokens 4" in done.stderr
    assert "only thought" in done.stderr


def test_a_model_that_cannot_think_says_so(with_demo: Env, gemma: Gemma) -> None:
    done = gemma("run", "-m", "gemma3:270m-pt", "--think", "-n", "1", "Hi", env=with_demo)
    assert done.returncode == 0
    assert done.stderr.count("cannot be asked to think") == 1
    silent = gemma("run", "-m", "gemma3:270m-pt", "--no-think", "-n", "1", "Hi", env=with_demo)
    assert "think" not in silent.stderr


def test_thoughts_are_seen_on_a_terminal(home: Env, large: Path) -> None:
    command = [*program(), "run", "-m", str(large), "-t", "0", "Hi"]
    seen = on_terminal([*command, "--think"], home)
    assert seen.stdout == f"{ANSWER}\n".encode()
    assert b"Thinking" in seen.stderr
    assert b"\x1b[2mHmm" in seen.stderr  # dim
    assert b"me see." in seen.stderr
    assert b"Hmm" not in on_terminal(command, home).stderr


def on_terminal(command: list[str], env: Env) -> subprocess.CompletedProcess[bytes]:
    """Run with a terminal for stderr and a pipe for stdout."""
    master, slave = pytest.importorskip("pty").openpty()
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave
    )
    os.close(slave)
    stdout, _ = process.communicate(timeout=60)
    seen = b""
    try:
        while more := os.read(master, 65536):
            seen += more
    except OSError:  # Linux: the last of the other side has gone
        pass
    os.close(master)
    return subprocess.CompletedProcess(command, process.returncode, stdout, seen)


def test_a_chat_keeps_thoughts_and_never_sends_them_back(
    home: Env, gemma: Gemma, large: Path
) -> None:
    done = gemma("chat", str(large), "-t", "0", "--think", input="Hi\nAnd?\n/think off\nSo?\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{ANSWER}\n" * 3
    assert done.stderr.count("Hmm let me see.") == 2
    assert "Thinking:" in done.stderr
    assert not [mark for mark in MARKS if mark in done.stdout]
    with sqlite3.connect(Path(home["GEMMA_HOME"]) / "data" / "history.db") as db:
        kept = db.execute("SELECT text, thoughts FROM message WHERE role = 'assistant'").fetchall()
        counts = db.execute("SELECT counts FROM message WHERE counts IS NOT NULL").fetchall()
    db.close()
    assert kept == [(ANSWER, THOUGHTS), (ANSWER, THOUGHTS), (ANSWER, "")]
    first, second, _ = (json.loads(row[0])["prompt_tokens"] for row in counts)
    again = shown(gemma, large, "--think", talk=[
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": "And?"},
    ])  # fmt: skip
    assert second == len(again["tokens"]) > first
    exported = json.loads(gemma("history", "export", "1", "--format", "json").stdout)
    assert [turn.get("thoughts") for turn in exported["turns"]] == [
        None, THOUGHTS, None, THOUGHTS, None, None,
    ]  # fmt: skip


def test_think_in_a_chat_with_a_model_that_cannot(with_demo: Env, gemma: Gemma) -> None:
    done = gemma(
        "chat", "gemma3:270m-pt", "-n", "1", "--think", "--no-history",
        input="Hi\nHi\n/think on\n/think maybe\n", env=with_demo,
    )  # fmt: skip
    assert done.stderr.count("cannot be asked to think") == 2  # once for --think, once for /think
    assert "/think takes on or off" in done.stderr
