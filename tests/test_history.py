"""The history on real SQLite files: broken, full, foreign, newer, killed, shared."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gemma_cli.chat import database
from gemma_cli.chat.conversation import Attachment, Conversation, Origin
from gemma_cli.chat.export import to_json, to_jsonl, to_markdown
from gemma_cli.chat.history import History
from gemma_cli.chat.journal import HistoryJournal
from gemma_cli.chat.liveness import is_running, this_process
from gemma_cli.chat.search import INDEXES
from gemma_cli.errors import HistoryError

Journals = Callable[[], HistoryJournal]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "history.db"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def journals(path: Path, said: list[str]) -> Iterator[Journals]:
    opened: list[HistoryJournal] = []

    def journal() -> HistoryJournal:
        opened.append(HistoryJournal(lambda thorough: History(path, thorough), said.append, "m"))
        return opened[-1]

    yield journal
    for one in opened:
        one.close()


def talk(*texts: str) -> Conversation:
    conversation = Conversation("be brief")
    for number, text in enumerate(texts):
        conversation.add("assistant" if number % 2 else "user", text)
    return conversation


def test_a_chat_comes_back_as_it_was(path: Path, journals: Journals) -> None:
    conversation = talk("Wie heißt\ndu?", "Gemma")
    origin = Origin("m", "abc", {"seed": 7, "temperature": 0.5}, {"prompt_tokens": 3})
    question = conversation.path()[0]
    conversation.go_to(question.id)
    conversation.add("assistant", "Ich heiße Gemma", "cancelled", origin)
    journals().save(conversation)
    with closing(History(path)) as history:
        (summary,) = history.conversations()
        assert (summary.id, summary.turns, summary.model) == (1, 1, "m")
        assert summary.title == "Wie heißt du?"
        loaded = history.load(history.latest() or 0).conversation
    assert list(loaded) == list(conversation)
    assert (loaded.leaf, loaded.system) == (conversation.leaf, "be brief")


def test_only_its_owner_can_read_it(path: Path, journals: Journals) -> None:
    journals().save(talk("secret", "yes"))
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_search_ignores_accents_and_sees_changes(path: Path, journals: Journals) -> None:
    journal = journals()
    conversation = talk("Où est le café ?")
    answer = conversation.add("assistant", "Streaming words", "streaming")
    journal.save(conversation)
    with closing(History(path)) as history:
        assert [hit.excerpt for hit in history.search("cafe ou")] == ["Où est le café ?"]
        assert history.search("streaming") == []
        conversation.change(answer.id, "Finished words", "complete")
        journal.save(conversation)
        assert len(history.search("finish")) == 1
        conversation.change(answer.id, "Other words", "complete")
        journal.save(conversation)
        assert history.search("finished") == []
        assert history.search('" OR NEAR( *') == []
        history.remove(1)
        assert history.search("cafe") == []


def test_removing_leaves_nothing_in_the_file(path: Path, journals: Journals) -> None:
    journal = journals()
    journal.remember_input("xyzzy-secret")
    journal.save(talk("xyzzy-secret", "plugh-answer"))
    with closing(History(path)) as history:
        history.remove(1)
        with pytest.raises(HistoryError, match="no chat 1"):
            history.remove(1)
        with pytest.raises(HistoryError, match="no chat 1"):
            history.load(1)
    journal.close()
    left = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"xyzzy" not in left
    assert b"plugh" not in left


def test_nothing_is_left_of_what_was_written_over_either(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def by_another_build(*arguments: Any, **options: Any) -> sqlite3.Connection:
        """As SQLite is on other systems: it overwrites nothing unless told to."""
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    monkeypatch.setattr(sqlite3, "connect", by_another_build)
    conversation = talk("xyzzy-question")
    conversation.pinned = (Attachment("xyzzy.md", "xyzzy " * 4_000),)
    answer = conversation.add("assistant", "", "streaming")
    with closing(History(path)) as history:
        chat = history.add(conversation, "m")
        for length in range(0, 4_000, 200):
            grown = conversation.change(answer.id, "xyzzy " * length, "streaming")
            history.save(chat, conversation, [grown], "m", pinned=False)
        conversation.change(answer.id, "xyzzy " * 100, "complete")
        conversation.pinned = ()
        history.save(chat, conversation, conversation, "m")
        history.remove(chat)
    assert b"xyzzy" not in b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_inputs_are_the_latest_first_each_once(path: Path, journals: Journals) -> None:
    journal = journals()
    for text in ("one", "two", "one", "three\nlines"):
        journal.remember_input(text)
    assert journal.inputs() == ["three\nlines", "one", "two"]
    assert path.exists()


@pytest.mark.parametrize("content", [b"no database" * 100, b"SQLite format 3\0" + b"x" * 5000])
def test_a_broken_file_is_moved_aside(
    path: Path, journals: Journals, said: list[str], content: bytes
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    journals().save(talk("hi", "hello"))
    (aside,) = path.parent.glob("history.db.broken-*")
    assert aside.read_bytes() == content
    assert len(said) == 1
    assert str(aside) in said[0]
    with closing(History(path)) as history:
        assert len(history.conversations()) == 1


def test_a_database_of_another_program_is_moved_aside(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as foreign:
        foreign.execute("CREATE TABLE accounts (id)")
    with closing(History(path)) as history:
        assert "kept as" in history.notices[0]
    (aside,) = path.parent.glob("history.db.broken-*")
    with closing(sqlite3.connect(aside)) as kept:
        assert kept.execute("SELECT count(*) FROM accounts").fetchone() == (0,)


def test_damage_while_one_talks(path: Path, journals: Journals, said: list[str]) -> None:
    journal = journals()
    conversation = talk("hi", "hello " * 2000)
    journal.save(conversation)
    journal.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw = bytearray(path.read_bytes())
    raw[8192:] = b"\xff" * (len(raw) - 8192)
    path.write_bytes(raw)
    for text in ("one", "two"):
        conversation.add("user", text)
        journal.save(conversation)
    assert len(said) == 1
    assert "kept as" in said[0]
    assert list(path.parent.glob("history.db.broken-*"))
    with closing(History(path)) as history:
        (summary,) = history.conversations()
        assert [turn.text for turn in history.load(summary.id).conversation.path()][-1] == "two"


def test_a_full_disk_is_said_once_and_tried_again(
    path: Path, journals: Journals, said: list[str]
) -> None:
    journal = journals()
    conversation = talk("hi", "hello")
    journal.save(conversation)
    connection = journal.history()._db
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    for _ in range(2):
        conversation.add("user", "x" * 50_000)
        conversation.add("assistant", "y" * 50_000)
        journal.save(conversation)
    assert len(said) == 1
    assert "full" in said[0]
    connection.execute("PRAGMA max_page_count = 100000")
    journal.save(conversation)
    assert "can be written again" in said[1]
    with closing(History(path)) as history:
        assert len(history.load(1).conversation) == 6


def test_a_folder_that_cannot_be_made(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    journal = HistoryJournal(
        lambda thorough: History(tmp_path / "file" / "history.db", thorough), said.append
    )
    conversation = talk("hi", "hello")
    journal.remember_input("hi")
    journal.save(conversation)
    journal.save(conversation)
    assert journal.inputs() == []
    assert len(said) == 1
    assert "cannot be saved" in said[0]


def test_a_folder_in_its_place_is_said(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(HistoryError, match="cannot be opened") as raised:
        History(path)
    assert f"mv {path} " in str(raised.value.hint)


def test_a_newer_history_is_only_read(path: Path, journals: Journals, said: list[str]) -> None:
    journals().save(talk("hi", "hello"))
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    said.clear()
    journal = journals()
    assert len(journal.history().conversations()) == 1
    journal.save(talk("new", "chat"))
    journal.remember_input("new")
    assert len(said) == 1
    assert "newer gemma" in said[0]
    with pytest.raises(HistoryError, match="read only"):
        journal.history().remove(1)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM conversation").fetchone() == (1,)


def test_a_migration_keeps_a_backup(path: Path, journals: Journals) -> None:
    journals().save(talk("hi", "hello"))
    more = (*database.MIGRATIONS, ("ALTER TABLE conversation ADD COLUMN pinned INTEGER",))
    opened = database.open_database(path, more)
    with closing(opened.connection) as db:
        assert db.execute("SELECT pinned FROM conversation").fetchall() == [(None,)]
    backup = path.with_name(f"history.db.backup-v{len(database.MIGRATIONS)}")
    assert str(backup) in opened.notices[0]
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with closing(sqlite3.connect(backup)) as db:
        assert db.execute("SELECT title FROM conversation").fetchall() == [("hi",)]


def older_history(path: Path, version: int) -> None:
    """A file as a gemma of that version left it, with an answer that broke off."""
    with closing(database.open_database(path, database.MIGRATIONS[:version]).connection) as db:
        db.execute(
            """INSERT INTO conversation (id, title, system, model, leaf_id, created, updated)
                VALUES (1, 'Où est le café ?', 'be brief', 'm', 8, 5, 6)"""
        )
        db.executemany(
            """INSERT INTO message (id, conversation_id, parent_id, role, status, text, created)
                VALUES (?, 1, ?, ?, ?, ?, 5)""",
            [
                (7, None, "user", "complete", "Où est le café ?"),
                (8, 7, "assistant", "complete", "Over there"),
                (9, 7, "assistant", "streaming", "Broken off"),
            ],
        )
        assert db.execute("PRAGMA user_version").fetchone() == (version,)


@pytest.mark.parametrize("version", range(1, len(database.MIGRATIONS)))
def test_every_older_file_is_brought_up_to_date(path: Path, version: int) -> None:
    older_history(path, version)
    with closing(History(path)) as history:
        backup = path.with_name(f"history.db.backup-v{version}")
        assert str(backup) in history.notices[0]
        saved = history.load(1)
        assert [turn.text for turn in saved.conversation.path()] == [
            "Où est le café ?",
            "Over there",
        ]
        assert (saved.conversation.title, saved.conversation.pinned) == ("", ())
        assert saved.conversation[9].status == "cancelled"
        for query in ("cafe", "over", "broken"):
            assert len(history.search(query)) == 1
        assert [chat.id for chat in history.conversations(matching="cafe")] == [1]
        for index in INDEXES:
            history._db.execute(f"INSERT INTO {index} ({index}) VALUES ('integrity-check')")
        saved.conversation.title = "Renamed"
        history.save(1, saved.conversation, saved.conversation, "m")
        history.remove(1)
        for index in INDEXES:
            history._db.execute(f"INSERT INTO {index} ({index}) VALUES ('integrity-check')")
    with closing(sqlite3.connect(backup)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (version,)
        assert db.execute("SELECT count(*) FROM message").fetchone() == (3,)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600


def test_thoughts_come_back_and_an_older_file_has_none(path: Path, journals: Journals) -> None:
    older = database.open_database(path, database.MIGRATIONS[:1])
    with closing(older.connection) as db:
        db.execute("INSERT INTO conversation (id, created, updated) VALUES (1, 0, 0)")
        db.execute(
            """INSERT INTO message (id, conversation_id, role, status, text, created)
                VALUES (7, 1, 'user', 'complete', 'old', 0)"""
        )
    conversation = talk("hi", "hello")
    turn = conversation.path()[-1]
    conversation.change(turn.id, "hello", "complete", thoughts="a greeting")
    journals().save(conversation)
    with closing(History(path)) as history:
        assert history.load(1).conversation.path()[-1].thoughts == ""
        saved = history.load(2)
        assert saved.conversation.path()[-1].thoughts == "a greeting"
        assert [hit.role for hit in history.search("greeting")] == []
    assert '"thoughts": "a greeting"' in to_json(saved)
    assert "greeting" not in to_jsonl(saved)


def test_an_older_file_that_may_only_be_read_is_read(path: Path) -> None:
    older = database.open_database(path, database.MIGRATIONS[:1])
    with closing(older.connection) as db:
        db.execute("INSERT INTO conversation (id, created, updated) VALUES (1, 0, 0)")
        db.execute(
            """INSERT INTO message (id, conversation_id, role, status, text, created)
                VALUES (7, 1, 'user', 'complete', 'old', 0)"""
        )
        db.execute("PRAGMA user_version = 99")  # as good as a disk that may not be written
    with closing(History(path)) as history:
        assert not history.writable
        assert history.load(1).conversation[7].text == "old"
        assert len(history.conversations(matching="OLD")) == len(history.search("old")) == 1
        assert len(history.untouched_since(time.time())) == 1


def test_a_migration_that_fails_changes_nothing(path: Path, journals: Journals) -> None:
    journals().save(talk("hi", "hello"))
    bad = (*database.MIGRATIONS, ("CREATE TABLE extra (id)", "no statement"))
    with pytest.raises(sqlite3.OperationalError):
        database.open_database(path, bad)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(database.MIGRATIONS),)
        assert not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'extra'").fetchall()


def test_an_answer_of_a_living_program_is_left_alone(path: Path, journals: Journals) -> None:
    conversation = talk("hi")
    conversation.add("assistant", "half of", "streaming")
    journals().save(conversation)
    with closing(History(path)) as history:
        assert history.load(1).conversation.path()[-1].status == "streaming"


def test_liveness() -> None:
    assert is_running(this_process())
    host, pid, start = this_process().split("|")
    assert not is_running(f"{host}|{pid}|{start}0")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not is_running(f"{host}|{ended.pid}|{start}")
    assert is_running(f"elsewhere|{pid}|{start}")
    assert not is_running("")


_WRITER = """
import sys
from pathlib import Path
from gemma_cli.chat.conversation import Conversation
from gemma_cli.chat.history import History
from gemma_cli.chat.journal import HistoryJournal
journal = HistoryJournal(lambda t: History(Path(sys.argv[1]), t), lambda text: sys.exit(text), "m")
conversation = Conversation()
number = 0
while True:
    conversation.add("user", f"question {number}")
    journal.save(conversation)
    turn = conversation.add("assistant", "", "streaming")
    for part in range(1, 4):
        conversation.change(turn.id, f"answer {number} " * part, "streaming")
        journal.save(conversation)
    conversation.change(turn.id, f"answer {number} whole", "complete")
    journal.save(conversation)
    print(number, flush=True)
    number += 1
