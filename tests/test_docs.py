"""What README and docs/ say: every command, link, setting and variable in them exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from gemma_cli.chat import commands
from gemma_cli.cli import app
from gemma_cli.settings import parse_settings

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PROGRAM: Any = typer.main.get_command(app)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)|(?:src|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_SEPARATOR = re.compile(r"[|;&<>()]+")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, text in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def shell_lines(page: Path) -> Iterator[str]:
    """What a reader would type: lines of sh blocks, those after $ in console blocks."""
    for text in blocks(page, "sh"):
        yield from text.replace("\\\n", " ").splitlines()
    for text in blocks(page, "console"):
        for line in text.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield line.removeprefix("$ ")


def calls(line: str) -> Iterator[list[str]]:
    """The arguments of each `gemma` in a line of shell, by itself or after xargs and the like."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not _SEPARATOR.fullmatch(word):
            words.append(word)
            continue
        if word.startswith(">") and words and words[-1] == "2":
            words.pop()  # 2> file
        if "gemma" in words:
            yield words[words.index("gemma") + 1 :]
        words = []


def parse(arguments: list[str]) -> None:
    """Raises what the program's own parser raises; nothing is carried out."""
    group: Any = PROGRAM
    rest = list(arguments)
    while hasattr(group, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        assert name in group.commands, f"no command {name!r} in: gemma {' '.join(arguments)}"
        group = group.commands[name]
    try:
        context = group.make_context("gemma", rest)
    except typer.Exit:
        return  # --help, --version
    context.close()


def options_of(words: list[str]) -> set[str]:
    """Every spelling of the options of the command that the words begin with."""
    command: Any = PROGRAM
    for word in words:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
    return {"-h", "--help"} | {
        spelling for param in command.params for spelling in (*param.opts, *param.secondary_opts)
    }


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_line_is_one_that_the_program_takes(page: Path) -> None:
    wrong = []
    for line in shell_lines(page):
        for arguments in calls(line):
            try:
                parse(arguments)
            except Exception as error:
                wrong.append(f"{line}\n    {getattr(error, 'message', '') or error!r}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_within_text_name_verbs_and_options_that_exist(page: Path) -> None:
    wrong = []
    for code in _INLINE.findall(prose(page)):
        words = code.split()
        if words[0] != "gemma":
            continue
        verbs = [word for word in words[1:] if not word.startswith("-")]
        if verbs and verbs[0].isalpha() and verbs[0].islower() and verbs[0] not in PROGRAM.commands:
            wrong.append(code)
        known = options_of(words[1:])
        wrong += [
            code
            for word in words[1:]
            if word.startswith("-") and word.partition("=")[0].strip("[]|") not in known
        ]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_slash_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    typed = re.findall(r"^>>> (/[a-z]+)", text, re.MULTILINE)
    typed += [match[0] for code in _INLINE.findall(prose(page)) if (match := _slash(code))]
    missing = {word for word in typed if commands.find(word) is None}
    assert not missing


def _slash(code: str) -> re.Match[str] | None:
    """A slash command, not a path of two parts."""
    return re.match(r"/[a-z]+(?= |$)", code)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    broken = []
    for pair in _LINK.findall(prose(page)):
        target = pair[0] or pair[1]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def anchors(page: Path) -> set[str]:
    """The names that code-hosting sites give to headings."""
    headings = _HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_settings_and_variables_exist(page: Path) -> None:
    for text in blocks(page, "toml"):
        parse_settings(text, page)
    source = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "gemma_cli").rglob("*.py")
    )
    named = set(re.findall(r"\bGEMMA_[A-Z_]+\b", page.read_text(encoding="utf-8")))
    known = set(re.findall(r"\bGEMMA_[A-Z_]+\b", source))
    assert named <= known | all_variables()


def all_variables() -> set[str]:
    """The environment variables of all options."""
    found: set[str] = set()
    left = [PROGRAM]
    while left:
        command = left.pop()
        left += getattr(command, "commands", {}).values()
        for param in command.params:
            variable = getattr(param, "envvar", None)
            found |= {variable} if isinstance(variable, str) else set(variable or ())
    return found


def test_wrong_lines_would_be_found() -> None:
    with pytest.raises(Exception, match="such option"):
        parse(["run", "--no-such-option", "Hi"])
    with pytest.raises(AssertionError, match="no command"):
        parse(["dance"])
    assert list(calls('cat a | gemma run -f b "x | y" > c && gemma list 2> log')) == [
        ["run", "-f", "b", "x | y"],
        ["list"],
    ]
    assert list(calls("# gemma nothing")) == []
    assert next(calls("X=1 xargs -I{} gemma run {}")) == ["run", "{}"]
    assert _slash("/regen 2")
    assert not _slash("/dev/full")
