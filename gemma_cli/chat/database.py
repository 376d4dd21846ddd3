"""The history's SQLite file: opened, migrated, guarded against what can befall a file."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from gemma_cli.chat import passages
from gemma_cli.errors import HistoryError

# "GEMM": another program's database at our place is not taken for ours.
APPLICATION_ID = 0x47454D4D

_BUSY_S = 5.0

# SQL statements, and steps that SQL cannot take, which are given the connection.
Migration = Sequence[str | Callable[[sqlite3.Connection], None]]

# Each entry takes the database from its index to the next user_version. Never
# change one that was published; add another.
MIGRATIONS: Sequence[Migration] = (
    (
        """CREATE TABLE conversation (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            title TEXT NOT NULL DEFAULT '',
            system TEXT NOT NULL DEFAULT '',
            model TEXT NOT NULL DEFAULT '',
            leaf_id INTEGER,
            created REAL NOT NULL,
            updated REAL NOT NULL
        )""",
        """CREATE TABLE message (
            id INTEGER PRIMARY KEY,
            conversation_id INTEGER NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
            parent_id INTEGER REFERENCES message (id) ON DELETE CASCADE
                DEFERRABLE INITIALLY DEFERRED,
            role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant')),
            status TEXT NOT NULL
                CHECK (status IN ('streaming', 'complete', 'cancelled', 'error')),
            text TEXT NOT NULL,
            created REAL NOT NULL,
            model TEXT,
            model_sha TEXT,
            params TEXT,
            counts TEXT,
            owner TEXT
        )""",
        "CREATE INDEX message_conversation ON message (conversation_id)",
        "CREATE INDEX message_parent ON message (parent_id)",
        "CREATE INDEX message_streaming ON message (owner) WHERE status = 'streaming'",
        "CREATE INDEX conversation_updated ON conversation (updated)",
        """CREATE VIRTUAL TABLE message_text USING fts5 (
            text, content = 'message', content_rowid = 'id',
            tokenize = 'unicode61 remove_diacritics 2'
        )""",
        # An answer is indexed once it ended, not at every write of its journal.
        """CREATE TRIGGER message_added AFTER INSERT ON message
            WHEN new.status <> 'streaming' BEGIN
            INSERT INTO message_text (rowid, text) VALUES (new.id, new.text);
        END""",
        """CREATE TRIGGER message_removed AFTER DELETE ON message
            WHEN old.status <> 'streaming' BEGIN
            INSERT INTO message_text (message_text, rowid, text)
                VALUES ('delete', old.id, old.text);
        END""",
        """CREATE TRIGGER message_changed AFTER UPDATE OF text, status ON message BEGIN
            INSERT INTO message_text (message_text, rowid, text)
                SELECT 'delete', old.id, old.text WHERE old.status <> 'streaming';
            INSERT INTO message_text (rowid, text)
                SELECT new.id, new.text WHERE new.status <> 'streaming';
        END""",
        """CREATE TABLE input (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            text TEXT NOT NULL,
            created REAL NOT NULL
        )""",
    ),
    ("ALTER TABLE message ADD COLUMN thoughts TEXT NOT NULL DEFAULT ''",),
    (
        "ALTER TABLE message ADD COLUMN attachments TEXT NOT NULL DEFAULT '[]'",
        # Whether title was set by hand; when the chat was imported, 0 if it was not.
        "ALTER TABLE conversation ADD COLUMN named INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE conversation ADD COLUMN imported REAL NOT NULL DEFAULT 0",
        # Apart from conversation, whose row is written anew every 0.4 s of an answer.
        """CREATE TABLE pinned (
            conversation_id INTEGER PRIMARY KEY REFERENCES conversation (id) ON DELETE CASCADE,
            attachments TEXT NOT NULL
        )""",
        # A word's beginning of one or two letters, over 100,000 messages: 110 ms
        # without an index of its own, 0.1 with one.
        "DROP TABLE message_text",
        """CREATE VIRTUAL TABLE message_text USING fts5 (
            text, content = 'message', content_rowid = 'id',
            tokenize = 'unicode61 remove_diacritics 2', prefix = '1 2'
        )""",
        """INSERT INTO message_text (rowid, text)
            SELECT id, text FROM message WHERE status <> 'streaming'""",
        """CREATE VIRTUAL TABLE title_text USING fts5 (
            title, content = 'conversation', content_rowid = 'id',
            tokenize = 'unicode61 remove_diacritics 2'
        )""",
        "INSERT INTO title_text (rowid, title) SELECT id, title FROM conversation",
        """CREATE TRIGGER conversation_added AFTER INSERT ON conversation BEGIN
            INSERT INTO title_text (rowid, title) VALUES (new.id, new.title);
        END""",
        """CREATE TRIGGER conversation_removed AFTER DELETE ON conversation BEGIN
            INSERT INTO title_text (title_text, rowid, title)
                VALUES ('delete', old.id, old.title);
        END""",
        """CREATE TRIGGER conversation_named AFTER UPDATE OF title ON conversation
            WHEN old.title IS NOT new.title BEGIN
            INSERT INTO title_text (title_text, rowid, title)
                VALUES ('delete', old.id, old.title);
            INSERT INTO title_text (rowid, title) VALUES (new.id, new.title);
        END""",
    ),
    (
        # message_id is NULL for a pinned document.
        """CREATE TABLE passage (
            id INTEGER PRIMARY KEY,
            conversation_id INTEGER NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
            message_id INTEGER REFERENCES message (id) ON DELETE CASCADE,
            name TEXT NOT NULL,
            text TEXT NOT NULL
        )""",
        "CREATE INDEX passage_conversation ON passage (conversation_id, message_id)",
        "CREATE INDEX passage_message ON passage (message_id)",
        """CREATE VIRTUAL TABLE passage_text USING fts5 (
            name, text, content = 'passage', content_rowid = 'id',
            tokenize = 'unicode61 remove_diacritics 2', prefix = '1 2'
        )""",
        """CREATE TRIGGER passage_added AFTER INSERT ON passage BEGIN
            INSERT INTO passage_text (rowid, name, text) VALUES (new.id, new.name, new.text);
        END""",
        """CREATE TRIGGER passage_removed AFTER DELETE ON passage BEGIN
            INSERT INTO passage_text (passage_text, rowid, name, text)
                VALUES ('delete', old.id, old.name, old.text);
        END""",
        # Not at every write of an answer's journal, which writes this column too.
        """CREATE TRIGGER message_documents_changed AFTER UPDATE OF attachments ON message
            WHEN old.attachments IS NOT new.attachments BEGIN
            DELETE FROM passage WHERE message_id = old.id;
        END""",
        """CREATE TRIGGER pinned_changed AFTER UPDATE OF attachments ON pinned BEGIN
            DELETE FROM passage
                WHERE conversation_id = old.conversation_id AND message_id IS NULL;
        END""",
        """CREATE TRIGGER pinned_removed AFTER DELETE ON pinned BEGIN
            DELETE FROM passage
                WHERE conversation_id = old.conversation_id AND message_id IS NULL;
        END""",
        passages.index_all,
    ),
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection, whether it may write, and what the user must be told."""

    connection: sqlite3.Connection
    writable: bool
    notices: tuple[str, ...] = field(default=())


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is wrong, rather than busy, full or read-only."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def open_database(
    path: Path, migrations: Sequence[Migration] = MIGRATIONS, thorough: bool = False
) -> Opened:
    """Open the history, make it if there is none, bring it to the newest version.

    A damaged or foreign file is moved aside and a new one is begun. One that a
    newer gemma wrote, or that this user may not write, is opened read-only.
    thorough also checks every page: for when a damage showed itself before.
    Raises HistoryError when nothing can be opened, sqlite3.Error when busy or full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite gives its -wal and -shm files the mode of the database.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with suppress(OSError):
            path.chmod(0o600)
    except OSError as error:
        if path.is_file():
            return _open_read_only(path, f"The history cannot be written ({error.strerror})")
        hint = "Make that folder writable, or set GEMMA_HOME to one that is"
        if path.is_dir():
            hint = f"A folder stands in its place; move it away: mv {path} {path}.folder"
        raise HistoryError(
            f"The history cannot be opened: {path}: {error.strerror}", hint
        ) from error
    before = path.stat()
    try:
        return _open_writable(path, migrations, thorough)
    except sqlite3.Error as error:
        if not is_damage(error):
            if _is_refusal(error):
                return _open_read_only(path, f"The history cannot be written ({error})")
            raise
    aside = _move_aside(path, before)
    told = f"The history could not be read; it was kept as {aside} and a new one is begun"
    opened = _open_writable(path, migrations, thorough=False)
    return Opened(opened.connection, True, (told, *opened.notices))


def _open_writable(path: Path, migrations: Sequence[Migration], thorough: bool) -> Opened:
    connection = _connect(str(path))
    try:
        if _version(connection) > len(migrations):
            connection.close()
            return _open_read_only(path, "The history was written by a newer gemma")
        if thorough:
            _check(connection)
        _use_wal(connection)
        notices = _migrate(connection, path, migrations)
    except BaseException:
        connection.close()
        raise
    return Opened(connection, True, notices)


def _open_read_only(path: Path, reason: str) -> Opened:
    notice = f"{reason}: it is read only, nothing new is saved"
    # Where not even the -shm file may be made, only an immutable view is left.
    for mode in ("mode=ro", "immutable=1"):
        connection = _connect(f"{path.absolute().as_uri()}?{mode}", uri=True)
        try:
            connection.execute("SELECT id FROM conversation LIMIT 1").fetchone()
        except sqlite3.Error:
            connection.close()
        else:
            return Opened(connection, False, (notice,))
    raise HistoryError(f"{reason}, and it cannot be read either: {path}")


def _connect(target: str, uri: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(target, timeout=_BUSY_S, isolation_level=None, uri=uri)
    connection.execute("PRAGMA foreign_keys = ON")
    # At every write, by whichever build of SQLite: an answer that grows leaves its
    # earlier pages behind, and what is removed later is to be nowhere in the file.
    connection.execute("PRAGMA secure_delete = ON")
    return connection


def _version(connection: sqlite3.Connection) -> int:
    """The form that the history has; 0: it is empty. Another program's file counts as damaged."""
    # As one moment had it: another process may be making the tables just now.
    connection.execute("BEGIN")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    connection.execute("COMMIT")
    if tables and (version == 0 or owner != APPLICATION_ID):
        raise _damage("a database of another program")
    return version


