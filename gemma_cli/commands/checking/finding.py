"""What `gemma doctor` finds: one line each, and the command that mends it."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from gemma_cli.errors import GemmaError

State = Literal["good", "notice", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. problem: something is broken; notice: it works, and could be better.

    fix: what to type, or to do, about it.
    """

    check: str
    state: State
    text: str
    fix: str | None = None


Check = Callable[[], Iterable[Finding]]


def findings(name: str, check: Check) -> Iterator[Finding]:
    """What a check finds; what stops it is a finding too, for it may be what is broken."""
    try:
        yield from check()
    except GemmaError as error:
        yield Finding(name, "problem", error.message, error.hint)
    except Exception as error:  # the doctor looks at the other parts all the same
        if os.environ.get("GEMMA_DEBUG", "") not in ("", "0"):
            traceback.print_exc()
        said = f"{type(error).__name__}: {error}"
        yield Finding(name, "problem", f"cannot be checked: {said}", "GEMMA_DEBUG=1 gemma doctor")
