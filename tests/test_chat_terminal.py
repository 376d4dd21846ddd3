"""`gemma chat` in a real terminal, with a fake engine (chat_program.py) or the real model."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)

from gemma_cli.chat.history import History
from tests.conftest import Env, Gemma, program
from tests.emulator import Terminal

ROOT = Path(__file__).parent.parent
READY = r"(?m)^>>> (Send a message.*)?$"


def fake_chat(home: Env, *more: str, env: Env | None = None, **options: Any) -> Terminal:
    argv = [sys.executable, "-m", "tests.chat_program", json.dumps(options), *more]
    return Terminal(argv, home | {"PYTHONPATH": str(ROOT)} | (env or {}))


def history_of(home: Env) -> Path:
    return Path(home["GEMMA_HOME"]) / "data" / "history.db"


def saved_turns(home: Env, chat: int = 1) -> list[tuple[str, str]]:
    with closing(History(history_of(home))) as history:
        return [(t.text, t.status) for t in history.load(chat).conversation.path()]


def test_the_prompt_comes_at_once_and_keeps_what_is_typed(home: Env) -> None:
    with fake_chat(home, answers=["Loaded."], load_s=2.0) as terminal:
        terminal.wait_for(r"fake:1b · loading \d+%")
        terminal.send("Hel")
        terminal.wait_for(">>> Hel")
        terminal.send("lo\r")
        terminal.wait_for("loading the model: ")
        terminal.wait_for(r">>> Hello\nLoaded\.")
        assert "loading the model" not in terminal.text()
        terminal.wait_for(r"context 5 / 4,096 · 50\.0 tokens/s")
        terminal.send("\x04")
        assert terminal.wait_end() == 0
    assert saved_turns(home) == [("Hello", "complete"), ("Loaded.", "complete")]


def test_lines_blocks_and_paste(home: Env) -> None:
    with fake_chat(home) as terminal:
        terminal.wait_for(READY)
        terminal.send("one\ntwo\x1b\rthree\\\rfour\r")
        terminal.wait_for("You said: one")
        terminal.wait_for(READY)
        terminal.send('"""\r/exit\rblock\r"""\r')
        terminal.wait_for("You said: /exit")
        terminal.wait_for(READY)
        terminal.paste("/exit\r\npasted \x1b[31m\u202ered")
        terminal.wait_for("pasted")
        terminal.send("\r")
        terminal.wait_for("You said: /exit pasted")
        terminal.send("\x04")
        terminal.wait_end()
        assert b"\xe2\x80\xae" not in terminal.output  # the override never reached the screen
    questions = [text for text, _ in saved_turns(home)][::2]
    assert questions == ["one\ntwo\nthree\nfour", "/exit\nblock", "/exit\npasted [31m\u202ered"]


def test_ctrl_c_keeps_the_answer_and_what_was_typed_ahead(home: Env) -> None:
    with fake_chat(home, answers=["word " * 5000, "second"], token_s=0.01) as terminal:
        terminal.wait_for(READY)
        terminal.send("go\r")
        terminal.wait_for("word word word")
        assert not terminal.echoes()
        terminal.send("ahead")
        terminal.send("\x03")
        terminal.wait_for(r"Stopped\. What was said is kept\.")
        terminal.wait_for(">>> ahead")
        terminal.send("\x03")  # clears the line
        terminal.wait_for(READY)
        terminal.send("\x03")
        terminal.wait_for("Ctrl-D or /exit leaves")
        terminal.send("/exit\r")
        assert terminal.wait_end() == 0
    (_, (answer, status)) = saved_turns(home)
    assert status == "cancelled"
    assert answer.startswith("word word word")


def test_search_arrows_and_completion(home: Env) -> None:
    with fake_chat(home) as terminal:
        terminal.wait_for(READY)
        for text in ("the first question", "another one"):
            terminal.send(f"{text}\r")
            terminal.wait_for(f"You said: {text}")
            terminal.settle(0.1)
        terminal.send("\x12first")
        terminal.wait_for(r"(?m)^>>> the first question$(?s:.*)I-search backward: first")
        terminal.send("\r\x03")
        terminal.settle(0.2)
        terminal.send("/sta")
        terminal.wait_for("/stats +figures of the last answer")
        terminal.send("\t\r")
        terminal.wait_for("context window +")
        terminal.send("\x04")
        terminal.wait_end()
    with fake_chat(home) as terminal:  # the inputs are kept for the next chat
        terminal.wait_for(READY)
        terminal.send("\x1b[A\x1b[A")
        terminal.wait_for(">>> another one")


def test_a_message_like_a_command_is_sent_only_after_yes(home: Env) -> None:
    with fake_chat(home) as terminal:
        terminal.wait_for(READY)
        terminal.send("/etc/hosts is a file\r")
        terminal.wait_for(r"\[y/N\]")
        terminal.send("\r")
        terminal.wait_for("It was not sent")
        terminal.send("/etc/hosts again\r")
        terminal.wait_for(r"(?s)not sent.*\[y/N\]")
        terminal.send("y\r")
        terminal.wait_for("You said: /etc/hosts again")


def test_an_answer_cannot_steer_the_terminal(home: Env) -> None:
    evil = "a\x1b]0;title\x07 b\x9b31m c\u202e d &#x202e; \x1b[2J\n"
    evil += "\n```\x1b]52;c;eA==\x07\nx\x1bc\n```\n"
    with fake_chat(home, answers=[evil]) as terminal:
        terminal.wait_for(READY)
        terminal.output = b""
        terminal.send("go\r")
        terminal.wait_for("x(?s:.*)context")
        shown = terminal.output.decode()
    for forbidden in ("\x07", "\x9b", "\u202e", "\x1b]", "\x1bc", "\x1b[2J"):
        assert forbidden not in shown


def test_a_model_that_fails_to_load_ends_the_chat_by_itself(home: Env) -> None:
    with fake_chat(home, load_s=0.5, failure="the file is cut") as terminal:
        terminal.wait_for(READY)
        terminal.send("typed mean")
        terminal.wait_for("gemma: the file is cut")
        assert terminal.wait_end() == 1
    with closing(History(history_of(home))) as history:
        assert history.inputs() == ["typed mean"]


@pytest.mark.parametrize("moment", ["prompt", "answer"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_told_to_end(home: Env, moment: str, number: int, code: int) -> None:
    with fake_chat(home, answers=["short", "word " * 5000], token_s=0.01) as terminal:
        terminal.wait_for(READY)
        terminal.send("one\r")
        terminal.wait_for(r"short\s+>>>")
        if moment == "answer":
            terminal.send("two\r")
            terminal.wait_for("word word")
        terminal.process.send_signal(number)
        assert terminal.wait_end() == code
    turns = saved_turns(home)
    assert turns[:2] == [("one", "complete"), ("short", "complete")]
    if moment == "answer":
        assert turns[3][0].startswith("word word")
        assert turns[3][1] == "cancelled"


def test_closing_the_window_saves(home: Env) -> None:
    with fake_chat(home, answers=["word " * 5000], token_s=0.01) as terminal:
        terminal.wait_for(READY)
        terminal.send("one\r")
        terminal.wait_for("word word")
        terminal.hang_up()
        assert terminal.process.wait(90) == 129
    assert saved_turns(home)[1][1] == "cancelled"


def test_kill_9_in_mid_answer_loses_half_a_second_at_most(home: Env) -> None:
    with fake_chat(home, answers=["done", "word " * 5000], token_s=0.01) as terminal:
        terminal.wait_for(READY)
        terminal.send("one\r")
        terminal.wait_for(r"done\s+>>>")
        terminal.send("two\r")
        terminal.wait_for(r"(word\s+){60}")
        terminal.process.kill()
        terminal.wait_end()
        shown = terminal.text().count("word")
    turns = saved_turns(home)
    assert turns[:3] == [("one", "complete"), ("done", "complete"), ("two", "complete")]
    assert turns[3][1] == "cancelled"
    assert turns[3][0].count("word") >= shown - 60
    with fake_chat(home, "1") as terminal:
        terminal.wait_for(r"Chat 1, 2 turns: one")
        terminal.wait_for(r"This answer was broken off")
        terminal.send("three\r")
        terminal.wait_for("You said: three")
    assert len(saved_turns(home)) == 6


def test_resizing_in_mid_answer(home: Env) -> None:
    text = "".join(f"- item {n} of a list\n" for n in range(60)) + "\nThe end."
    with fake_chat(home, answers=[text], token_s=0.01) as terminal:
        terminal.wait_for(READY)
        terminal.send("go\r")
        terminal.wait_for("item 10")
        terminal.resize(100, 30)
        terminal.wait_for("item 25")
        terminal.resize(90, 12)
        shown = terminal.wait_for(r"The end\.\s+>>>")
    for n in range(40, 60):
        assert shown.count(f" • item {n} of a list\n") == 1


def test_what_is_told_in_mid_answer_is_not_painted_over(home: Env, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    words = ["word "] * 99
    answer = [*words, {"until": str(gate)}, *words]
    with fake_chat(home, answers=[answer], token_s=0.01) as terminal:
        terminal.wait_for(READY)
        terminal.send("go\r")
        terminal.wait_for("word word")
        with closing(sqlite3.connect(history_of(home))) as db:
            full = "SELECT RAISE(ABORT, 'the disk is full')"
            db.execute(f"CREATE TRIGGER full BEFORE UPDATE ON message BEGIN {full}; END")
        gate.touch()
        terminal.wait_for(r"(?s)word\n\nthis chat cannot be saved: the disk is full\. It goes on")
        with closing(sqlite3.connect(history_of(home))) as db:
            db.execute("DROP TRIGGER full")
        terminal.send("/title again\r")
        terminal.wait_for("the history can be written again")
        terminal.send("\x04")
        assert terminal.wait_end() == 0
    assert saved_turns(home)[1] == ("word " * 198, "complete")


def test_a_long_hint_keeps_its_indent(home: Env) -> None:
    with fake_chat(home) as terminal:
        terminal.wait_for(READY)
        terminal.send("/set nonsense 1\r")
        terminal.wait_for("options: temperature")
        terminal.wait_for(r"(?m)^  options: .*\n  \w+, .*\n  \w+")
        terminal.send("\x04")
        assert terminal.wait_end() == 0


def test_ctrl_c_at_a_question_and_at_the_prompt_of_a_dumb_terminal(home: Env) -> None:
    with fake_chat(home, env={"TERM": "dumb"}) as terminal:
        terminal.wait_for("(?m)^>>> ?$")
        terminal.send("\x03")
        terminal.wait_for("Ctrl-D or /exit leaves the chat")
        terminal.send("/no-command at all\r")
        terminal.wait_for(r"\[y/N\]")
        terminal.send("\x03")
        terminal.wait_for("It was not sent")
        terminal.send("\x04")
        assert terminal.wait_end() == 0


@pytest.mark.parametrize(("env", "options"), [({"TERM": "dumb"}, {}), ({}, {"plain": True})])
def test_plain(home: Env, env: Env, options: dict[str, Any]) -> None:
    with fake_chat(home, answers=["**bold** words"], env=env, **options) as terminal:
        terminal.wait_for("(?m)^>>>")
        terminal.send("hi\r")
        terminal.wait_for(r"\*\*bold\*\* words")
        terminal.settle(0.2)
        terminal.send("\x04")
        assert terminal.wait_end() == 0
        if env:
            assert b"\x1b" not in terminal.output.replace(b"\x1b[?2004h", b"").replace(
                b"\x1b[?2004l", b""
            )


@pytest.mark.parametrize(
    ("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"CLICOLOR": "0"}, False)]
)
def test_colour(home: Env, env: Env, coloured: bool) -> None:
    with fake_chat(home, answers=["`code`"], env=env) as terminal:
        terminal.wait_for(READY)
        terminal.output = b""
        terminal.send("hi\r")
        terminal.wait_for(r"code\s+>>>")
        assert (b"\x1b[36mcode" in terminal.output) is coloured


def piped(home: Env, text: bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-m", "tests.chat_program", json.dumps(options)]
    env = home | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, input=text, env=env, capture_output=True, timeout=200, check=False)


def test_a_pipe(home: Env) -> None:
    text = b'Hi\r\n\n/set seed 3\nbad \xff byte\n"""two\nlines"""'
    ended = piped(home, text, answers=["**Hello**"])
    assert ended.returncode == 0
    assert ended.stdout.decode() == "**Hello**\nYou said: bad \ufffd byte\nYou said: two\nlines\n"
    assert b"not all UTF-8" in ended.stderr
    assert re.search(rb"seed +3\n", ended.stderr)
    assert piped(home, b"/nothing\n").returncode == 2


def test_a_block_that_the_end_of_the_input_leaves_open(home: Env) -> None:
    ended = piped(home, b'"""\ntwo\n/exit\n')
    assert ended.returncode == 0
    assert b"The input ended before" in ended.stderr
    assert saved_turns(home)[0] == ("two\n/exit", "complete")


