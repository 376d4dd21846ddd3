"""The tutorial and the recipes, carried out: commands with their output, by the real program."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import Env, program

DOCS = Path(__file__).parent.parent / "docs"
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_HERE_DOCUMENT = re.compile(r"<<'(\w+)'$")
_NOT_RUN = ("pipx",)  # it is installed already
_REFUSED = ("gemma config set kv_type q9",)
# A model's answers, and what is about the machine.
_SAYS_OTHER_THINGS = ("gemma run", "gemma chat", "gemma doctor", "gemma plan")


@dataclass(slots=True)
class Step:
    """A command, what is typed into the chat that it begins, and what the program says.

    shown: lines that are the same on every machine; a model's answers are not.
    """

    command: str
    typed: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)


def steps(page: str) -> Iterator[Step]:
    text = (DOCS / page).read_text(encoding="utf-8")
    lines = iter("".join(_BLOCK.findall(text)).splitlines())
    step = Step("")
    fixed = False
    for line in lines:
        if line.startswith("$ "):
            yield step
            step = Step(line.removeprefix("$ "))
            fixed = not any(each in step.command for each in _SAYS_OTHER_THINGS)
            if here := _HERE_DOCUMENT.search(step.command):
                step.command += "\n" + "\n".join(iter(lines.__next__, here[1])) + f"\n{here[1]}\n"
        elif line.startswith(">>> "):
            step.typed.append(line.removeprefix(">>> "))
            fixed = step.typed[-1].startswith("/") and not step.typed[-1].startswith("/edit")
        elif fixed and line and "[...]" not in line:
            step.shown.append(line)
    yield step


def plain(text: str) -> str:
    """Without what differs from run to run: figures and white space."""
    return " ".join(re.sub(r"\d[\d,.:-]*\b", "0", text).split())


@pytest.mark.skipif(sys.platform == "win32", reason="its commands are for a POSIX shell")
@pytest.mark.parametrize("page", ["tutorial.md", "how-to.md"])
def test_every_command_works_and_says_what_is_shown(
    page: str, with_demo: Env, tmp_path: Path
) -> None:
    env = with_demo | {"HF_HUB_OFFLINE": "1", "GEMMA_MAX_TOKENS": "32"}
    env["PATH"] = f"{Path(program()[0]).parent}:{env['PATH']}"
    done = 0
    for step in steps(page):
        if not step.command or step.command.startswith(_NOT_RUN):
            continue
        if "jq" in step.command and not shutil.which("jq"):
            continue
        run = subprocess.run(
            ["bash", "-o", "pipefail", "-c", step.command],
            input="".join(f"{line}\n" for line in step.typed),
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
        )
        said = run.stdout + run.stderr
        assert "Traceback" not in said
        if not step.command.startswith("gemma doctor"):
            expected = 2 if step.command in _REFUSED else 0
            assert run.returncode == expected, f"{step.command}: {said}"
        for line in step.shown:
            assert plain(line) in plain(said), step.command
        done += 1
    assert done >= 7
