"""Other people's words on a real terminal: no escape sequence, control or hidden character in them
reaches it, whichever way they take. Each test looks at the bytes that the terminal got."""

from __future__ import annotations

import json
import re
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)

from gemma_cli.chat.conversation import Attachment, Conversation
from gemma_cli.chat.history import History
from tests.conftest import DEMO, Env, program
from tests.emulator import Terminal
from tests.gguf_files import GEMMA3, gguf
from tests.test_chat_terminal import READY, fake_chat, history_of

CORPUS = {
    "colour": "\x1b[31mRED",
    "clear": "\x1b[2J\x1b[H",
    "title": "\x1b]0;EVIL\x07",
    "clipboard": "\x1b]52;c;RVZJTA==\x1b\\",
    "hyperlink": "\x1b]8;;http://evil.example\x1b\\text\x1b]8;;\x1b\\",
    "reset": "\x1bc",
    "device control": "\x1bP+q544e\x1b\\",
    "application command": "\x1b_EVIL\x1b\\",
    "C1 CSI": "\x9b31mRED",
    "C1 OSC": "\x9d0;EVIL\x9c",
    "C1 DCS": "\x90q\x9c",
    "bell": "ding\x07",
    "backspace": "safe\x08\x08\x08\x08evil",
    "carriage return": "safe\rEVIL",
    "rub out": "x\x7f",
    "shift out": "\x0e\x0f\x0c\x0b",
    "bidi override": "\u202egnp.exe",
    "bidi isolate": "\u2066a\u2069\u061c",
    "tags": "\U000e0001\U000e0045\U000e0056\U000e007f",
}
EVIL = "<" + "|".join(CORPUS.values()) + ">"
# File names and arguments cannot hold NUL; the rest is in them as it is.
IN_TEXT = EVIL + "nul\x00nul"

# Of what the prompt writes itself (colours, cursor) none is among these.
FORBIDDEN = re.compile(
    r"\x1b[\]P_c^X]|\x1b\[31mRED|\x1b\[2J|\x07|safe\x08|safe\r(?!\n)|\x7f|[\x0b\x0c\x0e\x0f\x00]"
    "|[\x80-\x9f\u202a-\u202e\u2066-\u2069\u061c\U000e0000-\U000e007f\udc80-\udc9f]"
)


def harmless(output: bytes) -> None:
    """C1 controls are looked for as UTF-8 and as bytes of their own."""
    shown = output.decode("utf-8", "surrogateescape")
    found = FORBIDDEN.search(shown)
    assert found is None, ascii(shown[max(found.start() - 80, 0) : found.end() + 40])


@pytest.mark.parametrize("name", CORPUS)
def test_what_is_looked_for_is_found(name: str) -> None:
    with pytest.raises(AssertionError):
        harmless(f"text {CORPUS[name]} text".encode())
    with pytest.raises(AssertionError):
        harmless(b"a byte \x9b of its own")


def leave(terminal: Terminal) -> None:
    """Once all that was typed is done with; the bytes are checked."""
    terminal.settle(0.3)
    terminal.send("\x03")
    terminal.settle(0.3)
    terminal.send("/exit\r")
    terminal.wait_end()
    harmless(terminal.output)


def run(argv: list[str], env: Env) -> str:
    """What a person sees of a whole run; the bytes are checked."""
    with Terminal(argv, env, columns=160, lines=50) as terminal:
        terminal.wait_end()
        harmless(terminal.output)
        shown = terminal.text()
    assert "Traceback" not in shown
    return shown


