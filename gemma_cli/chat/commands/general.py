"""Commands about the chat as a whole."""

from __future__ import annotations

from gemma_cli.chat.commands.registry import Leave, command, commands, find
from gemma_cli.chat.interface import Talk
from gemma_cli.chat.letting_go import let_go_of_files, may_let_go
from gemma_cli.chat.session import Session
from gemma_cli.errors import UsageError

_KEYS = (
    "Enter sends; Alt-Enter, Ctrl-J or a \\ at the end of a line begins a new line.",
    'Text between """ and """ may have several lines. A paste is never a command.',
    "Ctrl-R searches what was typed before. Ctrl-C stops an answer; Ctrl-D leaves.",
    "Ctrl-G opens the text in your editor. Tab completes commands and files after @.",
)


def _names(_session: Session, before: list[str]) -> list[tuple[str, str]]:
    if before:
        return []
    return [(name.removeprefix("/"), each.summary) for each in commands() for name in each.names]


@command("/help", "/?", argument="[COMMAND]", summary="what can be typed here", choices=_names)
def help_(_talk: Talk, argument: str) -> str:
    """With a command's name: all about that one."""
    if argument:
        found = find("/" + argument.removeprefix("/"))
        if found is None:
            raise UsageError(f"/{argument.removeprefix('/')} is no command", "what there is: /help")
        return found.help
    width = max(len(each.usage) for each in commands()) + 2
    lines = [f"{each.usage:<{width}}{each.summary}" for each in commands()]
    return "\n".join((*lines, "", *_KEYS))


@command("/exit", "/quit", "/bye", summary="leave (Ctrl-D does too)")
def exit_(_talk: Talk, _argument: str) -> str:
    raise Leave


@command("/new", "/clear", summary="begin a new conversation; the old one is kept")
def new(talk: Talk, _argument: str) -> str:
    """The system text and all settings stay; pinned documents stay with the old chat."""
    session = talk.session
    if not may_let_go(talk):
        return "You are still in this chat."
    let_go_of_files(talk)
    empty = len(session.conversation) == 0
    ended = session.begin_afresh()
    if empty:
        return "This conversation is empty already."
    if ended is None:
        return "A new conversation begins. The old one was not saved."
    return f"A new conversation begins. The old one is kept: /resume {ended}"


@command(
    "/multiline",
    argument="[on|off]",
    summary="let Enter make a line and Alt-Enter send",
    choices=lambda _session, before: [] if before else [("on", ""), ("off", "")],
)
def multiline(talk: Talk, argument: str) -> str:
    """Alone it changes from one to the other. A command needs only Enter all the same."""
    wish = argument.lower()
    if wish not in ("", "on", "off"):
        raise UsageError(f"/multiline takes on or off, not '{argument}'")
    talk.reader.multiline = not talk.reader.multiline if not wish else wish == "on"
    if not talk.reader.prefills:  # lines, not a prompt with keys of its own
        way = "A turn ends at an empty line." if talk.reader.multiline else "A line is a turn."
    elif talk.reader.multiline:
        way = "Enter makes a new line, Alt-Enter sends."
    else:
        way = "Enter sends, Alt-Enter makes a new line."
    return way


@command("/stats", summary="figures of the last answer and of this chat")
def stats(talk: Talk, _argument: str) -> str:
    session = talk.session
    done = session.last
    if done is None:
        return "There is no answer yet since this chat was opened."
    usage, timings = done.usage, done.timings
    used = "–" if session.used is None else f"{session.used:,}"
    window = f"{used} of {session.engine.info().n_ctx:,} tokens"
    return "\n".join(
        (
            f"prompt          {usage.prompt_tokens:,} tokens, {usage.cached_tokens:,} of them "
            f"cached; {timings.prompt_tps:,.0f} tokens/s",
            f"answer          {usage.completion_tokens:,} tokens; "
            f"{timings.decode_tps:,.1f} tokens/s",
            f"drafts          {usage.drafted_tokens:,} tokens guessed, "
            f"{usage.accepted_tokens:,} of them right",
            f"first token     {timings.ttft_s:.2f} s; whole answer {timings.total_s:.2f} s",
            f"context window  {window}",
            f"seed            {done.seed}",
            f"load            {timings.load_s:.2f} s",
            f"since the start {session.answers:,} answered, {session.answer_tokens:,} tokens",
        )
    )