def test_forced_colour_in_a_pipe(home: Env) -> None:
    ended = piped(home | {"CLICOLOR_FORCE": "1"}, b"Hi\n", answers=["a `code`\n\n- b"])
    assert ended.stdout == b"a \x1b[36mcode\x1b[0m\n\n\x1b[1m \xe2\x80\xa2 \x1b[0mb\n"


def test_a_broken_history_and_none_at_all(home: Env) -> None:
    history_of(home).parent.mkdir(parents=True)
    history_of(home).write_bytes(b"garbage" * 1000)
    ended = piped(home, b"Hi\n")
    assert (ended.returncode, ended.stdout) == (0, b"You said: Hi\n")
    assert b"kept as" in ended.stderr
    blocked = home | {"GEMMA_HOME": "/dev/null/no"}
    ended = piped(blocked, b"Hi\nagain\n")
    assert (ended.returncode, ended.stdout) == (0, b"You said: Hi\nYou said: again\n")
    assert ended.stderr.count(b"cannot be saved") == 1


def test_a_chat_whose_model_is_gone(home: Env, gemma: Gemma) -> None:
    piped(home, b"Hi\n")
    for command in (("chat", "--continue"), ("chat", "--resume", "1"), ("run", "-c", "And?")):
        ended = gemma(*command, input="", env=home)
        assert (ended.returncode, ended.stdout) == (3, "")
        assert ended.stderr.startswith("gemma: the chat's model is missing: ")
        assert "or go on with another one: -m MODEL" in ended.stderr


