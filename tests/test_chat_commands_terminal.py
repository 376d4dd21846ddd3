"""The main commands as a person types them: the real program, the real model, a real terminal."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)

from tests.conftest import DEMO, Env, Gemma, program
from tests.emulator import Terminal

READY = r"(?m)^>>> (Send a message.*)?$"


@pytest.fixture
def chat(with_demo: Env) -> Iterator[Terminal]:
    argv = [*program(), "chat", "-m", DEMO, "-n", "6", "--temp", "1", "--ctx", "1024"]
    with Terminal(argv, with_demo, columns=100, lines=50) as terminal:
        terminal.wait_for(READY)
        yield terminal
        terminal.send("\x04")
        terminal.wait_end()


def enter(terminal: Terminal, typed: str, pattern: str) -> str:
    """Type that, wait for the pattern in what follows and for the next prompt; what follows."""
    place = max(terminal.text().rfind("\n>>> "), 0) + 1
    terminal.send(f"{typed}\r")
    deadline = time.monotonic() + 90
    while True:
        terminal.settle(0.2)
        new = terminal.text()[place:]
        if re.search(pattern, new) and re.search(READY, new[4:]):
            return new
        assert time.monotonic() < deadline, f"{pattern!r} did not come:\n{terminal.text()}"


CUT = r"cut at max_tokens 6|tokens/s"


def test_a_tree_is_made_and_walked(chat: Terminal) -> None:
    enter(chat, "What is the capital of France?", CUT)
    enter(chat, "/regen", CUT)
    said = enter(chat, "/branches", "you are at b1")
    assert '● b1  "What is the capital of France?"' in said
    assert "├─○ a1  another answer" in said
    chat.send("/edit\r")
    chat.wait_for(r"(?s)>>> /edit.*>>> What is the capital of France\?")
    chat.send("\x7f and Spain?\r")
    chat.settle(1)
    enter(chat, "", "")
    said = enter(chat, "/branches", "you are at c1")
    assert "France and Spain?" in said
    assert "Back before turn 1. To come back: /goto c1" in enter(chat, "/undo", "Back")
    enter(chat, "/goto b", "You are at b1")
    chat.send("/edit\r")
    chat.wait_for(r"(?s)You are at b1.*>>> /edit\n.*>>> What is the capital of France\?")
    chat.send("\x03")
    chat.wait_for("The text was not used: what was said")
    enter(chat, "And of Italy?", CUT)
    enter(chat, "/branch 1", "branch after turn 1. To come back: /goto b2")
    said = enter(chat, "/context", "tokens are used")
    assert "turn 1" in said


def test_an_answer_goes_on(chat: Terminal) -> None:
    enter(chat, "/set temperature 0", "temperature +0")
    enter(chat, "Count: one two three four five", "/continue goes on with it")
    more = enter(chat, "/continue", CUT)
    said = enter(chat, "/stats", "context window")
    shown = re.search(r"prompt +(\d+) tokens, (\d+) of them cached", said)
    assert shown
    assert int(shown[1]) - int(shown[2]) <= 3, more  # the answer so far was not evaluated again


def test_a_summary_takes_the_place_of_turns(chat: Terminal) -> None:
    for number in range(2):
        enter(chat, f"Tell me of lamp {number}.", CUT)
    enter(chat, "/compact", "A summary stands for turn 1|empty summary")
    if "empty summary" not in chat.text():
        enter(chat, "/edit summary Lamps were told of.", "is changed")
        assert "Lamps were told of." in enter(chat, "/compact show", "Lamps")
        assert "summary of turn 1" in enter(chat, "/context", "tokens are used")
        enter(chat, "And lamp 3?", CUT)


def test_files_and_past_chats(chat: Terminal, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("The secret word is marmalade.\n")
    enter(chat, f"What is in @{tmp_path}/note.txt please?", r"note\.txt: \d+ tokens(.|\n)*tok")
    enter(chat, "/title Jam and lamps", "is called")
    enter(chat, "/new", "A new conversation begins")
    assert "Jam and lamps" in enter(chat, "/search please", "/resume ID")
    assert "Jam and lamps" in enter(chat, "/history", "/resume ID")
    assert "Chat 1, 1 turn: Jam and lamps" in enter(chat, "/resume 1", "Chat 1")
    assert "turn 1" in enter(chat, "/file", r"note\.txt")


def test_the_model_is_loaded_otherwise(chat: Terminal) -> None:
    enter(chat, "Hello", CUT)
    said = enter(chat, "/set ctx 512", "answers from here on")
    enter(chat, "/model gemma3:270m-pt", "gemma3:270m-pt is loaded already")
    assert "a context of 512 tokens" in said
    enter(chat, "/context", "of 512 tokens are used")
    said = enter(chat, "/model", "context +512")
    assert DEMO in said
    assert "gemma3:" in enter(chat, "/model gemma3:999b", "gemma: ")
    enter(chat, "Still here?", CUT)
    assert "weights" in enter(chat, "/show plan", "weights")


def test_options_of_the_command_line(gemma: Gemma, with_demo: Env, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha beta")
    (tmp_path / "b.md").write_text("gamma delta")
    done = gemma(
        "chat", "-m", DEMO, "-n", "2", "--ctx", "512", "--file", str(tmp_path / "a.txt"),
        "--pin", str(tmp_path / "b.md"), input="hi\n/file\n/context\n", env=with_demo,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"pinned +.*b\.md: \d+ tokens", done.stderr)
    assert re.search(r"turn 1 +.*a\.txt: \d+ tokens", done.stderr)
    missing = gemma("chat", "-m", DEMO, "--file", "no.txt", input="hi\n", env=with_demo)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "no.txt" in missing.stderr
    plain = gemma("chat", "-m", DEMO, "--plain", input="/show plan\n", env=with_demo)
    assert re.search(r"CPU: .* in use; for the model: weights \d+ MiB, .* left", plain.stderr)
    assert "[" not in plain.stderr  # no bar
    config = Path(with_demo["GEMMA_HOME"]) / "config" / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text('context_full = "maybe"\n')
    wrong = gemma("chat", "-m", DEMO, input="", env=with_demo)
    assert wrong.returncode == 2
    assert "context_full" in wrong.stderr
    config.write_text("history = false\n")
    gemma("chat", "-m", DEMO, "-n", "1", input="unsaved\n", env=with_demo)
    assert "unsaved" not in gemma("history", "list", env=with_demo).stdout
