"""What a running chat writes: only what changed, all that was said, and what it says itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gemma_cli.chat.conversation import Attachment, Conversation
from gemma_cli.chat.history import History
from gemma_cli.chat.journal import HistoryJournal, Journal, NoJournal
from gemma_cli.errors import HistoryError, UsageError

_DAY = 86_400


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def journal(path: Path, said: list[str]) -> Iterator[HistoryJournal]:
    with closing(HistoryJournal(lambda t: History(path, t), said.append, "m")) as one:
        yield one


def talk(*texts: str) -> Conversation:
    conversation = Conversation()
    for number, text in enumerate(texts):
        conversation.add("assistant" if number % 2 else "user", text)
    return conversation


def test_documents_and_a_title_come_back(path: Path, journal: HistoryJournal) -> None:
    conversation = Conversation("be brief")
    conversation.pinned = (Attachment("rules.md", "No puns."),)
    paper = Attachment("naïve\udcff.txt", "half of a name \udcff")
    question = conversation.add("user", "Sum it up", attachments=(paper,))
    conversation.add("assistant", "It says \ud800 little")
    conversation.title = "  The \n paper "
    journal.save(conversation)
    with closing(History(path)) as history:
        saved = history.load(1)
        assert saved.summary.title == saved.conversation.title == "The paper"
        assert saved.conversation.pinned == conversation.pinned
        assert saved.conversation[question.id] == question
        assert saved.conversation.path()[-1].text == "It says ? little"
        conversation.title = ""
        conversation.pinned = ()
        journal.save(conversation)
        again = history.load(1)
        assert (again.summary.title, again.conversation.title) == ("Sum it up", "")
        assert again.conversation.pinned == ()


def test_a_question_that_is_only_a_document_has_its_name_as_title(
    path: Path, journal: HistoryJournal
) -> None:
    conversation = Conversation()
    conversation.add("user", " ", attachments=(Attachment("a.pdf", "x"), Attachment("b.txt", "y")))
    journal.save(conversation)
    with closing(History(path)) as history:
        assert history.load(1).summary.title == "a.pdf, b.txt"


def test_long_documents_are_written_only_when_they_change(journal: HistoryJournal) -> None:
    conversation = Conversation()
    conversation.pinned = (Attachment("book.txt", "pinned-words " * 50_000),)
    conversation.add("user", "hi", attachments=(Attachment("paper.txt", "sent-words " * 50_000),))
    answer = conversation.add("assistant", "", "streaming")
    journal.save(conversation)
    statements: list[str] = []
    journal.history()._db.set_trace_callback(statements.append)
    for length in range(5):
        conversation.change(answer.id, "word " * length, "streaming")
        journal.save(conversation)
    assert sum("INSERT INTO message" in each for each in statements) >= 5
    assert not [each for each in statements if "pinned" in each.replace("pinned-words", "")]
    assert not [each for each in statements if "passage" in each]
    assert max(map(len, statements)) < 5_000
    conversation.pinned = ()
    journal.save(conversation)
    assert [each for each in statements if "DELETE FROM pinned" in each]


def test_forgetting_the_present_chat(path: Path, journal: HistoryJournal) -> None:
    assert not journal.forget()
    journal.save(talk("first", "answer"))
    first = journal.conversation_id
    journal.begin()
    conversation = talk("secret words", "hush")
    journal.save(conversation)
    second = journal.conversation_id
    assert journal.forget()
    assert journal.conversation_id is None
    assert not journal.forget()
    journal.save(talk("third", "answer"))
    assert journal.conversation_id not in (None, first, second)
    with closing(History(path)) as history:
        assert [chat.title for chat in history.conversations()] == ["third", "first"]
    journal.close()
    left = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"secret words" not in left


def test_a_chat_that_keeps_nothing_says_so() -> None:
    journal: Journal = NoJournal()
    journal.save(talk("hi"))
    journal.resume(1, Conversation())
    assert (journal.conversation_id, journal.forget(), journal.begin()) == (None, False, None)
    with pytest.raises(HistoryError, match="keeps no history") as raised:
        journal.history()
    assert "--no-history" in str(raised.value.hint)


def test_a_chat_removed_elsewhere_is_whole_again_when_one_goes_on(
    path: Path, journal: HistoryJournal, said: list[str]
) -> None:
    conversation = talk("one", "two")
    conversation.pinned = (Attachment("a", "b"),)
    journal.save(conversation)
    with closing(History(path)) as other:
        other.remove(1)
        conversation.add("user", "three")
        journal.save(conversation)
        saved = other.load(1).conversation
    assert [turn.text for turn in saved.path()] == ["one", "two", "three"]
    assert saved.pinned == conversation.pinned
    assert said == []


def test_chats_that_nobody_touched_expire(
    path: Path, journal: HistoryJournal, said: list[str]
) -> None:
    for text in ("old", "old but gone on with", "imported", "new"):
        journal.save(talk(text, "answer"))
        journal.begin()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE conversation SET updated = updated - ? WHERE id < 4", (40 * _DAY,))
        db.execute("UPDATE conversation SET imported = updated + ? WHERE id = 3", (30 * _DAY,))
    assert journal.expire(50) == journal.expire(10**400) == 0
    for days in (0, -1):
        with pytest.raises(UsageError, match="1 or more"):
            journal.expire(days)
    assert said == []
    assert journal.expire(30, keep=2) == 1
    assert said == [
        "1 chat was removed from the history: not used for 30 days (history_days in config)"
    ]
    titles = {chat.title for chat in journal.history().conversations()}
    assert titles == {"old but gone on with", "imported", "new"}


def test_nothing_expires_from_a_history_that_may_only_be_read(
    path: Path, journal: HistoryJournal, said: list[str]
) -> None:
    journal.save(talk("old", "answer"))
    journal.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE conversation SET updated = 0")
        db.execute("PRAGMA user_version = 99")
        db.commit()
    assert journal.expire(1) == 0
    assert len(said) == 1
    assert "newer gemma" in said[0]
    assert len(journal.history().conversations()) == 1


def test_damage_that_only_a_reader_meets_costs_the_chat_nothing(
    path: Path, journal: HistoryJournal, said: list[str]
) -> None:
    conversation = talk("one", "two")
    journal.save(conversation)
    journal.save(talk("w" * 100_000))
    journal.close()
    whole = path.read_bytes()
    journal.resume(1, conversation)
    assert journal.history().writable
    path.write_bytes(whole[: len(whole) // 2].ljust(len(whole), b"\xa5"))
    with pytest.raises(HistoryError, match="cannot be read") as raised:
        journal.history().load(1)
    assert "kept aside" in str(raised.value.hint)
    assert journal.unsaved == "the history is damaged"
    journal.save(conversation)
    assert journal.unsaved is None
    assert "a new one is begun" in said[0]
    with closing(History(path)) as history:
        assert [turn.text for turn in history.load(1).conversation.path()] == ["one", "two"]
    assert list(path.parent.glob("history.db.broken-*"))
