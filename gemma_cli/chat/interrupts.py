"""Ctrl-C, a closed terminal and `kill` while the chat works on a turn."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Hangup(BaseException):
    """The terminal is gone or the process was asked to end. exit_code: 128 + the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum


@contextmanager
def hangups() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Hangup in the main thread; a second one does nothing."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before: dict[int, Any] = {}

    def leave(signum: int, _frame: FrameType | None) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise Hangup(signum)

    for name in names:
        number = getattr(signal, name)
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's wish
            before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupt:
    """What Ctrl-C does now: nothing but be noted, raise KeyboardInterrupt, or call `action`."""

    def __init__(self) -> None:
        self.noted = False
        self._raising = False
        self._action: Callable[[], None] | None = None

    def handle(self, _signum: int, _frame: FrameType | None) -> None:
        self.noted = True
        if self._action is not None:
            self._action()
        elif self._raising:
            raise KeyboardInterrupt

    def call(self, action: Callable[[], None]) -> None:
        """From now on Ctrl-C calls the action; at once if it came already."""
        self._action = action
        if self.noted:
            action()

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, Ctrl-C raises KeyboardInterrupt: for waits that can be broken off."""
        self._raising = True
        try:
            if self.noted:
                raise KeyboardInterrupt
            yield
        finally:
            self._raising = False


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Inside, Ctrl-C never breaks into the work; it does what the Interrupt says."""
    interrupt = Interrupt()
    before = signal.signal(signal.SIGINT, interrupt.handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
