"""The doctor's look around the program: settings, folders, disk, models, history, Hub, terminal."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from gemma_cli.commands.checking.finding import Finding, State

_HUB_S = 4.0
_ROOM = 5_000_000_000  # a small Gemma, and some more
_LEAST = 64 << 10  # bytes, about what the first chat takes
_HISTORY = "history.db"


def settings() -> Iterator[Finding]:
    """Is there a value that every chat would refuse, in config.toml or in a variable?"""
    from gemma_cli.commands.config import variables
    from gemma_cli.errors import GemmaError
    from gemma_cli.settings import load_settings, settings_file

    chosen = load_settings()
    path = settings_file()
    sound = True
    named = variables()
    for key in (field.name for field in fields(chosen)):
        variable, stated = named.get(key, ""), getattr(chosen, key)
        text = os.environ.get(variable)
        try:
            _check_setting(key, _typed(key, text) if text else stated)
        except (GemmaError, ValueError) as error:
            sound = False
            said = getattr(error, "message", f"takes a number, not '{text}'")
            where, mend = str(path), f"gemma config unset {key}"
            if text:
                where, mend = variable, f"unset {variable}"
            yield Finding("settings", "problem", f"{where}: {said}", mend)
    if sound:
        yield Finding("settings", "good", str(path) if path.exists() else f"none set in {path}")


def _typed(key: str, text: str) -> object:
    """What a variable says, by its key's kind of value; None for kinds that are let be."""
    from gemma_cli.settings import accepted_types

    accepted = accepted_types(key)
    if str in accepted:
        return text
    return next((kind(text) for kind in (float, int) if kind in accepted), None)


def _check_setting(key: str, value: Any) -> None:
    """GemmaError for what no command would take. How much is kept on disk is said elsewhere."""
    from gemma_cli.commands.config import check_option
    from gemma_cli.models.catalog import parse_name

    if value is None:
        return
    if key in ("model", "draft"):
        parse_name(value)
    else:
        check_option(key, value)


def folders() -> Iterator[Finding]:
    """Can gemma write where it must? Folders that are not there yet are not made."""
    from gemma_cli.paths import cache_dir, config_dir, data_dir, state_dir

    places = {"data": data_dir(), "state": state_dir(), "cache": cache_dir()}
    broken = False
    for name, folder in {"config": config_dir(), **places}.items():
        trouble = _unwritable(folder)
        # What is typed into config.toml need not be writable for gemma.
        if trouble is not None and name != "config":
            broken = True
            mend = f"make it a folder that you may write to, or set GEMMA_HOME: ls -ld {folder}"
            if trouble == os.strerror(errno.ENOSPC):
                mend = f"make room on its disk, or set GEMMA_HOME to another: df -h {folder}"
            yield Finding("folders", "problem", f"{name}: {folder}: {trouble}", mend)
    if not broken:
        yield Finding("folders", "good", ", ".join(str(folder) for folder in places.values()))


