"""Past chats in SQLite: written as they happen, listed, searched, loaded, removed."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gemma_cli.chat.conversation import Conversation, Origin, Turn
from gemma_cli.chat.database import Opened, is_damage, open_database
from gemma_cli.chat.liveness import is_running, this_process
from gemma_cli.chat.search import match_expression
from gemma_cli.errors import HistoryError

_TITLE_LENGTH = 80
_MATCHING = """WHERE c.id IN (SELECT m.conversation_id FROM message_text
    JOIN message m ON m.id = message_text.rowid WHERE message_text MATCH ?)"""
_NO_CHAT_HINT = "what there is: gemma history list"


@dataclass(frozen=True, slots=True)
class Summary:
    """One chat in a list. updated: seconds since 1970; turns: questions asked, branches too."""

    id: int
    updated: float
    turns: int
    model: str
    title: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A message that a search found. excerpt: the words around the match."""

    conversation: int
    title: str
    role: str
    created: float
    excerpt: str


@dataclass(frozen=True, slots=True)
class SavedChat:
    """A whole chat, ready to be continued or exported."""

    summary: Summary
    conversation: Conversation


class History:
    """The history file, open. Reading raises HistoryError; writing may raise sqlite3.Error too.

    notices: what opening it had to do (moved aside, migrated, read-only), to be
    said to the user once.
    """

    def __init__(self, path: Path, thorough: bool = False) -> None:
        self.path = path
        try:
            self._use(_open(path, thorough))
        except sqlite3.Error as error:
            self.close()
            if thorough or not is_damage(error):
                raise HistoryError(f"the history cannot be used: {path}: {error}") from error
            self._use(_open(path, thorough=True))

    def _use(self, opened: Opened) -> None:
        self._db = opened.connection
        self.writable = opened.writable
        self.notices = opened.notices
        if self.writable:
            self._settle_abandoned()

    def close(self) -> None:
        self._db.close()

    def save(
        self,
        conversation_id: int | None,
        conversation: Conversation,
        turns: Iterable[Turn],
        model: str,
    ) -> int:
        """Write the conversation's own facts and those turns, in one transaction; its id.

        Turns that are there already are brought up to date. Nothing is written
        on failure (sqlite3.Error).
        """
        if not self.writable:
            raise HistoryError("the history is read only")
        now = time.time()
        owner = this_process()
        with self._transaction():
            saved_id = self._save_head(conversation_id, conversation, model, now)
            self._db.executemany(
                """INSERT INTO message (id, conversation_id, parent_id, role, status, text,
                        created, model, model_sha, params, counts, owner, thoughts)
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                    ON CONFLICT (id) DO UPDATE SET status = excluded.status,
                        text = excluded.text, model = excluded.model,
                        model_sha = excluded.model_sha, params = excluded.params,
                        counts = excluded.counts, owner = excluded.owner,
                        thoughts = excluded.thoughts""",
                [_row(saved_id, turn, owner) for turn in turns],
            )
        return saved_id

    def conversations(self, limit: int | None = None, matching: str | None = None) -> list[Summary]:
        """The chats, the latest first; matching: only those a search for these words finds."""
        wanted = match_expression(matching) if matching else ""
        where, values = ("", ()) if not wanted else (_MATCHING, (wanted,))
        return self._summaries(where, values, -1 if limit is None else limit)

    def latest(self) -> int | None:
        """The id of the chat that was used last."""
        newest = self.conversations(limit=1)
        return newest[0].id if newest else None

    def load(self, conversation_id: int) -> SavedChat:
        """One chat with all its branches. Raises HistoryError when there is none."""
        with _reading():
            found = self._summaries("WHERE c.id = ?", (conversation_id,), 1)
            if not found:
                raise HistoryError(f"there is no chat {conversation_id}", _NO_CHAT_HINT)
            system, leaf = self._db.execute(
                "SELECT system, leaf_id FROM conversation WHERE id = ?", (conversation_id,)
            ).fetchone()
            rows = self._db.execute(
                f"""SELECT id, parent_id, role, text, status, created, model, model_sha,
                        params, counts, {self._thoughts_column()}
                    FROM message WHERE conversation_id = ? ORDER BY id""",
                (conversation_id,),
            ).fetchall()
        conversation = Conversation(system)
        for row in rows:
            conversation.insert(_turn(row))
        if leaf is not None and any(turn.id == leaf for turn in conversation):
            conversation.go_to(leaf)
        elif rows:
            conversation.go_to(rows[-1][0])
        return SavedChat(found[0], conversation)

    def search(self, query: str, limit: int = 50) -> list[Hit]:
        """Messages that hold every word of the query, the best matches first.

        The last word may be a beginning; accents and case make no difference.
        """
        wanted = match_expression(query)
        if not wanted:
            return []
        with _reading():
            rows = self._db.execute(
                """SELECT c.id, c.title, m.role, m.created,
                        snippet(message_text, 0, '', '', '…', 16)
                    FROM message_text JOIN message m ON m.id = message_text.rowid
                        JOIN conversation c ON c.id = m.conversation_id
                    WHERE message_text MATCH ? ORDER BY message_text.rank LIMIT ?""",
                (wanted, limit),
            ).fetchall()
        return [Hit(*row) for row in rows]

    def remove(self, conversation_id: int) -> None:
        """Forget a chat for good. Raises HistoryError when there is none."""
        if not self.writable:
            raise HistoryError("the history is read only")
        with _reading():
            # What is removed is overwritten: in its pages, the index and the log.
            self._db.execute("PRAGMA secure_delete = ON")
            with self._transaction():
                self._db.execute(
                    """DELETE FROM input WHERE text IN (SELECT text FROM message
                        WHERE conversation_id = ? AND role = 'user')""",
                    (conversation_id,),
                )
                gone = self._db.execute("DELETE FROM conversation WHERE id = ?", (conversation_id,))
                if gone.rowcount == 0:
                    raise HistoryError(f"there is no chat {conversation_id}", _NO_CHAT_HINT)
                self._db.execute("INSERT INTO message_text (message_text) VALUES ('optimize')")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def remember_input(self, text: str) -> None:
        """Keep what was typed at the prompt, for the arrow keys and Ctrl-R."""
        self._db.execute("INSERT INTO input (text, created) VALUES (?, ?)", (text, time.time()))

    def inputs(self, limit: int = 2000) -> list[str]:
        """What was typed at the prompt, the latest first, each text once."""
        with _reading():
            rows = self._db.execute(
                "SELECT text FROM input GROUP BY text ORDER BY max(id) DESC LIMIT ?", (limit,)
            ).fetchall()
        return [row[0] for row in rows]

    def _thoughts_column(self) -> str:
        """An older file that may only be read has none."""
        columns = self._db.execute("SELECT name FROM pragma_table_info('message')").fetchall()
        return "thoughts" if ("thoughts",) in columns else "''"

    def _summaries(self, where: str, values: Sequence[object], limit: int) -> list[Summary]:
        with _reading():
            rows = self._db.execute(
                f"""SELECT c.id, c.updated, (SELECT count(*) FROM message m
                        WHERE m.conversation_id = c.id AND m.role = 'user'), c.model, c.title
                    FROM conversation c {where} ORDER BY c.updated DESC, c.id DESC LIMIT ?""",
                (*values, limit),
            ).fetchall()
        return [Summary(*row) for row in rows]

    def _save_head(
        self, conversation_id: int | None, conversation: Conversation, model: str, now: float
    ) -> int:
        row = self._db.execute(
            """INSERT INTO conversation (id, title, system, model, leaf_id, created, updated)
                VALUES (?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT (id) DO UPDATE SET system = excluded.system, model = excluded.model,
                    leaf_id = excluded.leaf_id, updated = excluded.updated
                RETURNING id""",
            (
                conversation_id,
                title_of(conversation),
                conversation.system,
                model,
                conversation.leaf,
                now,
                now,
            ),
        ).fetchone()
        return int(row[0])

    def _settle_abandoned(self) -> None:
        """An answer whose program died while it streamed keeps its text, as cancelled."""
        owners = self._db.execute(
            "SELECT DISTINCT owner FROM message WHERE status = 'streaming'"
        ).fetchall()
        dead = [owner for owner in owners if not is_running(owner[0] or "")]
        for owner in dead:
            self._db.execute(
                """UPDATE message SET status = 'cancelled', owner = NULL
                    WHERE status = 'streaming' AND owner IS ?""",
                owner,
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk may have rolled back already
                self._db.execute("ROLLBACK")
            raise


def title_of(conversation: Conversation) -> str:
    """A chat's title: the beginning of its first question."""
    for turn in conversation:
        if turn.role == "user":
            line = " ".join(turn.text.split())
            return line if len(line) <= _TITLE_LENGTH else line[: _TITLE_LENGTH - 1] + "…"
    return ""


def _open(path: Path, thorough: bool) -> Opened:
    try:
        return open_database(path, thorough=thorough)
    except sqlite3.Error as error:
        raise HistoryError(f"the history cannot be opened: {path}: {error}") from error


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        hint = "the next chat that finds it damaged keeps it aside" if is_damage(error) else None
        raise HistoryError(f"the history cannot be read: {error}", hint) from error


def _row(conversation_id: int, turn: Turn, owner: str) -> tuple[object, ...]:
    origin = turn.origin
    return (
        turn.id,
        conversation_id,
        turn.parent,
        turn.role,
        turn.status,
        turn.text,
        turn.created,
        origin and origin.model,
        origin and origin.model_sha,
        origin and json.dumps(dict(origin.params)),
        origin and json.dumps(dict(origin.counts)),
        owner if turn.status == "streaming" else None,
        turn.thoughts,
    )


def _turn(row: Sequence[object]) -> Turn:
    turn_id, parent, role, text, status, created, model, sha, params, counts, thoughts = row
    origin = None
    if model is not None:
        origin = Origin(model, sha, _object(params), _object(counts))  # type: ignore[arg-type]
    return Turn(turn_id, parent, role, text, status, created, origin, thoughts)  # type: ignore[arg-type]


def _object(text: object) -> dict[str, object]:
    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        value = {}
    return value if isinstance(value, dict) else {}
