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


class Hangups:
    """SIGTERM and SIGHUP, from `with` on: raise Hangup in the main thread, once.

    While something waits that an exception must not break into (an event loop),
    it is asked to end its wait first; see `asking`.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._ask: Callable[[], bool] | None = None
        self._noted: int | None = None

    def __enter__(self) -> Hangups:
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) is not signal.SIG_IGN:  # nohup's wish
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def asking(self, end_wait: Callable[[], bool]) -> Iterator[None]:
        """Inside, a signal calls end_wait; if that says True, Hangup is raised on leaving."""
        self._ask = end_wait
        try:
            yield
        finally:
            self._ask = None
            if self._noted is not None:
                raise Hangup(self._noted)

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)
        if self._ask is not None and self._ask():
            self._noted = signum
            return
        raise Hangup(signum)


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

    @contextmanager
    def calling(self, action: Callable[[], None]) -> Iterator[None]:
        """Inside, Ctrl-C calls the action; at once if it came already."""
        self._action = action
        try:
            if self.noted:
                action()
            yield
        finally:
            self._action = None

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