def test_what_opening_the_history_says_stands_above_the_prompt(home: Env) -> None:
    path = history_of(home)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is no database " * 100)
    with fake_chat(home) as terminal:
        terminal.wait_for(READY)
        terminal.send("hello\r")
        terminal.wait_for("You said: hello")
        said, first, _ = terminal.text().partition(">>> ")
    assert first
    assert "could not be read" in said


def test_the_real_model_is_talked_to_and_continued(with_demo: Env, gemma: Gemma) -> None:
    common = ("-n", "8", "--temp", "0", "--ctx", "512")
    with Terminal([*program(), "chat", *common], with_demo | {"PYTHONPATH": str(ROOT)}) as terminal:
        terminal.wait_for(READY)
        terminal.send("The capital of France is\r")
        terminal.wait_for(r"tokens/s")
        terminal.send("\x04")
        assert terminal.wait_end() == 0
        assert "base model" in terminal.text()
    ended = gemma("chat", "--continue", *common, input="And of Spain?\n/stats\n", env=with_demo)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()
    listed = json.loads(gemma("history", "list", "--json").stdout)
    assert [(chat["id"], chat["turns"]) for chat in listed] == [(1, 2)]
    assert "And of Spain?" in gemma("history", "show", "1").stdout
    assert gemma("chat", "--resume", "9", input="x\n").returncode == 1
    unsaved = gemma("chat", "--no-history", *common, input="secret words\n", env=with_demo)
    assert unsaved.returncode == 0
    with closing(sqlite3.connect(history_of(with_demo))) as db:
        assert db.execute("SELECT count(*) FROM message").fetchone() == (4,)


