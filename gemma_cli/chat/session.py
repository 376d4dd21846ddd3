"""The state of a running chat: what the loop and the slash commands work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from gemma_cli.chat.conversation import Attachment, Conversation
from gemma_cli.chat.journal import Journal
from gemma_cli.chat.records import SavedChat
from gemma_cli.engine.protocol import Done, Engine, Sampling

ContextFull = Literal["drop", "compact", "stop"]
"""What happens when a turn would not fit: the oldest leave, a summary takes their
place, or the turn is refused."""


@dataclass(frozen=True, slots=True)
class Model:
    """An engine and what is known of its model.

    label: its name as shown and saved. sha: of its file. sampling: as its makers
    and the command line would have it.
    """

    engine: Engine
    label: str
    sha: str | None
    sampling: Sampling


class Models(Protocol):
    """The models on this machine; one of them is loaded."""

    @property
    def present(self) -> Model: ...

    def names(self) -> list[str]: ...

    def forget(self) -> None:
        """Drop what the present one has evaluated, from memory and from the disk."""

    def facts(self) -> str:
        """What the present one is and how it is loaded, as text."""

    def plan(self) -> str:
        """Where it lies in memory, as text."""

    def placement(self) -> Mapping[str, str]:
        """What another loading can change, by name, with the present values."""

    def open(
        self, name: str | None, changes: Mapping[str, str], wait: Callable[[Engine], None]
    ) -> list[str]:
        """Load another model, or this one otherwise, and close the old one; what to say of it.

        wait: shows that an engine loads, returns when it is ready or raises.
        Raises GemmaError; `present` is then the old model, perhaps loaded again.
        """


@dataclass(frozen=True, slots=True)
class Gathered:
    """What paths name. notes: to be said. question: to be asked first, if there is one."""

    documents: tuple[Attachment, ...]
    notes: tuple[str, ...] = ()
    question: str | None = None


class Documents(Protocol):
    """Files as documents of a conversation."""

    def mentioned(self, text: str) -> list[str]:
        """The paths that a message names by @path."""

    def missing(self, text: str) -> list[str]:
        """What stands after @ like a path, and nothing is there."""

    def gather(self, path: str) -> Gathered:
        """The documents of a path, a pattern or a folder. Raises GemmaError."""

    def complete(self, prefix: str) -> list[str]:
        """Paths that begin so."""

    def fit(self, document: Attachment, measure: Callable[[str], int], limit: int) -> Attachment:
        """The part from its beginning that fits into `limit` tokens; an empty text: none does."""

    def parts(
        self, document: Attachment, measure: Callable[[str], int], limit: int
    ) -> Sequence[str]:
        """What it says in parts that fit into `limit` tokens each."""


@dataclass(frozen=True, slots=True)
class Persona:
    """A kept prompt, filled in. message: what the next one begins with; "" for none."""

    system: str
    message: str
    sampling: Sampling


class Prompts(Protocol):
    """Prompts that one keeps."""

    def names(self) -> list[tuple[str, str]]:
        """Each with what it is for."""

    def variables(self, name: str) -> list[tuple[str, str]]:
        """Of that prompt, each with its default; none where it cannot be used."""

    def use(self, name: str, values: Mapping[str, str], sampling: Sampling) -> Persona:
        """The prompt with its variables' values, over that sampling. Raises UsageError."""


@dataclass(slots=True)
class Session:
    """One chat with one model. label: the model's name as it is shown and saved.

    thinking: whether it is asked to think before it answers, as in Engine.render.
    by_hand: sampling options that were set in this chat. attached: documents
    for the next message. used: tokens that the context window holds before the
    next message, if known. copy: puts a text on the clipboard and says how.
    plain: what could be drawn is said in words.
    """

    engine: Engine
    label: str
    conversation: Conversation
    journal: Journal
    sampling: Sampling
    model_sha: str | None = None
    thinking: bool | None = None
    last: Done | None = None
    answers: int = 0
    answer_tokens: int = 0
    # Questions that have left the context window, told already.
    left: set[int] = field(default_factory=set)
    # While a turn is typed, its beginning is evaluated.
    reads_ahead: bool = True
    context_full: ContextFull = "drop"
    by_hand: set[str] = field(default_factory=set)
    attached: list[Attachment] = field(default_factory=list)
    used: int | None = None
    plain: bool = False
    # Standing exchanges that the next prompt will leave out; counted with `used`.
    next_skip: int = 0
    models: Models | None = None
    documents: Documents | None = None
    prompts: Prompts | None = None
    copy: Callable[[str], str] | None = None

    def typing(self, text: str) -> None:
        """Somebody types the next turn and has come so far."""
        if not self.reads_ahead or text.startswith("/"):
            return
        typed = text.removeprefix('"""')
        texts = (*(each.text for each in self.attached), typed)
        messages = self.conversation.upcoming("\n\n".join(texts), self.expected_skip())
        self.engine.read_ahead(messages, thinking=self.thinking)

    def expected_skip(self) -> int:
        """How many of the standing exchanges the next prompt will leave out, as far as is known."""
        return self.skipped() if self.used is None else self.next_skip

    def skipped(self) -> int:
        """How many of the standing exchanges have left the context window."""
        standing = self.conversation.standing()
        return sum(pair[0].id in self.left for pair in standing)

    def tokens(self, text: str) -> int:
        """How many tokens a text has for the model."""
        return len(self.engine.raw(text).tokens) - len(self.engine.raw("").tokens)

    def use(self, model: Model) -> None:
        """Go on with that model: its defaults, but what was set by hand."""
        kept = {name: getattr(self.sampling, name) for name in self.by_hand}
        self.engine, self.label, self.model_sha = model.engine, model.label, model.sha
        self.sampling = replace(model.sampling, **kept)
        self.journal.model = model.label
        self.last, self.used = None, None
        self.left.clear()

    def begin_afresh(self) -> int | None:
        """An empty conversation with the same system text; the id of the old one, if saved."""
        self._take_up(Conversation(self.conversation.system))
        return self.journal.begin()

    def resume(self, chat: SavedChat) -> None:
        """Go on with a chat of the history."""
        self.journal.begin()
        self._take_up(chat.conversation)
        self.journal.resume(chat.summary.id, chat.conversation)

    def _take_up(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.last, self.used = None, None
        self.left.clear()
        self.attached.clear()

    def count(self, done: Done) -> None:
        """Take an answer's figures into the statistics."""
        self.last = done
        self.answers += 1
        self.answer_tokens += done.usage.completion_tokens
