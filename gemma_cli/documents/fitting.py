"""The part of a text that fits into so many tokens, found with few measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Measure = Callable[[str], int]

_CHARACTERS_A_TOKEN = 4  # of English; a first guess, no more
_PRECISION = 32  # of what fits, one part in so many may be left unused before the cut


def fit(text: str, measure: Measure, limit: int) -> str:
    """The beginning of text that measures limit at most; all of it if that fits.

    It ends where a paragraph does, else a line, a sentence, a word: the first of these
    that leaves at least half of what would fit. measure need not be additive. About
    ten measurements, each of a text not much longer than the result.
    """
    return text[: _end(text, 0, measure, limit)]


def parts(text: str, measure: Measure, limit: int) -> list[str]:
    """The whole text in parts that each measure limit at most, cut as fit does.

    Raises ValueError where not even one character measures so little.
    """
    found = []
    start = 0
    while start < len(text):
        end = _end(text, start, measure, limit)
        if end == start:
            raise ValueError(f"a single character takes more than {limit}")
        found.append(text[start:end])
        start = end
    return found


def _end(text: str, start: int, measure: Measure, limit: int) -> int:
    fits = start  # measured: text[start:fits] does, text[start:over] does not
    reach = max(limit, 1) * _CHARACTERS_A_TOKEN
    while True:
        over = min(start + reach, len(text))
        if measure(text[start:over]) > limit:
            break
        if over == len(text):
            return over
        fits = over
        reach *= 2
    while over - fits > max(1, (fits - start) // _PRECISION):
        middle = (fits + over) // 2
        if measure(text[start:middle]) > limit:
            over = middle
        else:
            fits = middle
    for cut in _good_ends(text, start, fits):
        # A shorter text can be more tokens, by one or two.
        if measure(text[start:cut]) <= limit:
            return cut
    return fits


def _good_ends(text: str, start: int, end: int) -> Iterator[int]:
    """Where the text may be cut without harm, up to end, the best first."""
    earliest = start + (end - start) // 2
    for mark in ("\n\n", "\n", ". ", "。", " "):
        at = text.rfind(mark, earliest, end)
        if at > start:
            yield at + len(mark)
