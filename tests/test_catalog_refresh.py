"""scripts/refresh_models.py against a Hub on the loopback."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemma_cli.models.entries import bundled_path
from tests.conftest import Env
from tests.hub_server import LoopbackHub, loopback_hub

ROOT = Path(__file__).resolve().parents[1]
WORDS = b"the bytes of a model"
BEFORE = f"""# Kept: a comment at the top.
[[model]]
id = "tiny:1b" # kept

# Kept: about this file.
[[model.file]]
quant = "Q8_0"
repo = "o/tiny-GGUF"
file = "tiny-Q8_0.gguf"
size_approx = 12_000

[[model.file]]
quant = "Q4_0"
repo = "o/tiny-GGUF"
file = "tiny-Q4_0.gguf"
revision = "{"0" * 40}"
size = 7
sha256 = "{"1" * 64}"

[[model.file]]
quant = "Q4_K_M"
package = "tiny_package"
size = 3

[model.projector]
repo = "o/closed"
file = "mmproj-F16.gguf"
"""


@pytest.fixture
def hub(home: Env) -> Iterator[LoopbackHub]:
    with loopback_hub() as server:
        server.add("o/tiny-GGUF", {"tiny-Q8_0.gguf": WORDS, "tiny-Q4_0.gguf": WORDS[:9]})
        server.add("o/closed", {"mmproj-F16.gguf": WORDS[:5]}, gated="restricted")
        home.update(server.environment())
        yield server


def refresh(home: Env, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "refresh_models.py"), *arguments],
        env=home | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_everything_is_read_again(hub: LoopbackHub, home: Env, tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(BEFORE)
    done = refresh(home, str(file))
    assert done.returncode == 0, done.stderr
    text = file.read_text()
    first, second, packaged = tomllib.loads(text)["model"][0]["file"]
    commit = hub.repos["o/tiny-GGUF"].commit
    assert first == {
        "quant": "Q8_0",
        "repo": "o/tiny-GGUF",
        "file": "tiny-Q8_0.gguf",
        "revision": commit,
        "size": len(WORDS),
        "sha256": hashlib.sha256(WORDS).hexdigest(),
    }
    assert (second["revision"], second["size"]) == (commit, 9)
    assert packaged == {"quant": "Q4_K_M", "package": "tiny_package", "size": 3}
    assert tomllib.loads(text)["model"][0]["projector"]["gated"] is True
    kept = [line for line in BEFORE.splitlines() if "#" in line]
    assert [line for line in text.splitlines() if "#" in line] == kept
    assert "o/tiny-GGUF/tiny-Q4_0.gguf: size 7 -> 9" in done.stdout
    assert len(hub.requests) == 2, "one listing a repository"
    again = refresh(home, "--check", str(file))
    assert (again.returncode, again.stdout) == (0, "")


def test_check_changes_nothing(hub: LoopbackHub, home: Env, tmp_path: Path) -> None:
    assert hub.repos
    file = tmp_path / "models.toml"
    file.write_text(BEFORE)
    done = refresh(home, "--check", str(file))
    assert done.returncode == 1
    assert "size 7 -> 9" in done.stdout
    assert file.read_text() == BEFORE


def test_what_is_gone_is_named_and_left(hub: LoopbackHub, home: Env, tmp_path: Path) -> None:
    del hub.repos["o/closed"]
    hub.repos["o/tiny-GGUF"].files.pop("tiny-Q4_0.gguf")
    file = tmp_path / "models.toml"
    file.write_text(BEFORE)
    done = refresh(home, str(file))
    assert done.returncode == 1
    assert "o/closed/mmproj-F16.gguf: not found" in done.stderr
    assert "o/tiny-GGUF/tiny-Q4_0.gguf: not found" in done.stderr
    text = file.read_text()
    assert (
        BEFORE[BEFORE.index('quant = "Q4_0"') : BEFORE.index('[[model.file]]\nquant = "Q4_K')]
        in text
    )


def test_the_bundled_catalogue_passes_through(hub: LoopbackHub, home: Env, tmp_path: Path) -> None:
    """A Hub that knows none of its files changes none of it."""
    assert hub.repos
    file = tmp_path / "models.toml"
    file.write_text(bundled_path().read_text(encoding="utf-8"))
    assert refresh(home, str(file)).returncode == 1
    assert file.read_text() == bundled_path().read_text(encoding="utf-8")
