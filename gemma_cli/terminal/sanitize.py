"""What may reach a terminal: text, line feeds and tabs, and nothing that steers it.

Model answers, file names, GGUF metadata and hub messages are other people's
words. A terminal would obey an escape sequence in them (move the cursor, write
to the clipboard, show other words than there are). Every string passes here on
its way to the screen; what is stored stays as it came.
"""

from __future__ import annotations

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# Overrides, embeddings and isolates reorder what follows them, beyond their own
# line's end. The plain marks U+200E and U+200F only give direction to a
# neighbour; right-to-left text needs them, so they stay.
_BIDI_CONTROLS = (0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A))

# Invisible letters: text that a person does not see and copies all the same.
_TAGS = range(0xE0000, 0xE0080)

# A lone surrogate cannot be encoded: printing it would raise.
_SURROGATES = range(0xD800, 0xE000)

_TERMINAL: dict[int, str | None] = {
    **dict.fromkeys(set(range(0x20)) - {0x09, 0x0A}),
    **dict.fromkeys((*range(0x7F, 0xA0), *_TAGS)),
    **dict.fromkeys(_BIDI_CONTROLS, _REPLACEMENT),
    **dict.fromkeys(_SURROGATES, _REPLACEMENT),
}

_ONE_LINE: dict[int, str | None] = {
    **_TERMINAL,
    **dict.fromkeys((0x09, 0x0A, 0x2028, 0x2029), " "),
}

_DATA: dict[int, str | None] = {
    code: shown
    for code, shown in _TERMINAL.items()
    if code not in _BIDI_CONTROLS and code not in _TAGS
}

# One character for one, so that positions stay: for text that is being edited.
_VISIBLE = dict.fromkeys((*_BIDI_CONTROLS, *_TAGS), _REPLACEMENT)


def clean(text: str) -> str:
    """Text of several lines, safe to write to a terminal.

    Control characters other than line feed and tab are dropped (so CR LF becomes
    LF), and invisible tags too; bidirectional controls and lone surrogates become
    U+FFFD. Works on any cut of a stream: clean(a) + clean(b) == clean(a + b).
    """
    return text.translate(_TERMINAL)


def clean_line(text: str) -> str:
    """As clean, for a title or a name: line breaks and tabs become spaces."""
    return text.translate(_ONE_LINE)


def strip_controls(text: str) -> str:
    """What a person typed or piped, as data: line feeds and tabs are its only controls.

    Unlike clean it keeps bidirectional controls and tags: they are the author's text.
    """
    return text.translate(_DATA)


def show_hidden(text: str) -> str:
    """Bidirectional controls and tags become visible; the length stays. For a line being edited."""
    return text.translate(_VISIBLE)
