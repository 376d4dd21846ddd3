"""Chats out of the history and into it again: nothing lost, nothing half taken in."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import stat
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma_cli.chat.conversation import Attachment, Conversation, Origin, Status
from gemma_cli.chat.export import FORMATS, to_json, to_jsonl, to_markdown
from gemma_cli.chat.history import History
from gemma_cli.chat.importing import Imported, read_chats
from gemma_cli.errors import UsageError
from tests.conftest import Env, Gemma, program

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_DOCUMENTS = st.lists(st.builds(Attachment, _TEXTS, _TEXTS), max_size=2).map(tuple)
_STATUSES: list[Status] = ["complete", "cancelled", "error", "streaming"]
_FACTS = st.dictionaries(_TEXTS, st.none() | st.integers() | st.floats(allow_nan=False) | _TEXTS)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Trees of every shape: branches, summaries, documents, all the facts of answers."""
    now = draw(st.floats(0, 1_900_000_000))
    conversation = Conversation(draw(_TEXTS), clock=lambda: now)
    conversation.title = draw(_TEXTS)
    conversation.pinned = draw(_DOCUMENTS)
    places: list[int | None] = [None]
    for _ in range(draw(st.integers(1, 8))):
        now += draw(st.floats(0, 1000))
        conversation.go_to(draw(st.sampled_from(places)))
        origin = draw(st.none() | st.builds(Origin, _TEXTS, st.none() | _TEXTS, _FACTS, _FACTS))
        turn = conversation.add(
            draw(st.sampled_from(["user", "assistant"])),
            draw(_TEXTS),
            draw(st.sampled_from(_STATUSES)),
            origin,
            draw(_DOCUMENTS),
        )
        places.append(turn.id)
        conversation.change(turn.id, turn.text, turn.status, thoughts=draw(_TEXTS))
        if draw(st.booleans()):
            conversation.add("system", draw(_TEXTS))
    conversation.go_to(draw(st.sampled_from(places)))
    return conversation


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(conversations())
def test_a_tree_comes_back_to_the_byte(tmp_path: Path, conversation: Conversation) -> None:
    # Each its own file: held at the same moment of the test's clock, turns may share ids.
    with closing(History(tmp_path / f"{secrets.token_hex(8)}.db")) as history:
        exported = to_json(history.load(history.add(conversation, "m\x1b")))
        (read,) = read_chats(exported, "file", time.time)
        (again,) = history.import_chats([(read.conversation, read.model)])
        assert to_json(history.load(again)) == exported
        for form in FORMATS.values():
            assert form([history.load(again)])


def test_a_title_of_white_space_is_none(tmp_path: Path) -> None:
    conversation = Conversation()
    conversation.title = "\r"
    conversation.add("user", "What of it?")
    with closing(History(tmp_path / "history.db")) as history:
        saved = history.load(history.add(conversation, "m"))
    assert (saved.summary.title, saved.conversation.title) == ("What of it?", "")


def test_imports_do_not_touch_what_is_there(tmp_path: Path) -> None:
    """Turn ids of another history may be used here already."""
    with closing(History(tmp_path / "history.db")) as history:
        conversation = Conversation(clock=lambda: 1_700_000_000.0)
        for number in range(50):
            conversation.add("user", f"kept {number}")
        first = history.add(conversation, "m")
        before = to_json(history.load(first))
        changed = before.replace("kept", "other")
        for _ in range(3):
            (read,) = read_chats(changed, "file", time.time)
            history.import_chats([(read.conversation, read.model)])
        assert to_json(history.load(first)) == before
        assert {to_json(history.load(chat)) for chat in (2, 3, 4)} == {changed}
        assert {int(chat.updated) for chat in history.conversations() if chat.id > 1} == {
            1_700_000_000
        }
        assert history.untouched_since(time.time() - 60) == []


def said(chat: Imported) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in chat.conversation.path()]


