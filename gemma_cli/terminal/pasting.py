"""A paste whose end never comes: Ctrl-C gets out of it."""

from __future__ import annotations

from prompt_toolkit.input import Input
from prompt_toolkit.input.vt100_parser import Vt100Parser

_PASTE_ENDS, _CTRL_C = "\x1b[201~", "\x03"


class _Parser(Vt100Parser):
    def feed(self, data: str) -> None:
        # Within a paste it comes with other text; alone it was pressed.
        if data == _CTRL_C and self._in_bracketed_paste:
            super().feed(_PASTE_ENDS)
        super().feed(data)


def with_a_way_out(source: Input) -> Input:
    """The input itself; without this it takes all keys for pasted text until the paste ends."""
    parser = getattr(source, "vt100_parser", None)
    if parser is not None:
        source.vt100_parser = _Parser(parser.feed_key_callback)  # type: ignore[attr-defined]
    return source
