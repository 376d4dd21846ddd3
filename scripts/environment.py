"""The project's own virtual environment, .venv: made once, brought up to date when needed.

Used by scripts/demo and scripts/test; needs nothing but a Python of the
standard library.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOG = VENV / "install.log"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
_OLDEST = (3, 11)
_BUILD_NOTE = (
    "  llama.cpp is compiled on the way, once: about 3 minutes on two cores, less on more.\n"
    "  (pip keeps the result: the next time takes seconds.)"
)


def program(name: str) -> str:
    """The full path of a program of the environment."""
    return str(BIN / (f"{name}.exe" if os.name == "nt" else name))


def ensure(extra: str) -> None:
    """Make .venv and install the project with an extra, unless that was done already."""
    if sys.version_info < _OLDEST:
        version = ".".join(map(str, sys.version_info[:3]))
        sys.exit(
            f"Python 3.11 or newer is needed; this is {version}. Try: python3.11 {sys.argv[0]}"
        )
    stamp = VENV / f"installed-{extra}"
    state = _state()
    if stamp.exists() and stamp.read_text() == state and Path(program("gemma")).exists():
        return
    if not Path(program("python")).exists():
        say(f"Making the virtual environment {VENV.name}/ ...")
        _make_venv()
    say(f"Installing gemma-cli with the extra '{extra}' into {VENV.name}/ ...")
    if not _has_llama_cpp():
        say(_BUILD_NOTE)
        _check_compiler()
    _pip("install", "--editable", f".[{extra}]")
    stamp.write_text(state)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _state() -> str:
    """What an installed environment depends on: the project file and this Python."""
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes())
    digest.update(f"{ROOT}{sys.version}".encode())
    return digest.hexdigest()


def _make_venv() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        say(made.stdout + made.stderr)
        sys.exit(
            "Python's venv module does not work here. "
            "On Debian and Ubuntu: sudo apt install python3-venv"
        )


def _has_llama_cpp() -> bool:
    return any(VENV.glob("lib/python*/site-packages/llama_cpp")) or any(
        VENV.glob("Lib/site-packages/llama_cpp")
    )


def _check_compiler() -> None:
    names = ["c++", "g++", "clang++", "cl"]
    if not os.environ.get("CXX") and not any(shutil.which(name) for name in names):
        say(
            "  No C++ compiler was found; without one the build will fail. Install one first:\n"
            "  Debian, Ubuntu: sudo apt install build-essential    macOS: xcode-select --install\n"
            "  Windows: Visual Studio Build Tools with the C++ workload"
        )


def _pip(*arguments: str) -> None:
    """Run pip in the environment; its output goes to a log, the elapsed time to the screen."""
    command = [program("python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    start = time.monotonic()
    screen = sys.stderr.isatty()
    with LOG.open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        told = 0
        while True:
            try:
                process.wait(timeout=1)
                break
            except subprocess.TimeoutExpired:
                elapsed = int(time.monotonic() - start)
            if screen:
                print(
                    f"\r  {elapsed // 60}:{elapsed % 60:02} ", end="", file=sys.stderr, flush=True
                )
            elif elapsed - told >= 30:
                told = elapsed
                say(f"  still at it after {elapsed} s ...")
            if elapsed > 5400:
                process.kill()
    if screen:
        print("\r", end="", file=sys.stderr)
    if process.returncode != 0:
        say("".join(LOG.read_text(errors="replace").splitlines(keepends=True)[-40:]))
        sys.exit(f"The installation failed; the whole log is in {LOG}")
    say(f"  done in {time.monotonic() - start:.0f} s")
