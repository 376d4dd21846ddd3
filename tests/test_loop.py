"""The loop with a scripted reader and a recording writer; the engine is tests/fake_engine.py."""

from __future__ import annotations

import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest

from gemma_cli.chat import commands
from gemma_cli.chat.answering import NO_THOUGHTS
from gemma_cli.chat.commands import registry
from gemma_cli.chat.conversation import Conversation
from gemma_cli.chat.history import History
from gemma_cli.chat.interface import Show, Talk
from gemma_cli.chat.journal import HistoryJournal, NoJournal
from gemma_cli.chat.loop import ChatLoop
from gemma_cli.chat.session import Session
from gemma_cli.engine.protocol import Generation, Message, Piece, Prompt, Sampling
from gemma_cli.errors import EngineError, ExitCode, GemmaError, ModelFileError
from gemma_cli.terminal.lines import Entry
from tests.fake_engine import FakeEngine


@dataclass
class Script:
    """A reader: texts and entries are turns, an exception is raised."""

    turns: list[str | Entry | BaseException]
    interactive: bool = True
    agrees: bool = False
    multiline: bool = False
    prefills: bool = True
    asked: list[str] = field(default_factory=list)
    prefilled: list[str] = field(default_factory=list)

    def read(self, initial: str = "") -> Entry | None:
        if initial:
            self.prefilled.append(initial)
        if not self.turns:
            return None
        turn = self.turns.pop(0)
        if isinstance(turn, BaseException):
            raise turn
        return Entry(turn) if isinstance(turn, str) else turn

    def confirm(self, question: str) -> bool:
        self.asked.append(question)
        return self.agrees

    def interrupt(self) -> bool:
        self.turns.clear()
        return False

    def refresh(self) -> None:
        pass


@dataclass
class Record:
    """A writer. on_piece: called with each piece, to act in mid-answer."""

    answers: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    errors: list[tuple[str, str | None]] = field(default_factory=list)
    asides: list[str] = field(default_factory=list)
    raws: list[str] = field(default_factory=list)
    on_piece: Callable[[str], object] = lambda _piece: None

    @contextmanager
    def answer(self, prefill: Callable[[], float] | None = None) -> Iterator[Show]:
        assert prefill is None or 0.0 <= prefill() <= 1.0
        self.answers.append("")
        self.thoughts.append("")

        def show(text: str, *, thought: bool = False) -> None:
            (self.thoughts if thought else self.answers)[-1] += text
            self.on_piece(text)

        yield show

    @contextmanager
    def aside(self, heading: str, prefill: Callable[[], float]) -> Iterator[Callable[[str], None]]:
        assert 0.0 <= prefill() <= 1.0
        self.asides.append(f"{heading}: ")

        def show(text: str) -> None:
            self.asides[-1] += text
            self.on_piece(text)

        yield show

    def raw(self, text: str) -> None:
        self.raws.append(text)

    @contextmanager
    def loading(self, progress: Callable[[], float]) -> Iterator[None]:
        progress()
        yield

    def say(self, text: str) -> None:
        self.said.append(text)

    def error(self, message: str, hint: str | None) -> None:
        self.errors.append((message, hint))


def run(
    engine: FakeEngine,
    *turns: str | Entry | BaseException,
    writer: Record | None = None,
    interactive: bool = True,
    agrees: bool = False,
) -> tuple[int, Record, Session]:
    writer = writer or Record()
    session = Session(engine, "fake:1b", Conversation(), NoJournal(), Sampling())
    code = ChatLoop(session, Script(list(turns), interactive, agrees), writer).run()
    return code, writer, session


def test_a_talk() -> None:
    engine = FakeEngine(["Hello there", "Fine"])
    code, writer, session = run(engine, "Hi", "   ", "How are you?")
    assert code == 0
    assert writer.answers == ["Hello there", "Fine"]
    assert engine.asked[1] == (
        Message("user", "Hi"),
        Message("assistant", "Hello there"),
        Message("user", "How are you?"),
    )
    origin = session.conversation.path()[-1].origin
    assert origin is not None
    assert origin.params["seed"] == 7
    assert origin.counts["completion_tokens"] == 1


