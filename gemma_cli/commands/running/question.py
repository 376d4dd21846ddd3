"""What `gemma run` is asked: standard input, files, the prompt, or a list of messages."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gemma_cli.commands import texts
from gemma_cli.errors import UsageError
from gemma_cli.terminal.notices import say

if TYPE_CHECKING:
    from gemma_cli.engine.protocol import Message

_EXAMPLE = 'for example: gemma run "Why is the sky blue?"    or: gemma run "Summarise" < report.txt'


def question(words: Sequence[str], files: Sequence[Path]) -> str:
    """Standard input, the files and the prompt, in this order. Raises UsageError for nothing."""
    from gemma_cli.commands.running.attaching import file_texts, takes_standard_input

    parts = [] if takes_standard_input(files) else [_piped(has_prompt=bool(words))]
    parts += file_texts(files) if files else []
    parts.append(texts.argument_text(" ".join(words), "the prompt"))
    asked = texts.join_prompt(parts)
    if not asked.strip():
        given = bool(words) or bool(files) or not _is_terminal()
        raise UsageError("the prompt is empty" if given else "there is no prompt", _EXAMPLE)
    return asked


def messages_from(name: str) -> list[Message]:
    """The messages in that file; - is standard input. Raises UsageError."""
    from gemma_cli.commands.running.messages import read_messages

    if name != "-":
        return read_messages(texts.read_text_file(Path(name)), name)
    if sys.stdin is None or sys.stdin.isatty():
        state = "closed" if sys.stdin is None else "a terminal"
        raise UsageError(f"--messages - reads standard input, and that is {state}")
    return read_messages(_piped(has_prompt=False), "standard input")


def schema_from(schema: str | None, *, json_object: bool) -> str | None:
    """The JSON Schema that the answer must satisfy, checked; from a file or as it stands here."""
    if schema is None and not json_object:
        return None
    from gemma_cli.engine.grammar import ANY_OBJECT, check_schema

    if schema is None:
        return ANY_OBJECT
    if json_object:
        raise UsageError("--schema and --json-object both say what JSON to answer", "give one")
    if schema.lstrip()[:1] not in ("{", "[") and schema.strip() not in ("true", "false"):
        schema = texts.read_text_file(Path(schema))
    check_schema(schema)
    return schema


def _is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _piped(*, has_prompt: bool) -> str:
    """Standard input, unless it is a terminal. A wait for a silent pipe is said after 3 s."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    import threading

    wait = threading.Timer(3, say, ["reading standard input (</dev/null gives none)"])
    wait.daemon = True
    if has_prompt:
        wait.start()
    try:
        return texts.decode_text(sys.stdin.buffer.read(), "standard input").rstrip("\n")
    except OSError as error:
        raise UsageError(f"cannot read standard input: {error.strerror or error}") from error
    finally:
        wait.cancel()
