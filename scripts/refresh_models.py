"""Read every file of models.toml again from the Hub: size, sha256, commit, gating.

    python scripts/refresh_models.py            rewrite models.toml, show what changed
    python scripts/refresh_models.py --check    change nothing; exit 1 if something would

Comments and order stay. HF_ENDPOINT chooses another Hub, HF_TOKEN opens gated
repositories. A file that is gone is named and left as it is (exit 1).
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from gemma_cli.errors import GemmaError
from gemma_cli.models import hub
from gemma_cli.models.listing import ListedFile, Listing

_HEADER = re.compile(r"^\[")
_FILE_HEADERS = ("[[model.file]]", "[model.projector]")
_LINE = re.compile(r"^(\w+) = (.*)$")
# The keys that this script writes, in the order it writes them in.
_KEYS = ("revision", "size", "size_approx", "sha256", "gated")


@dataclass(frozen=True, slots=True)
class Outcome:
    """text: the new models.toml. changes: one line each. missing: what the Hub has no more."""

    text: str
    changes: tuple[str, ...]
    missing: tuple[str, ...]


class _Hub:
    """Listings, each asked for once."""

    def __init__(self) -> None:
        self._listings: dict[str, Listing | None] = {}

    def listing(self, repo: str) -> Listing | None:
        if repo not in self._listings:
            try:
                self._listings[repo] = hub.list_repo(repo, None, lambda _event: None)
            except GemmaError as error:
                print(f"{repo}: {error.message}", file=sys.stderr)
                self._listings[repo] = None
        return self._listings[repo]


def refreshed(text: str) -> Outcome:
    """models.toml brought up to date; blocks that name no Hub file pass unchanged."""
    the_hub = _Hub()
    changes: list[str] = []
    missing: list[str] = []
    blocks = [_refreshed_block(block, the_hub, changes, missing) for block in _blocks(text)]
    return Outcome("".join(blocks), tuple(changes), tuple(missing))


def _blocks(text: str) -> list[str]:
    """The file cut before every table header; joined they are the file."""
    lines = text.splitlines(keepends=True)
    starts = [0, *(i for i, line in enumerate(lines) if i and _HEADER.match(line)), len(lines)]
    return ["".join(lines[a:b]) for a, b in itertools.pairwise(starts)]


def _refreshed_block(block: str, the_hub: _Hub, changes: list[str], missing: list[str]) -> str:
    header = block.split("\n", 1)[0].strip()
    if header not in _FILE_HEADERS:
        return block
    values = tomllib.loads(block.replace(header, "[file]", 1))["file"]
    if "repo" not in values:
        return block
    repo, name = values["repo"], values["file"]
    listing = the_hub.listing(repo)
    listed = {file.name: file for file in listing.files}.get(name) if listing else None
    if listing is None or listed is None:
        missing.append(f"{repo}/{name}")
        return block
    wanted = _wanted(listing, listed)
    for key in _KEYS:
        if values.get(key) != wanted[key] and key != "size_approx":
            changes.append(f"{repo}/{name}: {key} {values.get(key)} -> {wanted[key]}")
    return _with_values(block, wanted)


def _wanted(listing: Listing, listed: ListedFile) -> dict[str, object]:
    """What the block should say; None for a key that should not be there."""
    return {
        "revision": listing.commit,
        "size": listed.size,
        "size_approx": None,
        "sha256": listed.sha256,
        "gated": True if listing.gated else None,
    }


def _with_values(block: str, wanted: dict[str, object]) -> str:
    """The block with these keys set after the file's name; comments and blank lines stay."""
    lines = []
    for line in block.splitlines(keepends=True):
        match = _LINE.match(line.rstrip("\n"))
        if match and match[1] in _KEYS:
            continue
        lines.append(line if line.endswith("\n") else f"{line}\n")
        if match and match[1] == "file":
            lines += [f"{key} = {_toml(wanted[key])}\n" for key in _KEYS if wanted[key] is not None]
    return "".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:_}" if isinstance(value, int) else f'"{value}"'


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    default = Path(__file__).resolve().parents[1] / "models.toml"
    parser.add_argument("file", nargs="?", type=Path, default=default)
    arguments = parser.parse_args()
    before = arguments.file.read_text(encoding="utf-8")
    outcome = refreshed(before)
    for change in outcome.changes:
        print(change)
    for name in outcome.missing:
        print(f"{name}: not found; left as it is", file=sys.stderr)
    if not arguments.check and outcome.text != before:
        arguments.file.write_text(outcome.text, encoding="utf-8")
    return int(bool(outcome.missing) or (arguments.check and outcome.text != before))


if __name__ == "__main__":
    sys.exit(main())
