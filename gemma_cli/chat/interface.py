"""What a chat needs of the world around it: a reader, a writer; and what commands may do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from gemma_cli.chat.conversation import Attachment
from gemma_cli.chat.session import Session
from gemma_cli.engine.protocol import Engine, Message


class Entry(Protocol):
    """What was entered. literal: pasted or quoted, so never a command."""

    @property
    def text(self) -> str: ...

    @property
    def literal(self) -> bool: ...


class Reader(Protocol):
    """Where turns come from."""

    multiline: bool
    """Enter makes a line; a turn ends otherwise. Settable while the chat runs."""

    @property
    def prefills(self) -> bool:
        """Whether `initial` stands there to be changed; else what comes is all new."""

    @property
    def interactive(self) -> bool:
        """Whether a person sits there who can be asked and who may go on after a failure."""

    def read(self, initial: str = "") -> Entry | None:
        """The next turn, None at the end. KeyboardInterrupt: Ctrl-C with nothing typed, and it
        is raised whatever SIGINT does elsewhere.

        initial: a text to change and send; a message whatever it begins with.
        """

    def confirm(self, question: str) -> bool:
        """Ask y/N; False when nobody can be asked."""

    def interrupt(self) -> bool:
        """From a thread or a signal handler: what waits for a person ends soon, as at the end.

        False when it cannot be ended; then the caller must break in.
        """

    def refresh(self) -> None:
        """From a thread: what is shown of the session has changed."""


class Show(Protocol):
    """Takes an answer piece by piece. thought: the model thinks aloud; no part of the answer."""

    def __call__(self, text: str, *, thought: bool = False) -> None: ...


class Writer(Protocol):
    """Where answers and notices go."""

    def answer(self, prefill: Callable[[], float] | None = None) -> AbstractContextManager[Show]:
        """A place for one answer. prefill: how much of its prompt is evaluated, 0.0 to 1.0."""

    def aside(
        self, heading: str, prefill: Callable[[], float]
    ) -> AbstractContextManager[Callable[[str], None]]:
        """A place for what the model writes for the program's own use. prefill: as above."""

    def raw(self, text: str) -> None:
        """A text for other programs, where answers go, as it is."""

    def loading(self, progress: Callable[[], float]) -> AbstractContextManager[None]:
        """Shows, while inside, that one waits for the model."""

    def say(self, text: str) -> None:
        """Tell the user something that is no part of an answer."""

    def error(self, message: str, hint: str | None) -> None:
        """Tell what failed, and the next step."""


class Talk(Protocol):
    """A running chat as its commands see it."""

    @property
    def session(self) -> Session: ...

    @property
    def reader(self) -> Reader: ...

    @property
    def writer(self) -> Writer: ...

    def say(self, text: str) -> None:
        """Tell the user something; "" says nothing."""

    def confirm(self, question: str) -> bool:
        """Ask y/N; False when nobody can be asked."""

    def ask(self, text: str, attachments: Sequence[Attachment] = ()) -> None:
        """Say that after the leaf, and have it answered."""

    def send(self, text: str) -> None:
        """ask() with the documents that wait for it and those that it names.

        Raises GemmaError where one cannot be had: nothing was said then.
        """

    def answer(self, otherwise: int | None) -> None:
        """Have the question at the leaf answered; go back to `otherwise` if nothing begins."""

    def go_on(self) -> None:
        """Let the answer at the leaf, which was cut, grow; a sibling of it if others build on it.

        Raises GemmaError when the window holds no more.
        """

    def write(
        self, messages: Sequence[Message], max_tokens: int, heading: str
    ) -> tuple[str, dict[str, object]]:
        """What the model makes of that, with its figures; no turn of the chat.

        Raises KeyboardInterrupt when it is stopped.
        """

    def prefill(self, text: str, then: Callable[[str], None]) -> None:
        """The next input begins with that text; what it became is given to `then`."""

    def wait(self, engine: Engine | None = None) -> None:
        """Until that engine, or the session's, is loaded. Raises its GemmaError."""

    def attach(self, words: str) -> list[Attachment]:
        """The documents that paths name, fitted if the user agrees; each is said with its size."""