def test_without_standard_input(home: Env) -> None:
    closed = [*program(), "chat", "gemma3:270m-pt"]
    ended = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", *closed],
        env=home | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "standard input" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_reader_of_a_pipe_may_leave(home: Env) -> None:
    argv = [sys.executable, "-m", "tests.chat_program", json.dumps({"answers": ["a\n" * 20_000]})]
    env = home | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    ) as chat:
        assert chat.stdin
        assert chat.stdout
        chat.stdin.write(b"go\n")
        chat.stdin.close()
        assert os.read(chat.stdout.fileno(), 1) == b"a"
        chat.stdout.close()
        chat.wait(90)
    assert saved_turns(home)[1][1] == "cancelled"


THINKS = [[{"thought": "Hm, \x1b[31mlet me"}, {"thought": " see.\n\nYes."}, "It is", " **so**."]]


def test_thoughts_are_dim_and_apart_from_the_answer(home: Env) -> None:
    with fake_chat(home, answers=[*THINKS, "Done."], thinks=True) as terminal:
        terminal.wait_for(READY)
        terminal.send("Why?\r")
        terminal.wait_for(r"Thinking\nHm, \[31mlet me see\.\n\nYes\.\n\nIt is so\.\n")
        assert b"\x1b[2mHm, [31mlet me" in terminal.output
        terminal.wait_for(READY)
        terminal.send("/think\r")
        terminal.wait_for("left to its template")
        terminal.send("/think off\r")
        terminal.wait_for("answers at once")
        terminal.send("And?\r")
        terminal.wait_for(r"Done\.")
        terminal.send("\x04")
        assert terminal.wait_end() == 0
    with closing(History(history_of(home))) as history:
        turns = history.load(1).conversation.path()
    assert [turn.thoughts for turn in turns] == ["", "Hm, \x1b[31mlet me see.\n\nYes.", "", ""]
    assert turns[1].text == "It is **so**."


