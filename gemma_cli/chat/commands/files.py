"""Files as part of the conversation."""

from __future__ import annotations

from collections.abc import Iterable

from gemma_cli.chat.attaching import size_note
from gemma_cli.chat.commands.registry import command
from gemma_cli.chat.conversation import Attachment
from gemma_cli.chat.interface import Talk
from gemma_cli.chat.session import Session
from gemma_cli.errors import UsageError

_PIN = "--pin"


def _choices(session: Session, before: list[str]) -> Iterable[tuple[str, str]]:
    if before[:1] == ["drop"]:
        named = [each.name for each in (*session.attached, *session.conversation.pinned)]
        return [(name, "") for name in ("all", *named)]
    return [(_PIN, "it stays for the whole chat"), ("drop", "take one away")] if not before else []


@command(
    "/file",
    argument="[--pin] PATH...",
    summary="attach files to the next message; alone: list them",
    choices=_choices,
    paths=True,
)
def file(talk: Talk, argument: str) -> str:
    """--pin: shown beside the system text, for the whole chat; it never leaves the context.
    A folder or a pattern takes all that is in it. drop NAME, drop all: take away. In a message
    @path does the same as /file path."""
    session = talk.session
    talk.wait()
    word, _, rest = argument.partition(" ")
    if not argument:
        return _listed(session)
    if word == "drop":
        return _drop(session, rest.strip())
    pin = word == _PIN
    if pin and not rest.strip():
        raise UsageError("/file --pin takes a file", "for example: /file --pin notes.md")
    found = talk.attach(rest if pin else argument)
    if not found:
        return ""
    if not pin:
        session.attached += _new(session.attached, found)
        return "Goes with your next message."
    session.conversation.pinned += tuple(_new(session.conversation.pinned, found))
    session.journal.save(session.conversation)
    return "Pinned: the model is shown it from the next message on."


def _new(there: Iterable[Attachment], found: list[Attachment]) -> list[Attachment]:
    known = set(there)
    return [each for each in found if each not in known]


def _listed(session: Session) -> str:
    lines = [f"next message  {size_note(session, each)}" for each in session.attached]
    lines += [f"pinned        {size_note(session, each)}" for each in session.conversation.pinned]
    for number, turn in enumerate(session.conversation.questions(), start=1):
        lines += [f"turn {number:<9}{size_note(session, each)}" for each in turn.attachments]
    return "\n".join(lines) or "No files here. /file PATH attaches one to the next message."


def _drop(session: Session, name: str) -> str:
    waiting, pinned = session.attached, session.conversation.pinned
    if not name:
        raise UsageError(
            "/file drop takes a name", "what there is: /file; all of it: /file drop all"
        )

    def stays(each: Attachment) -> bool:
        return name.lower() != "all" and each.name != name.strip('"')

    left = [each for each in waiting if stays(each)]
    left_pinned = tuple(each for each in pinned if stays(each))
    gone = len(waiting) - len(left) + len(pinned) - len(left_pinned)
    if not gone and name.lower() != "all":
        raise UsageError(f"no file '{name}' waits or is pinned here", "what there is: /file")
    session.attached[:] = left
    session.conversation.pinned = left_pinned
    session.journal.save(session.conversation)
    return f"{gone} file{'' if gone == 1 else 's'} taken away."
