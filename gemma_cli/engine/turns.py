"""Conversations as segments, by formats that we know: turns of Gemma 1 to 3, a plain transcript.

Segments keep control text and people's words apart for the tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gemma_cli.engine.protocol import Message, Segment
from gemma_cli.errors import UsageError


class Template(Protocol):
    """stop, trim: as in Prompt, besides the end-of-turn token that every model has.

    thinks: whether `thinking` makes a difference. thinking: as in Engine.render.
    """

    stop: tuple[str, ...]
    trim: bool

    @property
    def thinks(self) -> bool: ...

    def render(
        self, messages: Sequence[Message], thinking: bool | None = None, /
    ) -> tuple[Segment, ...]: ...


def check_messages(messages: Sequence[Message]) -> None:
    """Raise UsageError unless an answer is due: something is said, the user spoke last."""
    if not messages or messages[-1].role != "user":
        raise UsageError(
            "the conversation must end with a message of the user",
            'add one: {"role": "user", "content": "..."}',
        )
    if any(message.role == "system" for message in messages[1:]):
        raise UsageError("a system message must be the first message")


class TurnTemplate:
    """The turn format of Gemma 1, 1.1, 2 and 3, for files without a template.

    <start_of_turn>user / model, text trimmed; there is no system turn, so the
    system text, as it is, opens the first turn (as in Gemma 3's own template).
    """

    stop: tuple[str, ...] = ()
    trim = False
    thinks = False

    def render(
        self, messages: Sequence[Message], _thinking: bool | None = None, /
    ) -> tuple[Segment, ...]:
        check_messages(messages)
        segments: list[Segment] = []
        opening: list[Segment] = []
        for message in messages:
            if message.role == "system":
                opening = [Segment(message.text, control=False), Segment("\n\n", control=True)]
                continue
            speaker = "model" if message.role == "assistant" else "user"
            segments.append(Segment(f"<start_of_turn>{speaker}\n", control=True))
            segments += opening
            opening = []
            segments.append(Segment(message.text.strip(), control=False))
            segments.append(Segment("<end_of_turn>\n", control=True))
        segments.append(Segment("<start_of_turn>model\n", control=True))
        return tuple(segment for segment in segments if segment.text)


class TranscriptTemplate:
    """A conversation as a plain text that a base model continues.

    A base model knows no turns. It is shown a heading and a short example in
    the same form, and generation stops where the next speaker would begin.
    """

    stop: tuple[str, ...] = ("\nUser:", "\nAssistant:")
    trim = True
    thinks = False
    _heading = "A conversation between a user and a helpful assistant.\n"
    _example = (
        "\nUser: What is the capital of France?\nAssistant: The capital of France is Paris.\n"
    )

    def render(
        self, messages: Sequence[Message], _thinking: bool | None = None, /
    ) -> tuple[Segment, ...]:
        check_messages(messages)
        segments = [Segment(self._heading, control=False)]
        for message in messages:
            text = message.text.strip()
            if message.role == "system":
                segments.append(Segment(f"{text}\n", control=False))
        segments.append(Segment(self._example, control=False))
        for message in messages:
            text = message.text.strip()
            if message.role == "user":
                segments.append(Segment(f"\nUser: {text}\n", control=False))
            elif message.role == "assistant":
                segments.append(Segment(f"Assistant: {text}\n", control=False))
        return (*segments, Segment("Assistant:", control=False))
