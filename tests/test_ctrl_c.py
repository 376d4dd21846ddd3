"""Ctrl-C at every stage of a chat, in a real terminal: at once, nothing lost, no traceback."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)

from tests.conftest import Env, program
from tests.emulator import Terminal
from tests.test_chat_terminal import READY, ROOT, fake_chat, saved_turns
from tests.test_waiting import EVALUATING

CTRL_C, CTRL_D = "\x03", "\x04"
# Seconds. What is stopped would take longer, also on a quick machine; others use this one too.
AT_ONCE = 10.0


def leave(terminal: Terminal) -> str:
    terminal.settle(0.2)
    terminal.send(CTRL_D)
    assert terminal.wait_end() == 0
    assert "Traceback" not in terminal.text()
    return terminal.text()


def real_chat(env: Env, *options: str) -> Terminal:
    return Terminal([*program(), "chat", "gemma3:270m-pt", "--no-read-ahead", *options], env)


def test_while_loading(home: Env, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with fake_chat(home, load_gate=str(gate)) as terminal:
        terminal.wait_for(READY)
        terminal.send("first\r")
        terminal.wait_for("loading the model: ")
        terminal.send(CTRL_C)
        terminal.wait_for("Stopped before the answer began")  # and it loads still
        terminal.send("second\r")
        terminal.wait_for("(?s)Stopped before.*loading the model: ")
        gate.touch()
        terminal.wait_for("You said: second")
        leave(terminal)
    assert [text for text, _ in saved_turns(home)][:2] == ["first", "second"]


def test_while_the_real_model_reads_and_while_it_writes(with_demo: Env) -> None:
    text = "\n".join(f"{n}. The lamp number {n * 7} burns in the house." for n in range(900))
    # So hot it talks nonsense for as long as it may.
    hot = ("--temp", "3", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed", "5")
    with real_chat(with_demo, *hot, "-n", "900") as terminal:
        terminal.wait_for(READY)
        terminal.paste(text)
        terminal.wait_for("899. The lamp")
        terminal.send("\r")
        terminal.wait_for(EVALUATING)
        started = time.monotonic()
        terminal.send(CTRL_C)
        terminal.wait_for("Stopped before the answer began")
        assert time.monotonic() - started < AT_ONCE
        terminal.settle(0.2)
        terminal.send("/undo\r")
        terminal.settle(0.5)
        terminal.send("Hello\r")
        terminal.wait_for(r">>> Hello\n(?!\s*gemma3:)(?s:.){100}")  # no line below a prompt
        started = time.monotonic()
        terminal.send(CTRL_C)
        terminal.wait_for(r"(?s)>>> Hello.*Stopped\. What was said is kept\.")
        assert time.monotonic() - started < AT_ONCE
        leave(terminal)


def test_many_times_in_one_answer(home: Env) -> None:
    with fake_chat(home, answers=["word " * 5000, "again"], token_s=0.01) as terminal:
        terminal.wait_for(READY)
        terminal.send("go\r")
        terminal.wait_for("word word")
        for _ in range(5):
            terminal.send(CTRL_C)
        terminal.wait_for("What was said is kept")
        terminal.settle(0.5)
        terminal.wait_for(READY)
        terminal.send("more\r")
        terminal.wait_for("again")
        leave(terminal)
    assert saved_turns(home)[1][1] == "cancelled"


def test_in_a_paste_and_after_it(home: Env) -> None:
    with fake_chat(home) as terminal:
        terminal.wait_for(READY)
        terminal.paste(f"one\r{CTRL_C}two")  # within a paste it is no key
        terminal.wait_for("two")
        terminal.send(CTRL_C)
        terminal.wait_for(READY)
        terminal.paste("/exit")
        terminal.settle(0.1)
        terminal.send(f"{CTRL_C}/stats\r")  # and what is typed next is a command again
        terminal.wait_for("There is no answer yet")
        leave(terminal)


def test_in_a_paste_that_never_ends(home: Env) -> None:
    with fake_chat(home) as terminal:
        terminal.wait_for(READY)
        terminal.send("\x1b[200~half of a paste\r")
        terminal.settle(0.2)
        terminal.send("and keys")
        terminal.settle(0.2)
        terminal.send(CTRL_C)
        terminal.settle(0.2)
        terminal.send("hello\r")
        terminal.wait_for("You said: hello")
        leave(terminal)


def test_in_a_question(home: Env) -> None:
    with fake_chat(home) as terminal:
        terminal.wait_for(READY)
        terminal.send("/no-command at all\r")
        terminal.wait_for(r"\[y/N\]")
        terminal.send(f"y{CTRL_C}")
        terminal.wait_for("It was not sent")
        leave(terminal)


AS_A_QUESTION_BEGINS = """
import asyncio, signal, sys
from tests.chat_program import main
class Pressed(asyncio.SelectorEventLoop):
    def __init__(self):
        signal.raise_signal(signal.SIGINT)
        super().__init__()
