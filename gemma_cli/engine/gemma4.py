"""Gemma 4's turn format: turns, a system turn, a channel for thoughts.

    <|turn>system\\n<|think|>\\nBe brief.<turn|>\\n
    <|turn>user\\nHi<turn|>\\n
    <|turn>model\\n<|channel>thought\\nA greeting.\\n<channel|>Hello!<turn|>\\n

<|think|> in the system turn asks for thoughts. Without it E2B and E4B answer at
once; the larger models are shown an empty thought that they have had already.
Tool declarations would close the system turn: <|tool>declaration:...<tool|>.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from gemma_cli.engine.protocol import Message, Segment
from gemma_cli.engine.turns import check_messages

CHANNEL, CHANNEL_END = "<|channel>", "<channel|>"
_THOUGHT = f"{CHANNEL}thought\n"


class Mark(Enum):
    """What a control token of Gemma 4 does to the text of an answer.

    After CHANNEL and TURN follows a name and a newline, no part of the text.
    """

    CHANNEL = auto()
    CHANNEL_END = auto()
    TURN = auto()
    QUOTE = auto()
    NOTHING = auto()


# llama.cpp has text for some of these tokens, since clients of its own parse it.
MARKS = {
    CHANNEL: Mark.CHANNEL,
    CHANNEL_END: Mark.CHANNEL_END,
    "<|turn>": Mark.TURN,
    '<|"|>': Mark.QUOTE,
    "<|tool_call>": Mark.NOTHING,
    "<tool_call|>": Mark.NOTHING,
    "<|tool_response>": Mark.NOTHING,
    "<tool_response|>": Mark.NOTHING,
}


class Gemma4Template:
    """Gemma 4's format for files without a template.

    closes_thoughts: with thinking off the model is shown an empty thought
    (12B, 26B, 31B).
    """

    stop: tuple[str, ...] = ()
    trim = False
    thinks = True

    def __init__(self, *, closes_thoughts: bool) -> None:
        self._closes_thoughts = closes_thoughts

    def render(
        self, messages: Sequence[Message], thinking: bool | None = None, /
    ) -> tuple[Segment, ...]:
        check_messages(messages)
        system, turns = _without_system(messages)
        segments: list[Segment] = []
        if thinking or system is not None:
            ask = "<|think|>\n" if thinking else ""
            segments += [
                Segment(f"<|turn>system\n{ask}", control=True),
                Segment((system or "").strip(), control=False),
                Segment("<turn|>\n", control=True),
            ]
        before = ""
        for message in turns:
            # Adjacent texts of the model are one turn to it.
            if not message.role == before == "assistant":
                speaker = "model" if message.role == "assistant" else "user"
                segments.append(Segment(f"<|turn>{speaker}\n", control=True))
            segments.append(Segment(message.text.strip(), control=False))
            segments.append(Segment("<turn|>\n", control=True))
            before = message.role
        closed = "" if thinking or not self._closes_thoughts else f"{_THOUGHT}{CHANNEL_END}"
        segments.append(Segment(f"<|turn>model\n{closed}", control=True))
        return tuple(segment for segment in segments if segment.text)


def _without_system(messages: Sequence[Message]) -> tuple[str | None, Sequence[Message]]:
    if messages[0].role == "system":
        return messages[0].text, messages[1:]
    return None, messages


def without_thoughts(text: str) -> str:
    """An answer as it was said, less the thoughts that are still marked in it.

    For texts of the model from elsewhere; our own never hold marks. A thought
    may lack its end (it was cut). Other mentions of the marks are words.
    """
    answer = text
    while (start := answer.find(_THOUGHT)) >= 0:
        end = answer.find(CHANNEL_END, start)
        rest = answer[end + len(CHANNEL_END) :] if end >= 0 else ""
        answer = answer[:start] + rest
    return answer