"""


def test_kill_9_loses_no_finished_turn(path: Path) -> None:
    rng = random.Random(5)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    for chat in range(1, 31):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True, env=env
        )
        assert writer.stdout is not None
        with writer.stdout as lines:
            finished = int(lines.readline())
            time.sleep(rng.random() * 0.1)
            writer.kill()
            writer.wait()
            finished = max([finished, *map(int, lines.read().split())])
        with closing(History(path)) as history:
            assert history.notices == ()
            turns = history.load(chat).conversation.path()
            assert history._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        answers = [turn for turn in turns if turn.role == "assistant"]
        assert len(answers) >= finished + 1
        for number in range(finished + 1):
            assert answers[number].text == f"answer {number} whole"
            assert answers[number].status == "complete"
        assert all(turn.status in ("complete", "cancelled") for turn in turns)


def test_many_open_a_new_history_at_once(tmp_path: Path) -> None:
    """None takes tables that another is just making for a foreign database."""
    for number in range(60):
        said: list[tuple[str, ...]] = []

        def open_it(path: Path = tmp_path / f"{number}.db", to: list[Any] = said) -> None:
            opened = database.open_database(path)
            opened.connection.close()
            to.append(opened.notices)

        threads = [threading.Thread(target=open_it) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert said == [()] * 4


def test_two_chats_at_once(path: Path) -> None:
    script = _WRITER.replace("while True:", "while number < 20:")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path)], env=env, stdout=subprocess.DEVNULL
        )
        for _ in range(3)
    ]
    assert [writer.wait(300) for writer in writers] == [0, 0, 0]
    with closing(History(path)) as history:
        assert [chat.turns for chat in history.conversations()] == [20, 20, 20]
        assert not list(path.parent.glob("*broken*"))


def test_exports(path: Path, journals: Journals) -> None:
    conversation = talk("hi", "hello")
    conversation.go_to(conversation.path()[0].id)
    conversation.add("assistant", "other", "cancelled")
    journals().save(conversation)
    with closing(History(path)) as history:
        chat = history.load(1)
    assert to_markdown(chat) == (
        "# hi\n\n## System\n\nbe brief\n\n## You\n\nhi\n\n## Gemma (cancelled)\n\nother\n"
    )
    assert to_jsonl(chat).count("\n") == 1
    assert '"content": "other"' in to_jsonl(chat)
    tree = to_json(chat)
    assert '"text": "hello"' in tree
    assert '"leaf": 3' in tree