@pytest.mark.parametrize(
    "text",
    [
        '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]',
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "model", "content": "Yo"}]}',
        '{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}',
        '[[{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]]',
        '[{"messages": [{"role": "user", "content": [{"type": "text", "text": "H"},'
        ' {"type": "input_text", "text": "i"}]}, {"role": "assistant", "content": "Yo"}]}]',
        '\n{"messages": [{"role": "user", "content": "Hi"},'
        ' {"role": "assistant", "content": "Yo"}]}\n\n',
        '{"role": "user", "content": "Hi"}\n{"role": "assistant", "content": "Yo"}\n',
    ],
)
def test_forms(text: str) -> None:
    (chat,) = read_chats(text, "file", time.time)
    assert said(chat) == [("user", "Hi"), ("assistant", "Yo")]
    assert chat.left_out == {}


def test_what_is_no_text_is_left_out_and_counted() -> None:
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "See "}, {"type": "image_url"}]},
        {"role": "assistant", "content": None, "tool_calls": [{}]},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "It is 42.", "tool_calls": [{}]},
        {"role": "system", "content": "Be brief."},
    ]
    text = json.dumps({"title": "T", "model": "gpt", "messages": messages})
    (chat,) = read_chats(text, "file", time.time)
    assert said(chat) == [("user", "See "), ("assistant", "It is 42.")]
    assert chat.conversation.system == "Be kind.\n\nBe brief."
    assert (chat.conversation.title, chat.model) == ("T", "gpt")
    origin = chat.conversation.path()[-1].origin
    assert origin is not None
    assert origin.model == "gpt"
    assert chat.left_out == {
        "image url": 1,
        "tool call": 2,
        "tool message": 1,
        "later system text, put into the first": 1,
    }


_TURN = '{"turn": 1, "parent": null, "role": "user", "created": "2026-01-01", "text": "x"}'


