"""Terminal screens as SVG: one that stands still, or a film of many in one file.

The film needs no script: each line of the screen is a strip of its successive
contents side by side, which CSS moves on in steps. Where animations are not
played or not wanted, the last screen stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

from recording import Frame, Row, Run

_CELL, _LINE, _FONT, _PADDING = 8.4, 18, 14, 14
_FAMILY = "ui-monospace,SFMono-Regular,Menlo,'DejaVu Sans Mono','Liberation Mono',monospace"
_FRAMES_PER_SECOND = 20

# name: on a dark background, on a light one; each at least 4.5 : 1 against it.
_COLOURS = {
    "back": ("#16191d", "#ffffff"),
    "text": ("#d6dbe1", "#24292f"),
    "faint": ("#939ba5", "#626a73"),
    "edge": ("#3a4048", "#d0d7de"),
    "black": ("#939ba5", "#24292f"),
    "red": ("#ff8f87", "#b3261e"),
    "green": ("#7bd88f", "#1a6e33"),
    "brown": ("#e8c068", "#7d5600"),
    "blue": ("#85b6ff", "#0b57c2"),
    "magenta": ("#d9a6ff", "#7b35b5"),
    "cyan": ("#6fd3de", "#0b6470"),
    "white": ("#d6dbe1", "#57606a"),
    "brightblack": ("#939ba5", "#626a73"),
}


def still(frame: Frame, columns: int, title: str) -> str:
    """One screen, as high as what is on it."""
    used = [number for number, row in enumerate(frame.rows) if row]
    rows = frame.rows[: used[-1] + 1 if used else 1]
    drawn = "".join(
        f'<g transform="translate(0 {_LINE * number})">{_row(row)}</g>'
        for number, row in enumerate(rows)
        if row
    )
    return _page(columns, len(rows), title, "", drawn)


def film(frames: Sequence[Frame], columns: int, title: str, rest: float = 4.0) -> str:
    """All screens, again and again. rest: seconds that the last one stands."""
    kept = _thinned(frames)
    start, length = kept[0].at, kept[-1].at - kept[0].at + rest
    width = round(columns * _CELL + 2 * _PADDING)
    known: dict[Row, str] = {}
    strips: list[str] = []
    rules: list[str] = []
    for number in range(len(kept[0].rows)):
        changes = [(kept[0].at, kept[0].rows[number])]
        for before, frame in pairwise(kept):
            if frame.rows[number] != before.rows[number]:
                changes.append((frame.at, frame.rows[number]))
        if not any(row for _, row in changes):
            continue
        uses = "".join(
            f'<use href="#{known.setdefault(row, f"r{len(known)}")}" x="{place * width}"/>'
            for place, (_, row) in enumerate(changes)
            if row
        )
        strips.append(
            f'<g transform="translate(0 {_LINE * number})"><g class="s s{number}">{uses}</g></g>'
        )
        rules.append(_steps(number, [(at - start) / length for at, _ in changes], width))
    defs = "".join(f'<g id="{name}">{_row(row)}</g>' for row, name in known.items())
    style = f".s{{animation:{length:.2f}s step-end infinite}}" + "".join(rules)
    still_for_some = "@media (prefers-reduced-motion:reduce){.s{animation:none}}"
    body = f"<defs>{defs}</defs>{''.join(strips)}"
    return _page(columns, len(kept[0].rows), title, style + still_for_some, body)


def _steps(number: int, shares: list[float], width: int) -> str:
    """CSS that shows each content of a line from its share of the film's length on."""
    last = len(shares) - 1
    rest = f".s{number}{{transform:translateX({-last * width}px)"
    if last == 0:
        return rest + ";animation:none}"
    moves = "".join(
        f"{share * 100:.3f}%{{transform:translateX({-place * width}px)}}"
        for place, share in enumerate(shares)
    )
    return f"{rest};animation-name:k{number}}}@keyframes k{number}{{{moves}}}"


def _thinned(frames: Sequence[Frame]) -> list[Frame]:
    """The last frame of each instant: no eye sees more of them."""
    kept: list[Frame] = []
    for frame in frames:
        if len(kept) > 1 and frame.at - kept[-1].at < 1 / _FRAMES_PER_SECOND:
            kept[-1] = Frame(kept[-1].at, frame.rows)
        else:
            kept.append(frame)
    return kept


def _row(row: Row) -> str:
    backs = "".join(
        f'<rect x="{_PADDING + run.column * _CELL:.1f}" y="{_PADDING}" '
        f'width="{run.cells * _CELL:.1f}" height="{_LINE}"{_colour(run.style.bg)}/>'
        for run in row
        if run.style.bg != "default"
    )
    spans = "".join(_span(run) for run in row if run.text.strip())
    return backs + (f'<text y="{_PADDING + 13}">{spans}</text>' if spans else "")


def _span(run: Run) -> str:
    style = run.style
    marks = ("b" * style.bold, "i" * style.italic, "u" * style.underline)
    names = [f"c-{style.fg}"] if style.fg in _COLOURS else []
    if style.dim and style.fg == "default":
        names = ["c-faint"]
    names += [mark for mark in marks if mark]
    classes = f' class="{" ".join(names)}"' if names else ""
    fill = "" if style.fg in (*_COLOURS, "default") else _colour(style.fg)
    return (
        f'<tspan x="{_PADDING + run.column * _CELL:.1f}" '
        f'textLength="{run.cells * _CELL:.1f}"{classes}{fill}>{escape(run.text)}</tspan>'
    )


def _colour(name: str) -> str:
    plain = name.removeprefix("bright") if name not in _COLOURS else name
    return f' class="c-{plain}"' if plain in _COLOURS else f' fill="#{name}"'


def _page(columns: int, rows: int, title: str, style: str, body: str) -> str:
    width = round(columns * _CELL + 2 * _PADDING)
    height = rows * _LINE + 2 * _PADDING
    frame = f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8" class="w"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label={quoteattr(title)} '
        f'xml:space="preserve"><title>{escape(title)}</title>'
        f"<style>{_palette(0)}text{{font:{_FONT}px {_FAMILY};white-space:pre}}"
        f".b{{font-weight:bold}}.i{{font-style:italic}}.u{{text-decoration:underline}}"
        f"@media (prefers-color-scheme:light){{{_palette(1)}}}{style}</style>"
        f"{frame}{body}</svg>\n"
    )


def _palette(which: int) -> str:
    colours = {name: pair[which] for name, pair in _COLOURS.items()}
    named = "".join(f".c-{name}{{fill:{value}}}" for name, value in colours.items())
    window = f".w{{fill:{colours['back']};stroke:{colours['edge']}}}"
    return f"text{{fill:{colours['text']}}}{window}{named}"