def test_ctrl_c_keeps_what_was_said() -> None:
    def press(_piece: str) -> None:
        if _piece == " two":
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)  # a second one does no harm

    engine = FakeEngine(["one two three four"])
    code, writer, session = run(engine, "count", "go on", writer=Record(on_piece=press))
    assert code == 0
    turns = session.conversation.path()
    assert (turns[1].text, turns[1].status) == ("one two", "cancelled")
    assert "Stopped" in writer.said[0]
    assert engine.asked[1][1] == Message("assistant", "one two")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class PressedEarly(FakeEngine):
    """Ctrl-C comes while the first word of the first answer is waited for."""

    def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        if self.generations:
            self._token_s = 0.0
        else:
            threading.Timer(0.1, signal.raise_signal, [signal.SIGINT]).start()
        return super().generate(prompt, sampling)


def test_ctrl_c_before_the_first_word() -> None:
    _, writer, session = run(PressedEarly(["late", "again"], token_s=60), "hurry", "/regen")
    assert writer.said == ["Stopped before the answer began. /regen has the question answered."]
    assert [turn.text for turn in session.conversation.path()] == ["hurry", "again"]


class PressedWhileLoading(Record):
    """Ctrl-C comes while the model is waited for; it is loaded a while after that."""

    def __init__(self, gate: Path) -> None:
        super().__init__()
        self._press: Callable[[], None] | None = self._stop
        self._gate = gate

    def _stop(self) -> None:
        signal.raise_signal(signal.SIGINT)
        threading.Timer(0.3, self._gate.touch).start()

    @contextmanager
    def loading(self, progress: Callable[[], float]) -> Iterator[None]:
        press, self._press = self._press, None
        if press:
            threading.Timer(0.1, press).start()
        with super().loading(progress):
            yield


