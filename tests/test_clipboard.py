"""The clipboard: real programs in PATH, a real tmux, and the bytes that reach a terminal."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)

from tests.conftest import Env
from tests.emulator import Terminal

ROOT = Path(__file__).parent.parent
# Prints where the text went, or what failed.
COPY = """
import sys
from gemma_cli.errors import GemmaError
from gemma_cli.terminal.clipboard import copy
try:
    print("to " + copy(sys.argv[1] * int(sys.argv[2])))
except GemmaError as error:
    print(f"{error.message} | {error.hint}")
"""
CLIPBOARD_VARIABLES = ("DISPLAY", "WAYLAND_DISPLAY", "TMUX", "STY", "SSH_", "WSL_")


@pytest.fixture
def bare(home: Env, tmp_path: Path) -> Env:
    """No display, no multiplexer, and only what the test puts into PATH."""
    kept = {k: v for k, v in home.items() if not k.startswith(CLIPBOARD_VARIABLES)}
    (tmp_path / "bin").mkdir()
    return kept | {"PATH": str(tmp_path / "bin"), "PYTHONPATH": str(ROOT)}


def command(text: str, times: int = 1) -> list[str]:
    return [sys.executable, "-c", COPY, text, str(times)]


def in_a_terminal(env: Env, text: str, times: int = 1) -> tuple[str, bytes]:
    with Terminal(command(text, times), env, columns=200) as terminal:
        terminal.wait_end()
        return terminal.text(), terminal.output


def in_a_pipe(env: Env, text: str) -> str:
    done = subprocess.run(command(text), env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def install(env: Env, name: str, script: str) -> None:
    program = Path(env["PATH"]) / name
    program.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("display", "name"),
    [("WAYLAND_DISPLAY", "wl-copy"), ("DISPLAY", "xclip"), ("DISPLAY", "xsel")],
)
def test_the_display_s_own_program(bare: Env, tmp_path: Path, display: str, name: str) -> None:
    install(bare, name, f"cat > {tmp_path}/board")
    shown = in_a_pipe(bare | {display: "1"}, "grüße\n\x1b[201~x\r\n")
    assert shown == f"to the system's clipboard ({name})"
    assert (tmp_path / "board").read_text() == "grüße\n[201~x\n"
    assert "no clipboard" in in_a_pipe(bare, "x")  # without a display it is of no use


def test_a_program_that_stays_behind_is_not_waited_for_and_survives_ctrl_c(
    bare: Env, tmp_path: Path
) -> None:
    """As xclip does: it hands the text out until another one takes the selection."""
    install(bare, "xclip", f"cat > /dev/null\n(sleep 100 & echo $! > {tmp_path}/pid; wait) &")
    started = time.monotonic()
    assert "(xclip)" in in_a_pipe(bare | {"DISPLAY": ":0"}, "x")
    assert time.monotonic() - started < 90
    pid = int((tmp_path / "pid").read_text())
    try:
        assert os.getpgid(pid) != os.getpgid(0)
    finally:
        os.kill(pid, 9)


def test_a_program_that_hangs_or_fails_gives_way_to_the_terminal(bare: Env) -> None:
    install(bare, "wl-copy", "exec sleep 100")
    install(bare, "xclip", "exit 1")
    started = time.monotonic()
    shown, output = in_a_terminal(bare | {"DISPLAY": ":0", "WAYLAND_DISPLAY": "w"}, "hé")
    assert time.monotonic() - started < 90
    assert "to the terminal's clipboard (OSC 52)" in shown
    assert b"\x1b]52;c;" + base64.b64encode("hé".encode()) + b"\x07" in output


def test_the_terminal_behind_tmux_and_screen(bare: Env) -> None:
    encoded = base64.b64encode(b"ab" * 1000)
    _, output = in_a_terminal(bare | {"TMUX": "/nowhere,1,0"}, "ab", 1000)
    assert b"\x1bPtmux;\x1b\x1b]52;c;" + encoded + b"\x07\x1b\\" in output
    _, output = in_a_terminal(bare | {"STY": "1.screen"}, "ab", 1000)
    pieces = re.findall(rb"\x1bP(.*?)\x1b\\", output)
    assert len(pieces) == 4
    assert b"".join(pieces) == b"\x1b]52;c;" + encoded + b"\x07"
    assert max(map(len, pieces)) < 768


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": "linux"}, {"TERM": ""}])
def test_a_terminal_that_would_show_it_gets_nothing(bare: Env, env: Env) -> None:
    shown, output = in_a_terminal(bare | env, "x")
    assert "no clipboard that can be reached from here | write it to a file" in shown
    assert b"\x1b]52" not in output


def test_too_long_for_a_terminal_and_empty(bare: Env) -> None:
    assert "OSC 52" in in_a_terminal(bare, "x", 74_000)[0]
    shown, output = in_a_terminal(bare | {"DISPLAY": ":0"}, "x", 80_000)
    assert "80,000 bytes" in shown
    assert "install xclip" in shown
    assert b"\x1b]52" not in output
    assert "nothing to copy" in in_a_terminal(bare, "\x1b")[0]


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_a_real_tmux(bare: Env, tmp_path: Path) -> None:
    tmux = [str(shutil.which("tmux")), "-f", "/dev/null", "-S", str(tmp_path / "socket")]
    bin_folder = str(Path(tmux[0]).parent)
    env = bare | {"PATH": f"{bare['PATH']}:{bin_folder}:/bin"}
    line = " ".join(f"'{part}'" for part in command("from tmux"))
    subprocess.run([*tmux, "new-session", "-d", f"{line}; sleep 120"], env=env, check=True)
    try:
        deadline = time.monotonic() + 90
        shown = ""
        while "to tmux's clipboard (tmux)" not in shown:
            assert time.monotonic() < deadline, shown
            time.sleep(0.1)
            shown = subprocess.run(
                [*tmux, "capture-pane", "-p"], env=env, capture_output=True, text=True, check=True
            ).stdout
        board = subprocess.run([*tmux, "show-buffer"], env=env, capture_output=True, check=True)
        assert board.stdout == b"from tmux"
    finally:
        subprocess.run([*tmux, "kill-server"], env=env, check=False)