@pytest.fixture
def saved(home: Env) -> Env:
    """A home whose history was written with evil words, as an import could bring them."""
    history_of(home).parent.mkdir(parents=True)
    conversation = Conversation(f"system {IN_TEXT}")
    conversation.title = f"title {EVIL}"
    paper = Attachment(f"paper {EVIL}", f"document {IN_TEXT}")
    conversation.add("user", f"question {IN_TEXT}", attachments=(paper,))
    conversation.add("assistant", f"answer {IN_TEXT}")
    with closing(History(history_of(home))) as history:
        history.save(None, conversation, conversation, f"model {EVIL}")
        history.remember_input(f"typed {EVIL}")
    return home


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("plain", [False, True])
def test_answers_and_thoughts(home: Env, name: str, plain: bool) -> None:
    evil = CORPUS[name]
    text = (
        f"{evil} *{evil}* `{evil}`\n\n- {evil}\n\n> {evil}\n\n| {evil} | b |\n|---|---|\n| {evil} |"
    )
    text += f"\n\n[{evil}](http://{evil}) &#27;]0;x&#7; &#x9b;31m &#x202e;\n\n```{evil}\n"
    text += f"{evil}\n```\nend of it"
    cut = [text[at : at + 3] for at in range(0, len(text), 3)]
    answers = [[{"thought": f"hm {evil}"}, *cut]]
    with fake_chat(home, answers=answers, thinks=True, plain=plain) as terminal:
        terminal.wait_for("(?m)^>>>")
        terminal.send("go\r")
        terminal.wait_for(r"end of it(?s:.*)>>>")
        terminal.settle(0.1)
        terminal.send("\x04")
        terminal.wait_end()
        harmless(terminal.output)


def test_what_the_chat_says_again(saved: Env) -> None:
    """A resumed chat, its commands, the arrow keys, the search: from the history."""
    with fake_chat(saved, "1") as terminal:
        terminal.wait_for(READY)
        for command in ("/history", "/system", "/search answer", "/search document", "/last",
                        "/branches", "/context", "/title", "/show", "/resume 1"):  # fmt: skip
            terminal.send(f"{command}\r")
            terminal.settle(0.3)
        terminal.send("\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A")
        terminal.settle(0.3)
        terminal.send("\x03\x12typed")
        terminal.settle(0.3)
        terminal.send("\x03\x03")
        terminal.send("/resume \t\t")
        leave(terminal)
        assert "Traceback" not in terminal.text()
        assert "question" in terminal.text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["search", "answer"],
        ["search", "paper"],
        ["show", "1"],
        ["show", EVIL],
        ["export", EVIL],
        ["rm", EVIL],
    ],
)
def test_the_history_s_commands(saved: Env, arguments: list[str]) -> None:
    shown = run([*program(), "history", *arguments], saved)
    assert shown.strip()


def test_pasted(home: Env) -> None:
    pasted = IN_TEXT.replace("\x1b[201~", "")
    with fake_chat(home) as terminal:
        terminal.wait_for(READY)
        terminal.paste(pasted)
        terminal.settle(0.3)
        terminal.send("\r")
        terminal.wait_for("You said")
        leave(terminal)


