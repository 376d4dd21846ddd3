"""The tree of a chat against a plain model of it, through the loop and a real history."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gemma_cli.chat.branches import branches, here, picture, place
from gemma_cli.chat.conversation import Conversation
from gemma_cli.chat.history import History
from gemma_cli.chat.journal import HistoryJournal
from gemma_cli.chat.loop import ChatLoop
from gemma_cli.chat.session import Session
from gemma_cli.engine.protocol import Message, Sampling
from tests.fake_engine import FakeEngine
from tests.test_loop import Record, Script


@dataclass
class Node:
    """A turn of the plain model: parent by index, None at the beginning."""

    parent: int | None
    role: str
    text: str


class Tree(RuleBasedStateMachine):
    """Asks, answers again, edits, goes to and fro, summarises, and comes back another day."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.nodes: list[Node] = []
        self.leaf: int | None = None
        self.summaries: list[tuple[int, str]] = []
        self.count = 0
        self.engine = FakeEngine()
        self._open()
        self.session = Session(self.engine, "m", Conversation(), self.journal, Sampling())

    def _open(self) -> None:
        path = Path(self.folder.name) / "history.db"
        self.journal = HistoryJournal(lambda t: History(path, t), pytest.fail, "m")

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
            self.folder.cleanup()

    def enter(self, *typed: str) -> None:
        writer = Record()
        ChatLoop(self.session, Script(list(typed)), writer).run()
        assert writer.errors == []

    def answered(self, text: str) -> None:
        """The engine's next answer, which is unlike all others."""
        self.engine._answers[:] = [text]

    def path(self, leaf: int | None) -> list[int]:
        path = []
        while leaf is not None:
            path.append(leaf)
            leaf = self.nodes[leaf].parent
        return path[::-1]

    def questions(self) -> list[int]:
        return [index for index in self.path(self.leaf) if self.nodes[index].role == "user"]

    def grow(self, role: str, text: str) -> None:
        self.nodes.append(Node(self.leaf, role, text))
        self.leaf = len(self.nodes) - 1

    def fresh(self, kind: str) -> str:
        self.count += 1
        return f"{kind} {self.count}"

    @rule()
    def ask(self) -> None:
        question, answer = self.fresh("question"), self.fresh("answer")
        self.answered(answer)
        self.enter(question)
        self.grow("user", question)
        self.grow("assistant", answer)

    @precondition(lambda self: self.questions())
    @rule(data=st.data())
    def regen(self, data: Any) -> None:
        number = data.draw(st.integers(1, len(self.questions())))
        answer = self.fresh("answer")
        self.answered(answer)
        self.enter(f"/regen {number}")
        self.leaf = self.questions()[number - 1]
        self.grow("assistant", answer)

    @precondition(lambda self: self.questions())
    @rule(data=st.data(), at_once=st.booleans())
    def edit(self, data: Any, at_once: bool) -> None:
        number = data.draw(st.integers(1, len(self.questions())))
        question, answer = self.fresh("edited"), self.fresh("answer")
        self.answered(answer)
        self.enter(*([f"/edit {number} {question}"] if at_once else [f"/edit {number}", question]))
        self.leaf = self.nodes[self.questions()[number - 1]].parent
        self.grow("user", question)
        self.grow("assistant", answer)

    @precondition(lambda self: self.questions())
    @rule(data=st.data())
    def undo(self, data: Any) -> None:
        count = data.draw(st.integers(1, len(self.questions())))
        self.enter(f"/undo {count}")
        self.leaf = self.nodes[self.questions()[-count]].parent

    @precondition(lambda self: self.questions())
    @rule(data=st.data(), word=st.sampled_from(["/branch", "/goto"]))
    def go_back(self, data: Any, word: str) -> None:
        asked = self.questions()
        number = data.draw(st.integers(0, len(asked)))
        self.enter(f"{word} {number}")
        if number < len(asked):
            self.leaf = self.nodes[asked[number]].parent

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def go_to_a_branch(self, data: Any) -> None:
        branch = data.draw(st.sampled_from(branches(self.session.conversation)))
        self.enter(f"/goto {branch.letter}")
        (self.leaf,) = (
            index for index, node in enumerate(self.nodes) if node.text == branch.turns[-1].text
        )

    @precondition(lambda self: self.shown_exchanges())
    @rule(data=st.data())
    def compact(self, data: Any) -> None:
        asked = self.questions()
        standing = [asked.index(pair[0]) + 1 for pair in self.shown_exchanges()]
        number = data.draw(st.sampled_from(standing))
        text = self.fresh("summary")
        self.answered(text)
        self.enter(f"/compact {number}")
        path = self.path(self.leaf)
        self.summaries.append((path[path.index(asked[number - 1]) + 1], text))

    @precondition(lambda self: self.summary() is not None)
    @rule(off=st.booleans())
    def change_the_summary(self, off: bool) -> None:
        found = self.summary()
        assert found is not None
        text = "" if off else self.fresh("summary")
        self.enter("/compact off" if off else f"/edit summary {text}")
        self.summaries.append((found[0], text))

    @precondition(lambda self: self.nodes)
    @rule()
    def resume(self) -> None:
        chat_id = self.journal.conversation_id
        self.enter("/new", f"/resume {chat_id}")
        self.come_back()

    @precondition(lambda self: self.nodes)
    @rule()
    def another_day(self) -> None:
        chat_id = self.journal.conversation_id
        assert chat_id is not None
        self.journal.close()
        self._open()
        self.session.journal = self.journal
        self.session.resume(self.journal.history().load(chat_id))
        self.come_back()

    def come_back(self) -> None:
        """Nobody goes on with a chat before its beginning: one is at what was said last."""
        if self.leaf is None:
            self.leaf = len(self.nodes) - 1

    def summary(self) -> tuple[int, str] | None:
        """The newest one of what is on the path."""
        path = self.path(self.leaf)
        made = [each for each in self.summaries if each[0] in path]
        return made[-1] if made and made[-1][1] else None

    def shown_exchanges(self) -> list[list[int]]:
        """What the model sees in full: pairs of indices."""
        path = self.path(self.leaf)
        found = self.summary()
        rest = path[path.index(found[0]) + 1 :] if found else path
        return [rest[at : at + 2] for at in range(0, len(rest), 2)]

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "session"):
            return
        talk = self.session.conversation
        shown = [(turn.role, turn.text) for turn in talk if turn.role != "system"]
        assert shown == [(node.role, node.text) for node in self.nodes]
        assert [turn.text for turn in talk.path()] == [
            self.nodes[index].text for index in self.path(self.leaf)
        ]
        by_text = {turn.text: turn for turn in talk if turn.role != "system"}
        for index, node in enumerate(self.nodes):
            siblings = [each.text for each in self.nodes if each.parent == node.parent]
            parent = by_text[self.nodes[index].text].parent
            assert [turn.text for turn in talk.children(parent)] == siblings

    @invariant()
    def the_model_is_shown_the_path(self) -> None:
        if not hasattr(self, "session"):
            return
        expected = [
            Message(self.nodes[index].role, self.nodes[index].text)  # type: ignore[arg-type]
            for pair in self.shown_exchanges()
            for index in pair
        ]
        if found := self.summary():
            text = f"Summary of the conversation so far:\n{found[1]}"
            expected.insert(0, Message("system", text))
        assert self.session.conversation.messages() == expected

    @invariant()
    def places_have_names(self) -> None:
        if not hasattr(self, "session"):
            return
        talk = self.session.conversation
        assert place(talk, here(talk)) == talk.leaf
        drawn = picture(talk)
        for branch in branches(talk):
            assert f" {branch.letter}" in drawn
            assert place(talk, branch.letter) == branch.turns[-1].id
        told = picture(talk, words=True)
        assert not set(told) & set("●○│├─")
        assert len(told.splitlines()) == len(drawn.splitlines())


Tree.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
test_the_tree_is_as_a_plain_one = Tree.TestCase
