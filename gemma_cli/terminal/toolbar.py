"""The line below the prompt: model, context gauge, speed; loading while it lasts."""

from __future__ import annotations

from dataclasses import dataclass

from prompt_toolkit.utils import get_cwidth

from gemma_cli.terminal.sanitize import clean_line

_NEARLY_FULL = 0.85
_SHORTEST_NAME = 8


@dataclass(frozen=True, slots=True)
class Gauge:
    """What the toolbar shows. loaded: 0.0 to 1.0; n_ctx None: not known yet.

    used: tokens that the context window holds before the next message, if known.
    speed: tokens per second of the last answer; 0: it had none. problem: replaces all else.
    """

    model: str
    loaded: float = 1.0
    n_ctx: int | None = None
    used: int | None = None
    speed: float | None = None
    problem: str | None = None


def toolbar(gauge: Gauge, width: int, mode: str = "") -> list[tuple[str, str]]:
    """(style class, text) pieces that fit on one line of that many columns.

    mode: what vi's keys do at the moment; it comes first.
    """
    model = " · ".join(filter(None, (mode, clean_line(gauge.model))))
    if gauge.problem is not None:
        return _fit([("class:gauge.full", f" {clean_line(gauge.problem)}")], width)
    if gauge.loaded < 1.0:
        return _fit([("", f" {model} · loading {gauge.loaded:.0%}")], width)
    pieces = [("", f" {model}")]
    if gauge.n_ctx:
        share = (gauge.used or 0) / gauge.n_ctx
        style = "class:gauge.full" if share >= _NEARLY_FULL else ""
        used = "–" if gauge.used is None else f"{gauge.used:,}"
        pieces += [("", " · context "), (style, f"{used} / {gauge.n_ctx:,}")]
    if gauge.speed:
        speed = f" · {gauge.speed:.1f} tokens/s"
        if sum(get_cwidth(text) for _, text in pieces[1:]) + len(speed) + _SHORTEST_NAME <= width:
            pieces.append(("", speed))
    room = width - sum(get_cwidth(text) for _, text in pieces[1:])
    if _SHORTEST_NAME <= room < get_cwidth(pieces[0][1]):  # the figures before the name's end
        pieces[0] = ("", f"{_cut(pieces[0][1], room - 1)}…")
    return _fit(pieces, width)


def _fit(pieces: list[tuple[str, str]], width: int) -> list[tuple[str, str]]:
    fitting = []
    for style, text in pieces:
        shown = _cut(text, width)
        fitting.append((style, shown))
        width = width - get_cwidth(text) if shown == text else 0
    return fitting


def _cut(text: str, width: int) -> str:
    while get_cwidth(text) > max(width, 0):
        text = text[:-1]
    return text
