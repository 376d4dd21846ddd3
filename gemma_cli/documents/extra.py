"""What the optional libraries of the extra `documents` share: their absence, their output."""

from __future__ import annotations

import re

from gemma_cli.errors import UsageError

_SURROGATE = re.compile("[\ud800-\udfff]")


def missing(shown: str, format_name: str, library: str) -> UsageError:
    """What to say when a format's library is not installed, with the command to type."""
    return UsageError(
        f"{shown} is {format_name}, and the library that reads it is not installed",
        f"pip install 'gemma-cli[documents]'    (with pipx: pipx inject gemma-cli '{library}')",
    )


def tidy(text: str) -> str:
    """A library's text as text: whole characters, line feeds, at most one empty line."""
    if _SURROGATE.search(text):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = text.replace("\0", "").replace("\r\n", "\n").replace("\r", "\n")
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n")


def one_line(error: Exception) -> str:
    """What a parser complains of, short enough for an error of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
