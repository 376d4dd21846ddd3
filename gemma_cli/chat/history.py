"""Past chats in SQLite: written as they happen, listed, searched, loaded, removed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from gemma_cli.chat import passages, records
from gemma_cli.chat.conversation import Conversation, Turn
from gemma_cli.chat.database import Opened, is_damage, open_database
from gemma_cli.chat.liveness import is_running, this_process
from gemma_cli.chat.records import SavedChat, Summary, storable, title_of
from gemma_cli.chat.search import INDEXES, Hit, find, holding, match_expression
from gemma_cli.errors import HistoryError

_READ_ONLY = "the history is read only"
_MUCH_EMPTY = 4 << 20  # bytes
_NO_CHAT_HINT = "what there is: gemma history list"

_SAVE_TURN = """INSERT INTO message (id, conversation_id, parent_id, role, status, text, created,
        model, model_sha, params, counts, owner, thoughts, attachments)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET status = excluded.status, text = excluded.text,
        model = excluded.model, model_sha = excluded.model_sha, params = excluded.params,
        counts = excluded.counts, owner = excluded.owner, thoughts = excluded.thoughts,
        attachments = excluded.attachments"""


class History:
    """The history file, open. Reading raises HistoryError; writing may raise sqlite3.Error too.

    notices: what opening it had to do (moved aside, migrated, read-only), to be
    said to the user once. damaged: reading it has shown that it is.
    """

    damaged = False

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
        *,
        pinned: bool = True,
    ) -> int:
        """Write the conversation's own facts and those turns, in one transaction; its id.

        Turns that are there already are brought up to date; of a chat that was
        removed meanwhile all turns are written. pinned: write its pinned documents
        too, which may be long. Nothing is written on failure (sqlite3.Error).
        """
        self._must_be_writable()
        with self._transaction():
            return self._save(conversation_id, conversation, turns, model, pinned=pinned)

    def add(self, conversation: Conversation, model: str) -> int:
        """Keep a conversation that is not in the history yet, whole; its id."""
        return self.save(None, conversation, conversation, model)

    def import_chats(self, chats: Iterable[tuple[Conversation, str]]) -> list[int]:
        """Keep chats from elsewhere, all of them or none; their ids.

        chats: (conversation, name of its model); the ids of its turns are changed
        where they would be another's.
        """
        self._must_be_writable()
        now = time.time()
        ids = []
        with self._writing(), self._transaction():
            for read, model in chats:
                conversation = records.with_free_ids(read, self._is_taken)
                saved_id = self._save(None, conversation, conversation, model, pinned=True)
                said = max((turn.created for turn in conversation), default=now)
                self._db.execute(
                    "UPDATE conversation SET updated = ?, created = ?, imported = ? WHERE id = ?",
                    (min(said, now), min(said, now), now, saved_id),
                )
                ids.append(saved_id)
        return ids

    def conversations(self, limit: int | None = None, matching: str | None = None) -> list[Summary]:
        """The chats, the latest first; matching: only those which hold these words."""
        where, wanted = "", ""
        if matching is not None:
            wanted = match_expression(matching)
            if not wanted:
                return []
            where = f"WHERE {holding(self._indexes())}"
        return self._summaries(where, {"wanted": wanted}, -1 if limit is None else limit)

    def latest(self) -> int | None:
        """The id of the chat that was used last."""
        newest = self.conversations(limit=1)
        return newest[0].id if newest else None

    def load(self, conversation_id: int) -> SavedChat:
        """One chat with all its branches. Raises HistoryError when there is none."""
        with self._reading():
            if not self._is_there(conversation_id):
                raise HistoryError(f"there is no chat {conversation_id}", _NO_CHAT_HINT)
            found = self._summaries("WHERE c.id = :id", {"id": conversation_id}, 1)
            conversation, leaf = self._load_head(conversation_id)
            rows = self._db.execute(
                f"""SELECT {records.turn_columns(self._columns("message"))}
                    FROM message WHERE conversation_id = ? ORDER BY id""",
                (conversation_id,),
            ).fetchall()
        for row in rows:
            conversation.insert(records.turn(row))
        if leaf is not None and any(turn.id == leaf for turn in conversation):
            conversation.go_to(leaf)
        else:
            said = [turn.id for turn in conversation if turn.role != "system"]
            conversation.go_to(said[-1] if said else None)
        return SavedChat(found[0], conversation)

    def has(self, conversation_id: int) -> bool:
        """Whether there is such a chat."""
        with self._reading():
            return self._is_there(conversation_id)

    def search(self, query: str, limit: int = 50) -> list[Hit]:
        """Messages, documents, set titles that hold every word and "quoted phrase", the best first.

        A document: its name and one passage of it together. The last word may be a
        beginning; accents and case make no difference. Of words that stand in very
        many messages or passages the newest are judged.
        """
        wanted = match_expression(query)
        if not wanted:
            return []
        with self._reading():
            return find(self._db, self._indexes(), wanted, limit)

    def remove(self, *conversation_ids: int) -> None:
        """Forget chats for good, all or none. Raises HistoryError when there is no such one."""
        self._must_be_writable()
        with self._writing():
            # What is removed is overwritten in its pages; here also in the index and the log.
            with self._transaction():
                for conversation_id in conversation_ids:
                    self._remove(conversation_id)
                for index in INDEXES:
                    self._db.execute(f"INSERT INTO {index} ({index}) VALUES ('optimize')")
            self._shrink()
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _shrink(self) -> None:
        """Give the disk back what is empty, where that is much; another chat may be in the way."""
        facts = ("freelist_count", "page_count", "page_size")
        free, pages, size = (self._db.execute(f"PRAGMA {each}").fetchone()[0] for each in facts)
        if free * 2 > pages and free * size > _MUCH_EMPTY:
            with suppress(sqlite3.OperationalError):
                self._db.execute("VACUUM")

    def remove_inputs(self) -> None:
        """Forget everything that was ever typed at the prompt."""
        self._must_be_writable()
        with self._writing():
            self._db.execute("DELETE FROM input")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def untouched_since(self, moment: float) -> list[Summary]:
        """Chats not used, saved or imported since then (seconds since 1970)."""
        touched = "max(c.updated, c.imported)" if self._has("imported") else "c.updated"
        return self._summaries(f"WHERE {touched} < :moment", {"moment": moment}, -1)

    def remember_input(self, text: str) -> None:
        """Keep what was typed at the prompt, for the arrow keys and Ctrl-R."""
        self._db.execute("INSERT INTO input (text, created) VALUES (?, ?)", (text, time.time()))

    def inputs(self, limit: int = 2000) -> list[str]:
        """What was typed at the prompt, the latest first, each text once."""
        with self._reading():
            rows = self._db.execute(
                "SELECT text FROM input GROUP BY text ORDER BY max(id) DESC LIMIT ?", (limit,)
            ).fetchall()
        return [row[0] for row in rows]

    def _must_be_writable(self) -> None:
        if not self.writable:
            raise HistoryError(_READ_ONLY)

    def _columns(self, table: str) -> list[str]:
        """An older file that may only be read has fewer, or none of a later table's."""
        rows = self._db.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
        return [row[0] for row in rows]

    def _indexes(self) -> list[str]:
        return [index for index in INDEXES if self._columns(index)]

    def _has(self, conversation_column: str) -> bool:
        return conversation_column in self._columns("conversation")

    def _summaries(self, where: str, values: Mapping[str, object], limit: int) -> list[Summary]:
        with self._reading():
            rows = self._db.execute(
                f"""SELECT c.id, c.updated, (SELECT count(*) FROM message m
                        WHERE m.conversation_id = c.id AND m.role = 'user'), c.model, c.title
                    FROM conversation c {where}
                    ORDER BY c.updated DESC, c.id DESC LIMIT :limit""",
                {**values, "limit": limit},
            ).fetchall()
        return [Summary(*row) for row in rows]

    def _load_head(self, conversation_id: int) -> tuple[Conversation, int | None]:
        """The conversation without its turns, and the id of its leaf."""
        named = "named" if self._has("named") else "0"
        system, leaf, title, is_named = self._db.execute(
            f"SELECT system, leaf_id, title, {named} FROM conversation WHERE id = ?",
            (conversation_id,),
        ).fetchone()
        conversation = Conversation(system)
        conversation.title = title if is_named else ""
        if self._columns("pinned"):
            pinned = self._db.execute(
                "SELECT attachments FROM pinned WHERE conversation_id = ?", (conversation_id,)
            ).fetchone()
            conversation.pinned = records.attachments(pinned[0]) if pinned else ()
        return conversation, leaf

    def _save(
        self,
        conversation_id: int | None,
        conversation: Conversation,
        turns: Iterable[Turn],
        model: str,
        *,
        pinned: bool,
    ) -> int:
        if conversation_id is not None and not self._is_there(conversation_id):
            turns, pinned = conversation, True  # removed by another program
        saved_id = self._save_head(conversation_id, conversation, model)
        owner = this_process()
        for turn in turns:
            self._db.execute(_SAVE_TURN, records.turn_row(saved_id, turn, owner))
            passages.index(self._db, saved_id, turn.id, turn.attachments)
        if pinned:
            self._save_pinned(saved_id, conversation)
        return saved_id

    def _save_head(
        self, conversation_id: int | None, conversation: Conversation, model: str
    ) -> int:
        now = time.time()
        row = self._db.execute(
            """INSERT INTO conversation
                    (id, title, named, system, model, leaf_id, created, updated)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT (id) DO UPDATE SET title = excluded.title, named = excluded.named,
                    system = excluded.system, model = excluded.model,
                    leaf_id = excluded.leaf_id, updated = excluded.updated
                RETURNING id""",
            (
                conversation_id,
                title_of(conversation),
                bool(conversation.title.strip()),
                storable(conversation.system),
                storable(model),
                conversation.leaf,
                now,
                now,
            ),
        ).fetchone()
        return int(row[0])

    def _save_pinned(self, conversation_id: int, conversation: Conversation) -> None:
        if conversation.pinned:
            # Not INSERT OR REPLACE, which tells no trigger what it removes.
            self._db.execute(
                """INSERT INTO pinned (conversation_id, attachments) VALUES (?, ?)
                    ON CONFLICT (conversation_id) DO UPDATE SET attachments = excluded.attachments
                        WHERE attachments IS NOT excluded.attachments""",
                (conversation_id, records.attachments_text(conversation.pinned)),
            )
            passages.index(self._db, conversation_id, None, conversation.pinned)
        else:
            self._db.execute("DELETE FROM pinned WHERE conversation_id = ?", (conversation_id,))

    def _remove(self, conversation_id: int) -> None:
        if not self._is_there(conversation_id):
            raise HistoryError(f"there is no chat {conversation_id}", _NO_CHAT_HINT)
        self._db.execute(
            """DELETE FROM input WHERE text IN (SELECT text FROM message
                WHERE conversation_id = ? AND role = 'user')""",
            (conversation_id,),
        )
        # Each turn would take the next one with it, and SQLite follows a thousand of them.
        self._db.execute(
            "UPDATE message SET parent_id = NULL WHERE conversation_id = ?", (conversation_id,)
        )
        self._db.execute("DELETE FROM conversation WHERE id = ?", (conversation_id,))

    def _is_there(self, conversation_id: int) -> bool:
        if conversation_id.bit_length() > 63:  # SQLite's integers end there
            return False
        query = "SELECT 1 FROM conversation WHERE id = ?"
        return self._db.execute(query, (conversation_id,)).fetchone() is not None

    def _is_taken(self, turn_id: int) -> bool:
        query = "SELECT 1 FROM message WHERE id = ?"
        return self._db.execute(query, (turn_id,)).fetchone() is not None

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

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            hint = None
            if is_damage(error):
                self.damaged = True
                hint = "it is kept aside, and a new one begun, when a chat is next saved"
            raise HistoryError(f"the history cannot be read: {error}", hint) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self.damaged = self.damaged or is_damage(error)
            raise HistoryError(f"the history cannot be written: {error}") from error


def _open(path: Path, thorough: bool) -> Opened:
    try:
        return open_database(path, thorough=thorough)
    except sqlite3.Error as error:
        raise HistoryError(f"the history cannot be opened: {path}: {error}") from error
