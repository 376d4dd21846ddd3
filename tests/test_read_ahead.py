"""Reading ahead on the real 270M: what is typed is evaluated, and changes no answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gemma_cli.chat.conversation import Conversation
from gemma_cli.chat.journal import NoJournal
from gemma_cli.chat.session import Session
from gemma_cli.engine.cache import common_prefix
from gemma_cli.engine.jobs import ReadAhead
from gemma_cli.engine.llama import LlamaEngine
from gemma_cli.engine.protocol import Done, Message, Sampling
from gemma_cli.engine.setup import Setup, Weights
from gemma_cli.errors import EngineError
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.memory import Wishes, plan
from gemma_cli.models.gguf import read_header
from tests.fake_engine import FakeEngine

ROOMY = Machine(Device("CPU", "cpu", 64 << 30, 64 << 30), (), threads=1)
GREEDY = Sampling(temperature=0, max_tokens=12)
DOCUMENT = "\n".join(f"{number}. The lamp number {number * 7} burns." for number in range(40))


@pytest.fixture
def engine(demo_gguf: Path) -> Iterator[LlamaEngine]:
    header = read_header(demo_gguf)
    setup = Setup(Weights(demo_gguf, header, plan(header, ROOMY, Wishes(n_ctx=4096))))
    with closing(LlamaEngine(setup)) as made:
        yield made


def typed(engine: LlamaEngine, text: str) -> None:
    engine.read_ahead([Message("user", text)])


def wait_until_read(engine: LlamaEngine) -> None:
    """All that was typed so far, as much of it as is certain."""
    end = time.monotonic() + 90
    while engine._ahead is not None or engine._current is not None:
        assert time.monotonic() < end, "reading ahead does not end"
        time.sleep(0.02)


def ask(engine: LlamaEngine, text: str) -> Done:
    *_, done = engine.generate(engine.render([Message("user", text)]), GREEDY)
    assert isinstance(done, Done)
    return done


def test_enter_pays_for_the_last_words_only(engine: LlamaEngine) -> None:
    question = f"{DOCUMENT}\n\n1, 2, 3, 4, 5, 6, 7, 8,"
    without = ask(engine, question)
    ask(engine, "Something else.")
    engine.info()
    typed(engine, f"{DOCUMENT}\n\n1, 2, 3, 4, 5")
    wait_until_read(engine)
    having = ask(engine, question)
    assert having.usage.prompt_tokens - having.usage.cached_tokens < 32
    assert having.tokens == without.tokens


def test_editing_costs_nothing_but_the_work(engine: LlamaEngine) -> None:
    before = ask(engine, "1, 2, 3, 4, 5, 6, 7,")
    typed(engine, f"{DOCUMENT} and then")
    wait_until_read(engine)
    assert len(engine._loaded._context.tokens) > 300
    typed(engine, "1, 2,")
    after = ask(engine, "1, 2, 3, 4, 5, 6, 7,")
    assert after.tokens == before.tokens


def test_a_question_does_not_wait_for_what_is_read_ahead(engine: LlamaEngine) -> None:
    long = DOCUMENT * 4
    start = time.perf_counter()
    ask(engine, f"Read {long}")
    whole = time.perf_counter() - start
    typed(engine, f"Consider {long} and so")
    while not isinstance(engine._current, ReadAhead):
        time.sleep(0.02)
    time.sleep(0.1)  # it is at work
    start = time.perf_counter()
    ask(engine, "Hello there")
    assert time.perf_counter() - start < whole / 2


def test_too_long_a_text_is_left_for_the_error_that_tells(engine: LlamaEngine) -> None:
    engine.info()
    typed(engine, "word " * 9000)
    wait_until_read(engine)
    assert ask(engine, "Hi").usage.prompt_tokens < 100


@pytest.mark.parametrize(
    "text", ["", "Hel", "Hello ", "Hello the", "a\n\nb c", '  spaced  "quotes" an', "ünïcödé wörd"]
)
def test_what_is_certain_begins_every_way_to_go_on(engine: LlamaEngine, text: str) -> None:
    engine.info()
    certain = engine._loaded.format.certain([Message("user", text)])
    assert certain
    for more in ("", "lo", " lo", "\n\nMore.", "s, and so on. " * 3, "\n- item"):
        tokens = engine.render([Message("user", text + more)]).tokens
        missing = len(certain) - common_prefix(certain, tokens)
        assert missing <= (0 if text + more == (text + more).strip() else 2)


def session(engine: FakeEngine) -> Session:
    return Session(engine, "m", Conversation("Be kind."), NoJournal(), Sampling())


def test_a_session_reads_ahead_what_would_be_sent() -> None:
    engine = FakeEngine()
    chat = session(engine)
    chat.conversation.add("user", "Hi")
    chat.conversation.add("assistant", "Hello!")
    chat.conversation.add("user", "never answered")
    chat.typing('"""How are')
    ((messages, thinking),) = engine.typed
    assert [(m.role, m.text) for m in messages] == [
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "How are"),
    ]
    assert thinking is None


def test_a_command_is_not_read_ahead_and_it_can_be_switched_off() -> None:
    engine = FakeEngine()
    chat = session(engine)
    chat.typing("/help")
    chat.reads_ahead = False
    chat.typing("Hello there")
    assert not engine.typed


def test_a_fault_in_work_that_nobody_waits_for_is_told_to_the_next_caller(
    engine: LlamaEngine,
) -> None:
    prompt = engine.raw("1, 2, 3,")
    engine.read_ahead([])  # a mistake of ours: there is no message that is being typed
    engine._thread.join(timeout=10)
    with pytest.raises(ValueError, match="unpack"):
        engine.generate(prompt, GREEDY)
    with pytest.raises(ValueError, match="unpack"):
        engine.keep()
    engine.forget()


def test_a_closed_engine_does_not_keep_anybody_waiting(engine: LlamaEngine) -> None:
    prompt = engine.raw("1, 2, 3,")
    engine.close()
    with pytest.raises(EngineError, match="no longer loaded"):
        engine.generate(prompt, GREEDY)
    with pytest.raises(EngineError, match="no longer loaded"):
        engine.keep()
    with pytest.raises(EngineError, match="no longer loaded"):
        engine.raw("its vocabulary is freed")
    with pytest.raises(EngineError, match="no longer loaded"):
        engine.render([Message("user", "its vocabulary is freed")])
    engine.forget()
    engine.close()
