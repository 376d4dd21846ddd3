"""Commands about answers that are there: go on with one, show it again, take it elsewhere."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from gemma_cli.chat.answering import was_cut
from gemma_cli.chat.codeblocks import code_blocks
from gemma_cli.chat.commands.registry import command, words
from gemma_cli.chat.conversation import Turn
from gemma_cli.chat.export import FORMATS
from gemma_cli.chat.interface import Talk
from gemma_cli.chat.records import SavedChat, Summary, title_of
from gemma_cli.chat.session import Session
from gemma_cli.errors import GemmaError, UsageError


def _last_answer(session: Session) -> Turn:
    answers = [turn for turn in session.conversation.path() if turn.role == "assistant"]
    if not answers:
        raise UsageError("there is no answer yet in this conversation")
    return answers[-1]


@command("/continue", summary="go on with an answer that was cut or stopped")
def continue_(talk: Talk, _argument: str) -> None:
    """The same turn grows. Where the context window is full the oldest turns leave it."""
    session = talk.session
    last = _last_answer(session)
    if last.id != session.conversation.leaf:
        raise UsageError("the last question has no answer yet", "have it answered: /regen")
    if not last.text.strip():
        raise UsageError("that answer did not begin", "have the question answered: /regen")
    if not was_cut(last):
        raise UsageError("that answer ended by itself", "another one: /regen")
    talk.go_on()


def _code(session: Session, argument: str) -> str:
    """The block of code that "code [N]" means. UsageError."""
    blocks = code_blocks(_last_answer(session).text)
    word, _, number = argument.partition(" ")
    number = number.strip() or "1"
    if word.lower() != "code":
        raise UsageError(f"'{argument}' is nothing to show", "it takes code, or code 2")
    if not blocks:
        raise UsageError("there is no block of code in the last answer")
    if not number.isdecimal() or not 0 < int(number) <= len(blocks):
        raise UsageError(f"there is no block '{number}': the last answer has {len(blocks)}")
    return blocks[int(number) - 1]


@command(
    "/last", argument="[code [N]]", summary="show the last answer again, or its code alone",
    choices=words("code"),
)  # fmt: skip
def last(talk: Talk, argument: str) -> None:
    """code: the first block of code as it is, or the Nth."""
    if argument:
        talk.writer.raw(_code(talk.session, argument))
        return
    answer = _last_answer(talk.session)
    with talk.writer.answer() as show:
        show(answer.text)


@command(
    "/copy", argument="[code [N]]", summary="put the last answer, or its code, on the clipboard",
    choices=words("code"),
)  # fmt: skip
def copy(talk: Talk, argument: str) -> str:
    session = talk.session
    text = _code(session, argument) if argument else _last_answer(session).text
    if session.copy is None:
        raise GemmaError("there is no clipboard here", "save it: /save FILE")
    return f"Copied {len(text):,} characters to {session.copy(text)}."


@command("/save", argument="FILE", summary="save the last answer in a file", paths=True)
def save(talk: Talk, argument: str) -> str:
    """An existing file is replaced only if you say so. The whole chat: /export."""
    if not argument:
        raise UsageError("/save takes a file", "for example: /save answer.md")
    return _written(talk, argument, _last_answer(talk.session).text.rstrip("\n") + "\n")


@command(
    "/export",
    argument="[FORMAT] FILE",
    summary="save the chat in a file",
    choices=lambda _session, before: [] if before else [(name, "") for name in FORMATS],
    paths=True,
)
def export(talk: Talk, argument: str) -> str:
    """FORMAT is md, json (the whole tree), jsonl (this path, as messages) or sharegpt; without one
    the file's ending tells."""
    word, _, file = argument.partition(" ")
    form = word.lower()
    if form in FORMATS and not file.strip():
        raise UsageError(f"/export {form} takes a file", f"for example: /export {form} FILE")
    if form not in FORMATS:
        file = argument
        form = Path(file.strip('"')).suffix.removeprefix(".").lower() or "md"
    if not argument or form not in FORMATS:
        known = ", ".join(FORMATS)
        raise UsageError("/export takes a format and a file", f"/export md FILE; it knows {known}")
    session = talk.session
    if not len(session.conversation):
        raise UsageError("nothing was said yet in this conversation")
    asked = sum(turn.role == "user" for turn in session.conversation)
    title = title_of(session.conversation)
    summary = Summary(
        session.journal.conversation_id or 0, time.time(), asked, session.label, title
    )
    return _written(talk, file, FORMATS[form]([SavedChat(summary, session.conversation)]))


def _write(path: Path, text: str) -> None:
    """Whole or not at all: what was there stays until the new text is. Raises OSError."""
    if path.exists() and not path.is_file():  # a pipe, a device: nothing to take the place of
        path.write_text(text, encoding="utf-8", errors="replace")
        return
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8", errors="replace")
        if path.exists():
            shutil.copymode(path, fresh)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _written(talk: Talk, file: str, text: str) -> str:
    path = Path(file.strip().strip('"')).expanduser()
    try:
        if path.is_dir():
            raise GemmaError(f"{path} cannot be written: it is a folder", f"name a file in {path}")
        if path.exists() and not talk.confirm(f"{path} is there already. Replace it?"):
            raise GemmaError(f"{path} was not written: it is there already")
        _write(path.resolve(), text)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise GemmaError(f"{path} cannot be written: {reason}") from error
    return f"Saved: {path} ({len(text):,} characters)"
