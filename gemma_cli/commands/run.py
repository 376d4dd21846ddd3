"""`gemma run`: one prompt in, one answer out, nothing else on stdout."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gemma_cli.commands import options, texts
from gemma_cli.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gemma_cli.engine.protocol import Message

_LONG_TEXT = 4096  # characters; it may have been evaluated before

_EXAMPLE = 'for example: gemma run "Why is the sky blue?"    or: gemma run "Summarise" < report.txt'


@options.takes_generation_options
def run(
    *,
    prompt: Annotated[
        list[str] | None, typer.Argument(help="The question. Standard input comes before it.")
    ] = None,
    model: options.ModelOption = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is: no chat template.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: text, usage, timings.")
    ] = False,
    schema: Annotated[
        str | None,
        typer.Option(
            "--schema", metavar="FILE|JSON", help="Answer in JSON that satisfies this JSON Schema."
        ),
    ] = None,
    json_object: Annotated[
        bool, typer.Option("--json-object", help="Answer with one JSON object, whatever is in it.")
    ] = False,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Keep a long evaluated prompt on disk, for another question about it.",
        ),
    ] = True,
    stats: Annotated[bool, typer.Option("--stats", help="Tokens and speed on stderr.")] = False,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "-f",
            "--file",
            help="Put a file before the prompt: text, PDF, Word, HTML, a folder (repeatable).",
        ),
    ] = None,
    messages: Annotated[
        str | None,
        typer.Option(
            "--messages",
            metavar="FILE",
            help="An OpenAI-style list of messages in place of a prompt; - for standard input.",
        ),
    ] = None,
    show_prompt: Annotated[
        bool,
        typer.Option("--show-prompt", help="Print the exact prompt as JSON; generate nothing."),
    ] = False,
    generation: options.GenerationOptions,
) -> None:
    """Answer one prompt. The answer, and only the answer, goes to stdout."""
    from gemma_cli.commands import opening
    from gemma_cli.commands.answering import Answering, print_prompt
    from gemma_cli.settings import load_settings

    settings = load_settings()
    asked = generation.over(settings)
    opening.wishes_from(asked)  # nonsense is refused before anything is read
    wanted = _schema(schema, json_object=json_object)
    conversation = _conversation(prompt or [], files or [], messages, raw=raw)
    conversation = _with_system(asked.system, conversation, raw=raw)
    chosen = opening.choose_model(model, settings)
    sampling = replace(opening.sampling_from(chosen.sampling, asked), schema=wanted)
    text = conversation[-1].text if raw else None
    question = " ".join(prompt or []) if messages is None else conversation[-1].text
    if show_prompt:
        print_prompt(chosen.header, chosen.installed.path, conversation, text, thinking=asked.think)
        return
    notice = None if raw else opening.base_model_notice(chosen)
    if notice:
        print(f"gemma: {notice} --raw continues your text as it is.", file=sys.stderr)
    long = sum(len(message.text) for message in conversation) > _LONG_TEXT
    snapshots = opening.snapshot_place(chosen, settings, expected=long) if cache else None
    engine = opening.start_engine(chosen, asked, snapshots)
    try:
        answering = Answering(engine, as_json=as_json, stats=stats, thinking=asked.think)
        code = answering.answer(chosen.installed, conversation, text, sampling, question)
        if code == ExitCode.OK:
            opening.keep_state(engine, answering.reusable_tokens)
    except BaseException:
        engine.close()  # a thread inside llama.cpp must not outlive the interpreter
        raise
    # Idle now: the system frees its memory faster than llama.cpp does.
    raise typer.Exit(code)


def _schema(schema: str | None, *, json_object: bool) -> str | None:
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


def _conversation(
    prompt: Sequence[str], files: Sequence[Path], messages: str | None, *, raw: bool
) -> list[Message]:
    """What is asked, as messages: from --messages, or of stdin, files and the prompt."""
    from gemma_cli.commands.attaching import file_texts, takes_standard_input
    from gemma_cli.commands.messages import read_messages
    from gemma_cli.engine.protocol import Message

    if messages is not None:
        if prompt or files or raw:
            raise UsageError("--messages takes the place of a prompt, of -f and of --raw")
        return read_messages(_read(messages), messages)
    parts = [] if takes_standard_input(files) else [_piped(has_prompt=bool(prompt))]
    parts += file_texts(files) if files else []
    parts.append(texts.argument_text(" ".join(prompt), "the prompt"))
    question = texts.join_prompt(parts)
    if not question.strip():
        given = bool(prompt) or bool(files) or not _is_terminal()
        raise UsageError("the prompt is empty" if given else "there is no prompt", _EXAMPLE)
    return [Message("user", question)]


def _with_system(system: str | None, conversation: list[Message], *, raw: bool) -> list[Message]:
    from gemma_cli.engine.protocol import Message

    if not system or raw:
        if system and raw:
            print("gemma: --raw takes no system text: it is left out", file=sys.stderr)
        return conversation
    if conversation[0].role == "system":
        raise UsageError("the system text is given twice: by --messages and by --system")
    return [Message("system", texts.argument_text(system, "--system")), *conversation]


def _is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _read(name: str) -> str:
    if name != "-":
        return texts.read_text_file(Path(name))
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("--messages - reads standard input, and that is a terminal")
    return _piped(has_prompt=False)


def _piped(*, has_prompt: bool) -> str:
    """Standard input, unless it is a terminal. A wait for a silent pipe is said after 3 s."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    import threading

    wait = threading.Timer(
        3, print, ["gemma: reading standard input (</dev/null gives none)"], {"file": sys.stderr}
    )
    wait.daemon = True
    if has_prompt:
        wait.start()
    try:
        return texts.decode_text(sys.stdin.buffer.read(), "standard input").rstrip("\n")
    except OSError as error:
        raise UsageError(f"cannot read standard input: {error.strerror or error}") from error
    finally:
        wait.cancel()
