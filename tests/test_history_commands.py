"""`gemma history` as a program, on a history that chats wrote."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gemma_cli.chat.conversation import Attachment, Conversation, Origin
from gemma_cli.chat.export import FORMATS, to_json
from gemma_cli.chat.history import History
from tests.conftest import Env, Gemma, program


@pytest.fixture
def chats(home: Env) -> Path:
    path = Path(home["GEMMA_HOME"]) / "data" / "history.db"
    with closing(History(path)) as history:
        for title in ("Où est le \x1b[31m café ?", "second chat"):
            conversation = Conversation("be brief")
            conversation.add("user", title)
            conversation.add("assistant", "An answer\u202e")
            history.save(None, conversation, conversation, "gemma3:1b")
    return path


def test_nothing_yet(gemma: Gemma, home: Env) -> None:
    listed = gemma("history", "list")
    assert (listed.returncode, listed.stdout) == (0, "")
    assert "gemma chat" in listed.stderr
    assert gemma("history", "list", "--json").stdout == "[]\n"
    assert gemma("history", "show", "1").returncode == 1
    assert not Path(home["GEMMA_HOME"]).exists()


@pytest.mark.usefixtures("chats")
def test_list(gemma: Gemma) -> None:
    lines = gemma("history", "list").stdout.splitlines()
    assert lines[0].split() == ["ID", "WHEN", "TURNS", "MODEL", "TITLE"]
    assert lines[1].startswith("2 ")
    assert lines[1].endswith("    1  gemma3:1b  second chat")
    assert lines[2].endswith("Où est le [31m café ?")  # no escape character
    assert gemma("history", "list", "-n", "1").stdout.count("\n") == 2
    listed = json.loads(gemma("history", "list", "--json").stdout)
    assert [chat["id"] for chat in listed] == [2, 1]
    assert listed[1]["title"] == "Où est le \x1b[31m café ?"
    assert set(listed[0]) == {"id", "updated", "turns", "model", "title"}


def test_a_document_is_found_and_named(gemma: Gemma, chats: Path) -> None:
    conversation = Conversation()
    paper = Attachment("naïve\npaper.txt", "A lion sleeps " * 30 + "tonight")
    conversation.add("user", "Sum it up", attachments=(paper,))
    with closing(History(chats)) as history:
        history.add(conversation, "m")
    first, second = gemma("history", "search", "TONIGHT").stdout.splitlines()
    assert first.startswith("3  ")
    assert first.endswith("  naïve paper.txt  Sum it up")
    assert second.endswith("A lion sleeps tonight")
    (hit,) = json.loads(gemma("history", "search", "naive", "--json").stdout)
    assert (hit["id"], hit["role"], hit["document"]) == (3, "user", paper.name)


@pytest.mark.usefixtures("chats")
def test_search_show_export(gemma: Gemma) -> None:
    found = gemma("history", "search", "cafe")
    first, second = found.stdout.splitlines()
    assert first.startswith("1  ")
    assert first.endswith("  user  Où est le [31m café ?")
    assert second == "    Où est le [31m café ?"
    (hit,) = json.loads(gemma("history", "search", "cafe", "--json").stdout)
    assert hit["title"] == hit["excerpt"] == "Où est le \x1b[31m café ?"
    assert hit["matches"] == [[16, 20]]
    assert (hit["role"], hit["document"]) == ("user", None)
    assert gemma("history", "search", "chat second").stdout == ""
    assert gemma("history", "search", "chat", "second").stdout != ""
    assert [hit["id"] for hit in json.loads(gemma("history", "search", "an", "--json").stdout)]
    assert "Nothing holds" in gemma("history", "search", "zebra").stderr
    for nothing in ("", " ", "*", '""'):
        empty = gemma("history", "search", nothing)
        assert (empty.returncode, empty.stdout) == (2, "")
        assert "no word to search for" in empty.stderr
    assert "## Gemma\n\nAn answer" in gemma("history", "show", "2").stdout
    messages = json.loads(gemma("history", "export", "2", "--format", "jsonl").stdout)["messages"]
    assert messages[0] == {"role": "system", "content": "be brief"}
    assert json.loads(gemma("history", "export", "2", "--format", "json").stdout)["leaf"] == 2
    assert gemma("history", "export", "2", "--format", "xml").returncode == 2


@pytest.mark.usefixtures("chats")
@pytest.mark.parametrize("number", ["9", "-1", str(10**30), str(2**63)])
def test_a_chat_that_is_not_there(gemma: Gemma, number: str) -> None:
    for arguments in (["show"], ["export"], ["rm", "-y"]):
        done = gemma("history", *arguments, "--", number)
        assert done.returncode == 1
        assert (
            done.stderr
            == f"gemma: there is no chat {number}\n  what there is: gemma history list\n"
        )
    assert gemma("history", "list", "-n", str(10**30)).returncode == 2


@pytest.mark.usefixtures("chats")
def test_rm(gemma: Gemma, home: Env) -> None:
    states = Path(home["GEMMA_HOME"]) / "cache" / "kv"
    states.mkdir(parents=True)
    (states / "evaluated.kv").write_bytes(b"what was said, as numbers")
    refused = gemma("history", "rm", "1")
    assert refused.returncode == 2
    assert "-y" in refused.stderr
    wrong = gemma("history", "rm", "-y", "2", "9")
    assert wrong.returncode == 1
    assert "there is no chat 9" in wrong.stderr
    assert list(states.iterdir())
    assert "Removed 1" in gemma("history", "rm", "-y", "1").stderr
    assert not list(states.iterdir())
    assert [chat["id"] for chat in json.loads(gemma("history", "list", "--json").stdout)] == [2]


def test_rm_of_a_chat_of_thousands_of_turns(gemma: Gemma, chats: Path) -> None:
    long = Conversation()
    for number in range(1_200):
        long.add("user", f"question {number}")
        long.add("assistant", "answer")
    with closing(History(chats)) as history:
        number = history.add(long, "gemma3:1b")
    done = gemma("history", "rm", "-y", str(number))
    assert (done.returncode, done.stderr) == (0, f"Removed {number}: question 0\n")
    assert gemma("history", "search", "question").stdout == ""
    with closing(sqlite3.connect(chats)) as db:
        assert db.execute("SELECT count(*) FROM message").fetchone() == (4,)


def test_rm_gives_the_disk_back_what_a_long_chat_took(gemma: Gemma, chats: Path) -> None:
    long = Conversation()
    long.add("user", "word " * 2_000_000)
    with closing(History(chats)) as history:
        number = history.add(long, "gemma3:1b")
    before = chats.stat().st_size
    assert gemma("history", "rm", "-y", str(number)).returncode == 0
    assert chats.stat().st_size < before / 10
    assert gemma("history", "search", "second").stdout != ""


def test_rm_many(gemma: Gemma, chats: Path) -> None:
    for wrong in ([], ["1", "--all"], ["--all", "--older-than", "1d"]):
        assert gemma("history", "rm", "-y", *wrong).returncode == 2
    assert "12w" in gemma("history", "rm", "--older-than", "soon").stderr
    with closing(sqlite3.connect(chats)) as db, db:
        db.execute("UPDATE conversation SET updated = updated - 8 * 86400 WHERE id = 1")
        db.execute("INSERT INTO input (text, created) VALUES ('/set seed 7', 0)")
    assert "no such chat" in gemma("history", "rm", "-y", "--older-than", "2w").stderr
    refused = gemma("history", "rm", "--older-than", "1w")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Removed 1 chat" in gemma("history", "rm", "-y", "--older-than", "1w").stderr
    assert [chat["id"] for chat in json.loads(gemma("history", "list", "--json").stdout)] == [2]
    (chats.parent / "history.db.backup-v1").write_bytes(b"what there was")
    everything = gemma("history", "rm", "-y", "--all")
    assert "Removed 1 chat\n" in everything.stderr
    assert "history.db.backup-v1" in everything.stderr
    with closing(History(chats)) as history:
        assert (history.conversations(), history.inputs()) == ([], [])


@pytest.mark.skipif(os.name == "nt", reason="a pseudo-terminal")
@pytest.mark.usefixtures("chats")
def test_rm_asks_once_for_many(home: Env) -> None:
    from tests.emulator import Terminal

    for answer, kept in (("n", 2), ("y", 0)):
        with Terminal([*program(), "history", "rm", "--all"], home) as terminal:
            terminal.wait_for(r"Remove 2 chats for good \(all there are\)\?")
            terminal.send(f"{answer}\r")
            assert terminal.wait_end() == (130 if kept else 0)
        with closing(History(Path(home["GEMMA_HOME"]) / "data" / "history.db")) as history:
            assert len(history.conversations()) == kept


HOSTILE = {
    "escape": "\x1b[2J\x1b]0;title\x07",
    "clipboard": "\x1b]52;c;ZXZpbA==\x1b\\",
    "C1": "\x9b31m\x9d52;c;ZXZpbA==\x9c\x90q\x85",
    "bidi": "\u202egnp.exe\u2066\u061c\u200f",
    "others": "\x07\x08\x0b\x0c\x0e\x7f\r\x00",
}
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u202a-\u202e\u2066-\u2069]")
_OURS = re.compile(r"\x1b\[(1|22)m|\r(?=\r?\n)")


@pytest.mark.skipif(os.name == "nt", reason="a pseudo-terminal")
@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_steers_the_terminal(home: Env, gemma: Gemma, kind: str, tmp_path: Path) -> None:
    """Titles, messages, names of models and documents: shown clean, piped as they are stored."""
    from tests.emulator import Terminal

    evil = HOSTILE[kind]
    conversation = Conversation(f"system {evil}")
    conversation.title = f"title {evil} word"
    conversation.pinned = (Attachment(f"pinned{evil}", "x"),)
    conversation.add("user", f"word {evil} asked", attachments=(Attachment(f"file{evil}", evil),))
    conversation.add("assistant", f"word {evil} said", origin=Origin(f"model{evil}"))
    with closing(History(Path(home["GEMMA_HOME"]) / "data" / "history.db")) as history:
        history.add(conversation, f"model{evil}")
        stored = to_json(history.load(1))
    saved = tmp_path / f"evil{evil}.json".replace("\x00", "").replace("/", "")
    saved.write_text(stored, encoding="utf-8")
    for arguments in (
        ["list"],
        ["list", "--json"],
        ["search", "word"],
        ["search", "word", "--json"],
        ["search", "pinned"],
        ["search", "file", "--json"],
        ["search", f"nothing{evil}".replace("\x00", "")],
        ["show", "1"],
        ["show", "1", "--all"],
        *(["export", "1", "--format", form] for form in FORMATS),
        ["export", "1", "-y", "-o", f"{saved}.out"],
        ["import", str(saved)],
        ["rm", "-y", "1"],
    ):
        with Terminal([*program(), "history", *arguments], home, columns=200) as terminal:
            assert terminal.wait_end() in (0, 1), (arguments, terminal.output)
            shown = _OURS.sub("", terminal.output.decode("utf-8"))
            assert shown.strip(), arguments
            assert not _STEERING.search(shown), (arguments, shown)
            if arguments[:2] == ["list", "--json"]:
                assert json.loads(shown)[0]["model"] == f"model{evil}"
    assert json.loads(stored)["turns"][0]["text"] == f"word {evil} asked"
    again = gemma("history", "export", "2", "--format", "json").stdout
    assert json.loads(again) == json.loads(stored)


@pytest.mark.skipif(os.name == "nt", reason="a pseudo-terminal")
def test_the_list_fits_80_columns(home: Env) -> None:
    from tests.emulator import Terminal

    with closing(History(Path(home["GEMMA_HOME"]) / "data" / "history.db")) as history:
        for title in ("日本語のとても長い題名" * 8, "a long title of many words " * 5, "short"):
            conversation = Conversation()
            conversation.add("user", title)
            history.add(conversation, "hf:somebody/a-repository-with-a-long-name:file-Q4_K_M.gguf")
    with Terminal([*program(), "history", "list"], home, columns=80) as terminal:
        assert terminal.wait_end() == 0
        lines = terminal.text().splitlines()
    assert len(lines) == 4, lines
    assert all("…" in line for line in lines[2:])
    assert "日本語" in lines[3].replace(" ", "")


def test_a_broken_history_is_said(gemma: Gemma, chats: Path) -> None:
    chats.write_bytes(b"garbage" * 1000)
    listed = gemma("history", "list")
    assert listed.returncode == 0
    assert "kept as" in listed.stderr
