"""Notices on stderr: whole words on a terminal, untouched in a pipe."""

from __future__ import annotations

import sys

import pytest

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)

from tests.conftest import Env, Gemma, program
from tests.emulator import Terminal

NOTICE = (
    "gemma: the llama.cpp that is installed here is for CPUs only: to use GPUs, that machine "
    "needs one built for them (gemma doctor there says how)"
)
PLAN = ("plan", "gemma3:27b", "--gpu", "24GiB", "--ram", "64GiB")


def test_a_terminal_breaks_no_word(home: Env) -> None:
    with Terminal([*program(), *PLAN], home, columns=60) as terminal:
        assert terminal.wait_end(30) == 0
        lines = [line.rstrip() for line in terminal.text().splitlines()]
    words = NOTICE.split()
    said = " ".join(lines[: next(i for i, line in enumerate(lines) if "says how)" in line) + 1])
    assert said.split()[-len(words) :] == words


def test_a_pipe_gets_one_line(gemma: Gemma, home: Env) -> None:
    assert NOTICE in gemma(*PLAN, env=home).stderr.splitlines()


COLUMNS = """\
/help, /? [COMMAND]     what can be typed here
  1  2026-11-21  a title that goes on
file  /a/long/path/that/has/no/place/to/break/it/at.gguf
short  as it is"""


def test_columns_stay_columns(home: Env) -> None:
    code = f"from gemma_cli.terminal.notices import tell\ntell({COLUMNS!r})"
    with Terminal([sys.executable, "-c", code], home, columns=30) as terminal:
        assert terminal.wait_end() == 0
        lines = [line.rstrip() for line in terminal.text().splitlines()]
    assert lines[:2] == ["/help, /? [COMMAND]     what", "    can be typed here"]
    assert lines[2:4] == ["  1  2026-11-21  a title that", "     goes on"]
    assert lines[4:6] == ["file", "/a/long/path/that/has/no/place"]
    assert lines[-1] == "short  as it is"
