"""The prompt's looks: for light and dark backgrounds, so without a colour that only suits one."""

from __future__ import annotations

from prompt_toolkit.styles import Style

_PLAIN = "noreverse fg:default bg:default"

STYLE = Style.from_dict(
    {
        "prompt": "bold",
        "placeholder": "dim",
        "bottom-toolbar": "noreverse dim",
        "gauge.full": "nodim fg:ansired",
        "aborting": _PLAIN,
        "exiting": _PLAIN,
        "search": f"{_PLAIN} underline",
        "window-too-small": _PLAIN,
        "completion-menu": _PLAIN,
        "completion-menu.completion.current": "reverse fg:default bg:default bold",
        "completion-menu.meta.completion": f"{_PLAIN} dim",
        "completion-menu.meta.completion.current": f"{_PLAIN} bold",
        "scrollbar.background": "bg:default",
        "scrollbar.button": "reverse fg:default bg:default",
        "control-character": "reverse fg:default",
        "nbsp": "noinherit",
        "matching-bracket.other": "noinherit",
        "matching-bracket.cursor": "noinherit",
    }
)
# For screen readers: no class means anything.
NO_STYLE = Style([(name, "noinherit") for name, _ in STYLE.style_rules])
