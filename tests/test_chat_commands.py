"""Every slash command in a real loop over a real history; the engine is tests/fake_engine.py."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gemma_cli.chat.codeblocks import code_blocks
from gemma_cli.chat.commands import completions
from gemma_cli.chat.conversation import Attachment, Conversation
from gemma_cli.chat.history import History
from gemma_cli.chat.journal import HistoryJournal, NoJournal
from gemma_cli.chat.loop import ChatLoop
from gemma_cli.chat.session import Model, Session
from gemma_cli.commands.chatting.attachments import FilesHere
from gemma_cli.commands.chatting.personas import PromptsHere
from gemma_cli.engine.protocol import Engine, Message, Piece, Sampling
from gemma_cli.errors import DoesNotFitError, ExitCode, GemmaError, ModelNotFoundError
from gemma_cli.terminal.lines import Entry
from tests.fake_engine import FakeEngine
from tests.test_loop import Record, Script


@dataclass
class Chat:
    """A chat that goes on from one call to the next."""

    session: Session
    writer: Record = field(default_factory=Record)
    reader: Script = field(default_factory=lambda: Script([]))
    code: int = 0

    def type(self, *turns: str | Entry | BaseException) -> str:
        """Enter these; what was said and failed since then."""
        said, failed = len(self.writer.said), len(self.writer.errors)
        self.reader.turns = list(turns)
        self.code = ChatLoop(self.session, self.reader, self.writer).run()
        errors = [f"{message} | {hint}" for message, hint in self.writer.errors[failed:]]
        return "\n".join([*self.writer.said[said:], *errors])

    @property
    def talk(self) -> Conversation:
        return self.session.conversation

    def path(self) -> list[str]:
        return [turn.text for turn in self.talk.path()]


Begin = Callable[..., Chat]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """begin(engine) -> a chat whose history is tmp_path/history.db."""
    journals: list[HistoryJournal] = []

    def start(engine: FakeEngine | None = None, *, agrees: bool = True) -> Chat:
        path = tmp_path / "history.db"
        journals.append(HistoryJournal(lambda t: History(path, t), pytest.fail, "fake:1b"))
        session = Session(
            engine or FakeEngine(), "fake:1b", Conversation(), journals[-1], Sampling()
        )
        session.documents = FilesHere()
        return Chat(session, reader=Script([], agrees=agrees))

    yield start
    for journal in journals:
        journal.close()


def saved(chat: Chat) -> Conversation:
    """The chat as the history would give it back."""
    chat_id = chat.session.journal.conversation_id
    assert chat_id is not None
    return chat.session.journal.history().load(chat_id).conversation


def test_regen_makes_a_sibling(begin: Begin) -> None:
    chat = begin(FakeEngine(["one", "two", "three", "four"]))
    chat.type("a", "b", "/regen")
    assert chat.path() == ["a", "one", "b", "three"]
    chat.type("/regen 1")
    assert chat.path() == ["a", "four"]
    assert sorted(turn.text for turn in saved(chat)) == ["a", "b", "four", "one", "three", "two"]
    assert "there is no turn '3' here: turn 1 alone is" in chat.type("/regen 3")
    chat.type("/set seed 4")
    assert "the answer may be the same" in chat.type("/regen")


def test_regen_that_fails_leaves_one_where_one_was(begin: Begin) -> None:
    chat = begin(FakeEngine(["one"], n_ctx=30))
    chat.type("a")
    chat.talk.system = "word " * 40
    leaf = chat.talk.leaf
    assert "/file drop NAME" in chat.type("/regen")
    assert chat.talk.leaf == leaf


def test_undo_says_how_to_come_back(begin: Begin) -> None:
    chat = begin()
    chat.type("a", "b", "c")
    assert "Back before turn 2. To come back: /goto a3" in chat.type("/undo 2")
    assert chat.path() == ["a", "You said: a"]
    chat.type("/goto a3")
    assert chat.path()[-2:] == ["c", "You said: c"]
    chat.type("/undo 3", "d")
    assert chat.path() == ["d", "You said: d"]
    assert "takes 1 alone here, not '2'" in chat.type("/undo 2")


def test_edit_at_the_prompt_and_at_once(begin: Begin) -> None:
    chat = begin()
    chat.type("a", "b", "/edit 1", "A")
    assert chat.reader.prefilled == ["a"]
    assert chat.path() == ["A", "You said: A"]
    chat.type("/edit 1 B")
    assert chat.path() == ["B", "You said: B"]
    leaf = chat.talk.leaf
    assert "The text was not used: what was said" in chat.type("/edit", KeyboardInterrupt())
    assert "The text was not used: what was said" in chat.type("/edit", "  ")
    assert chat.talk.leaf == leaf
    said = chat.type("/edit", "/branches")  # another command: the edit is dropped, and said
    assert said.startswith("The text that stood here was not used.")
    assert chat.talk.leaf == leaf
    assert len(saved(chat).children(None)) == 3


def test_an_edit_keeps_what_was_attached(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("the note")
    chat = begin()
    chat.type(f"/file {tmp_path}/n.txt", "what is it?", "/edit 1 what is that?")
    (question, _) = chat.talk.path()
    assert [each.name for each in question.attachments] == [str(tmp_path / "n.txt")]
    assert "the note" in question.sent


def test_branches_show_the_tree(begin: Begin) -> None:
    chat = begin()
    assert chat.type("/branches") == "Nothing was said yet."
    chat.type("a", "b", "c", "/edit 2 B", "/regen", "x", "/goto a")
    said = chat.type("/branches")
    assert said.split("\n\n")[0].split("\n") == [
        '● a1  "a"',
        '├─○ b2  "B"',
        '│ ├─○ c2  another answer: "You said: B"',
        '│ │ ○ c3  "x"',
        '● a2  "b"',
        '● a3  "c"',
    ]
    assert "5 turns, 3 branches, you are at a3" in said
    chat.type("/goto c3")
    assert chat.type("/branches").split("\n\n")[0].split("\n") == [
        '● a1  "a"',
        '├─○ a2  "b"',
        '│ ○ a3  "c"',
        '● c2  "B"',
        '├─○ b2  another answer: "You said: B"',
        '● c3  "x"',
    ]
    chat.type("/goto c2")
    assert chat.path() == ["a", "You said: a", "B", "You said: B"]
    assert "this path has 2 turns, not 3" in chat.type("/goto 3")
    assert "there is no branch 'z'" in chat.type("/goto z")
    assert "no place" in chat.type("/goto ?!")
    assert "at the beginning" in chat.type("/goto 0")
    assert chat.path() == []


def test_plain_tells_the_tree_in_words(begin: Begin) -> None:
    chat = begin()
    chat.type("a", "b", "/edit 2 c", "/regen")
    chat.session.plain = True
    assert chat.type("/branches").splitlines()[:4] == [
        'a1, this path: "a"',
        'a2: "b", beside what follows a1',
        'c2, this path: "c"',
        'b2: another answer: "You said: c", beside what follows c2',
    ]


def test_a_long_line_of_talk_is_shortened_in_the_picture(begin: Begin) -> None:
    chat = begin()
    chat.type(*(f"q{number}" for number in range(30)), "/edit 20 other", "/goto a")
    lines = chat.type("/branches").split("\n\n")[0].split("\n")
    assert lines == [
        '● a1  "q0"',
        "│ … 17 turns …",
        '● a19  "q18"',
        '├─○ b20  "other"',
        "│ … 10 turns …",
        '● a30  "q29"',
    ]


def test_branch_talks_on_from_an_earlier_turn(begin: Begin) -> None:
    chat = begin()
    chat.type("a", "b", "c")
    assert "a branch after turn 1. To come back: /goto a3" in chat.type("/branch 1")
    chat.type("other")
    assert chat.path() == ["a", "You said: a", "other", "You said: other"]
    assert "after turn 1" in chat.type("/branch")
    assert "from the beginning" in chat.type("/branch 0")


def test_continue_lets_the_answer_grow(begin: Begin) -> None:
    engine = FakeEngine(["a b c d", "more text", "end"])
    chat = begin(engine)
    assert "/continue goes on" in chat.type("/set max_tokens 2", "x")
    chat.type("/set max_tokens none", "/continue")
    assert engine.asked[-1][-1] == Message("assistant", "a b")
    (_, answer) = chat.talk.path()
    assert answer.text == "a bmore text"
    assert chat.writer.answers[-1] == "a bmore text"
    assert saved(chat).path()[1].text == "a bmore text"
    assert len(chat.talk) == 2
    assert "ended by itself" in chat.type("/continue")


def test_continue_after_ctrl_c_and_where_others_build_on_it(begin: Begin) -> None:
    def press(piece: str) -> None:
        if piece == " two":
            signal.raise_signal(signal.SIGINT)

    chat = begin(FakeEngine(["one two three", "fine", " and on"]))
    chat.writer.on_piece = press
    assert "Stopped" in chat.type("count", "ok", "/goto 1", "/continue")
    answers = chat.talk.children(chat.talk.path()[0].id)
    assert [answer.text for answer in answers] == ["one two", "one two and on"]
    assert [answer.status for answer in answers] == ["cancelled", "complete"]
    assert chat.talk.leaf == answers[1].id
    assert "there is no answer yet" in chat.type("/new", "/continue")


def test_continue_where_the_window_is_full(begin: Begin) -> None:
    engine = FakeEngine(["short", "w " * 60, "end of it", "w " * 60], n_ctx=40)
    chat = begin(engine)
    assert "the context window of 40 tokens is full. /continue" in chat.type("a b c d", "go")
    assert "turn 1 left it" in chat.type("/continue")
    assert engine.asked[-1][0] == Message("user", "go")
    assert chat.talk.path()[-1].text.endswith("wend of it")
    assert "fill the context window of 40 tokens alone" in chat.type("/new", "x", "/continue")


def test_compact_shows_edits_and_takes_away(begin: Begin) -> None:
    engine = FakeEngine(["one", "two", "three", "They talked.", "four", "five"])
    chat = begin(engine)
    assert "nothing to summarise" in chat.type("/compact")
    chat.type(*(f"{word} " + "and more words " * 5 for word in "abc"))
    said = chat.type("/compact")
    assert "stands for turns 1 to 2 now and saves" in said
    assert chat.writer.asides == ["Summary: They talked."]
    assert "Assistant: two" in engine.asked[-1][0].text
    assert len(saved(chat).path()) == 6
    chat.type("d")
    system, *others = engine.asked[-1]
    assert system == Message("system", "Summary of the conversation so far:\nThey talked.")
    assert [message.role for message in others] == ["user", "assistant", "user"]
    assert chat.type("/compact show") == "They talked."
    chat.type("/edit summary", "They spoke.")
    assert chat.reader.prefilled == ["They talked."]
    assert chat.type("/compact show") == "They spoke."
    assert saved(chat).summary() is not None
    assert "summary of turns 1 to 2" in chat.type("/context")
    assert "has a summary already" in chat.type("/compact 1")
    assert "taken away" in chat.type("/compact off")
    chat.type("e")
    assert engine.asked[-1][0].text.startswith("a and")
    assert "No summary" in chat.type("/compact show")


def test_a_compaction_that_is_stopped_changes_nothing(begin: Begin) -> None:
    chat = begin(FakeEngine(["one", "two", "a summary that is long"]))
    chat.type("a", "b")
    chat.writer.on_piece = lambda _: signal.raise_signal(signal.SIGINT)
    assert "Nothing was changed" in chat.type("/compact")
    assert chat.talk.summary() is None
    assert chat.code == 0
    assert len(chat.talk) == 4


def words(number: int) -> str:
    return f"question {number} has these words in it"


def test_a_full_context_is_compacted_if_one_wishes(begin: Begin) -> None:
    engine = FakeEngine(n_ctx=160)
    chat = begin(engine)
    chat.type("/set context_full compact")
    said = chat.type(*(words(number) for number in range(12)))
    assert "A summary stands for turns 1 to" in said
    assert "left it" not in said
    assert engine.asked[-1][0].text.startswith("Summary of the conversation so far:")
    assert chat.talk.summary() is not None
    assert len(chat.talk.questions()) == 12


def test_a_full_context_refuses_if_one_wishes(begin: Begin) -> None:
    chat = begin(FakeEngine(n_ctx=60))
    chat.type("/set context_full stop")
    said = chat.type(*(words(number) for number in range(5)))
    assert "would have to leave it | /compact" in said
    assert "left the context window" not in chat.type("/context")
    assert len(chat.talk.path()) < 10
    assert "context_full takes drop, compact, stop" in chat.type("/set context_full maybe")


def test_pinned_documents_alone_too_large(begin: Begin) -> None:
    chat = begin(FakeEngine(n_ctx=60))
    chat.talk.pinned = (Attachment("big.txt", "word " * 70),)
    assert "/file drop NAME" in chat.type("hi")
    chat.type("/file drop big.txt", "hi")
    assert chat.writer.answers == ["You said: hi"]


def test_context_adds_up(begin: Begin) -> None:
    engine = FakeEngine(n_ctx=4096)
    chat = begin(engine)
    chat.talk.pinned = (Attachment("p.txt", "pinned words here"),)
    chat.type("a b c", "d", "/system Be brief and kind")
    said = chat.type("/context")
    figures = [int(line.split()[-1]) for line in said.split("\n") if "tokens" not in line]
    shown = engine.render(chat.talk.upcoming(""))
    assert sum(figures) == len(shown.tokens) == chat.session.used
    assert f"{len(shown.tokens):,} of 4,096 tokens are used" in said
    chat.type("e f g")
    used = chat.session.used
    assert f"{used:,} of 4,096 tokens are used" in chat.type("/context")
    assert f"context window  {used:,} of 4,096 tokens" in chat.type("/stats")
    assert "pinned p.txt" in said
    chat = begin(FakeEngine(n_ctx=60))
    chat.type(*(words(number) for number in range(6)))
    assert "left the context window" in chat.type("/context")


def test_files_of_one_message_are_fitted_together(begin: Begin, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"{name} " * 30)
    chat = begin(FakeEngine(n_ctx=80), agrees=False)
    said = chat.type(f"what is in @{tmp_path}/a.txt and @{tmp_path}/b.txt?")
    assert f"{tmp_path}/a.txt: 3" in said
    assert f"{tmp_path}/b.txt has 3" in said
    assert f"{tmp_path}/b.txt was left out" in said
    assert [each.name for each in chat.talk.path()[0].attachments] == [f"{tmp_path}/a.txt"]


def test_files_go_with_the_next_message(begin: Begin, tmp_path: Path) -> None:
    note = tmp_path / "my note.txt"
    note.write_text("secret is blue")
    engine = FakeEngine()
    chat = begin(engine)
    said = chat.type(f'/file "{note}"')
    assert f"{note}: {len(str(note).split()) + 5} tokens" in said  # a name, two fences
    assert "next message" in chat.type("/file")
    chat.type("what?", "and?")
    assert "secret is blue" in engine.asked[0][0].text
    assert engine.asked[0][0].text.endswith("what?")
    assert engine.asked[1][-1].text == "and?"
    assert saved(chat).path()[0].attachments[0].name == str(note)
    assert "turn 1" in chat.type("/file")
    chat.type(f'see @"{note}" please')
    assert engine.asked[-1][-1].text.count("secret is blue") == 1
    assert chat.talk.path()[-2].text == f'see @"{note}" please'
    chat.type(f'/file "{note}"', f'see @"{note}", and again: @"{note}"')
    assert engine.asked[-1][-1].text.count("secret is blue") == 1
    assert "nothing.txt" in chat.type("/file nothing.txt")
    assert chat.type("/file drop x").startswith("no file 'x'")


def test_a_changed_question_takes_the_files_that_it_names_now(begin: Begin, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"text of {name}")
    a, b, c = (str(tmp_path / f"{name}.txt") for name in "abc")
    engine = FakeEngine()
    chat = begin(engine)

    def shown() -> list[str]:
        return [each.name for each in chat.talk.path()[-2].attachments]

    chat.type(f"/file {c}", f"what is in @{a}?")
    assert shown() == [c, a]
    assert b in chat.type(f"/edit 1 what is in @{b}?")
    assert shown() == [c, b]
    assert "text of b" in engine.asked[-1][-1].text
    assert a in chat.type("/edit", f"what is in @{b} and @{a}?")
    assert shown() == [c, b, a]
    (tmp_path / "b.txt").unlink()
    assert "no file" not in chat.type(f"/edit 1 then what is in @{b} and @{a}?")
    assert shown() == [c, b, a]
    assert "no file @gone.txt" in chat.type("/edit 1 what is in @gone.txt?")
    assert shown() == [c, b]
    (tmp_path / "d.bin").write_bytes(bytes(range(256)) * 9)
    leaf = chat.talk.leaf
    assert "d.bin" in chat.type("/edit 1", f"and in @{tmp_path}/d.bin?", "")
    assert chat.talk.leaf == leaf


def test_a_kept_prompt_takes_the_files_too(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text of a")
    (tmp_path / "b.txt").write_text("text of b")
    chat = begin()
    chat.session.prompts = PromptsHere()
    chat.type(f"/file {tmp_path}/a.txt", "/prompt summarise", f"Summarise: @{tmp_path}/b.txt")
    names = [each.name for each in chat.talk.path()[0].attachments]
    assert names == [f"{tmp_path}/a.txt", f"{tmp_path}/b.txt"]
    assert chat.session.attached == []


def test_files_that_wait_are_not_let_go_in_silence(begin: Begin, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"text of {name}")
    a, b = (str(tmp_path / f"{name}.txt") for name in "ab")
    chat = begin()
    chat.type("hi")
    said = chat.type(f"/file {a}", "/new")
    assert f"Not sent, and no longer attached: {a}." in said
    assert "Not sent" not in chat.type("/new")
    assert "no longer attached: 2 files." in chat.type(f"/file {a} {b}", "/resume 1")
    assert chat.session.attached == []


def test_a_pinned_file_stays_and_can_be_dropped(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "n.md").write_text("always here")
    engine = FakeEngine()
    chat = begin(engine)
    chat.type(f"/file --pin {tmp_path}/n.md", "a", "b")
    assert "always here" in engine.asked[-1][0].text
    assert saved(chat).pinned == chat.talk.pinned
    assert "1 file taken away" in chat.type("/file drop all")
    chat.type("c")
    assert engine.asked[-1][0].role == "user"


def test_a_file_too_large_is_cut_summarised_or_left_out(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "big.txt").write_text("\n".join(f"line {n} of it" for n in range(200)))
    chat = begin(FakeEngine(n_ctx=200))
    said = chat.type(f"/file {tmp_path}/big.txt")
    assert "has room for" in said
    assert chat.reader.asked[-1] == "Take the part from its beginning that fits?"
    (part,) = chat.session.attached
    assert "line 0 of it" in part.text
    assert "line 199" not in part.text
    chat.type("what is it?")
    assert chat.writer.answers

    answers = ["short"] * 40
    chat = begin(FakeEngine(answers, n_ctx=200))
    chat.reader.confirm = lambda question: "part by part" in question  # type: ignore[method-assign]
    chat.type(f"/file {tmp_path}/big.txt")
    (summary,) = chat.session.attached
    assert "a summary of its" in summary.text
    assert "short" in summary.text
    assert chat.writer.asides[0].startswith("Part 1 of")

    chat = begin(FakeEngine(n_ctx=200), agrees=False)
    assert "was left out" in chat.type(f"/file {tmp_path}/big.txt")
    chat.reader.interactive = False
    chat.type(f"/file {tmp_path}/big.txt")
    assert chat.code == ExitCode.CONTEXT


def test_a_folder_too_large_is_asked_about_once(begin: Begin, tmp_path: Path) -> None:
    folder = tmp_path / "lots"
    folder.mkdir()
    for number in range(40):
        (folder / f"f{number:02}.txt").write_text(f"file {number} of all")
    engine = FakeEngine(n_ctx=150)
    measured: list[str] = []
    raw = engine.raw
    engine.raw = lambda text: measured.append(text) or raw(text)  # type: ignore[func-returns-value,method-assign]
    chat = begin(engine)
    said = chat.type(f"/file {folder}").splitlines()
    first = len(chat.session.attached)
    assert chat.reader.asked == [f"Take the first {first} of them and leave the others out?"]
    assert 8 < first < 40
    assert said[1].startswith(f"{first} files, ")
    assert len(measured) < 40 * 6  # each a few times, whatever their number
    chat.type("what is in it?")
    assert len(chat.talk.path()[0].attachments) == first

    chat.reader.agrees = False
    assert f"{folder} was left out." in chat.type(f"/file {folder}")
    assert len(chat.reader.asked) == 2
    assert chat.session.attached == []
    chat.reader.interactive = False
    chat.type(f"/file {folder}")
    assert chat.code == ExitCode.CONTEXT


def test_a_part_that_would_be_empty_is_said_to_be_left_out(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word " * 25)
    (tmp_path / "b.txt").write_text("word " * 30)
    chat = begin(FakeEngine(n_ctx=50))
    said = chat.type(f"/file {tmp_path}/a.txt", f"/file {tmp_path}/b.txt")
    assert chat.reader.asked == ["Take the part from its beginning that fits?"]
    assert f"{tmp_path}/b.txt was left out." in said


def test_history_search_resume_and_title(begin: Begin, tmp_path: Path) -> None:
    chat = begin()
    assert chat.type("/history") == "No chat is kept yet."
    chat.type("Where is Zürich?", "/title Swiss  towns", "/new", "the second")
    said = chat.type("/history")
    assert "Swiss towns" in said
    assert "*    2" in said
    assert "Swiss" in chat.type("/history zurich")
    assert "you: Where is Zürich?" in chat.type("/search zurich")
    assert chat.type("/search nothing here") == "Nothing was found."
    note = tmp_path / "note.txt"
    note.write_text("A lion sleeps tonight")
    chat.type(f"/file {note}", "Who sleeps?")
    assert "note.txt: A lion sleeps tonight\n" in chat.type("/search tonight")
    assert "Chat 1, 1 turn: Swiss towns" in chat.type("/resume 1")
    assert chat.path() == ["Where is Zürich?", "You said: Where is Zürich?"]
    chat.type("more")
    assert len(saved(chat)) == 4
    assert chat.session.journal.conversation_id == 1
    assert chat.type("/resume 1") == "You are in this chat."
    assert "there is no chat 9" in chat.type("/resume 9")
    assert "takes a chat's number" in chat.type("/resume x")
    assert chat.type("/title") == "Swiss towns"


def test_forget_removes_this_chat(begin: Begin) -> None:
    chat = begin(agrees=False)
    assert "not in the history" in chat.type("/forget")
    chat.type("a secret")
    assert "Nothing was removed." in chat.type("/forget")
    chat.reader.agrees = True
    assert "is removed" in chat.type("/forget")
    assert chat.session.journal.history().conversations() == []
    chat.type("b")
    assert chat.path() == ["b", "You said: b"]
    assert [each.title for each in chat.session.journal.history().conversations()] == ["b"]


def test_without_a_history(begin: Begin) -> None:
    chat = begin()
    chat.session.journal = NoJournal()
    for typed in ("/history", "/search x", "/resume 1"):
        assert "keeps no history" in chat.type(typed)
    assert "not in the history" in chat.type("/forget")
    assert chat.code == 0


CODE = "Look:\n\n```python\nprint(1)\n```\n\n  ~~~~\n  two\n    lines\n  ~~~~\n\n````\n```\ncut"


def test_last_copy_save_and_export(begin: Begin, tmp_path: Path) -> None:
    chat = begin(FakeEngine([CODE]))
    assert "no answer yet" in chat.type("/last")
    chat.type("code?", "/last", "/last code", "/last code 2")
    assert chat.writer.answers == [CODE, CODE]
    assert chat.writer.raws == ["print(1)\n", "two\n  lines\n"]
    assert "has 3" in chat.type("/last code 4")
    assert "no clipboard" in chat.type("/copy")
    copied: list[str] = []
    chat.session.copy = lambda text: copied.append(text) or "the clipboard"  # type: ignore[func-returns-value]
    assert "to the clipboard" in chat.type("/copy", "/copy code")
    assert copied == [CODE, "print(1)\n"]
    file = tmp_path / "a.md"
    assert "Saved" in chat.type(f"/save {file}")
    assert file.read_text() == CODE + "\n"
    chat.reader.agrees = False
    assert "is there already" in chat.type(f"/save {file}")
    assert "cannot be written" in chat.type(f"/save {tmp_path}/no/such/a.md")
    assert "/export json takes a file" in chat.type("/export json")
    assert "Saved" in chat.type(f'/export "{tmp_path}/my chat.md"')
    assert (tmp_path / "my chat.md").is_file()
    assert "Saved" in chat.type(f"/export {tmp_path}/c.json", f"/export md {tmp_path}/c.txt")
    assert json.loads((tmp_path / "c.json").read_text())
    assert "code?" in (tmp_path / "c.txt").read_text()
    assert "takes a format and a file" in chat.type(f"/export {tmp_path}/c.xyz")
    assert sorted(path.name for path in tmp_path.glob("*.*")) >= ["a.md", "c.json", "c.txt"]


def test_code_blocks() -> None:
    assert code_blocks(CODE) == ["print(1)\n", "two\n  lines\n", "```\ncut\n"]
    assert code_blocks("no `code` here") == []


def test_multiline(begin: Begin) -> None:
    chat = begin()
    assert "Alt-Enter sends" in chat.type("/multiline")
    assert chat.reader.multiline
    assert "Enter sends" in chat.type("/multiline off")
    assert not chat.reader.multiline
    assert "takes on or off" in chat.type("/multiline maybe")


@dataclass
class FakeModels:
    """Models by name; opening one that is not there fails, "big" does not fit."""

    present: Model
    known: Mapping[str, Sequence[str | Sequence[str | Piece | GemmaError]]]
    asked: dict[str, str] = field(default_factory=lambda: {"ctx": "auto"})
    forgotten: int = 0

    def names(self) -> list[str]:
        return list(self.known)

    def forget(self) -> None:
        self.forgotten += 1

    def facts(self) -> str:
        return f"model {self.present.label}"

    def plan(self) -> str:
        return "all on the CPU"

    def placement(self) -> Mapping[str, str]:
        return self.asked

    def open(
        self, name: str | None, changes: Mapping[str, str], wait: Callable[[Engine], None]
    ) -> list[str]:
        if name == "big":
            self.present = Model(FakeEngine(), self.present.label, None, self.present.sampling)
            raise DoesNotFitError("big does not fit")
        if name is not None and name not in self.known:
            raise ModelNotFoundError(f"no model {name}")
        self.asked |= changes
        label = name or self.present.label
        load_s = 5.0 if name == "slow" else 0.0
        engine = FakeEngine(self.known[label], n_ctx=int(changes.get("ctx", 4096)), load_s=load_s)
        if name == "slow":
            signal.setitimer(signal.ITIMER_REAL, 0.1)
        wait(engine)
        self.present = Model(engine, label, f"sha of {label}", Sampling(temperature=0.5, top_k=7))
        return [f"{label} answers from here on"]


def test_the_model_changes_in_mid_chat(begin: Begin) -> None:
    chat = begin(FakeEngine(["old"]))
    engine = chat.session.engine
    present = Model(engine, "fake:1b", None, Sampling())
    chat.session.models = FakeModels(present, {"fake:1b": [], "other": ["new"]})
    chat.type("a", "/set top_k 3", "/model other", "b")
    assert chat.path() == ["a", "old", "b", "new"]
    origins = [turn.origin for turn in chat.talk.path() if turn.origin]
    assert [(origin.model, origin.model_sha) for origin in origins] == [
        ("fake:1b", None),
        ("other", "sha of other"),
    ]
    assert (chat.session.sampling.temperature, chat.session.sampling.top_k) == (0.5, 3)
    assert chat.session.journal.history().conversations()[0].model == "other"
    assert "no model x" in chat.type("/model x")
    assert "big does not fit" in chat.type("/model big", "c")
    assert chat.path()[-1] == "You said: c"
    assert chat.session.used is not None
    assert "answers from here on" in chat.type("/set ctx 512")
    assert chat.session.used is not None  # the gauge goes on at once
    chat.type("d")
    assert chat.session.engine.info().n_ctx == 512
    assert chat.type("/model") == "model other"
    assert "all on the CPU" in chat.type("/show plan")
    assert "ctx                512" in chat.type("/show")
    assert "top_k" in chat.type("/show options")
    assert "takes options" in chat.type("/show nonsense")
    assert "tokens are used" in chat.type("/show context")


def test_a_failing_command_in_a_script_is_seen_in_its_exit_code(begin: Begin) -> None:
    chat = begin()
    chat.reader.interactive = False
    chat.type("/goto 9", "hi")
    assert chat.code == ExitCode.USAGE
    assert chat.writer.answers == ["You said: hi"]


def test_kept_prompts(begin: Begin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "config" / "prompts"
    folder.mkdir(parents=True)
    (folder / "pirate.md").write_text('+++\nsystem = "You are {{who=a pirate}}."\n+++\n')
    (folder / "short.toml").write_text(
        'message = "Shorten to {{words}} words:\\n\\n{{text}}"\n[options]\ntemp = 0.25\n'
    )
    monkeypatch.setenv("GEMMA_HOME", str(tmp_path / "home"))
    engine = FakeEngine()
    chat = begin(engine)
    assert "no kept prompts" in chat.type("/prompt")
    chat.session.prompts = PromptsHere()
    assert "pirate" in chat.type("/prompt")
    chat.type('/prompt pirate who="an old \\"parrot\\""', "hi")
    assert engine.asked[-1][0] == Message("system", 'You are an old "parrot".')
    said = chat.type("/prompt short")
    assert "'words'" in said
    assert said.endswith(" | /prompt short words=...")
    chat.type("/prompt short words=3", "Shorten to 3 words:\n\nA long text.")
    assert chat.reader.prefilled == ["Shorten to 3 words:\n\n"]
    assert engine.samplings[-1].temperature == 0.25
    assert engine.asked[-1][-1].text == "Shorten to 3 words:\n\nA long text."
    chat.reader.prefills = False
    chat.type("/set temperature 1", "/prompt short words=5", "Other text.")
    assert engine.asked[-1][-1].text == "Shorten to 5 words:\n\nOther text."
    assert engine.samplings[-1].temperature == 1
    assert "no VAR=VALUE" in chat.type("/prompt short five")


def test_a_message_that_cannot_be_sent_comes_back_to_be_changed(
    begin: Begin, tmp_path: Path
) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(range(256)) * 9)
    chat = begin()
    said = chat.type(f"what is @{tmp_path}/x.bin here", "what then?")
    assert "x.bin" in said
    assert chat.reader.prefilled == [f"what is @{tmp_path}/x.bin here"]
    assert chat.path() == ["what then?", "You said: what then?"]
    (tmp_path / "n.txt").write_text("note " * 50)
    chat = begin(FakeEngine(n_ctx=100))
    chat.type(f"/file {tmp_path}/n.txt", "word " * 90)
    assert chat.path() == []
    assert len(chat.session.attached) == 1


def test_the_gauge_follows_the_tree(begin: Begin) -> None:
    chat = begin(FakeEngine(n_ctx=60))
    chat.type(*(words(number) for number in range(6)))
    assert "left the context window" in chat.type("/context")
    assert "left the context window" not in chat.type("/undo 5", "/context")
    assert chat.session.used == len(chat.session.engine.render(chat.talk.upcoming("")).tokens)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a POSIX timer")
def test_ctrl_c_while_another_model_loads_keeps_the_old_one(begin: Begin) -> None:
    chat = begin(FakeEngine(["old", "still old"]))
    present = Model(chat.session.engine, "fake:1b", None, Sampling())
    chat.session.models = FakeModels(present, {"fake:1b": [], "slow": ["new"]})
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        assert "Stopped. Nothing was changed." in chat.type("a", "/model slow", "b")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert chat.path()[-1] == "still old"
    assert chat.code == 0


def test_arguments_are_completed(begin: Begin, tmp_path: Path) -> None:
    chat = begin()
    present = Model(chat.session.engine, "fake:1b", None, Sampling())
    chat.session.models = FakeModels(present, {"fake:1b": [], "other": []})
    chat.type("first", "/regen", "/title Named")

    def offered(typed: str) -> list[str]:
        return [word for word, _ in completions(typed, chat.session)]

    assert offered("/model o") == ["other"]
    assert offered("/goto ") == ["1", "a", "b"]
    assert offered("/resume ") == ["1"]
    assert offered("/help conti") == ["continue"]
    assert offered("/set ct") == ["ctx"]
    assert offered("/compact s") == ["show"]
    assert offered("/export js") == ["json", "jsonl"]
    assert offered("/nothing ") == []
    assert offered("/prompt tr") == []
    chat.session.prompts = PromptsHere()
    assert offered("/prompt tr") == ["translate"]
    assert offered("/prompt translate ") == ["to=", "tone="]
    assert offered('/prompt translate to="Swiss German" t') == ["tone="]
    assert offered("/prompt no-such-prompt ") == []
    (tmp_path / "some file.txt").write_text("x")
    (path,) = offered(f"/file {tmp_path}/so")
    assert path == f'"{tmp_path}/some file.txt"'
    assert offered(f'/file --pin "{tmp_path}/some fi') == [path]
    assert offered("/file d")[0] == "drop"
    chat.session.journal = NoJournal()
    assert offered("/resume ") == []


def test_a_long_chat_in_the_gauge_is_summed_up(begin: Begin) -> None:
    engine = FakeEngine(n_ctx=4096)
    chat = begin(engine)
    for number in range(40):
        chat.talk.add("user", f"question {number}")
        chat.talk.add("assistant", "words " * (number + 1))
    lines = chat.type("/context").split("\n")
    figures = [int(line.split()[-1]) for line in lines[:-1]]
    assert sum(figures) == len(engine.render(chat.talk.upcoming("")).tokens)
    assert any(line.startswith("24 turns between") for line in lines)
    assert [lines[1][:7], lines[-2][:7]] == ["turn 1 ", "turn 40"]


def test_what_is_nothing_is_said(begin: Begin, tmp_path: Path) -> None:
    chat = begin(agrees=False)
    assert "no turn in this conversation yet" in chat.type("/branch")
    assert "/ is no command.\n" in chat.type("/")
    assert "there is no chat 7 | what there is: /history" in chat.type("/resume 7")
    for number in range(60):
        (tmp_path / f"{number}.txt").write_text("x")
    said = chat.type(f"/file {tmp_path}")
    assert f"{tmp_path} was left out." in said
    assert chat.session.attached == []
    chat.reader.interactive = False
    assert "was left out, because nobody can be asked" in chat.type(f"/file {tmp_path}")
    assert chat.code == ExitCode.FAILURE


@pytest.mark.parametrize("way", ["/exit", "/new", "/resume 1", ""])
def test_a_chat_that_cannot_be_saved_is_not_left_unasked(tmp_path: Path, way: str) -> None:
    """A trigger stands for the full disk: SQLite refuses each message, and works otherwise."""
    path = tmp_path / "history.db"
    with closing(HistoryJournal(lambda t: History(path, t), lambda _text: None, "m")) as journal:
        session = Session(FakeEngine(), "m", Conversation(), journal, Sampling())
        chat = Chat(session)
        chat.type("first")
        session.begin_afresh()
        with closing(sqlite3.connect(path)) as other, other:
            other.execute(
                "CREATE TRIGGER full BEFORE INSERT ON message BEGIN SELECT RAISE(FAIL, 'full'); END"
            )
        said = chat.type("lost?", *filter(None, [way]), "still here")
        assert "This chat is not saved in full: full" in said
        assert set(chat.reader.asked) == {"Leave it all the same?"}
        assert [text for text in chat.path() if "said" not in text] == ["lost?", "still here"]
        chat.reader.interactive = False
        assert "not saved in full: full | keep it in a file" in chat.type("more", "/new")
        assert chat.code == ExitCode.FAILURE
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("DROP TRIGGER full")
        chat.type("/new")
        assert chat.path() == []
        assert len(journal.history().load(2).conversation) > 1


def test_what_is_read_ahead_is_what_will_be_sent_in_a_full_window(begin: Begin) -> None:
    engine = FakeEngine(n_ctx=60)
    chat = begin(engine)
    chat.type(*(words(number) for number in range(6)))
    chat_id = chat.session.journal.conversation_id
    chat.type("/new", f"/resume {chat_id}")
    chat.session.typing("and")
    typed, _ = engine.typed[-1]
    chat.type("and")
    assert typed == tuple(engine.asked[-1])


def test_a_resumed_question_without_an_answer_is_shown(begin: Begin) -> None:
    chat = begin(FakeEngine(["fine", [Piece("hm", True)], "now"]))
    chat.type("how are you?", "and what then?", "/new")
    said = chat.type("/resume 1")
    assert ">>> and what then?" in said
    assert "/regen has it answered" in said
    chat.type("/regen")
    assert chat.path()[-2:] == ["and what then?", "now"]


def test_where_nobody_can_be_asked_nothing_is_forgotten(begin: Begin) -> None:
    chat = begin()
    chat.reader.interactive = False
    assert "nobody can be asked | gemma history rm -y 1" in chat.type("a", "/forget")
    assert chat.code == ExitCode.FAILURE
    assert chat.path() == ["a", "You said: a"]


def test_how_a_turn_of_several_lines_ends_is_said_as_it_is(begin: Begin) -> None:
    chat = begin()
    assert "Alt-Enter sends" in chat.type("/multiline on")
    chat.reader.prefills = False  # lines alone, from a dumb terminal or a pipe
    assert "ends at an empty line" in chat.type("/multiline on")


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("drop", "With your next message turn 1 will leave the window."),
        ("compact", "With your next message a summary will take the place of turn 1."),
        ("stop", "Your next message will be refused: there is no room for it beside turn 1."),
    ],
)
def test_an_answer_that_fills_the_window(begin: Begin, way: str, said: str) -> None:
    chat = begin(FakeEngine(["word " * 90], n_ctx=60))
    shown = chat.type(f"/set context_full {way}", "go", "/context")
    assert "the context window of 60 tokens is full. A larger one can go on with it" in shown
    assert "60 of 60 tokens are used, 0 are free." in shown
    assert said in shown
    assert chat.session.used == 60


def test_another_answer_at_temperature_0_is_said_to_be_the_same(begin: Begin) -> None:
    chat = begin()
    assert "The temperature is 0" in chat.type("/set temperature 0", "hi", "/regen")
    chat.session.model_sha = "of another model"
    assert "temperature" not in chat.type("/regen")


def test_an_empty_answer_is_said(begin: Begin) -> None:
    assert "The answer is empty" in begin(FakeEngine([""])).type("hi")


def test_going_on_with_nothing_is_said(begin: Begin) -> None:
    chat = begin(FakeEngine(["half of it", ""]))
    chat.type("/set max_tokens 2", "hi", "/set max_tokens none")
    assert "The model adds nothing" in chat.type("/continue")
    assert "ended by itself" in chat.type("/continue")


def test_a_wrong_setting_is_named_as_it_was_typed(begin: Begin) -> None:
    chat = begin()
    assert "temperature must be between" in chat.type("/set temp -1")
    assert "logit_bias takes" in chat.type("/set logit_bias x")
    assert "--" not in chat.type("/set top-k -1", "/set logit_bias x")
    example = chat.type("/set logit_bias x").rpartition("or: ")[2]
    assert chat.type(example).startswith("logit_bias         ")


def test_a_stop_text_may_stand_in_quotes(begin: Begin) -> None:
    chat = begin()
    for typed in ('"the END\\n"', '["the END\\n"]'):
        chat.type("/set stop none", f"/set stop {typed}")
        assert chat.session.sampling.stop == ("the END\n",)
    chat.type('/set stop say "END"')
    assert chat.session.sampling.stop == ('say "END"',)
    assert "must be a text" in chat.type('/set stop ""')


def test_a_name_after_at_that_is_no_file_is_said(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("here it is")
    chat = begin()
    said = chat.type(f"see @{tmp_path}/there.md and @gone.md, @you")
    assert "There is no file @gone.md: the model sees only the name." in said
    assert "no file" not in chat.type(f"see @{tmp_path}/there.md, me@example.md @you")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX files")
def test_what_is_saved_takes_the_place_of_a_file_alone(begin: Begin, tmp_path: Path) -> None:
    chat = begin(agrees=True)
    chat.type("hi")
    assert "it is a folder" in chat.type(f"/save {tmp_path}")
    (tmp_path / "real.md").write_text("old")
    (tmp_path / "real.md").chmod(0o600)
    (tmp_path / "link.md").symlink_to("real.md")
    chat.type(f"/save {tmp_path}/link.md")
    assert (tmp_path / "link.md").is_symlink()
    assert (tmp_path / "real.md").read_text() == "You said: hi\n"
    assert (tmp_path / "real.md").stat().st_mode & 0o777 == 0o600
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        chat.type(f"/save {tmp_path}/pipe")
        assert reader.communicate()[0] == b"You said: hi\n"
    assert (tmp_path / "pipe").is_fifo()
