"""Failures that may pass, and how long to go on trying."""

from __future__ import annotations

import time

from gemma_cli.models.events import Report, Waiting

_LONGEST_WAIT_S = 600.0
# A server that takes connections and never answers: said within 150 seconds, the
# last wait and the last try included.
_SILENT_S = 100.0


class TransientError(Exception):
    """A failure that may pass. fresh_link: the content's address must be asked for again.

    unreachable: no connection came about. retry_after: seconds the server asked for.
    """

    def __init__(
        self,
        reason: str,
        *,
        retry_after: float | None = None,
        fresh_link: bool = False,
        unreachable: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after
        self.fresh_link = fresh_link
        self.unreachable = unreachable


class Patience:
    """How often and how long to try again. Progress starts the count anew.

    unreachable_s: give up that long after the first failure if nobody is there.
    """

    def __init__(self, file: str, report: Report, tries: int, unreachable_s: float) -> None:
        self._file = file
        self._report = report
        self._tries = tries
        self._unreachable_s = unreachable_s
        self._failures = 0
        self._since = time.monotonic()

    def progressed(self) -> None:
        self._failures = 0
        self._since = time.monotonic()

    def wait(self, trouble: TransientError) -> bool:
        """Sleep before the next try; False when it is time to give up."""
        self._failures += 1
        elapsed = time.monotonic() - self._since
        if self._failures >= self._tries:
            return False
        limit = self._unreachable_s if trouble.unreachable else _SILENT_S
        if elapsed > limit and trouble.retry_after is None:
            return False
        seconds = min(0.25 * 2 ** (self._failures - 1), 30.0)
        if trouble.retry_after is not None:
            if trouble.retry_after > _LONGEST_WAIT_S:
                return False
            seconds = max(trouble.retry_after, 0.1)
        self._report(Waiting(self._file, trouble.reason, seconds))
        time.sleep(seconds)
        return True