def _unwritable(folder: Path) -> str | None:
    """Why nothing can be written there, None if it can."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place, prefix=".gemma-doctor-") as file:
            file.write(bytes(_LEAST))
            return None
    except OSError as error:
        return error.strerror or str(error)


def disk() -> Iterator[Finding]:
    from gemma_cli.models.download import free_space
    from gemma_cli.models.hubcache import cache_root
    from gemma_cli.terminal.tables import size

    free, root = free_space(), cache_root()
    text = f"{size(free)} are free for models in {root}"
    trouble = _unwritable(root)
    if trouble not in (None, os.strerror(errno.ENOSPC)):
        # A folder of models that somebody else keeps is of use all the same.
        state: State = "notice" if root.is_dir() else "problem"
        mend = f"set HF_HOME to a folder that you may write to: ls -ld {root}"
        yield Finding("disk", state, f"no model can be kept in {root}: {trouble}", mend)
    elif free < _ROOM:
        mend = "make room (gemma list, gemma rm NAME), or set HF_HOME to another disk"
        yield Finding("disk", "notice", text, mend)
    else:
        yield Finding("disk", "good", text)


def snapshots() -> Iterator[Finding]:
    """The evaluated prompts that are kept on disk."""
    from gemma_cli.commands.loading.opening import kv_cache_limit
    from gemma_cli.errors import UsageError
    from gemma_cli.machine.sizes import memory_size
    from gemma_cli.paths import cache_dir
    from gemma_cli.settings import load_settings

    try:
        chosen = load_settings()
    except UsageError:
        return  # said of the settings already
    folder, limit = cache_dir() / "kv", kv_cache_limit(chosen)
    sizes = [file.stat().st_size for file in folder.glob("*.kv")] if folder.is_dir() else []
    if not limit:
        yield Finding("kv cache", "good", "evaluated prompts are not kept (GEMMA_KV_CACHE=0)")
        return
    most = memory_size(limit)
    text = f"{memory_size(sum(sizes))} in {len(sizes)} evaluated prompts, at most {most}: {folder}"
    free = shutil.disk_usage(_existing(folder)).free + sum(sizes)
    if free < limit:
        mend = "export GEMMA_KV_CACHE=1GiB    (0 keeps none)"
        yield Finding("kv cache", "notice", f"{text}; the disk has less", mend)
    else:
        yield Finding("kv cache", "good", text)


def _existing(place: Path) -> Path:
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def models() -> Iterator[Finding]:
    """Is each file whole, and when were its bytes last compared with the published ones?"""
    from gemma_cli.models.store import installed

    here = installed()
    for model in here:
        yield from _model(model.ref, model)
    if not here:
        text = "no model is here yet"
        yield Finding("models", "notice", text, "gemma pull gemma3:4b    (gemma list --available)")


def _model(ref: str, model: object) -> Iterator[Finding]:
    from gemma_cli.errors import GemmaError
    from gemma_cli.models.demo import DEMO_ID, assembled
    from gemma_cli.models.gguf import read_header
    from gemma_cli.models.store import InstalledModel, parts_of
    from gemma_cli.models.verification import last_verification

    assert isinstance(model, InstalledModel)
    if model.name == DEMO_ID and assembled() is None:
        yield Finding("models", "good", f"{ref}: in its packages, joined and checked at first use")
        return
    again = f"gemma rm -y {ref} && gemma pull {ref}"
    try:
        for path in parts_of(model):
            read_header(path)
    except GemmaError as error:
        yield Finding("models", "problem", f"{ref}: {error.message}", again)
        return
    last = last_verification(model)
    if last is None:
        text = f"{ref}: never compared with what was published"
        yield Finding("models", "notice", text, f"gemma verify {ref}")
    elif last.state == "damaged":
        text = f"{ref}: not what was published, as gemma verify found on {last.at[:10]}"
        yield Finding("models", "problem", text, again)
    else:
        what = "no hash of it is published; read" if last.state == "unknown" else "verified"
        yield Finding("models", "good", f"{ref}: {what} on {last.at[:10]}")


def history() -> Iterator[Finding]:
    from gemma_cli.chat.checkup import examine
    from gemma_cli.paths import data_dir

    path = data_dir() / _HISTORY
    try:
        found = examine(path)
    except (FileNotFoundError, NotADirectoryError):
        yield Finding("history", "good", "no chat is saved yet")
        return
    except OSError as error:
        text = f"{path} cannot be read: {error.strerror}"
        yield Finding("history", "problem", text, f"give yourself its file: ls -l {path}")
        return
    if found.trouble is not None:
        # `gemma history export ID` still saves what can be read.
        aside = f"mv {path} {path}.damaged    (a new one is begun)"
        yield Finding("history", "problem", f"{path} is damaged: {found.trouble}", aside)
    elif found.newer:
        text = f"{path} was written by a newer gemma: it can be read, nothing new is saved"
        yield Finding("history", "problem", text, "install the newest gemma-cli")
    else:
        yield Finding("history", "good", f"{found.chats} chats in {path}, intact")


def hub() -> Iterator[Finding]:
    """Does the Hub answer, within a few seconds? Models that are here work without it."""
    from gemma_cli.models import hub as the_hub
    from gemma_cli.models.patience import TransientError

    if the_hub.is_offline():
        text = f"offline mode is on: {the_hub.endpoint()} is not asked"
        yield Finding("hub", "good", text)
        return
    told: list[str | BaseException] = []

    def ask() -> None:
        try:
            told.append(the_hub.greet(_HUB_S))
        except BaseException as error:  # raised again below, in the thread that reports
            told.append(error)

    # Looking up a name has no time-out of its own.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_HUB_S + 1)
    answer = told[0] if told else TransientError("no answer in time")
    if isinstance(answer, TransientError):
        yield Finding(
            "hub",
            "notice",
            f"{the_hub.endpoint()} cannot be reached: {answer.reason}; models that are here work",
            "check the connection (a proxy: HTTPS_PROXY; a mirror: HF_ENDPOINT)",
        )
    elif isinstance(answer, BaseException):
        raise answer
    else:
        yield Finding("hub", "good", answer)


def terminal() -> Iterator[Finding]:
    """What the chat would be shown on. stdout may be a pipe: stdin and stderr count too."""
    streams = {"input": sys.stdin, "output": sys.stdout, "errors": sys.stderr}
    shown = [name for name, stream in streams.items() if stream is not None and stream.isatty()]
    if not shown:
        yield Finding("terminal", "good", "none: everything is a pipe or a file")
        return
    kind = os.environ.get("TERM") or ("Windows" if os.name == "nt" else "")
    columns, lines = shutil.get_terminal_size()
    text = f"{kind or 'unknown kind'}, {columns} x {lines}; a terminal for {', '.join(shown)}"
    encoding = sys.getfilesystemencoding().lower()
    if kind in ("", "dumb"):
        mend = "export TERM=xterm-256color    (where the terminal can do more)"
        yield Finding("terminal", "notice", f"{text}: plain text, no colours, no editing", mend)
    elif encoding != "utf-8":
        yield Finding("terminal", "notice", f"{text}, {encoding}", "export LANG=C.UTF-8")
    else:
        yield Finding("terminal", "good", text)
