"""The person's own editor for one text: $VISUAL, else $EDITOR, else one that is there."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gemma_cli.errors import GemmaError
from gemma_cli.terminal.sanitize import strip_controls

_HINT = "choose another one: export EDITOR=nano"


class Editor:
    """One run of an editor. stop() may come from another thread and ends it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def edit(self, text: str) -> str:
        """The text as it was saved, without control characters; blocks until the editor ends.

        The file is the user's alone and gone afterwards, together with what an editor
        puts beside it (backups, swap files). Raises GemmaError where the editor is
        missing, fails, is killed, or leaves nothing that can be read.
        """
        command = editor_command()
        try:
            with tempfile.TemporaryDirectory(prefix="gemma-", ignore_cleanup_errors=True) as folder:
                path = Path(folder) / "message.md"
                path.touch(mode=0o600)
                path.write_bytes(f"{text}\n".encode("utf-8", "replace"))
                self._run(command, path)
                saved = path.read_bytes()
        except OSError as error:
            raise GemmaError(f"the text cannot be edited: {error}", _HINT) from error
        written = saved.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n")
        return strip_controls(written.removesuffix("\n"))

    def stop(self) -> None:
        self._stopped = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def _run(self, command: list[str], path: Path) -> None:
        name = command[0]
        try:
            self._process = subprocess.Popen([*command, str(path)])
        except OSError as error:
            reason = error.strerror or error
            raise GemmaError(f"the editor {name} cannot be started: {reason}", _HINT) from error
        if self._stopped:
            self._process.terminate()
        code = self._process.wait()
        if code < 0:
            raise GemmaError(f"the editor {name} was killed by signal {-code}")
        if code:
            raise GemmaError(f"the editor {name} failed with exit code {code}")


def editor_command() -> list[str]:
    """Program and arguments, the file's name to be added. Raises GemmaError without any."""
    for variable in ("VISUAL", "EDITOR"):
        wish = os.environ.get(variable, "").strip()
        if not wish:
            continue
        try:
            # A backslash belongs to a Windows path and quotes elsewhere.
            command = shlex.split(wish, posix=sys.platform != "win32")
        except ValueError as error:
            raise GemmaError(f"${variable} cannot be read: {error}", _HINT) from error
        if command:
            return [part.strip('"') for part in command] if sys.platform == "win32" else command
    usual = ("notepad",) if sys.platform == "win32" else ("sensible-editor", "nano", "vim", "vi")
    for name in usual:
        if shutil.which(name):
            return [name]
    raise GemmaError("there is no editor here", "install one, or name it: export EDITOR=nano")