class Policy(asyncio.DefaultEventLoopPolicy):
    made = 0
    def new_event_loop(self):
        self.made += 1
        return Pressed() if self.made == 2 else super().new_event_loop()
asyncio.set_event_loop_policy(Policy())
sys.exit(main())
"""


def test_just_as_a_question_begins(home: Env) -> None:
    """The signal comes while the event loop of the question is made."""
    env = home | {"PYTHONPATH": str(ROOT)}
    with Terminal([sys.executable, "-c", AS_A_QUESTION_BEGINS, "{}"], env) as terminal:
        terminal.wait_for(READY)
        terminal.send("/no-command at all\r")
        terminal.wait_for("It was not sent")
        shown = leave(terminal)
    assert "Exception ignored" not in shown


@pytest.mark.parametrize("vi", [False, True])
def test_in_the_search_and_in_the_menu(home: Env, vi: bool) -> None:
    env = {"GEMMA_EDIT_MODE": "vi"} if vi else {}
    with fake_chat(home, env=env) as terminal:
        terminal.wait_for(READY)
        terminal.send("an apple\r")
        terminal.wait_for("You said: an apple")
        terminal.settle(0.2)
        terminal.send("\x12app")
        terminal.wait_for(r"(?m)^>>> an apple$(?s:.*)I-search backward: app")
        terminal.send(CTRL_C)
        terminal.settle(0.2)
        terminal.send(f"{CTRL_C}/sta")
        terminal.wait_for("figures of the last answer")
        terminal.send(f"\t{CTRL_C}")
        terminal.settle(0.3)
        assert "figures of the last answer" not in "\n".join(terminal.screen.display)
        assert terminal.process.poll() is None
        terminal.send("still here\r")
        terminal.wait_for("You said: still here")
        leave(terminal)


def test_at_random_moments(home: Env) -> None:
    rng = random.Random(7)
    with fake_chat(home, answers=["word " * 30] * 40, token_s=0.004) as terminal:
        terminal.wait_for(READY)
        for _ in range(25):
            terminal.send(
                rng.choice(["hello\r", "/stats\r", "text", "/x y\r", "\x12wo", "\t", "/s"])
            )
            terminal.settle(rng.choice([0.0, 0.01, 0.05]))
            terminal.send(CTRL_C)
            terminal.settle(0.15)
        for _ in range(3):
            terminal.settle(0.3)
            terminal.send(CTRL_C)
        terminal.settle(0.3)
        terminal.send("/exit\r")
        assert terminal.wait_end() == 0
        assert "Traceback" not in terminal.text()
        assert "Unhandled" not in terminal.text()
    assert saved_turns(home)


@pytest.mark.parametrize("after", [0.15, 0.25, 0.35, 0.5, 0.8])
def test_while_the_program_starts(with_demo: Env, after: float) -> None:
    """Nothing but the exit code of an interrupt, or the prompt goes on."""
    with real_chat(with_demo) as terminal:
        time.sleep(after)
        terminal.send(CTRL_C)
        terminal.wait_for("(?m)^>>> ?", or_end=True)
        if terminal.process.poll() is None:
            terminal.send(CTRL_C)
            terminal.settle(0.3)
            terminal.send("/exit\r")
            assert terminal.wait_end() == 0
        else:
            early = "Fatal Python error" in terminal.text()  # before any line of ours
            assert terminal.process.returncode in (130, -2) or early
        assert ", in _run" not in terminal.text()  # no traceback of ours
