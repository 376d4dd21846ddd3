"""The Jinja template inside a GGUF file: run in a sandbox, its result cut into segments."""

from __future__ import annotations

import re
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import FrameType
from typing import Any, NoReturn

from gemma_cli.engine.protocol import Message, Segment
from gemma_cli.engine.turns import check_messages
from gemma_cli.errors import TemplateError

_MAX_SOURCE = 256 * 1024
_MAX_TEXT = 8 * 1024 * 1024
_SECONDS = 2.0
_DIGITS = 8  # of a message's number
_THINKING = "enable_thinking"  # the name that published templates agree on


@dataclass(frozen=True, slots=True)
class _Words:
    """A stand-in for one message's text while the template runs."""

    mark: str
    text: str


class JinjaTemplate:
    """The chat template of a GGUF file, run in a bounded sandbox on stand-ins.

    The template never sees what people wrote: each text is a random mark while
    it runs, and the marks are replaced afterwards. So words can neither steer
    the template nor be taken for its own text. White space around each mark
    tells whether the template trims; if it does, so do we.
    """

    stop: tuple[str, ...] = ()
    trim = False
    _pad = ("\t \n", "\n \t")

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        if len(source) > _MAX_SOURCE:
            raise TemplateError(f"the model's chat template is {len(source)} characters long")
        self._source = source
        self.bos = bos
        self._special = {"bos_token": bos, "eos_token": eos}

    @cached_property
    def thinks(self) -> bool:
        """Does it render the same words differently with thinking on and off?"""
        if _THINKING not in self._source:
            return False
        words = [Message("user", "x")]
        try:
            return self.render(words, True) != self.render(words, False)
        except TemplateError:
            return False  # whoever renders with it is told why

    def render(
        self, messages: Sequence[Message], thinking: bool | None = None, /
    ) -> tuple[Segment, ...]:
        check_messages(messages)
        secret = secrets.token_hex(12)
        words = [
            _Words(f"{secret}{number:0{_DIGITS}}", message.text)
            for number, message in enumerate(messages)
        ]
        try:
            return self._segments(messages, words, thinking)
        except TemplateError:
            if messages[0].role != "system":
                raise
        # Gemma 1 and 2 refuse a system turn: its text opens the first user turn.
        return self._segments(messages, words, thinking, merge_system=True)

    def _segments(
        self,
        messages: Sequence[Message],
        words: Sequence[_Words],
        thinking: bool | None,
        merge_system: bool = False,
    ) -> tuple[Segment, ...]:
        left, right = self._pad
        shown = [
            {"role": message.role, "content": f"{left}{word.mark}{right}"}
            for message, word in zip(messages, words, strict=True)
        ]
        if merge_system and len(shown) > 1:
            system = shown.pop(0)
            shown[0]["content"] = f"{system['content']}\n\n{shown[0]['content'].removeprefix(left)}"
        variables: dict[str, object] = {
            "messages": shown,
            "add_generation_prompt": True,
            **self._special,
        }
        if thinking is not None:
            variables[_THINKING] = thinking
        text = _bounded(lambda: self._compiled.generate(**variables))
        return self._replaced(text, words)

    def _replaced(self, text: str, words: Sequence[_Words]) -> tuple[Segment, ...]:
        by_mark = {word.mark: word.text for word in words}
        segments: list[Segment] = []
        # One pattern for all: thousands of alternatives would be tried at every character.
        secret = words[0].mark[:-_DIGITS]
        found = re.split(f"({secret}[0-9]{{{_DIGITS}}})", text)
        parts, marks = found[::2], found[1::2]
        if set(by_mark) != set(marks):
            raise TemplateError(
                "the model's chat template leaves out a message of the conversation"
            )
        left, right = self._pad
        for index, mark in enumerate(marks):
            before, after = parts[index], parts[index + 1]
            said = by_mark[mark]
            if before.endswith(left):
                parts[index] = before.removesuffix(left)
            else:
                said = said.lstrip()
            if after.startswith(right):
                parts[index + 1] = after.removeprefix(right)
            else:
                said = said.rstrip()
            segments += [Segment(parts[index], control=True), Segment(said, control=False)]
        segments.append(Segment(parts[-1], control=True))
        return tuple(segment for segment in segments if segment.text)

    @cached_property
    def _compiled(self) -> Any:
        import jinja2

        environment = _sandbox()
        try:
            return environment.from_string(self._source)
        except jinja2.TemplateError as error:
            raise TemplateError(f"the model's chat template is not valid Jinja: {error}") from error


def _sandbox() -> Any:
    """Jinja's immutable sandbox without the operations that make text of any size."""
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**", "%"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            numbers = isinstance(left, int | float) and isinstance(right, int | float)
            if not numbers or (operator == "**" and abs(right) > 64):
                raise SecurityError(f"a chat template may not use {operator} here")
            return super().call_binop(context, operator, left, right)

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            padding = {"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map"}
            return attr not in padding and super().is_safe_attribute(obj, attr, value)

    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    for name in ("center", "format", "indent", "wordwrap", "pprint", "xmlattr", "urlize"):
        del environment.filters[name]
    environment.globals = {
        "range": environment.globals["range"],
        "namespace": environment.globals["namespace"],
        "dict": environment.globals["dict"],
        "raise_exception": _refuse,
        "strftime_now": time.strftime,
    }
    return environment


class _Refused(Exception):  # noqa: N818 - the template's own word
    pass


def _refuse(message: str) -> NoReturn:
    raise _Refused(message)


def _bounded(start: Callable[[], Any]) -> str:
    """Run a template's generator under limits of time and size; its exceptions translated."""
    import jinja2

    deadline = time.monotonic() + _SECONDS

    def watch(frame: FrameType, _event: str, _argument: object) -> Any:
        if frame.f_code.co_filename == "<template>":
            if time.monotonic() > deadline:
                raise TemplateError(f"the model's chat template ran for {_SECONDS:g} s")
            if any(isinstance(v, str) and len(v) > _MAX_TEXT for v in frame.f_locals.values()):
                raise TemplateError("the model's chat template makes a text without end")
        return watch

    before = sys.gettrace()
    parts: list[str] = []
    size = 0
    sys.settrace(watch)
    try:
        for part in start():
            parts.append(part)
            size += len(part)
            if size > _MAX_TEXT:
                raise TemplateError("the model's chat template makes a text without end")
    except _Refused as refusal:
        raise TemplateError(f"the model's chat template refuses: {refusal}") from refusal
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise TemplateError(f"the model's chat template failed: {error}") from error
    finally:
        sys.settrace(before)
    return "".join(parts)
