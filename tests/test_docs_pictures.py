"""The pictures of the documentation: what is in them, and that they can be made again."""

from __future__ import annotations

import getpass
import importlib
import re
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
SCRIPTS = ROOT / "scripts"
SVG = "{http://www.w3.org/2000/svg}"

WORDS = {
    "session": ("gemma chat", "/branches", "How much is it?", "tr a-z A-Z", "on a GPU"),
    "chat": (">>>", "@trip.md", "tokens are used", "context", "tokens/s"),
    "plan": ("--gpu 24GiB", "Q4_K_M", "KV cache", "GPU 1"),
    "doctor": ("llama.cpp", "good", "0 problems"),
    "list": ("gemma1:2b", "gemma3:27b", "gemma4:31b", "LICENCE"),
}
needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="pty is POSIX")


def words(root: ET.Element) -> str:
    """All text of a picture, a line of the terminal a line."""
    return "\n".join("".join(text.itertext()) for text in root.iter(f"{SVG}text"))


@pytest.mark.parametrize("name", sorted(WORDS))
def test_a_picture_shows_the_program_and_nothing_of_the_machine(name: str) -> None:
    file = IMAGES / f"{name}.svg"
    raw = file.read_text(encoding="utf-8")
    assert len(raw.encode()) < 300_000
    root = ET.fromstring(raw)
    assert root.tag == f"{SVG}svg"
    shown = words(root)
    for each in WORDS[name]:
        assert each in shown
    assert not re.search(r"/(home|root|work|Users)\b", raw)
    hosts = {socket.gethostname(), getpass.getuser()} - {"localhost", "you"}
    assert not [host for host in hosts if re.search(rf"[@/]{re.escape(host)}\b", shown)]
    # Sites show it within <img>, where nothing else is fetched and no script runs.
    assert {each.tag.removeprefix(SVG) for each in root.iter()} <= {
        *("svg", "title", "style", "defs", "g", "use", "rect", "text", "tspan")
    }
    assert all(each.get("href", "#").startswith("#") for each in root.iter())
    assert "url(" not in raw
    assert "@import" not in raw


def test_the_film_plays_and_stands_still_for_who_wants_it() -> None:
    raw = (IMAGES / "session.svg").read_text(encoding="utf-8")
    names = set(re.findall(r"animation-name:(k\d+)", raw))
    assert names
    assert names == set(re.findall(r"@keyframes (k\d+)", raw))
    assert "prefers-reduced-motion" in raw
    ids = [each.get("id") for each in ET.fromstring(raw).iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    used = {each.get("href", "")[1:] for each in ET.fromstring(raw).iter(f"{SVG}use")}
    assert used == set(ids)


@needs_terminal
def test_a_picture_is_made_of_a_real_run(tmp_path: Path) -> None:
    home = tmp_path / "you"
    command = [sys.executable, str(SCRIPTS / "record.py"), "plan", "--out", str(tmp_path)]
    subprocess.run([*command, "--home", str(home)], check=True, capture_output=True, timeout=120)
    shown = words(ET.parse(tmp_path / "plan.svg").getroot())
    for each in WORDS["plan"]:
        assert each in shown
    assert not home.exists()


@needs_terminal
def test_a_home_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    command = [sys.executable, str(SCRIPTS / "record.py"), "plan", "--home", str(tmp_path)]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"{tmp_path} is there already" in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The modules (screen_svg, recording)."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("screen_svg"), importlib.import_module("recording")


@needs_terminal
def test_text_is_escaped_and_keeps_its_columns(drawing: tuple[Any, Any]) -> None:
    svg, screens = drawing
    style = screens.Style(fg="green", bold=True)
    row = (screens.Run(4, 6, '<&">漢', style), screens.Run(12, 1, "x", screens.Style()))
    raw = svg.still(screens.Frame(0.0, (row, (), ())), 20, 'a "title" <here>')
    root = ET.fromstring(raw)
    assert words(root) == '<&">漢x'
    assert root.get("aria-label") == 'a "title" <here>'
    first, second = root.iter(f"{SVG}tspan")
    assert first.get("class") == "c-green b"
    cell = float(first.get("textLength", "")) / 6
    assert float(second.get("x", "")) - float(first.get("x", "")) == pytest.approx(8 * cell)


@needs_terminal
def test_a_film_holds_each_line_once_and_shows_it_when_it_was_there(
    drawing: tuple[Any, Any],
) -> None:
    svg, screens = drawing

    def row(text: str) -> Any:
        return (screens.Run(0, len(text), text, screens.Style()),)

    frames = [
        screens.Frame(at, (row("same"), row(text)))
        for at, text in ((0.0, "one"), (1.0, "two"), (3.0, "one"))
    ]
    raw = svg.film(frames, 20, "film", rest=1.0)
    assert words(ET.fromstring(raw)).split() == ["same", "one", "two"]
    steps = re.findall(r"([\d.]+)%{transform:translateX\((-?\d+)px\)}", raw)
    assert [float(share) for share, _ in steps] == [0.0, 25.0, 75.0]
    offsets = [int(offset) for _, offset in steps]
    assert offsets[2] == 2 * offsets[1] < 0
    assert f".s1{{transform:translateX({offsets[2]}px)" in raw
