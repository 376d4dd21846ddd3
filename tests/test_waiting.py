"""What a person sees while a model loads or reads a long prompt."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)

from tests.conftest import Env, program
from tests.emulator import Terminal

EVALUATING = r"evaluating the prompt: \d+%"


@pytest.fixture
def long_text(tmp_path: Path) -> Path:
    """About 4,000 tokens: seconds of work."""
    path = tmp_path / "long.txt"
    path.write_text(
        "".join(f"Lamp {number} is lit by {number * 7} men.\n" for number in range(300))
    )
    return path


def test_run_shows_how_far_a_long_prompt_is(with_demo: Env, long_text: Path) -> None:
    argv = [
        *program(),
        "run",
        "--threads",
        "1",
        "-n",
        "3",
        "--no-cache",
        "-f",
        str(long_text),
        "Go",
    ]
    with Terminal(argv, with_demo) as terminal:
        terminal.wait_for(EVALUATING, timeout=60)
        assert terminal.wait_end(60) == 0
        assert "evaluating" not in terminal.text()


def test_the_chat_shows_it_too_and_ctrl_c_leaves_nothing_of_it(
    with_demo: Env, long_text: Path
) -> None:
    argv = [*program(), "chat", "--threads", "1", "--no-read-ahead", "--file", str(long_text)]
    with Terminal(argv, with_demo) as terminal:
        terminal.wait_for("Goes with your next")
        terminal.wait_for("(?m)^>>> ?")
        terminal.send("Go\r")
        terminal.wait_for(EVALUATING, timeout=60)
        terminal.send("\x03")
        terminal.wait_for("Stopped before the answer began")
        assert "evaluating" not in terminal.text()
        terminal.send("\x04")
        assert terminal.wait_end() == 0


def test_words_in_place_of_a_line_that_moves(with_demo: Env, long_text: Path) -> None:
    argv = [*program(), "chat", "--threads", "1", "--no-read-ahead", "--plain", "-n", "3"]
    with Terminal([*argv, "--file", str(long_text)], with_demo) as terminal:
        terminal.wait_for("(?m)^>>> ?")
        terminal.send("Go\r")
        terminal.wait_for("The prompt is evaluated", timeout=60)
        terminal.wait_for(r"(?s)is evaluated.*\n>>>", timeout=60)
        assert "%" not in terminal.text()
        terminal.send("\x04")
        assert terminal.wait_end() == 0
