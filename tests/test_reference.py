"""The reference, the man page and the completions are what the program is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import gemma_cli
from gemma_cli.cli import app
from gemma_cli.commands.surface import commands
from tests.conftest import Gemma

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference.md"
MAN = ROOT / "man" / "gemma.1"


def test_what_is_generated_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "reference.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_variable_that_the_program_reads_is_in_it() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    for path in Path(gemma_cli.__file__).parent.rglob("*.py"):
        for name in re.findall(r"\bGEMMA_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8")):
            assert f"`{name}`" in text, f"{path.name} knows {name}"


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff here")
def test_the_man_page_is_one() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", str(MAN)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


@pytest.mark.parametrize("group", [[], ["history"], ["prompts"], ["config"]])
def test_the_help_of_a_group_cuts_no_sentence_off(gemma: Gemma, group: list[str]) -> None:
    shown = gemma(*group, "--help", env={"COLUMNS": "60"}).stdout
    every = commands(typer.main.get_command(app))
    sentences = {each.short for each in every if each.path and list(each.path[:-1]) == group}
    listed = " ".join(shown.partition("Commands:")[2].split())
    assert sentences
    for sentence in sentences:
        assert sentence.partition(". ")[0].removesuffix(".") in listed
