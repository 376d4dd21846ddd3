"""A person's editor, opened on a file."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gemma_cli.errors import GemmaError

_USUAL = ("notepad",) if os.name == "nt" else ("editor", "nano", "vi")
_HINT = "choose one: export EDITOR=nano"


def edit(path: Path) -> None:
    """Open $VISUAL, $EDITOR or a usual editor and wait. Raises GemmaError where it fails.

    The file is as the editor left it, whatever became of the editor.
    """
    command = _command()
    # The editor writes to the terminal, even where our own stdout is the answer to a script.
    out = None if sys.stdout is not None and sys.stdout.isatty() else sys.stderr
    try:
        with _ctrl_c_is_the_editors():
            code = subprocess.run([*command, str(path)], stdout=out, check=False).returncode
    except OSError as error:
        reason = error.strerror or error
        raise GemmaError(f"the editor {command[0]} cannot be started: {reason}", _HINT) from error
    if code:
        ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise GemmaError(f"the editor {command[0]} {ended}")


@contextmanager
def _ctrl_c_is_the_editors() -> Iterator[None]:
    """Ctrl-C reaches the editor, which knows what it means; we only wait."""
    # A handler, not SIG_IGN: that one would be inherited.
    before = signal.signal(signal.SIGINT, lambda _signal, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _command() -> list[str]:
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if named:
        try:
            words = shlex.split(named, posix=os.name != "nt")
        except ValueError as error:
            raise GemmaError(f"$VISUAL or $EDITOR is no command: {named} ({error})") from error
        if words:
            return words
    found = next((name for name in _USUAL if shutil.which(name)), None)
    if found is None:
        raise GemmaError("no editor is here", _HINT)
    return [found]
