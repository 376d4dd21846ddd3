"""scripts/demo in a terminal, its environment already there: an answer, then the chat, or not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)

from tests.conftest import Env, program
from tests.emulator import Terminal

ROOT = Path(__file__).parent.parent


@pytest.fixture
def demo(tmp_path: Path) -> list[str]:
    """The script in a clone whose .venv holds what it installs."""
    clone = tmp_path / "clone"
    (clone / "scripts").mkdir(parents=True)
    for name in ("scripts/demo", "scripts/environment.py", "pyproject.toml"):
        shutil.copy(ROOT / name, clone / name)
    binaries = clone / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "gemma").symlink_to(program()[0])
    state = subprocess.run(
        [sys.executable, "-c", "import environment; print(environment._state(), end='')"],
        cwd=clone / "scripts",
        capture_output=True,
        text=True,
        check=True,
    )
    (clone / ".venv" / "installed-demo").write_text(state.stdout)
    return [sys.executable, str(clone / "scripts" / "demo"), "What is the capital of Italy?"]


def test_an_answer_then_a_chat(demo: list[str], with_demo: Env) -> None:
    with Terminal(demo, with_demo, columns=500) as terminal:
        terminal.wait_for(r"Rome\.[^$]*\[Y/n\]", timeout=60)
        terminal.send("\r")
        terminal.wait_for("Send a message", timeout=60)
        terminal.send("\x04")
        assert terminal.wait_end() == 0


@pytest.mark.parametrize("key", ["n\r", "\x03", "\x04"])
def test_a_no_in_any_form_ends_it(demo: list[str], with_demo: Env, key: str) -> None:
    with Terminal(demo, with_demo, columns=500) as terminal:
        terminal.wait_for(r"\[Y/n\]", timeout=60)
        terminal.send(key)
        terminal.wait_for("Later: .*gemma chat")
        assert terminal.wait_end() == 0
        assert "Traceback" not in terminal.text()
