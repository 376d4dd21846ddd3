"""Leaving a conversation: what the history could not take in full, what was never sent."""

from __future__ import annotations

from gemma_cli.chat.interface import Talk
from gemma_cli.errors import GemmaError

_HINT = "keep it in a file: /export json FILE; or make it possible to save it, and try again"


def may_let_go(talk: Talk) -> bool:
    """Whether the present conversation may be left: it is saved, or its user agrees to lose it.

    Raises GemmaError where nobody can be asked.
    """
    session = talk.session
    if session.journal.unsaved is None:
        return True
    session.journal.save(session.conversation)
    reason = session.journal.unsaved
    if reason is None or not len(session.conversation):
        return True
    if not talk.reader.interactive:
        raise GemmaError(f"this chat is not saved in full: {reason}", _HINT)
    talk.say(f"This chat is not saved in full: {reason}. /export json FILE keeps it.")
    return talk.confirm("Leave it all the same?")


def let_go_of_files(talk: Talk) -> None:
    """Those that wait for a message do not go to another conversation, and that is said."""
    if waiting := [each.name for each in talk.session.attached]:
        which = waiting[0] if len(waiting) == 1 else f"{len(waiting):,} files"
        talk.say(f"Not sent, and no longer attached: {which}. /file attaches to the next message.")