def test_names_of_files_in_the_menu(home: Env, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for number, evil in enumerate(CORPUS.values()):
        (folder / f"{number}{evil}".replace("/", "")).touch()
    (folder / "fine.txt").touch()
    with fake_chat(home) as terminal:
        terminal.wait_for(READY)
        terminal.send(f"@{folder}/")
        terminal.wait_for("fine.txt")
        terminal.send("\t")
        leave(terminal)
    with fake_chat(home, plain=True) as terminal:
        terminal.wait_for(">>>")
        terminal.send(f"@{folder}/")
        terminal.settle(0.2)
        terminal.send("\t")
        leave(terminal)


@pytest.mark.parametrize("name", ["plain.gguf", EVIL.replace("/", "") + ".gguf"])
def test_a_model_s_own_words(home: Env, tmp_path: Path, name: str) -> None:
    texts = {
        key: f"{value} {EVIL}"
        for key, value in GEMMA3.items()
        if isinstance(value, str) and key != "general.architecture"
    }
    free = ("author", "source.url", "description", EVIL)
    more = {f"general.{key}": IN_TEXT for key in free}
    more["tokenizer.chat_template"] = f"{{{{ {EVIL} }}}}"
    path = tmp_path / name
    path.write_bytes(gguf({**GEMMA3, **texts, **more}))
    for command in (["show", str(path)], ["plan", str(path)], ["run", "-m", str(path), "hi"],
                    ["run", "-m", str(path), "--show-prompt", "hi"]):  # fmt: skip
        assert run([*program(), *command], home).strip()
    path.write_bytes(gguf({"general.architecture": EVIL}))
    for verb in (["show"], ["run", "hi", "-m"]):
        assert run([*program(), *verb, str(path)], home).strip()


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "-m", EVIL, "hi"],
        ["chat", "-m", EVIL],
        ["pull", EVIL, "--dry-run"],
        ["show", EVIL],
        ["plan", EVIL],
        ["rm", "-y", EVIL],
        ["verify", EVIL],
        ["run", "-f", f"/nowhere/{EVIL}", "hi"],
        ["run", "-n", "4", "-s", f"@/nowhere/{EVIL}", "hi"],
        ["run", "--schema", EVIL, "hi"],
        ["run", "--messages", EVIL],
        ["run", "--ctx", EVIL, "hi"],
        ["run", f"--{EVIL}"],
        ["run", "-n", EVIL],
        ["chat", "--resume", EVIL],
        [EVIL],
        ["prompts", "show", EVIL],
        ["config", "set", EVIL, EVIL],
        ["config", "set", "edit_mode", EVIL],
        ["config", "get", EVIL],
    ],
    ids=lambda arguments: " ".join(arguments).partition("<")[0],
)
def test_error_messages(home: Env, arguments: list[str]) -> None:
    env = home | {"HF_HUB_OFFLINE": "1"}
    assert run([*program(), *arguments], env).strip()


@pytest.mark.usefixtures("with_demo")
def test_prompts_and_answers_as_json(home: Env, tmp_path: Path) -> None:
    command = [*program(), "run", "-m", DEMO, "--threads", "1"]

    def printed(*arguments: str) -> Any:
        """The last line's JSON, as the terminal got it."""
        with Terminal([*command, *arguments], home) as terminal:
            terminal.wait_end()
            harmless(terminal.output)
            # A load that took long had its line there, and erased it.
            line = terminal.output.decode().splitlines()[-1]
            return json.loads(line.removeprefix("\x1b[K"))

    shown = printed("--show-prompt", "--raw", EVIL)
    assert "".join(each["text"] for each in shown["segments"]) == EVIL
    words = re.sub("[\x00-\x1f]", "", EVIL)
    answer = printed("--json", "--schema", json.dumps({"const": words}), "hi")
    assert json.loads(answer["text"]) == answer["parsed"] == words
    named = tmp_path / f"{EVIL.replace('/', '')}.json"
    named.write_bytes(b'[{"role": "user", "content": "\xff"}]')
    assert "not all UTF-8" in run([*command, "-n", "1", "--messages", str(named)], home)


def test_settings_and_prompts_that_others_wrote(home: Env) -> None:
    place = Path(home["GEMMA_HOME"]) / "config"
    (place / "prompts").mkdir(parents=True)
    escaped = "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\U{ord(c):08x}" for c in EVIL)
    (place / "prompts" / "mine.md").write_text(
        f'+++\ndescription = "{escaped}"\nsystem = "{escaped}"\n+++\n{{{{text}}}}'
    )
    for arguments in (["prompts", "list"], ["prompts", "show", "mine"]):
        assert run([*program(), *arguments], home).strip()
    (place / "config.toml").write_text(f'"{escaped}" = 1\n')
    assert "unknown key" in run([*program(), "list"], home)
    (place / "config.toml").write_text(f'edit_mode = "{escaped}"\n')
    assert "edit_mode" in run([*program(), "list"], home)
    (place / "config.toml").write_text(f'system = "{escaped}"\n')
    assert run([*program(), "config", "show"], home).strip()
