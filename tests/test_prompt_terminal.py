"""The prompt in a real terminal: editor, vi's keys, completion, search, small screens, plain."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)

from tests.conftest import Env
from tests.emulator import Terminal
from tests.test_chat_terminal import READY, fake_chat, saved_turns

CTRL_C, CTRL_D, CTRL_G, CTRL_R, CTRL_Z, ESC = "\x03", "\x04", "\x07", "\x12", "\x1a", "\x1b"


def editor(folder: Path, script: str) -> str:
    program = folder / "an editor"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return f"'{program}' --wait"


def questions(home: Env) -> list[str]:
    return [text for text, _ in saved_turns(home)][::2]


@pytest.mark.parametrize("keys", [CTRL_G, "\x18\x05"])
def test_the_editor_has_the_text_in_it(home: Env, tmp_path: Path, keys: str) -> None:
    seen = tmp_path / "seen"
    script = f"""stat -c %a "$2" > {seen}; stat -c %a "$(dirname "$2")" >> {seen}
cat "$2" >> {seen}; echo "$2" > {tmp_path}/path
printf 'more\\r\\nthan \\033[31mone line\\n' >> "$2" """
    with fake_chat(home, env={"VISUAL": editor(tmp_path, script)}) as terminal:
        terminal.wait_for(READY)
        terminal.send(f"some text{keys}")
        terminal.wait_for(r"than \[31mone line")
        assert "You said" not in terminal.text()
        terminal.send("\r")
        terminal.wait_for(r"You said: some text more than \[31mone line")
    assert seen.read_text() == "600\n700\nsome text\n"
    assert not Path((tmp_path / "path").read_text().strip()).parent.exists()
    assert questions(home) == ["some text\nmore\nthan [31mone line"]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 3", "failed with exit code 3"),
        ("kill -9 $$", "was killed by signal 9"),
        ('rm "$2"', "the text cannot be edited: .*No such file"),
        (None, "cannot be started: No such file or directory"),
    ],
)
def test_an_editor_that_fails_changes_nothing(
    home: Env, tmp_path: Path, script: str | None, told: str
) -> None:
    wish = "no-such-editor" if script is None else editor(tmp_path, script)
    with fake_chat(home, env={"EDITOR": wish, "VISUAL": ""}) as terminal:
        terminal.wait_for(READY)
        terminal.send(f"my text{CTRL_G}")
        terminal.wait_for(rf"(?s){told}.*The\s+text\s+stays\s+as\s+it\s+was\..*>>> my text")
        terminal.send("\r")
        terminal.wait_for("You said: my text")


def test_ctrl_c_and_sigterm_while_the_editor_is_open(home: Env, tmp_path: Path) -> None:
    wish = editor(tmp_path, f"trap '' INT; echo up; touch {tmp_path}/up; exec sleep 30")
    with fake_chat(home, env={"EDITOR": wish, "VISUAL": ""}) as terminal:
        terminal.wait_for(READY)
        terminal.send(f"kept text{CTRL_G}")
        terminal.wait_for("(?m)^up$")
        terminal.send(CTRL_C)
        terminal.settle(0.3)
        assert terminal.process.poll() is None
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait_end() == 143
    with fake_chat(home) as terminal:
        terminal.wait_for(READY)
        terminal.send("\x1b[A")
        terminal.wait_for(">>> kept text")


def test_a_real_editor(home: Env) -> None:
    vim = next((p for p in ("/usr/bin/vim", "/usr/bin/vi") if os.access(p, os.X_OK)), None)
    if vim is None:
        pytest.skip("there is no vi here")
    with fake_chat(home, env={"VISUAL": f"{vim} -T ansi -u NONE -n"}) as terminal:
        terminal.wait_for(READY)
        terminal.send(f"from the prompt{CTRL_G}")
        terminal.wait_for("message.md")
        terminal.send("A to vi\x1b")
        terminal.send("ofind me\x1b:wq\r")
        terminal.wait_for(r">>> from the prompt to vi\n\.\.\. find me")
        terminal.send("\r")
        terminal.wait_for("You said: from the prompt to vi find me")


def test_vi_s_keys(home: Env) -> None:
    with fake_chat(home, env={"GEMMA_EDIT_MODE": "vi"}) as terminal:
        terminal.wait_for(READY)
        terminal.wait_for(r"(?m)^ insert · fake:1b")
        terminal.send(f"one two three{ESC}")
        terminal.wait_for(r"(?m)^ normal · fake:1b")
        terminal.send("0dwce")
        terminal.wait_for(r"(?m)^ insert")
        terminal.send(f"2{ESC}")
        terminal.wait_for(r"(?s)>>> 2 three.* normal")
        terminal.send("v")
        terminal.wait_for(r"(?m)^ visual")
        terminal.send(f"{ESC}R")
        terminal.wait_for(r"(?m)^ replace")
        terminal.send(ESC)
        terminal.wait_for(r"(?m)^ normal")
        terminal.send("A\x1b\rsecond line")  # Alt-Enter
        terminal.wait_for("second line")
        terminal.send(f"{ESC}")
        terminal.wait_for(r"(?m)^ normal")
        terminal.send("\r")
        terminal.wait_for("You said: 2 three second line")


def test_a_wrong_edit_mode_is_said(home: Env) -> None:
    with fake_chat(home, env={"GEMMA_EDIT_MODE": "nano"}) as terminal:
        assert terminal.wait_end() != 0
        assert "'edit_mode' must be emacs or vi, not 'nano'" in terminal.text()


def test_files_after_at(home: Env, tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / "Ünterlagen 1.txt").touch()
    (tmp_path / "report-march.md").touch()
    (tmp_path / "report-may.md").touch()
    (tmp_path / "evil\x1b[31m.md").touch()
    with fake_chat(home) as terminal:
        terminal.resize(160, 24)  # for a long temporary path
        terminal.wait_for(READY)
        terminal.send(f"look at @{tmp_path}/rep")
        terminal.wait_for(r"report-march\.md *\n.*report-may\.md")
        terminal.send("\t")
        terminal.wait_for(">>> look at .*/report-march")
        terminal.send("\t")
        terminal.wait_for(">>> look at .*/report-may")
        terminal.send("\r")
        terminal.wait_for(r"You said: look at\s+@\S+/report-may\.md")
        terminal.settle(0.1)
        terminal.send(f"and @{tmp_path}/a")
        terminal.wait_for(r"(?m)^ +a folder/")  # the menu has names, not whole paths
        terminal.send("\t")
        terminal.wait_for(r'and @"\S+/a folder/')
        terminal.settle(0.2)
        terminal.send("Ü")
        terminal.wait_for(r"(?m)^ +Ünterlagen 1\.txt")
        terminal.send("\t")
        terminal.wait_for(r'1\.txt"')
        terminal.send("\r")
        terminal.wait_for(r'You said: and\s+@"')
        assert b"\x1b[31m.md" not in terminal.output
    assert questions(home) == [
        f"look at @{tmp_path}/report-may.md",
        f'and @"{tmp_path}/a folder/Ünterlagen 1.txt"',
    ]


def test_no_menu_for_an_address(home: Env, tmp_path: Path) -> None:
    (tmp_path / "me.txt").touch()
    with fake_chat(home) as terminal:
        terminal.wait_for(READY)
        terminal.send(f"write to x@{tmp_path}/m")
        terminal.settle(0.5)
        assert "me.txt" not in terminal.text()


def test_ctrl_r_searches_the_inputs_of_every_chat(home: Env) -> None:
    for number in range(3):
        with fake_chat(home) as terminal:
            terminal.wait_for(READY)
            terminal.send(f"the apple {number} of chat\rpear {number}\r")
            terminal.wait_for(f"You said: pear {number}")
            terminal.send(CTRL_D)
            terminal.wait_end()
    with fake_chat(home) as terminal:
        terminal.wait_for(READY)
        terminal.send(f"{CTRL_R}apple")
        terminal.wait_for("the apple 2 of chat")
        terminal.send(CTRL_R)
        terminal.wait_for("the apple 1 of chat")
        terminal.send(CTRL_C)  # leaves the search, not the chat
        terminal.settle(0.2)
        terminal.send("typed\r")
        terminal.wait_for("You said: .*typed")


def test_a_cleared_line_can_be_had_again(home: Env) -> None:
    with fake_chat(home) as terminal:
        terminal.wait_for(READY)
        terminal.send("half a thought")
        terminal.wait_for(">>> half a thought")
        terminal.send(CTRL_C)
        terminal.wait_for(READY)
        terminal.settle(0.2)
        terminal.send("\x1b[A")
        terminal.wait_for(">>> half a thought")


@pytest.mark.parametrize(("columns", "lines"), [(20, 4), (12, 3), (80, 2), (80, 1), (5, 24)])
def test_a_small_screen(home: Env, columns: int, lines: int) -> None:
    with fake_chat(home, answers=["word " * 40]) as terminal:
        terminal.wait_for(READY)
        terminal.resize(columns, lines)
        terminal.settle(0.2)
        terminal.send("/sta")
        terminal.settle(0.3)
        terminal.send(f"\t{CTRL_C}")
        terminal.settle(0.2)
        if columns >= 12 and lines >= 2:
            assert "too small" not in terminal.text()
        terminal.send("hello you\r")
        terminal.settle(0.5)
        terminal.send(CTRL_R)
        terminal.settle(0.2)
        terminal.send(f"h{CTRL_C}")
        terminal.settle(0.2)
        terminal.resize(80, 24)
        terminal.send("/exit\r")
        assert terminal.wait_end() == 0
        assert "Traceback" not in terminal.text()
    assert questions(home) == ["hello you"]


def test_resizing_at_the_prompt_keeps_what_was_typed(home: Env) -> None:
    text = "a text that is longer than the narrow screen will be, 日本語 and all"
    with fake_chat(home) as terminal:
        terminal.wait_for(READY)
        terminal.send(text)
        terminal.wait_for("and all")
        for columns, lines in ((30, 10), (20, 4), (100, 30), (80, 24)):
            terminal.resize(columns, lines)
            terminal.settle(0.2)
        terminal.send("\r")
        terminal.wait_for("You said: a text")
    assert questions(home) == [text]


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}, {"CLICOLOR": "0"}])
def test_the_prompt_s_colours_suit_light_and_dark(home: Env, env: Env) -> None:
    with fake_chat(home, env=env, n_ctx=12) as terminal:
        terminal.wait_for(READY)
        terminal.send("one two three\r")
        terminal.wait_for(r"context 1\d / 12|context 9 / 12")
        terminal.settle(0.1)
        terminal.send("/s")
        terminal.wait_for("/stats")
        terminal.send(f"\t\t{CTRL_C}{CTRL_R}one")
        terminal.settle(0.2)
        terminal.send(f"{CTRL_C}{CTRL_C}\x1b[200~\x01\u00a0(a)\x1b[201~")
        terminal.settle(0.2)
        codes = set(re.findall(rb"\x1b\[([\d;]*)m", terminal.output))
    used = {code for each in codes for code in each.split(b";")}
    assert b"2" in used  # dim
    assert used <= {b"", b"0", b"1", b"2", b"4", b"7"} | (set() if env else {b"31", b"34"})


# What a line that is typed at its end needs: the cursor to the right, to the left, erasing
# what follows; modes for the cursor's look, wrapping and pastes.
_TYPING = re.compile(rb"\x1b\[(\d*[CDKJ]|0?m|\?(25|12|7|1|2004)[hl])")


def test_plain_paints_nothing_twice(home: Env) -> None:
    answer = "# Title\n\n" + "Some **words** of an answer. " * 30
    options: dict[str, Any] = {"answers": [answer, "more"], "token_s": 0.002, "plain": True}
    with fake_chat(home, load_s=2.0, **options) as terminal:
        terminal.wait_for("(?m)^>>>")
        for key in "hello":
            terminal.send(key)
            terminal.settle(0.05)
        terminal.send("\r")
        terminal.wait_for("The model is loading")
        terminal.wait_for(r"\n\n>>>")
        terminal.send("/sta\r")
        terminal.wait_for(r"\[y/N\]")
        terminal.send("y\r")
        terminal.wait_for("more")
        terminal.send(CTRL_D)
        assert terminal.wait_end() == 0
        output = terminal.output
    assert b"\x1b" not in _TYPING.sub(b"", output), _TYPING.sub(b"", output)
    assert output.count(b"hello") <= 1
    for shown, times in ((b"Title", 1), (b"Some **words**", 30), (b"Send it to the model", 1)):
        assert output.count(shown) == times
    for bar in "█▓▒░·":
        assert bar.encode() not in output


def test_ctrl_z_and_fg(home: Env) -> None:
    """In a real shell: at the prompt, in mid-answer, and the terminal is the shell's meanwhile."""
    argv = ["bash", "--norc", "--noprofile", "-i"]
    # The shell shows the command, in which JSON writes this end in another way.
    options = {"answers": ["word " * 150 + "the énd"], "token_s": 0.02}
    start = shlex.join([sys.executable, "-m", "tests.chat_program", json.dumps(options)])
    env = home | {"PS1": "shell$ ", "PYTHONPATH": str(Path(__file__).parent.parent)}
    with Terminal(argv, env) as terminal:
        terminal.wait_for(r"shell\$")
        terminal.send(f"{start}\r")
        terminal.wait_for(READY)
        terminal.send(f"typed{CTRL_Z}")
        terminal.wait_for(r"Stopped(?s:.*)shell\$$")
        terminal.send("echo a$((1+1))b\r")
        terminal.wait_for(r"echo a\$(?s:.*)\na2b")
        terminal.send("fg\r")
        terminal.wait_for(r"(?s)\$ fg\n.*>>> typed")
        terminal.send(" text\r")
        terminal.wait_for(r"typed text\s+word word word")
        terminal.send(CTRL_Z)
        terminal.wait_for(r"(?s)Stopped.*Stopped.*shell\$$")
        terminal.send("echo b$((1+1))c\r")
        terminal.wait_for(r"echo b\$(?s:.*)\nb2c")
        terminal.send("fg\r")
        terminal.wait_for(r"the énd(?s:.*)>>>", timeout=30)
        terminal.send("after\r")
        terminal.wait_for("You said: after")
        terminal.send(CTRL_D)
        terminal.wait_for(r"shell\$$")
        terminal.send("exit\r")
        terminal.wait_end()
    assert questions(home) == ["typed text", "after"]
    assert saved_turns(home)[1][1] == "complete"


def test_ctrl_z_without_a_shell_does_not_freeze_the_chat(home: Env) -> None:
    with fake_chat(home, answers=["word " * 100], token_s=0.01) as terminal:
        terminal.wait_for(READY)
        terminal.send(CTRL_Z)
        terminal.settle(0.3)
        terminal.send("go\r")
        terminal.wait_for("word word word")
        terminal.send(CTRL_Z)
        terminal.wait_for(r"word\s+>>>")
        terminal.send(CTRL_D)
        assert terminal.wait_end() == 0