def test_plain_says_in_words_where_thoughts_begin_and_end(home: Env) -> None:
    with fake_chat(home, answers=THINKS, thinks=True, plain=True) as terminal:
        terminal.wait_for(">>>")
        terminal.send("Why?\r")
        terminal.wait_for(
            r"Thinking:\nHm, \[31mlet me see\.\n\nYes\.\n\(The thoughts end here\.\)\n\nIt is \*\*"
        )
        assert b"\x1b[2m" not in terminal.output
        terminal.send("\x04")
        terminal.wait_end()


LONG = "\n".join(f"{number}. The lamp number {number * 7} burns." for number in range(40))


def kept_states(home: Env) -> list[Path]:
    return list((Path(home["GEMMA_HOME"]) / "cache" / "kv").glob("*.kv"))


def test_a_chat_is_resumed_without_being_evaluated_again(gemma: Gemma, with_demo: Env) -> None:
    options = ("--temp", "0", "-n", "4")
    first = gemma("chat", *options, input=f'"""{LONG}"""\n')
    assert first.returncode == 0, first.stderr
    (kept,) = kept_states(with_demo)
    assert kept.stat().st_mode & 0o777 == 0o600
    second = gemma("chat", "--continue", *options, input="And now?\n/stats\n")
    assert second.returncode == 0, second.stderr
    shown = re.search(r"prompt +([\d,]+) tokens, ([\d,]+) of them cached", second.stderr)
    assert shown, second.stderr
    prompt, cached = (int(figure.replace(",", "")) for figure in shown.groups())
    assert prompt > 400
    assert prompt - cached < 30
    assert len(kept_states(with_demo)) == 1  # the newer state took its place


def test_a_forgotten_chat_leaves_no_word_on_disk(with_demo: Env) -> None:
    argv = [*program(), "chat", "--temp", "0", "-n", "2"]
    with Terminal(argv, with_demo) as terminal:
        terminal.wait_for(READY)
        terminal.paste(LONG)
        terminal.send("\r")
        terminal.wait_for(r"context [\d,]+ / ", timeout=60)
        terminal.send("/forget\r")
        terminal.wait_for("for good")
        terminal.send("y\r")
        terminal.wait_for("This chat is removed")
        terminal.send("\x04")
        assert terminal.wait_end() == 0
    assert kept_states(with_demo) == []
    with closing(sqlite3.connect(history_of(with_demo))) as db:
        assert db.execute("SELECT count(*) FROM message").fetchone() == (0,)


def test_no_history_keeps_no_state(gemma: Gemma, with_demo: Env) -> None:
    done = gemma("chat", "--no-history", "-n", "2", input=f'"""{LONG}"""\n')
    assert done.returncode == 0, done.stderr
    assert kept_states(with_demo) == []


def wait_until_idle(pid: int) -> None:
    """Until no thread of it wanted to compute for two seconds."""
    quiet_since = time.monotonic()
    until = quiet_since + 90
    while time.monotonic() - quiet_since < 2:
        assert time.monotonic() < until, "it computes without end"
        time.sleep(0.05)
        for task in Path(f"/proc/{pid}/task").glob("*/stat"):
            with suppress(OSError):  # it has ended meanwhile
                if task.read_text().rpartition(")")[2].split()[0] in "RD":
                    quiet_since = time.monotonic()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the threads in /proc")
def test_what_is_pasted_is_evaluated_while_one_goes_on_typing(with_demo: Env) -> None:
    argv = [*program(), "chat", "--temp", "0", "-n", "2"]
    with Terminal(argv, with_demo) as terminal:
        terminal.wait_for(READY)
        terminal.paste(LONG)
        terminal.wait_for("39. The lamp")
        wait_until_idle(terminal.process.pid)
        terminal.send(" Why?\r")
        terminal.wait_for(r"context [\d,]+ / ", timeout=60)
        terminal.send("/stats\r")
        screen = terminal.wait_for(r"prompt +[\d,]+ tokens, [\d,]+ of them cached")
        shown = re.search(r"prompt +([\d,]+) tokens, ([\d,]+) of them", screen)
        assert shown
        prompt, cached = (int(figure.replace(",", "")) for figure in shown.groups())
        assert prompt > 400
        assert prompt - cached < 40
        terminal.send("\x04")
        assert terminal.wait_end() == 0
