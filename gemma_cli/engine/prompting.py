"""Conversations to prompts: a model's chat template and its vocabulary together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gemma_cli.engine.cache import common_prefix
from gemma_cli.engine.gemma4 import CHANNEL, Gemma4Template, without_thoughts
from gemma_cli.engine.longtalks import LongTalks
from gemma_cli.engine.model import Model
from gemma_cli.engine.protocol import Message, Prompt, Segment
from gemma_cli.engine.template import JinjaTemplate
from gemma_cli.engine.tokens import Vocabulary
from gemma_cli.engine.turns import Template, TranscriptTemplate, TurnTemplate
from gemma_cli.errors import TemplateError
from gemma_cli.models.gguf import Header

_CHAT_NAME = re.compile(r"(?:^|[-_. ])(?:it|instruct|chat)(?:$|[-_. ])", re.IGNORECASE)
_BASE_TUNES = {"pt", "base", "pretrained"}
_TURN_ARCHITECTURES = {"gemma", "gemma2", "gemma3", "gemma3n"}
# Gemma 4's E2B and E4B have it, its larger models do not.
_PER_LAYER_EMBEDDING = "per_layer_token_embd.weight"


def is_base_model(header: Header, path: Path) -> bool:
    """Was the model never taught to converse? By its template, its stated tuning, its names.

    A file without a template is a chat model only if one of its names says so.
    """
    if header.finetune.strip().lower() in _BASE_TUNES:
        return True
    if header.chat_template:
        return False
    names = (header.finetune, header.name, header.basename, path.stem)
    return not any(_CHAT_NAME.search(name) for name in names)


class PromptFormat:
    """Renders conversations for one model; exactly the ids that the engine evaluates."""

    def __init__(self, header: Header, path: Path, vocabulary: Vocabulary) -> None:
        self.base_model = is_base_model(header, path)
        self._vocabulary = vocabulary
        self._template = self._choose(header)
        self._has_channels = vocabulary.special(CHANNEL) is not None

    def _choose(self, header: Header) -> Template:
        if self.base_model:
            return TranscriptTemplate()
        own = _own_format(header)
        if header.chat_template:
            bos = self._vocabulary.bos
            template = JinjaTemplate(
                header.chat_template, bos=self._vocabulary.text_of(bos) if bos >= 0 else ""
            )
            return LongTalks(template, own) if own else template
        if own:
            return own
        raise TemplateError(
            f"the file holds no chat template, and '{header.architecture}' has no known one",
            "continue a text as it is: gemma run --raw",
        )

    @property
    def thinks(self) -> bool:
        """Can the model be asked to think, or not to?"""
        return self._template.thinks

    def render(self, messages: Sequence[Message], thinking: bool | None = None) -> Prompt:
        """thinking: as in protocol.Engine. The last message may be an answer to go on with.

        Its prompt is the one that the answer was given to, then what was said of
        it, exactly: as far as a text has one tokenization, the ids that the
        engine held when the answer was cut. Thoughts before it are left out.
        """
        if self._has_channels:
            messages = [_said(message) for message in messages]
        template = self._template
        begun = messages[-1].text if messages and messages[-1].role == "assistant" else None
        if begun is None:
            segments = template.render(messages, thinking)
        else:
            segments = template.render(messages[:-1], thinking)
            # What belongs to the format was cut off the answer: white space around it.
            begun = f" {begun.strip()}" if template.trim else begun
            segments = (*segments, Segment(begun, control=False))
        ids = self._vocabulary.encode(segments)
        return Prompt(segments, ids, template.stop, template.trim, continues=begun is not None)

    def certain(self, messages: Sequence[Message], thinking: bool | None = None) -> tuple[int, ...]:
        """Token ids that a prompt will begin with while its last message is still being typed.

        The last word may go on, and how white space is cut depends on what
        follows it: two ways to go on are tried, and what they share is certain.
        """
        *before, typed = messages
        words = typed.text[: max(typed.text.rfind(" "), typed.text.rfind("\n"), 0)].rstrip()
        one, other = (
            self.render([*before, Message(typed.role, words + more)], thinking)
            for more in (" a", "\n\n1")
        )
        return one.tokens[: common_prefix(one.tokens, other.tokens)]

    def raw(self, text: str) -> Prompt:
        """The text alone after BOS, for the model to continue: data, so no control token."""
        segments = (Segment(text, control=False),)
        return Prompt(segments, self._vocabulary.encode(segments))


def _own_format(header: Header) -> Template | None:
    """The format of the model's generation, if it has one that we know."""
    if header.architecture in _TURN_ARCHITECTURES:
        return TurnTemplate()
    if header.architecture == "gemma4":
        small = any(tensor.name == _PER_LAYER_EMBEDDING for tensor in header.tensors)
        return Gemma4Template(closes_thoughts=not small)
    return None


def _said(message: Message) -> Message:
    if message.role != "assistant":
        return message
    return Message("assistant", without_thoughts(message.text))


def load_format(header: Header, path: Path) -> tuple[PromptFormat, Model]:
    """A format from the vocabulary alone: no weights, no context. Close the model after use."""
    model = Model(path, 0, vocab_only=True)
    return PromptFormat(header, path, model.vocabulary), model