def test_ctrl_c_while_the_model_loads(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    engine = FakeEngine(["late"], load_gate=str(gate))
    code, writer, session = run(engine, "hurry", "again", writer=PressedWhileLoading(gate))
    assert code == 0
    assert "Stopped before the answer began" in writer.said[0]
    assert engine.asked == [(Message("user", "again"),)]
    assert [turn.text for turn in session.conversation][:2] == ["hurry", "again"]


def test_ctrl_c_at_the_prompt_tells_how_to_leave() -> None:
    code, writer, _ = run(FakeEngine(), KeyboardInterrupt(), "hi")
    assert code == 0
    assert "Ctrl-D" in writer.said[0]
    assert writer.answers == ["You said: hi"]
    assert run(FakeEngine(), KeyboardInterrupt(), interactive=False)[0] == ExitCode.CANCELLED


def test_ctrl_c_in_a_script_ends_it() -> None:
    writer = Record(on_piece=lambda _: signal.raise_signal(signal.SIGINT))
    code, writer, session = run(FakeEngine(["a b c"]), "x", "y", writer=writer, interactive=False)
    assert code == ExitCode.CANCELLED
    assert [turn.text for turn in session.conversation] == ["x", "a"]


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_told_to_end_it_saves_first(tmp_path: Path, name: str, code: int) -> None:
    path = tmp_path / "history.db"
    with closing(HistoryJournal(lambda t: History(path, t), pytest.fail, "m")) as journal:
        writer = Record(on_piece=lambda _: signal.raise_signal(getattr(signal, name)))
        session = Session(FakeEngine(["a b c"]), "m", Conversation(), journal, Sampling())
        assert ChatLoop(session, Script(["x", "y"]), writer).run() == code
    with closing(History(path)) as history:
        turns = history.load(1).conversation.path()
    assert [(turn.text, turn.status) for turn in turns] == [("x", "complete"), ("a", "cancelled")]


def test_a_model_that_does_not_load_ends_the_chat() -> None:
    failure = ModelFileError("it is cut", "gemma pull again")
    for interactive in (True, False):
        code, writer, session = run(FakeEngine(failure=failure), "hi", interactive=interactive)
        assert code == 1
        assert writer.errors == [("it is cut", "gemma pull again")]
        assert len(session.conversation) <= 1


class Waiting(Script):
    """Reads nothing before what is shown was told to be new."""

    told = threading.Event()

    def refresh(self) -> None:
        self.told.set()

    def read(self, initial: str = "") -> Entry | None:
        assert self.told.wait(60)
        return super().read(initial)


def test_what_a_resumed_chat_takes_is_shown_once_it_is_counted() -> None:
    conversation = Conversation()
    conversation.add("user", "one two")
    conversation.add("assistant", "three")
    session = Session(FakeEngine(), "fake:1b", conversation, NoJournal(), Sampling())
    assert ChatLoop(session, Waiting([]), Record()).run() == 0
    assert session.used == 6


class PressedWhileMeasured(FakeEngine):
    """Ctrl-C comes while the gauge is counted, after the answer."""

    def render(self, messages: Sequence[Message], *, thinking: bool | None = None) -> Prompt:
        if messages[-1] == Message("user", ""):
            signal.raise_signal(signal.SIGINT)
        return super().render(messages, thinking=thinking)


def test_ctrl_c_after_the_answer_unsays_nothing() -> None:
    code, writer, session = run(PressedWhileMeasured(), "one", "/regen")
    assert code == 0
    assert not any("not sent" in text or "Nothing was changed" in text for text in writer.said)
    assert [turn.text for turn in session.conversation] == ["one", "You said: one", "You said: one"]
    engine = PressedWhileMeasured()
    script = Script(["one"])
    session = Session(engine, "fake:1b", Conversation(), NoJournal(), Sampling())
    assert ChatLoop(session, script, Record()).run() == 0
    assert script.prefilled == []


class PressedBetween(Script):
    """Ctrl-C comes whenever the loop looks at its reader, and when a read has ended."""

    def read(self, initial: str = "") -> Entry | None:
        entry = super().read(initial)
        signal.raise_signal(signal.SIGINT)
        return entry


def test_ctrl_c_between_two_turns_ends_no_chat_at_a_terminal() -> None:
    script = PressedBetween(["one", KeyboardInterrupt(), "two"])
    session = Session(FakeEngine(), "fake:1b", Conversation(), NoJournal(), Sampling())

    def pressed_again(text: str) -> None:  # noqa: ARG001 - the name that Writer gives it
        signal.raise_signal(signal.SIGINT)

    writer = Record()
    writer.say = pressed_again  # type: ignore[method-assign]
    assert ChatLoop(session, script, writer).run() == 0
    assert [turn.text for turn in session.conversation][::2] == ["one", "two"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_failed_answer_does_not_end_the_chat() -> None:
    engine = FakeEngine([["half ", EngineError("out of memory")], "whole"])
    code, writer, session = run(engine, "one", "two")
    assert code == 0
    assert writer.errors == [("out of memory", None)]
    assert writer.answers == ["half ", "whole"]
    assert session.conversation.path()[1].status == "error"
    assert run(FakeEngine([[EngineError("no")]]), "one", interactive=False)[0] == 1


def test_a_bug_keeps_its_traceback_and_what_was_said() -> None:
    def break_down(_piece: str) -> None:
        raise ZeroDivisionError

    writer = Record(on_piece=break_down)
    session = Session(FakeEngine(["a b"]), "m", Conversation(), NoJournal(), Sampling())
    with pytest.raises(ZeroDivisionError):
        ChatLoop(session, Script(["x"]), writer).run()
    assert session.conversation.path()[-1].text == "a"


def test_what_leaves_the_window_is_told_when_it_leaves() -> None:
    engine = FakeEngine(n_ctx=40)
    turns = [f"question number {n} has these words in it" for n in range(4)]
    code, writer, session = run(engine, *turns)
    assert code == 0
    assert len(writer.answers) == 4
    told = [text for text in writer.said if "left it" in text]
    assert 'turn 1 left it ("question number 0 has these words in it")' in told[0]
    assert len(told) == len(set(told))
    assert len(session.conversation.path()) == 8
    assert engine.asked[-1][0].text != turns[0]


def test_a_message_too_long_for_the_window() -> None:
    engine = FakeEngine(n_ctx=20)
    code, writer, session = run(engine, "word " * 50, "short")
    assert code == 0
    assert "51 tokens" in writer.errors[0][0]
    assert engine.asked == [(Message("user", "short"),)]
    assert len(session.conversation) == 3  # the long one is kept, on a branch of its own
    code, *_ = run(FakeEngine(n_ctx=20), "word " * 50, interactive=False)
    assert code == ExitCode.CONTEXT


def test_an_answer_that_is_cut_says_so() -> None:
    _, writer, _ = run(FakeEngine(["a b c d"]), "/set max_tokens 2", "x")
    assert writer.answers == ["a b"]
    assert writer.said[-1] == "The answer was cut at max_tokens 2. /continue goes on with it."


def test_a_message_like_a_command_asks_first() -> None:
    code, writer, session = run(FakeEngine(), "/clearly a message", "/hlep")
    assert code == 0
    assert writer.answers == []
    assert len(session.conversation) == 0
    assert any("Did you mean /help?" in text for text in writer.said)
    assert run(FakeEngine(), "/usr/bin/env is", agrees=True)[1].answers == [
        "You said: /usr/bin/env is"
    ]
    assert run(FakeEngine(), Entry("/exit\nlines", literal=True))[1].answers == [
        "You said: /exit\nlines"
    ]
    assert run(FakeEngine(), "/foo", interactive=False)[0] == ExitCode.USAGE


def test_commands_change_what_follows() -> None:
    engine = FakeEngine()
    code, writer, session = run(
        engine, "/system Speak like a pirate", "/set temperature 0", "/set seed 3", "hi", "/set",
        "/system", "/clear", "/system none", "again", "/stats", "/quit", "never read",
    )  # fmt: skip
    assert code == 0
    assert engine.asked == [
        (Message("system", "Speak like a pirate"), Message("user", "hi")),
        (Message("user", "again"),),
    ]
    assert (engine.samplings[0].temperature, engine.samplings[0].seed) == (0.0, 3)
    assert any("temperature        0.0" in text for text in writer.said)
    assert any("Speak like a pirate" in text for text in writer.said)
    assert any("was not saved" in text for text in writer.said)
    assert "since the start 2 answered" in writer.said[-1]
    assert session.answers == 2


def test_every_way_of_sampling_can_be_set_and_shown() -> None:
    engine = FakeEngine()
    typed = [
        "/set presence_penalty 0.5", "/set dry-multiplier 0.8", "/set xtc_probability 0.1",
        '/set logit_bias 5=-1 "two words"=2 x=1', '/set stop ["END", " stop"]', "hi",
        "/set", "/set logit_bias none", "/set stop Once upon", "again", "/set stop none", "end",
    ]  # fmt: skip
    code, writer, _ = run(engine, *typed)
    assert code == 0
    assert writer.errors == []
    first, second, third = engine.samplings
    assert (first.presence_penalty, first.dry_multiplier, first.xtc_probability) == (0.5, 0.8, 0.1)
    assert first.logit_bias == ((5, -1.0), ("two words", 2.0), ("x", 1.0))
    assert first.stop == ("END", " stop")
    assert (second.logit_bias, second.stop, third.stop) == ((), ("Once upon",), ())
    shown = next(text for text in writer.said if text.count("\n") > 10)
    assert 'logit_bias         5=-1 "two words"=2 "x"=1' in shown
    assert 'stop               ["END", " stop"]' in shown
    names = [line.split()[0] for line in shown.splitlines()]
    assert set(names) == {field.name for field in fields(Sampling)} - {"schema"} | {"context_full"}


@pytest.mark.parametrize(
    "typed", ["/set presence_penalty -1", "/set logit_bias 5", "/set stop []x"]
)
def test_what_is_set_is_read_as_on_the_command_line(typed: str) -> None:
    _, writer, session = run(FakeEngine(), typed)
    if "stop" in typed:  # no list: a text as it is
        assert session.sampling.stop == ("[]x",)
    else:
        assert len(writer.errors) == 1
        assert session.sampling == Sampling()


@pytest.mark.parametrize(
    "typed",
    ["/set temperature hot", "/set top_p 2", "/set seed -1", "/set nothing 1", "/set seed x"],
)
def test_a_wrong_setting_changes_nothing(typed: str) -> None:
    code, writer, session = run(FakeEngine(), typed)
    assert code == 0
    assert len(writer.errors) == 1
    assert session.sampling == Sampling()


def test_a_command_with_a_bug_does_not_end_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_talk: Talk, _argument: str) -> str:
        raise ZeroDivisionError

    command = commands.Command(("/broken",), "", "", registry.words(), broken)
    monkeypatch.setitem(registry._REGISTRY, "/broken", command)
    code, writer, _ = run(FakeEngine(), "/broken", "hi")
    assert code == 0
    assert "ZeroDivisionError" in writer.errors[0][0]
    assert "Traceback" not in str(writer.errors)
    monkeypatch.setenv("GEMMA_DEBUG", "1")
    assert "Traceback" in (run(FakeEngine(), "/broken")[1].errors[0][1] or "")
    assert writer.answers == ["You said: hi"]


def test_help_and_completion_know_every_command() -> None:
    _, writer, _ = run(FakeEngine(), "/help")
    for command in commands.commands():
        assert all(name in writer.said[0] for name in command.names)
        assert command.summary in writer.said[0]
    assert max(len(line) for line in writer.said[0].split("\n")) < 80
    session = Session(FakeEngine(), "m", Conversation(), NoJournal(), Sampling())
    assert [name for name, _ in commands.completions("/st", session)] == ["/stats"]
    assert [name for name, _ in commands.completions("/set te", session)] == ["temperature"]
    assert [name for name, _ in commands.completions("/set context_full c", session)] == ["compact"]
    assert list(commands.completions("hello /s", session)) == []
    for command in commands.commands():
        _, writer, _ = run(FakeEngine(), f"/help {command.names[0]}")
        assert command.usage in writer.said[0]
    assert commands.find("/HELP") is not None
    assert commands.find("/hel") is None


def test_warnings_of_the_engine_are_said_once() -> None:
    _, writer, _ = run(FakeEngine(warnings=("the GPU is not used",)), "a", "b")
    assert writer.said.count("the GPU is not used") == 1


def thinks(*pieces: str) -> Piece:
    return Piece("".join(pieces), thought=True)


def test_thoughts_are_kept_and_not_sent_back() -> None:
    engine = FakeEngine([[thinks("Hm."), thinks(" So."), "Yes", "."], "Done"], thinks=True)
    _, writer, session = run(engine, "Is it?", "/think on", "Sure?")
    assert writer.thoughts == ["Hm. So.", ""]
    assert writer.answers == ["Yes.", "Done"]
    assert session.conversation.path()[1].thoughts == "Hm. So."
    assert engine.asked[1][1] == Message("assistant", "Yes.")
    assert engine.thinking == [None, True]
    origin = session.conversation.path()[-1].origin
    assert origin is not None
    assert origin.params["thinking"] is True


def test_thoughts_are_saved_while_they_come(tmp_path: Path) -> None:
    """What a kill -9 leaves: the journal is written in mid-thought."""
    path = tmp_path / "history.db"
    seen = []

    def look(_text: str) -> None:
        with closing(sqlite3.connect(path)) as db:
            seen.append(db.execute("SELECT status, thoughts FROM message").fetchall()[-1])

    with closing(HistoryJournal(lambda t: History(path, t), pytest.fail, "m")) as journal:
        words: list[str | Piece | GemmaError] = [
            thinks("Hm, "),
            thinks("let me "),
            thinks("see."),
            "Yes.",
        ]
        engine = FakeEngine([words], token_s=0.5)
        session = Session(engine, "m", Conversation(), journal, Sampling())
        ChatLoop(session, Script(["x"]), Record(on_piece=look)).run()
    assert seen[-1] == ("streaming", "Hm, let me see.")


def test_stopped_in_mid_thought_the_thought_is_kept() -> None:
    writer = Record(on_piece=lambda _: signal.raise_signal(signal.SIGINT))
    engine = FakeEngine([[thinks("Hm, "), thinks("let me"), "Yes"], "Fine"], thinks=True)
    _, writer, session = run(engine, "x", "y", writer=writer)
    turn = session.conversation.path()[1]
    assert (turn.text, turn.thoughts, turn.status) == ("", "Hm, ", "cancelled")
    assert any("only thought" in line for line in writer.said)
    assert engine.asked[1] == (Message("user", "y"),)  # a question without an answer


def test_a_wish_to_think_that_cannot_be_met_is_said_once() -> None:
    engine = FakeEngine()
    writer = Record()
    session = Session(engine, "m", Conversation(), NoJournal(), Sampling(), thinking=True)
    ChatLoop(session, Script(["a", "b", "/think off", "/think maybe"]), writer).run()
    assert [line for line in writer.said if "cannot be asked to think" in line] == (
        [NO_THOUGHTS] * 2  # for the wish at the start, and for the command
    )
    assert engine.thinking == [None, None]
    assert writer.errors[0][0] == "/think takes on or off, not 'maybe'"
