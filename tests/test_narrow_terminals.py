"""What is shown on terminals of 80 and 60 columns: no line is broken by the terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.conftest import DEMO, Env, program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pty is POSIX")


def lines(env: Env, width: int, *arguments: str) -> list[str]:
    """What a command writes to a terminal of that width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    env = {key: value for key, value in env.items() if key not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [*program(), *arguments], env=env, stdin=slave, stdout=slave, stderr=subprocess.DEVNULL
    ):
        os.close(slave)
        shown = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # Linux's way of saying that the terminal was closed
                break
            if not piece:
                break
            shown += piece
    os.close(master)
    return shown.decode().splitlines()


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("list", "--available"),
        ("show", "gemma3:4b"),
        ("plan", "gemma4:26b", "--gpu", "24GiB", "--ram", "64GiB"),
        ("plan", "gemma3:27b", "--gpu", "8GiB", "--gpu", "24GiB", "--gpu", "2GiB", "--ctx", "max"),
        ("plan", DEMO),
    ],
    ids=" ".join,
)
def test_every_line_has_room(with_demo: Env, width: int, arguments: tuple[str, ...]) -> None:
    shown = lines(with_demo, width, *arguments)
    assert len(shown) > 1
    # A path stays in one piece, however long it is.
    long = [line for line in shown if len(line) > width and " " in line.strip()]
    assert long == []


def test_at_40_columns_a_sign_stays_beside_its_name(with_demo: Env) -> None:
    shown = lines(with_demo, 40, "plan", "gemma3:4b", "--ram", "16GiB")
    table = next(i for i, line in enumerate(shown) if "QUANT" in line)
    assert [line for line in shown[1:table] if len(line) > 40] == []
    signs = {"█ weights", "▒ KV cache", "░ compute", "· free"}
    assert {sign for sign in signs if any(sign in line for line in shown)} == signs


def test_a_long_device_name_leaves_the_bar_some_room(tmp_path: Path) -> None:
    """No such card is here: the view is asked in a process of its own, on a terminal."""
    asked = tmp_path / "asked.py"
    asked.write_text(
        "from dataclasses import replace\n"
        "from gemma_cli.commands.planning.fitting import expected_header\n"
        "from gemma_cli.commands.planning.view import devices_text\n"
        "from gemma_cli.machine.devices import Device, Machine\n"
        "from gemma_cli.machine.memory import Wishes, plan\n"
        "from gemma_cli.models.catalog import load_catalog\n"
        "size = 24 << 30\n"
        "gpu = Device('NVIDIA GeForce RTX 4090', 'gpu', size, size, 'CUDA', 'CUDA0')\n"
        "machine = Machine(Device('CPU', 'cpu', size, size), (gpu,), 4)\n"
        "header = expected_header(load_catalog().get('gemma3:4b'), 'Q8_0')\n"
        "print(devices_text(plan(header, machine, Wishes())))\n"
    )
    command = ["env", "-u", "COLUMNS", sys.executable, str(asked)]
    for width in (80, 60):
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        subprocess.run(command, stdin=slave, stdout=slave, check=True, timeout=60)
        os.close(slave)
        shown = os.read(master, 65536).decode().splitlines()
        os.close(master)
        assert sum("█" in line and "left" in line for line in shown) == 2
        assert any(line.startswith("NVIDIA GeForce RTX 4090") for line in shown)
        assert [line for line in shown if len(line) > width] == []
