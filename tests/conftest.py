"""Fixtures that every test may use: an isolated home, the installed program, real weights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples each time, however slow the machine is: what fails, fails again. Others
# are tried by --hypothesis-profile=default.
settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")

Env = dict[str, str]
Gemma = Callable[..., subprocess.CompletedProcess[str]]

DEMO = "gemma3:270m-pt"
_OURS = (
    "GEMMA_",
    "PYTHON",
    "HF_",
    "HUGGING",
    "LLAMA_",
    "NO_COLOR",
    "CLICOLOR",
    "FORCE_COLOR",
    "XDG_",
    "COLUMNS",
    "LINES",
    "PAGER",
    "TTY_",
    "COLORTERM",
    "TMUX",
    "STY",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "SSH_",
)


def program() -> list[str]:
    """The command that starts gemma: the installed script beside this Python."""
    script = shutil.which("gemma", path=str(Path(sys.executable).parent))
    return [script] if script else [sys.executable, "-m", "gemma_cli"]


@pytest.fixture(scope="session", autouse=True)
def _home_of_this_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests make the program's modules remember in this process is not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMMA_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def demo_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real Gemma 3 270M, assembled once a session by the program's own code."""
    home = tmp_path_factory.mktemp("weights")
    before = os.environ.get("GEMMA_HOME")
    os.environ["GEMMA_HOME"] = str(home)
    try:
        from gemma_cli.models.demo import assemble

        return assemble()
    finally:
        if before is None:
            del os.environ["GEMMA_HOME"]
        else:
            os.environ["GEMMA_HOME"] = before


@pytest.fixture
def home(tmp_path: Path) -> Env:
    """An environment of its own: no setting, cache, history or token of this machine."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
    return env | {
        "GEMMA_HOME": str(tmp_path / "gemma"),
        "HF_HOME": str(tmp_path / "hf"),
        "GEMMA_THREADS": "1",
        "TERM": "xterm-256color",
        "NO_PROXY": "127.0.0.1,localhost",
    }


@pytest.fixture
def with_demo(home: Env, demo_gguf: Path) -> Env:
    """`home` in which the embedded model is already assembled (linked, not copied)."""
    target = Path(home["GEMMA_HOME"]) / "cache" / "models"
    target.mkdir(parents=True)
    for file in demo_gguf.parent.iterdir():
        os.link(file, target / file.name)
    return home


@pytest.fixture
def gemma(home: Env) -> Gemma:
    """Run the program: gemma("run", "hi", input="...", env={...}) -> CompletedProcess of text."""

    def run(
        *arguments: str,
        input: str | None = None,  # noqa: A002 - subprocess.run's own name
        env: Env | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program(), *arguments],
            input="" if input is None else input,
            env=home | (env or {}),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )

    return run
