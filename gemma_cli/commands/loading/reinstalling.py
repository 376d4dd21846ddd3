"""The exact command that installs a package anew into this very installation."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import sys
from functools import cache
from pathlib import Path


def install(requirement: str) -> str:
    """A command for the user's shell (PowerShell on Windows) that installs a package."""
    return _in_shell([*_installer(), requirement])


def reinstall_llama(cmake_options: str = "") -> str:
    """llama-cpp-python anew, in the version that this gemma needs, compiled with these options."""
    installer = _installer()
    again = ["--force-reinstall", "--no-cache-dir", "--no-deps"]
    if installer[0] == "uv":
        again = ["--reinstall", "--no-cache", "--no-deps"]
    return _in_shell([*installer, *again, llama_requirement()], cmake_options)


def _installer() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install"]
    if _pipx_name():
        return ["pipx", "runpip", _pipx_name(), "install"]
    return ["uv", "pip", "install", "--python", sys.executable]  # what uv made has no pip


@cache
def llama_requirement() -> str:
    """ "llama-cpp-python==X" as this package requires it."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        wanted = requires("gemma-cli") or []
    except PackageNotFoundError:
        wanted = []
    return next(
        (line for line in wanted if line.startswith("llama-cpp-python")), "llama-cpp-python"
    )


def _pipx_name() -> str:
    """The name of pipx's environment that this is, "" if it is none."""
    parts = Path(sys.prefix).parts
    return parts[-1] if len(parts) > 2 and parts[-3:-1] == ("pipx", "venvs") else ""


def _in_shell(command: list[str], cmake_options: str = "") -> str:
    if sys.platform == "win32":
        program = shutil.which(command[0]) or command[0]
        quoted = " ".join(_power_quoted(word) for word in [program, *command[1:]])
        return f"""{f'$env:CMAKE_ARGS="{cmake_options}"; ' if cmake_options else ""}& {quoted}"""
    return f"""{f'CMAKE_ARGS="{cmake_options}" ' if cmake_options else ""}{shlex.join(command)}"""


def _power_quoted(word: str) -> str:
    return word if word.replace("-", "").replace("=", "").isalnum() else f'"{word}"'
