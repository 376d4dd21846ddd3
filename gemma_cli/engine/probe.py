"""Try a model file in a child process, and say what became of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from gemma_cli.engine import probe_program as program
from gemma_cli.errors import Cancelled, DoesNotFitError, EngineError, ModelFileError

_SECONDS = 60  # a slow disk takes its time; a busy loop ends by program.CPU_SECONDS
_SAID_AFTER = 1.0
_POLL = 0.02
_LONGEST_REASON = 300
_AGAIN = "check where it came from, or download it again; GEMMA_DEBUG=1 shows llama.cpp's words"
# -P: no file of the current folder may stand in for a module.
_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from gemma_cli.engine.probe_program import main; sys.exit(main(sys.argv[2]))"
)


def probe(path: Path, stopped: Callable[[], bool]) -> None:
    """Return if a child process could load the file, weights apart; the errors of `admit`."""
    if not sys.executable:  # embedded in another program: there is no Python to start
        return
    with tempfile.TemporaryFile() as output:
        code = _child(path, output, stopped)
        output.seek(0)
        said = output.read(1 << 16).decode("utf-8", "replace").strip()
    if code == program.LOADS:
        return
    if os.environ.get("GEMMA_DEBUG", "") not in ("", "0"):
        print("".join(c if c.isprintable() or c == "\n" else "?" for c in said), file=sys.stderr)
    if code == program.REFUSED:
        reason = said.partition("\n")[0][:_LONGEST_REASON]  # it may quote the file at length
        raise ModelFileError(f"llama.cpp cannot load {path}: {reason}", _AGAIN)
    # Nobody but the system's out-of-memory killer sends the child that signal.
    if code in (program.NO_MEMORY, -getattr(signal, "SIGKILL", 0)):
        raise DoesNotFitError(f"there is too little memory to read the header of {path}")
    if code is None or code == -getattr(signal, "SIGXCPU", 0):
        raise ModelFileError(
            f"{path} is damaged: llama.cpp does not come to an end with it", _AGAIN
        )
    raise ModelFileError(
        f"{path} is damaged: llama.cpp crashes on it ({_crash(said, code)})", _AGAIN
    )


def _child(path: Path, output: IO[bytes], stopped: Callable[[], bool]) -> int | None:
    """The child's exit code; None when it took too long."""
    package = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-P", "-c", _PROGRAM, str(package), str(path.absolute())]
    hidden = {"GGML_NO_BACKTRACE": "1", "CUDA_VISIBLE_DEVICES": "-1", "GEMMA_DEBUG": ""}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | hidden,
            start_new_session=True,  # Ctrl-C is ours to handle
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as error:
        raise EngineError(f"cannot start a check of {path}: {error.strerror}") from error
    start, said = time.monotonic(), False
    with process:
        try:
            while process.poll() is None:
                waited = time.monotonic() - start
                if stopped():
                    raise Cancelled("stopped while the model was checked")
                if waited > _SECONDS:
                    return None
                if waited > _SAID_AFTER and not said:
                    said = True
                    print(f"gemma: checking {path.name}, once", file=sys.stderr)
                time.sleep(_POLL)
            return process.returncode
        finally:
            process.kill()


def _crash(said: str, code: int) -> str:
    """llama.cpp's last words on stderr, without the place in its source; else the signal."""
    for line in reversed(said.splitlines()):
        if "GGML_ASSERT(" in line:
            return line[line.index("GGML_ASSERT(") :]
        if "what():" in line:
            return line.split("what():", 1)[1].strip()
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code:#x}" if code > 255 else f"exit code {code}"
