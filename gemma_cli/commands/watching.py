"""What `gemma pull` shows while it works: for people on stderr, or as JSON lines on stdout."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gemma_cli.commands.list import installed_json
from gemma_cli.models import events
from gemma_cli.models.demo import demo_entry
from gemma_cli.terminal.progress import ProgressLine
from gemma_cli.terminal.tables import size

if TYPE_CHECKING:
    from pathlib import Path

    from gemma_cli.models.resolve import Wanted
    from gemma_cli.models.store import InstalledModel


class Watcher:
    """Progress for a person."""

    def __init__(self) -> None:
        self._line = ProgressLine()
        self._file = ""

    def report(self, event: events.Event) -> None:
        match event:
            case events.Started(file=file, total=total, resumed=resumed):
                going_on = f", going on at {size(resumed)}" if resumed else ""
                self._line.note(f"{file}: {size(total)}{going_on}")
                self._begin(file)
            case events.Checking(file=file, done=done, total=total):
                self._begin(f"checking {file}")
                self._line.update(done, total)
            case events.Progress(file=file, done=done, total=total):
                self._begin(file)
                self._line.update(done, total)
            case events.Waiting(file=file, reason=reason, seconds=seconds):
                when = f"in {seconds:.0f} s" if seconds >= 1 else "now"
                self._line.note(f"{file}: {reason}; trying again {when}")
            case events.Locked(file=file):
                self._line.note(f"{file}: another process is downloading it; waiting for it")
            case events.Finished():
                self._line.end()

    def _begin(self, label: str) -> None:
        if self._file != label:
            self._file = label
            self._line.start(label)

    def note(self, text: str) -> None:
        self._line.note(f"note: {text}")

    def resolved(self, wanted: Wanted) -> None:
        if wanted.why:
            self._line.note(f"{wanted.name}: {wanted.quant or '?'}, {wanted.why}")
        for note in wanted.notes:
            self.note(note)

    def would_fetch(self, wanted: Wanted) -> None:
        """The answer of --dry-run, on stdout."""
        from gemma_cli.models.download import free_space, missing_bytes
        from gemma_cli.models.hubcache import cache_root
        from gemma_cli.terminal.sanitize import clean_line

        print(f"{wanted.name} {wanted.quant}")
        for file in wanted.everything:
            state = "" if missing_bytes([file]) else "  (is here)"
            print(f"  {clean_line(file.repo)}/{clean_line(file.file)}  {size(file.size)}{state}")
        print(f"  to fetch: {size(missing_bytes(wanted.everything))}")
        print(f"  into: {cache_root()} ({size(free_space())} free)")

    def would_join(self, path: Path) -> None:
        """The same for the embedded model, which is here in parts."""
        model, file = demo_entry()
        print(f"{model.id} {file.quant}")
        print(f"  to fetch: {size(0)}; its parts are here, {size(file.size)}")
        print(f"  to join into: {path}")

    def here(self, model: InstalledModel) -> None:
        self._line.note(f"{model.ref} is here ({size(model.bytes)}): gemma chat {model.ref}")

    def close(self) -> None:
        self._line.end()


class JsonWatcher(Watcher):
    """One JSON object a line on stdout; `event` says which. Progress comes once a second."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def report(self, event: events.Event) -> None:
        import time

        if isinstance(event, (events.Progress, events.Checking)):
            if time.monotonic() < self._next and event.done < event.total:
                return
            self._next = time.monotonic() + 1.0
        self._print(type(event).__name__.lower(), asdict(event))

    def note(self, text: str) -> None:
        self._print("note", {"text": text})

    def resolved(self, wanted: Wanted) -> None:
        self._print("resolved", self._wanted(wanted))

    def would_fetch(self, wanted: Wanted) -> None:
        from gemma_cli.models.download import free_space, missing_bytes
        from gemma_cli.models.hubcache import cache_root

        plan = {
            "to_fetch": missing_bytes(wanted.everything),
            "free": free_space(),
            "cache": str(cache_root()),
        }
        self._print("plan", self._wanted(wanted) | plan)

    def would_join(self, path: Path) -> None:
        model, file = demo_entry()
        plan = {"name": model.id, "quant": file.quant, "files": [], "to_fetch": 0}
        self._print("plan", {**plan, "path": str(path)})

    def here(self, model: InstalledModel) -> None:
        self._print("installed", installed_json(model))

    def _wanted(self, wanted: Wanted) -> dict[str, Any]:
        return {
            "name": wanted.name,
            "quant": wanted.quant,
            "why": wanted.why,
            "notes": list(wanted.notes),
            "files": [
                {
                    "repo": file.repo,
                    "file": file.file,
                    "revision": file.commit,
                    "bytes": file.size,
                    "sha256": file.hash if len(file.hash) == 64 else None,
                }
                for file in wanted.everything
            ],
        }

    def _print(self, kind: str, values: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps({"event": kind, **values}, ensure_ascii=False) + "\n")
        sys.stdout.flush()