def _tree(turns: str, more: str = "") -> str:
    return f'{{"format": "gemma-chat", "version": 1, {more} "turns": [{turns}]}}'


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "file is not valid JSON"),
        ("{", r"file is not valid JSON: .*\(line 1, column 2\)"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "file holds no chat"),
        ("[[]]", "file, chat 1: it holds no message"),
        ("3", "file: the chat is no object"),
        ('{"a": 1}', "neither"),
        ('{"messages": 3}', "'messages' is no list"),
        ('[{"role": "wizard", "content": "x"}]', "message 1: the role is 'wizard'"),
        ('[{"role": "user", "content": "x"}, 5]', "message 2: it is no object"),
        ('[{"role": "user", "content": 5}]', "message 1: 'content' is no text"),
        ('[{"role": "user", "content": "\\ud800"}]', "half of a character"),
        ('[{"role": "user", "content": [{"type": "text"}]}]', "message 1: 'text' is no text"),
        ('{"messages": [{"role": "user", "content": "x"}], "model": 3}', "'model' is no text"),
        ('[{"messages": [{"role": "user", "content": "x"}]}, {}]', "file, chat 2: there is nei"),
        (
            '{"messages": [{"role": "user", "content": "x"}]}\n{"mess',
            r"file is not .*\(line 2, column 2\)",
        ),
        ('[{"role": "user", "content": "x", "n": ' + "9" * 5000 + "}]", "thousands of digits"),
        ('{"role": "user", "content": "x"}\n{"role": "user"}', "file: message 2: 'content' is no"),
        ('{"role": "user", "content": "x"}\n{"messages": []}', "file, line 1: there is neither"),
        ('{"messages": [{"role": "user", "content": "x"}]}\n\n{}', "file, line 3: there is nei"),
        (_tree(""), "it holds no turn"),
        (_tree(_TURN).replace('"version": 1', '"version": 2'), "newer gemma"),
        (_tree(_TURN).replace('"version": 1', '"version": "x"'), "'version' is no number"),
        (_tree(_TURN + "," + _TURN), "turn 2: 'turn' is no number of its own"),
        (_tree(_TURN.replace("null", "7")), "turn 1: 'parent' is no question"),
        (_tree(_TURN.replace("null", "1")), "turn 1: 'parent' is no question"),
        (_tree(_TURN.replace("2026-01-01", "soon")), "'created' is no date"),
        (_tree(_TURN.replace("2026", "9998")), "between 1970 and 2200"),
        (_tree(_TURN, '"leaf": 2,'), "'leaf' is no question or answer"),
        (_tree(_TURN, '"leaf": [],'), "'leaf' is no question or answer"),
        (_tree(_TURN, '"pinned": [1],'), "'pinned' is no object"),
        (_tree(_TURN.replace('"user"', '"tool"')), "'role' is 'tool'"),
        (_tree(_TURN.replace('"text"', '"status": [], "text"')), "'status' is \\[\\]"),
        (_tree(_TURN.replace('"text"', '"model": "m", "params": 3, "text"')), "'params' is no"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        read_chats(text, "file", time.time)


def chat_file(folder: Path, chats: int) -> Path:
    line = json.dumps({"messages": [{"role": "user", "content": "word " * 200}] * 4})
    path = folder / "chats.jsonl"
    path.write_text(f"{line}\n" * chats, encoding="utf-8")
    return path


def test_a_chat_of_answers_alone_has_a_title_too(gemma: Gemma, tmp_path: Path) -> None:
    file = tmp_path / "greeting.json"
    file.write_text('[{"role": "assistant", "content": "Good morning."}]')
    assert "Good morning." in gemma("history", "import", str(file)).stdout
    assert "Good morning." in gemma("history", "list").stdout


def test_one_bad_line_and_nothing_is_taken_in(gemma: Gemma, home: Env, tmp_path: Path) -> None:
    good = chat_file(tmp_path, 5)
    bad = tmp_path / "bad\x1b[31m.jsonl"
    bad.write_text(good.read_text() + '{"messages": "none"}\n')
    done = gemma("history", "import", str(good), str(bad))
    assert done.returncode == 2
    assert "bad[31m.jsonl, line 6: 'messages' is no list" in done.stderr
    assert "Traceback" not in done.stderr
    assert gemma("history", "list", "--json").stdout == "[]\n"
    for name in ("missing.json", ".", "/dev/null"):
        assert gemma("history", "import", name).returncode == 2
    closed = subprocess.run(
        ["sh", "-c", '"$@" history import - <&-', "sh", *program()], env=home, capture_output=True
    )
    assert closed.returncode == 2
    assert closed.stderr.startswith(b"gemma: standard input is closed\n")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\x80abc")
    assert "not UTF-8" in gemma("history", "import", str(binary)).stderr


def test_import_and_export_as_a_program(gemma: Gemma, tmp_path: Path) -> None:
    messages = '[{"role": "user", "content": "Où?"}]'
    utf16 = tmp_path / "powershell.json"
    utf16.write_text(messages, encoding="utf-16")
    taken = gemma("history", "import", str(utf16), "-", input=messages.replace("Où", "Bom"))
    assert taken.returncode == 0, taken.stderr
    assert taken.stdout.splitlines() == ["ID  TURNS  TITLE", "1       1  Où?", "2       1  Bom?"]
    assert "2 chats imported. Go on with one: gemma chat --resume 2" in taken.stderr
    target = tmp_path / "out.json"
    assert gemma("history", "export", "--all", "--format", "json", "-o", str(target)).stdout == ""
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    before = target.read_text(encoding="utf-8")
    assert [chat["title"] for chat in json.loads(before)] == ["Où?", "Bom?"]
    again = gemma("history", "export", "1", "-o", str(target))
    assert again.returncode == 2
    assert "-y" in again.stderr
    assert target.read_text(encoding="utf-8") == before
    assert gemma("history", "import", str(target)).returncode == 0
    four = gemma("history", "export", "3", "4", "--format", "json").stdout
    assert four == before
    for name, beginning in (
        ("out.json", '{\n  "format"'),
        ("out.JSONL", '{"messages"'),
        ("out.md", "# Où?\n\n## You\n\nOù?\n"),
        ("out.txt", "# Où?"),
    ):
        file = tmp_path / name
        assert gemma("history", "export", "1", "-y", "-o", str(file)).returncode == 0
        assert file.read_text(encoding="utf-8").startswith(beginning)
    plain = gemma("history", "export", "1", "-y", "--format", "md", "-o", str(target))
    assert plain.returncode == 0
    assert target.read_text(encoding="utf-8").startswith("# Où?")
    assert sorted(tmp_path.glob(".out*")) == []
    sharegpt = gemma("history", "export", "1", "--format", "sharegpt").stdout
    assert json.loads(sharegpt)[0]["conversations"] == [{"from": "human", "value": "Où?"}]
    nowhere = gemma("history", "export", "1", "-o", str(tmp_path / "no" / "x"))
    assert nowhere.returncode == 1
    assert "cannot write" in nowhere.stderr
    if Path("/dev/full").exists():
        assert "No space" in gemma("history", "export", "1", "-o", "/dev/full").stderr
    assert gemma("history", "export").returncode == 2
    assert gemma("history", "export", "1", "--all").returncode == 2
    assert gemma("history", "export", "1", "-o", "/dev/null").returncode == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_every_branch_and_the_documents_are_shown(tmp_path: Path) -> None:
    conversation = Conversation()
    conversation.pinned = (Attachment("rules", "No puns."),)
    question = conversation.add("user", "Why?", attachments=(Attachment("a.txt", "text"),))
    conversation.add("assistant", "Because.")
    conversation.add("user", "Unanswered")
    conversation.go_to(question.id)
    conversation.add("assistant", "No reason.")
    with closing(History(tmp_path / "history.db")) as history:
        chat = history.load(history.add(conversation, "m"))
    assert to_markdown(chat, all_branches=True) == (
        "# Why?\n\n*Pinned: rules, 8 characters*\n\n## You\n\n*Attached: a.txt, 4 characters*\n\n"
        "Why?\n\n---\n\n*Branch 1 of 2, after “Why?”*\n\n## Gemma\n\nBecause.\n\n## You\n\n"
        "Unanswered\n\n---\n\n*Branch 2 of 2, after “Why?”*\n\n## Gemma\n\nNo reason.\n"
    )
    assert "Because" not in to_markdown(chat)
    assert json.loads(to_jsonl(chat))["messages"] == [
        {"role": "system", "content": "No puns."},
        {"role": "user", "content": "text\n\nWhy?"},
        {"role": "assistant", "content": "No reason."},
    ]


def test_two_imports_at_once(home: Env, tmp_path: Path) -> None:
    command = [*program(), "history", "import", str(chat_file(tmp_path, 300))]
    both = [subprocess.Popen(command, env=home, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(300) for process in both] == [0, 0]
    with closing(History(Path(home["GEMMA_HOME"]) / "data" / "history.db")) as history:
        assert len(history.conversations()) == 600
        assert all(len(history.load(chat).conversation) == 4 for chat in (1, 300, 301, 600))


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a POSIX signal")
def test_an_import_that_is_killed_leaves_nothing(home: Env, tmp_path: Path) -> None:
    file = chat_file(tmp_path, 2_000)
    path = Path(home["GEMMA_HOME"]) / "data" / "history.db"
    with closing(History(path)) as history:
        history.import_chats([])
    started = time.monotonic()
    command = [*program(), "history", "import", str(file)]
    subprocess.run(command, env=home, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    whole = time.monotonic() - started
    rng = random.Random(3)
    chats, killed, number = 2_000, 0, 0
    while killed < 5:
        number += 1
        assert number < 50, "each import was over before its signal came"
        process = subprocess.Popen(
            command, env=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(whole * (0.2 + 0.7 * rng.random()))
        process.send_signal(signal.SIGKILL if number % 3 else signal.SIGINT)
        ended = process.wait() == 0
        killed += not ended
        whole *= 0.8 if ended else 1.0  # the machine was busier when it was measured
        with closing(History(path)) as history:
            there = len(history.conversations())
            assert there in (chats, chats + 2_000)
            chats = there
            assert history._db.execute("PRAGMA quick_check").fetchone() == ("ok",)
            history._db.execute("INSERT INTO message_text(message_text) VALUES('integrity-check')")
