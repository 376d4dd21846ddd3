"""The exact command that installs a package anew into this very installation."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import sys
from functools import cache
from pathlib import Path


def reinstall(requirement: str, cmake_options: str = "", *, dependencies: bool = False) -> str:
    """A command for the user's shell (PowerShell on Windows) that installs a requirement.

    cmake_options: how llama.cpp is to be compiled; anything but "" builds it again.
    """
    build = ["--force-reinstall", "--no-cache-dir"]
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "install", *build]
    elif _pipx_name():
        command = ["pipx", "runpip", _pipx_name(), "install", *build]
    else:  # what uv made has no pip of its own
        command = ["uv", "pip", "install", "--python", sys.executable, "--reinstall", "--no-cache"]
    if not dependencies:
        command.append("--no-deps")
    return _in_shell([*command, requirement], cmake_options)


def reinstall_llama(cmake_options: str = "") -> str:
    """llama-cpp-python in the version that this gemma needs, compiled with these options."""
    return reinstall(llama_requirement(), cmake_options)


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


def _in_shell(command: list[str], cmake_options: str) -> str:
    if sys.platform == "win32":
        program = shutil.which(command[0]) or command[0]
        quoted = " ".join(_power_quoted(word) for word in [program, *command[1:]])
        return f"""{f'$env:CMAKE_ARGS="{cmake_options}"; ' if cmake_options else ""}& {quoted}"""
    return f"""{f'CMAKE_ARGS="{cmake_options}" ' if cmake_options else ""}{shlex.join(command)}"""


def _power_quoted(word: str) -> str:
    return word if word.replace("-", "").replace("=", "").isalnum() else f'"{word}"'
