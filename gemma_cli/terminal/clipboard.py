"""Text to the clipboard: by the system's programs, by tmux, or by the terminal itself (OSC 52)."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import TextIO

from gemma_cli.errors import GemmaError
from gemma_cli.terminal.sanitize import strip_controls

_PATIENCE_S = 5.0  # PowerShell alone takes one

# Terminals take sequences of 100,000 characters, base64 and the frame included.
_MOST_BYTES = 74_985
# GNU screen takes 768 bytes at once.
_SCREEN_PIECE = 700

_POWERSHELL = (
    "$in = New-Object IO.StreamReader([Console]::OpenStandardInput(), [Text.Encoding]::UTF8);"
    " Set-Clipboard -Value $in.ReadToEnd()"
)
# They answer OSC 52 with nothing, or show it.
_DEAF_TERMINALS = ("", "dumb", "linux", "vt100", "vt102", "vt220")


def copy(text: str) -> str:
    """Put text on the clipboard, without control characters; where it is now, for a notice.

    Programs tell whether they succeeded and come first; a terminal is silent. Raises
    GemmaError where neither is there, or the text is too long for the terminal.
    """
    text = strip_controls(text)
    if not text:
        raise GemmaError("there is nothing to copy: the text is empty")
    data = text.encode("utf-8", "replace")
    for argv in _programs():
        if _fed(argv, data):
            place = "tmux" if argv[0] == "tmux" else "the system"
            return f"{place}'s clipboard ({argv[0]})"
    terminal = _terminal()
    if terminal is None:
        raise GemmaError("there is no clipboard that can be reached from here", _missing())
    if len(data) > _MOST_BYTES:
        raise GemmaError(
            f"the text has {len(data):,} bytes: a terminal's clipboard takes {_MOST_BYTES:,}",
            _missing(),
        )
    terminal.write(_sequence(data))
    terminal.flush()
    return "the terminal's clipboard (OSC 52)"


def _programs() -> Iterator[list[str]]:
    """What reaches the clipboard of the person who sits here, where it is installed."""
    here = not (os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"))
    wanted: list[list[str]] = []
    if here and sys.platform == "darwin":
        wanted.append(["pbcopy"])
    if here and (sys.platform == "win32" or os.environ.get("WSL_DISTRO_NAME")):
        wanted.append(["powershell.exe", "-NoProfile", "-NonInteractive", "-Command", _POWERSHELL])
    if os.environ.get("WAYLAND_DISPLAY"):
        wanted.append(["wl-copy"])
    if os.environ.get("DISPLAY"):  # over SSH too: it is the display in front of the person
        wanted += [["xclip", "-selection", "clipboard"], ["xsel", "--clipboard", "--input"]]
    if os.environ.get("TMUX"):
        wanted.append(["tmux", "load-buffer", "-w", "-"])  # -w: to the outer terminal too
    return (argv for argv in wanted if shutil.which(argv[0]))


def _fed(argv: list[str], data: bytes) -> bool:
    """Whether a program took the data, in time.

    Some stay behind to hand the text out: they get no pipe that would be waited
    for, and a session of their own, where no Ctrl-C reaches them.
    """
    try:
        done = subprocess.run(
            argv,
            input=data,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE_S,
            start_new_session=True,
            env=os.environ | {"LC_CTYPE": "UTF-8"} if argv[0] == "pbcopy" else None,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _terminal() -> TextIO | None:
    """The stream that leads to a terminal which may know OSC 52."""
    if os.environ.get("TERM", "") in _DEAF_TERMINALS and sys.platform != "win32":
        return None
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and stream.isatty():
            return stream
    return None


def _sequence(data: bytes) -> str:
    """OSC 52, wrapped where tmux or screen stand before the terminal."""
    osc = f"\x1b]52;c;{base64.b64encode(data).decode('ascii')}\x07"
    if os.environ.get("TMUX"):
        return f"\x1bPtmux;\x1b{osc}\x1b\\"  # an ESC inside is doubled
    if os.environ.get("STY"):
        pieces = [osc[at : at + _SCREEN_PIECE] for at in range(0, len(osc), _SCREEN_PIECE)]
        return "".join(f"\x1bP{piece}\x1b\\" for piece in pieces)
    return osc


def _missing() -> str:
    if sys.platform in ("darwin", "win32") or not (
        os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")
    ):
        return "write it to a file instead: /save FILE"
    program = "wl-clipboard" if os.environ.get("WAYLAND_DISPLAY") else "xclip"
    return f"install {program}, or write it to a file: /save FILE"
