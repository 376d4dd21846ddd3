"""Long conversations under a template that is known in another form.

Published templates may look back at every message for each message, and a
thousand turns take them seconds, each time. Where a format of ours gives the
same, it takes the template's place.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemma_cli.engine.protocol import Message, Role, Segment
from gemma_cli.engine.template import JinjaTemplate
from gemma_cli.engine.tokens import joined
from gemma_cli.engine.turns import Template
from gemma_cli.errors import TemplateError

_LONG = 24  # messages
# White space shows whether texts are trimmed; what else they say no template sees.
_SAID = " \n said \n\n"
_TALKS: tuple[tuple[Role, ...], ...] = tuple(
    (*system, *("user", "assistant") * turns, "user")
    for system in ((), ("system",))
    for turns in (0, 1, 2, 4)
)


class LongTalks:
    """A file's template, and for long talks the format that is equal to it, if `own` is."""

    trim = False

    def __init__(self, template: JinjaTemplate, own: Template) -> None:
        self._template, self._own = template, own
        self.stop = template.stop
        self._equal: dict[bool | None, bool] = {}

    @property
    def thinks(self) -> bool:
        return self._template.thinks

    def render(
        self, messages: Sequence[Message], thinking: bool | None = None, /
    ) -> tuple[Segment, ...]:
        if len(messages) > _LONG and _takes_turns(messages) and self._are_equal(thinking):
            return self._own.render(messages, thinking)
        return self._template.render(messages, thinking)

    def _are_equal(self, thinking: bool | None) -> bool:
        """Do both make the same of short talks of every kind? Tried once.

        A template knows of a talk only its roles and their number (JinjaTemplate).
        """
        if thinking not in self._equal:
            talks = [[Message(role, _SAID) for role in roles] for roles in _TALKS]
            try:
                self._equal[thinking] = all(
                    self._without_bos(self._template.render(talk, thinking))
                    == joined(self._own.render(talk, thinking))
                    for talk in talks
                )
            except TemplateError:  # it refuses one of them
                self._equal[thinking] = False
        return self._equal[thinking]

    def _without_bos(self, segments: Sequence[Segment]) -> list[Segment]:
        """The tokenizer sees to BOS, whether the template does or not."""
        first, *rest = segments
        return joined([Segment(first.text.removeprefix(self._template.bos), first.control), *rest])


def _takes_turns(messages: Sequence[Message]) -> bool:
    roles = [message.role for message in messages if message.role != "system"]
    return all(role == ("user", "assistant")[index % 2] for index, role in enumerate(roles))
