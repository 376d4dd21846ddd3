"""Commands about past chats, and this one's place among them."""

from __future__ import annotations

from datetime import datetime

from gemma_cli.chat.commands.registry import command
from gemma_cli.chat.conversation import Turn
from gemma_cli.chat.interface import Talk
from gemma_cli.chat.letting_go import let_go_of_files, may_let_go
from gemma_cli.chat.records import Summary, title_of
from gemma_cli.chat.session import Session
from gemma_cli.errors import GemmaError, UsageError

_LATEST = 15
_HITS = 12


@command("/history", argument="[WORDS]", summary="the latest chats, or those that hold the words")
def history(talk: Talk, argument: str) -> str:
    chats = talk.session.journal.history().conversations(_LATEST, argument or None)
    if not chats:
        return "No chat was found." if argument else "No chat is kept yet."
    present = talk.session.journal.conversation_id
    lines = [_line(chat, here=chat.id == present) for chat in chats]
    return "\n".join([*lines, "/resume ID goes on with one."])


def _line(chat: Summary, *, here: bool) -> str:
    when = datetime.fromtimestamp(chat.updated).strftime("%Y-%m-%d %H:%M")
    turns = f"{chat.turns} turn{' ' if chat.turns == 1 else 's'}"
    return f"{'*' if here else ' '}{chat.id:>5}  {when}  {turns:>9}  {chat.title}"


@command("/search", argument="WORDS", summary="find messages, documents, titles in past chats")
def search(talk: Talk, argument: str) -> str:
    """Every word must be there; the last may be a beginning; "quoted words" stand together."""
    if not argument:
        raise UsageError("/search takes words", "for example: /search capital france")
    hits = talk.session.journal.history().search(argument, _HITS)
    if not hits:
        return "Nothing was found."
    lines = []
    for hit in hits:
        who = hit.document or {"user": "you", "assistant": "model", "title": "title"}.get(
            hit.role, "summary"
        )
        lines.append(f"{hit.conversation:>5}  {hit.title}")
        lines.append(f"       {' '.join(who.split())}: {' '.join(hit.excerpt.split())}")
    return "\n".join([*lines, "/resume ID goes on with a chat."])


def _chats(session: Session, before: list[str]) -> list[tuple[str, str]]:
    if before:
        return []
    try:
        chats = session.journal.history().conversations(_LATEST)
    except GemmaError:
        return []
    return [(str(chat.id), chat.title) for chat in chats]


@command("/resume", argument="ID", summary="go on with a past chat", choices=_chats)
def resume(talk: Talk, argument: str) -> str:
    """This chat stays in the history. The model stays the one that is loaded."""
    session = talk.session
    if not argument.isdecimal():
        raise UsageError("/resume takes a chat's number", "what there is: /history")
    if int(argument) == session.journal.conversation_id:
        return "You are in this chat."
    past = session.journal.history()
    if not past.has(int(argument)):
        raise UsageError(f"there is no chat {argument}", "what there is: /history")
    chat = past.load(int(argument))
    if not may_let_go(talk):
        return "You are still in this chat."
    let_go_of_files(talk)
    session.resume(chat)
    recall(talk, chat.summary)
    if chat.summary.model and chat.summary.model != session.label:
        return f"It was held with {chat.summary.model}; {session.label} goes on with it."
    return ""


def recall(talk: Talk, summary: Summary) -> None:
    """The last question and its answer, so that one knows what was talked about."""
    count = f"{summary.turns} turn" + ("" if summary.turns == 1 else "s")
    talk.say(f"Chat {summary.id}, {count}: {summary.title}")
    path = talk.session.conversation.path()
    if not path or not talk.reader.interactive:
        return
    question, answer = _last_two(path)
    talk.say(f">>> {question.text}")
    if answer is None or not answer.text.strip():
        talk.say("(This has no answer yet. /regen has it answered.)")
        return
    with talk.writer.answer() as show:
        show(answer.text)
    if answer.status != "complete":
        talk.say("(This answer was broken off. /continue goes on with it.)")


def _last_two(path: list[Turn]) -> tuple[Turn, Turn | None]:
    """The last question of a path and its answer, if one was begun."""
    if path[-1].role == "assistant" and len(path) > 1:
        return path[-2], path[-1]
    return path[-1], None


@command("/title", argument="[TEXT]", summary="name this chat; alone: show its name")
def title(talk: Talk, argument: str) -> str:
    session = talk.session
    if not argument:
        return title_of(session.conversation) or "This chat has no title yet."
    session.conversation.title = " ".join(argument.split())
    session.journal.save(session.conversation)
    return f"This chat is called: {session.conversation.title}"


@command("/forget", summary="remove this chat from the history for good")
def forget(talk: Talk, _argument: str) -> str:
    session = talk.session
    if session.journal.conversation_id is None:
        return "This chat is not in the history."
    chat_id = session.journal.conversation_id
    count = sum(turn.role == "user" for turn in session.conversation)
    if not talk.reader.interactive:
        raise GemmaError(
            "nothing was removed: nobody can be asked", f"gemma history rm -y {chat_id}"
        )
    if not talk.confirm(f"Remove this chat ({count} turn{'' if count == 1 else 's'}) for good?"):
        return "Nothing was removed."
    session.journal.forget()
    session.begin_afresh()
    if session.models:
        session.models.forget()
    return "This chat is removed. A new conversation begins."
