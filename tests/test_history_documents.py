"""Documents in past chats: found by their names and words, and gone where they are removed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_cli.chat import database, passages
from gemma_cli.chat.conversation import Attachment, Conversation
from gemma_cli.chat.history import History
from gemma_cli.documents import Document

_BOOK = "The penguin stands.\n\n" * 3_000 + "At last the Crème brûlée is served. The end."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
def history(path: Path) -> Iterator[History]:
    with closing(History(path)) as one:
        yield one


def chat_about(*attached: Attachment, pinned: tuple[Attachment, ...] = ()) -> Conversation:
    conversation = Conversation()
    conversation.pinned = pinned
    conversation.add("user", "Sum it up", attachments=attached)
    conversation.add("assistant", "It is short")
    return conversation


def found(history: History, query: str) -> list[tuple[int, str, str | None]]:
    return [(hit.conversation, hit.role, hit.document) for hit in history.search(query)]


def check_index(history: History) -> None:
    history._db.execute(
        "INSERT INTO passage_text (passage_text, rank) VALUES ('integrity-check', 1)"
    )


def passages_kept(history: History) -> int:
    count: int = history._db.execute("SELECT count(*) FROM passage").fetchone()[0]
    return count


def test_documents_are_found_by_name_and_text(history: History) -> None:
    paper = Attachment("papers/Über Löwen.pdf", "A lion has one text and no fleas.")
    rules = Attachment("rules.md", "No puns in here.")
    first = history.add(chat_about(paper), "m")
    second = history.add(chat_about(pinned=(rules,)), "m")
    history.add(chat_about(), "m")
    for query in ("uber lowen", "LION flea", "lion lowen", '"one text"', "papers"):
        assert found(history, query) == [(first, "user", paper.name)]
        assert [chat.id for chat in history.conversations(matching=query)] == [first]
    for query in ("rules", "puns rule"):
        assert found(history, query) == [(second, "system", rules.name)]
        assert [chat.id for chat in history.conversations(matching=query)] == [second]
    for query in ("name", "attachments", "lion puns", '"text name"'):
        assert found(history, query) == []
        assert history.conversations(matching=query) == []
    (hit,) = history.search("flea")
    assert [hit.excerpt[start:end] for start, end in hit.matches] == ["fleas"]
    (hit,) = history.search("lowen")
    assert (hit.excerpt, hit.matches) == (paper.text, ())  # only the name holds it
    assert sorted(found(history, "sum")) == [(number, "user", None) for number in (1, 2, 3)]


def test_the_documents_of_an_imported_chat_are_found(history: History) -> None:
    conversation = chat_about(Attachment("a.txt", "apple"), pinned=(Attachment("b.txt", "pear"),))
    first, second = history.import_chats([(conversation, "m")] * 2)
    history.remove(first)
    assert found(history, "apple") == [(second, "user", "a.txt")]
    assert found(history, "pear") == [(second, "system", "b.txt")]


def test_a_long_document_is_one_hit_where_the_words_stand(history: History) -> None:
    history.add(chat_about(Attachment("book.txt", _BOOK)), "m")
    assert passages_kept(history) > 5
    (hit,) = history.search("creme brulee")
    assert "Crème brûlée is served" in hit.excerpt
    assert len(hit.matches) == 2
    (hit,) = history.search("penguin")
    assert hit.document == "book.txt"
    assert len(history.search("book")) == 1


def test_messages_and_documents_share_the_places(history: History) -> None:
    for number in range(6):
        history.add(chat_about(Attachment(f"{number}.txt", "a comet " * number)), "m")
        conversation = Conversation()
        conversation.add("user", "what is a comet?")
        history.add(conversation, "m")
    assert len(history.search("comet")) == 11
    assert len(history.search("comet", limit=4)) == 4
    assert len(history.search("comet", limit=1000)) == 11


def test_the_best_is_first_wherever_it_stands(history: History) -> None:
    conversation = Conversation()
    conversation.add("user", "a question of many words in which a comet is named once")
    for number in range(4):
        conversation.add("assistant", f"{number} and not in this one")
    history.add(conversation, "m")
    for number in range(4):
        history.add(chat_about(Attachment(f"{number}.txt", "of other things " * 50)), "m")
    history.add(chat_about(Attachment("best.txt", "comet comet comet")), "m")
    assert [hit.document for hit in history.search("comet")] == ["best.txt", None]
    assert [hit.document for hit in history.search("comet", limit=1)] == ["best.txt"]


def test_what_one_sees_follows_what_is_pinned(history: History) -> None:
    conversation = chat_about(Attachment("a.txt", "apple"), pinned=(Attachment("b.txt", "pear"),))
    chat = history.add(conversation, "m")
    conversation.pinned = (Attachment("b.txt", "plum"), Attachment("c.txt", "cherry"))
    history.save(chat, conversation, conversation, "m")
    assert found(history, "pear") == []
    assert [found(history, word)[0][2] for word in ("plum", "cherry")] == ["b.txt", "c.txt"]
    before = passages_kept(history)
    history._db.execute(
        """CREATE TEMP TRIGGER kept BEFORE DELETE ON passage BEGIN
            SELECT raise(ABORT, 'made anew'); END"""
    )
    history.save(chat, conversation, conversation, "m")  # all of it, as after a failure
    assert passages_kept(history) == before == 3
    history._db.execute("DROP TRIGGER kept")
    conversation.pinned = ()
    history.save(chat, conversation, conversation, "m")
    assert found(history, "plum") == []
    assert len(found(history, "apple")) == 1
    check_index(history)


def test_another_document_in_its_place_is_found_instead(history: History) -> None:
    chat = history.add(chat_about(Attachment("a.txt", "apple")), "m")
    listed = json.dumps([{"name": "b.txt", "text": "pear"}])
    history._db.execute("UPDATE message SET attachments = ? WHERE role = 'user'", (listed,))
    assert found(history, "apple") == []
    again = history.load(chat).conversation
    history.save(chat, again, again, "m")
    assert found(history, "pear") == [(chat, "user", "b.txt")]
    check_index(history)


def test_removing_leaves_nothing_of_a_document(path: Path) -> None:
    with closing(History(path)) as history:
        conversation = chat_about(
            Attachment("xyzzy.txt", "plugh \n" * 5_000), pinned=(Attachment("grue.md", "lamp-x"),)
        )
        chat = history.add(conversation, "m")
        other = history.add(chat_about(Attachment("kept.txt", "kept words")), "m")
        conversation.pinned = (Attachment("grue.md", "lamp-y"),)
        history.save(chat, conversation, conversation, "m")
        history.remove(chat)
        for query in ("xyzzy", "plugh", "grue", "lamp"):
            assert found(history, query) == []
        assert found(history, "kept word") == [(other, "user", "kept.txt")]
        check_index(history)
    left = b"".join(file.read_bytes() for file in path.parent.iterdir())
    for word in (b"xyzzy", b"plugh", b"grue", b"lamp"):
        assert word not in left
    assert b"kept" in left


def older_file(path: Path, documents: dict[int, str | bytes], pinned: str | bytes) -> None:
    """As version 3 left it, before documents were found: one question for each of these."""
    with closing(database.open_database(path, database.MIGRATIONS[:3]).connection) as db:
        db.execute("INSERT INTO conversation (id, title, created, updated) VALUES (1, 'old', 5, 6)")
        for number, listed in documents.items():
            db.execute(
                """INSERT INTO message (id, conversation_id, role, status, text, created,
                        attachments)
                    VALUES (?, 1, 'user', 'complete', 'asked', 5, CAST(? AS TEXT))""",
                (number, listed),
            )
        db.execute("INSERT INTO pinned VALUES (1, CAST(? AS TEXT))", (pinned,))
        assert db.execute("PRAGMA user_version").fetchone() == (3,)


def test_the_documents_of_an_older_file_are_found(path: Path) -> None:
    listed = [
        {"name": "naïve\udcff.txt", "text": "apple \ud800 \0 seed"},
        {"name": "b", "text": _BOOK},
    ]
    older_file(path, {7: json.dumps(listed), 8: "[]"}, '[{"name": "rules.md", "text": "pear"}]')
    with closing(History(path)) as history:
        backup = path.with_name("history.db.backup-v3")
        assert str(backup) in history.notices[0]
        assert found(history, "apple seed") == [(1, "user", "naïve?.txt")]
        assert found(history, "brulee") == [(1, "user", "b")]
        assert found(history, "pear") == [(1, "system", "rules.md")]
        assert found(history, "asked") == [(1, "user", None)] * 2
        assert history.load(1).conversation[7].attachments[0].name == "naïve\udcff.txt"
        check_index(history)
        history.remove(1)
        assert passages_kept(history) == 0
        check_index(history)
    with closing(sqlite3.connect(backup)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (3,)


DAMAGED: dict[str, str | bytes] = {
    "no JSON": "[{",
    "empty": "",
    "no list": '{"name": "apple", "text": "apple"}',
    "a number": "7",
    "null": "null",
    "no objects": '["apple", 7, null]',
    "no text": '[{"name": "apple"}]',
    "no UTF-8": b'[{"name": "apple", \xff\xfe}]',
    "deep": "[" * 200_000,
    "digits": f'[{{"name": "apple", "text": {"9" * 10_000}}}]',
    "a NUL": b'[{"name": "apple\0", "text": "apple"}]',
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_documents_of_an_older_file_are_passed_over(path: Path, kind: str) -> None:
    sound = '[{"name": "b.txt", "text": "pear"}]'
    older_file(path, {7: DAMAGED[kind], 8: sound}, DAMAGED[kind])
    with closing(History(path)) as history:
        assert history.writable
        assert found(history, "pear") == [(1, "user", "b.txt")]
        assert found(history, "apple") == []
        check_index(history)


def test_an_older_file_that_may_only_be_read_is_searched(path: Path) -> None:
    older_file(path, {7: '[{"name": "a", "text": "apple"}]'}, "[]")
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")  # as good as a disk that may not be written
    with closing(History(path)) as history:
        assert not history.writable
        assert found(history, "asked") == [(1, "user", None)]
        assert found(history, "apple") == []
        assert history.conversations(matching="apple") == []


@pytest.mark.parametrize("text", ["", "apple", "apple\n", "```sh\napple\n```\n", "x:\n```\ny\n```"])
def test_the_frame_for_the_model_is_not_searched(history: History, text: str) -> None:
    framed = Document("code.py", text, "python")
    ended = text if text.endswith("\n") or not text else f"{text}\n"
    assert passages.inside(Attachment("code.py", framed.rendered())) == ended
    assert passages.inside(Attachment("x", text)) == (text if text[:1] != "x" else "y\n")
    history.add(chat_about(Attachment(framed.name, framed.rendered())), "m")
    assert found(history, "python") == []
    assert [hit.excerpt.strip() for hit in history.search("code")] == [text.strip()]


@settings(deadline=None)
@given(st.text(alphabet="ab \n", max_size=60), st.integers(0, 3))
def test_passages_hold_all_of_a_text(part: str, times: int) -> None:
    text = part * (1 + times * 400)
    parts = list(passages.split(text))
    assert "".join(parts) == text
    assert max(map(len, parts)) <= passages.LENGTH


def test_passages_are_cut_between_words() -> None:
    assert list(passages.split("")) == [""]
    whole = "word " * (passages.LENGTH // 5 * 2)
    assert all(part.endswith("word ") for part in passages.split(whole) if part)
    halves = "word " * 1_200 + "\n\n" + "word " * 1_200
    assert next(iter(passages.split(halves))).endswith("\n\n")
    assert len(list(passages.split("x" * (passages.LENGTH * 2)))) == 2