def _check(connection: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError with a damage code if its pages are not sound."""
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise _damage(verdict)


def _damage(message: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(message)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _is_refusal(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)


def _use_wal(connection: sqlite3.Connection) -> None:
    # The change to WAL does not wait for others as statements do.
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            busy = (error.sqlite_errorcode & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    connection.execute("PRAGMA synchronous = FULL")


def _migrate(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]
) -> tuple[str, ...]:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == len(migrations):
        return ()
    told: tuple[str, ...] = ()
    if version > 0:
        backup = path.with_name(f"{path.name}.backup-v{version}")
        _back_up(connection, backup)
        told = (f"The history was brought to a new form; the old one is kept as {backup}",)
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have done it while this one waited for the lock.
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for migration in migrations[version:]:
            for step in migration:
                if callable(step):
                    step(connection)
                else:
                    connection.execute(step)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {max(version, len(migrations))}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return told


def _back_up(connection: sqlite3.Connection, target: Path) -> None:
    """A whole copy under its final name only once it is complete."""
    draft = target.with_name(f"{target.name}.{os.getpid()}.part")
    os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
    with closing(sqlite3.connect(draft)) as copy:
        connection.backup(copy)
    draft.replace(target)


def _move_aside(path: Path, seen: os.stat_result) -> Path:
    """Keep a damaged file, with its journal, under a name that says when."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = path.with_name(f"{path.name}.broken-{stamp}")
    attempt = 1
    while aside.exists():
        attempt += 1
        aside = path.with_name(f"{path.name}.broken-{stamp}-{attempt}")
    try:
        if os.path.samestat(path.stat(), seen):  # else another gemma was faster
            path.rename(aside)
            for suffix in ("-wal", "-shm"):
                companion = path.with_name(path.name + suffix)
                if companion.exists():
                    companion.rename(aside.with_name(aside.name + suffix))
    except OSError as error:
        raise HistoryError(
            f"The history is damaged and cannot be moved aside: {path}: {error.strerror}",
            f"Move it yourself: mv {path} {aside}",
        ) from error
    return aside
