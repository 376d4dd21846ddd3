"""`gemma history` as a program, on a history that chats wrote."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from gemma_cli.chat.conversation import Conversation
from gemma_cli.chat.history import History
from tests.conftest import Env, Gemma


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


@pytest.mark.usefixtures("chats")
def test_search_show_export(gemma: Gemma) -> None:
    found = gemma("history", "search", "cafe")
    assert found.stdout.startswith("1  ")
    assert "\x1b" not in found.stdout
    assert [hit["id"] for hit in json.loads(gemma("history", "search", "an", "--json").stdout)]
    assert "Nothing holds" in gemma("history", "search", "zebra").stderr
    assert "## Gemma\n\nAn answer" in gemma("history", "show", "2").stdout
    messages = json.loads(gemma("history", "export", "2", "--format", "jsonl").stdout)["messages"]
    assert messages[0] == {"role": "system", "content": "be brief"}
    assert json.loads(gemma("history", "export", "2", "--format", "json").stdout)["leaf"] == 2
    assert gemma("history", "export", "2", "--format", "xml").returncode == 2


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


def test_a_broken_history_is_said(gemma: Gemma, chats: Path) -> None:
    chats.write_bytes(b"garbage" * 1000)
    listed = gemma("history", "list")
    assert listed.returncode == 0
    assert "kept as" in listed.stderr
