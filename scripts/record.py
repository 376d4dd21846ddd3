"""The pictures of the documentation, made from real runs of the installed `gemma`.

    python scripts/record.py                  all, into docs/images
    python scripts/record.py plan --out /tmp  some

Needs the extra `test`, bash, and the embedded model (extra `demo`). Everything
happens in an empty home folder of its own, whose path is seen in one picture.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import screen_svg
from recording import Recording

_MODEL = "gemma3:270m-pt"
_IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
_TRIP = """\
# A day in Rome

1. **Morning**: the Colosseum and the Forum, before it is hot
2. **Noon**: lunch in Trastevere, a walk along the Tiber
3. **Evening**: the Trevi Fountain, ice cream on Piazza Navona

A ticket for the Colosseum costs 18 euros.
"""
# A base model does as the example in its system text does.
_STYLE = """
User: Name three rivers.
Assistant: Here are **three rivers**:

- **Nile**: it flows through *Egypt*
- **Rhine**: it flows through *Germany*
- **Ganges**: it flows through *India*
"""
_PLAN = "gemma plan gemma3:27b --gpu 24GiB --ram 64GiB"
_ASKING = r">>> Send a message"


class Home:
    """An empty home folder with `gemma` in it, laid out as pipx does. FileExistsError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        venv = folder / ".local/share/pipx/venvs/gemma-cli"
        venv.parent.mkdir(parents=True)
        # Through the link Python finds its packages below this home.
        venv.symlink_to(sys.prefix, target_is_directory=True)
        program = folder / ".local/bin/gemma"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec "{venv}/bin/python" -m gemma_cli "$@"\n')
        program.chmod(0o755)
        (folder / "trip.md").write_text(_TRIP, encoding="utf-8")
        (folder / "style.txt").write_text(_STYLE, encoding="utf-8")

    def env(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder),
            "PATH": f"{self.folder}/.local/bin:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HF_HUB_OFFLINE": "1",
            "GEMMA_MODEL": _MODEL,
        }

    def prepare(self) -> None:
        """Have the model's parts joined before anybody looks."""
        program = f"{self.folder}/.local/bin/gemma"
        subprocess.run(
            [program, "run", "-n", "1", "Hi"], env=self.env(), capture_output=True, check=True
        )

    def record(self, columns: int, lines: int, longest_pause: float = 2.0) -> Recording:
        return Recording(self.env(), str(self.folder), columns, lines, longest_pause)


def _still(home: Home, line: str, columns: int, lines: int) -> str:
    with home.record(columns, lines) as recording:
        recording.command(line, pace=0)
        shown = recording.frames[-1]
    return screen_svg.still(shown, columns, f"{line} in a terminal")


def plan(home: Home) -> str:
    return _still(home, _PLAN, 84, 40)


def doctor(home: Home) -> str:
    return _still(home, "gemma doctor", 118, 50)


def available(home: Home) -> str:
    return _still(home, "gemma list --available", 84, 90)


def chat(home: Home) -> str:
    columns = 80
    home.prepare()
    with home.record(columns, 20) as recording:
        recording.press("gemma chat -t 0\r")
        recording.wait_for(_ASKING)
        _say(recording, "How much is a ticket for the Colosseum? @trip.md", pace=0)
        _say(recording, "What is the capital of Italy?", pace=0)
        _say(recording, "/context", pace=0)
        shown = recording.frames[-1]
    return screen_svg.still(shown, columns, "A chat with a document in a terminal")


def session(home: Home) -> str:
    columns = 80
    home.prepare()
    with home.record(columns, 27) as recording:
        recording.command('gemma run -t 0 "What is the capital of Italy?"')
        recording.watch(1.5)
        recording.command("cat style.txt")
        recording.watch(1.5)
        recording.type('gemma chat -t 0.5 --seed 2 -s "$(cat style.txt)"\r')
        recording.wait_for(_ASKING)
        recording.watch(0.5)
        _say(recording, "Name three cities of Italy.")
        _say(recording, "Name five planets.")
        recording.type("/edit 2\r")
        recording.wait_for(r"/edit 2\n>>> Name five planets\.")
        recording.watch(0.6)
        recording.type("\x7f" * len("planets."), pace=0.5)
        _say(recording, "countries.")
        _say(recording, "/branches")
        _say(recording, "/context")
        recording.press("\x04")
        recording.wait_for(r"\n\$ *\Z")
        recording.command('tail -n 1 trip.md | gemma run -t 0 "How much is it?" | tr a-z A-Z')
        recording.watch(1.5)
        recording.command("clear")
        recording.command(_PLAN)
        frames = recording.frames
    return screen_svg.film(frames, columns, "A session with gemma in a terminal")


def _say(recording: Recording, text: str, pace: float = 1.0) -> None:
    """Type a line into a chat, and look on until it is answered."""
    recording.type(text, pace)
    recording.watch(0.4 * pace)
    recording.press("\r")
    recording.watch(0.3)
    recording.wait_for(_ASKING)
    recording.watch(1.8 * pace)


_PICTURES: dict[str, Callable[[Home], str]] = {
    "plan": plan,
    "doctor": doctor,
    "list": available,
    "chat": chat,
    "session": session,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Pictures of gemma at work.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(_PICTURES))
    parser.add_argument("--out", type=Path, default=_IMAGES, help="folder for the pictures")
    parser.add_argument("--home", type=Path, default=Path("/tmp/you"), help="a folder to make")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in _PICTURES]
    if unknown:
        parser.error(f"no such picture: {', '.join(unknown)}; there are {', '.join(_PICTURES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        home = Home(options.home)
    except FileExistsError:
        parser.error(f"{options.home} is there already, and nothing in it is to be changed")
    try:
        for name in options.names or _PICTURES:
            target = options.out / f"{name}.svg"
            target.write_text(_PICTURES[name](home), encoding="utf-8")
            print(f"{target}: {target.stat().st_size:,} bytes")
    finally:
        shutil.rmtree(home.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
