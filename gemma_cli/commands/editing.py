"""A person's editor, opened on a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gemma_cli.errors import GemmaError
from gemma_cli.terminal.editor import editor_command

_HINT = "choose one: export EDITOR=nano"


def edit(path: Path) -> None:
    """Open $VISUAL, $EDITOR or a usual editor and wait. Raises GemmaError where it fails.

    The file is as the editor left it, whatever became of the editor.
    """
    command = editor_command()
    if not (_is_chosen() or sys.platform == "win32" or (sys.stdin and sys.stdin.isatty())):
        raise GemmaError("there is no terminal that an editor could open in", f"the file: {path}")
    # The editor writes to the terminal, even where our own stdout is the answer to a script.
    out = None if sys.stdout.isatty() else sys.stderr
    try:
        with _ctrl_c_is_the_editors():
            code = subprocess.run([*command, str(path)], stdout=out, check=False).returncode
    except OSError as error:
        reason = error.strerror or error
        raise GemmaError(f"the editor {command[0]} cannot be started: {reason}", _HINT) from error
    if code:
        ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise GemmaError(f"the editor {command[0]} {ended}")


def _is_chosen() -> bool:
    """Whether somebody named an editor, which may be one that needs no terminal."""
    return any(os.environ.get(name, "").strip() for name in ("VISUAL", "EDITOR"))


@contextmanager
def _ctrl_c_is_the_editors() -> Iterator[None]:
    """Ctrl-C reaches the editor, which knows what it means; we only wait."""
    # A handler, not SIG_IGN: that one would be inherited.
    before = signal.signal(signal.SIGINT, lambda _signal, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
