"""`gemma pull` against hf_hub_download and a bare socket reader, over the loopback, in one run.

    python scripts/bench_pull.py [--mib 512] [--gbit 1] [--runs 3]

Each reads the same file from the same server (a process of its own), once on a
line paced to --gbit and once unpaced. Seconds count from the first request that
the server sees to the end of the client's process, hashing and storing included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
REPO, FILE = "bench/model-GGUF", "model-Q8_0.gguf"
_LIBRARY = "from huggingface_hub import hf_hub_download as get; get({!r}, {!r})"


def serve(mib: int) -> None:
    """The server's process: a line of JSON in sets the pace, a line out says when it was asked."""
    from tests.gguf_files import gguf
    from tests.hub_server import Behaviour, loopback_hub, sha256

    with loopback_hub() as hub:
        data = gguf(tensor_bytes=mib << 20)
        sha256(data)
        hub.add(REPO, {FILE: data}, license="mit")
        print(json.dumps(hub.environment()), flush=True)
        for line in sys.stdin:
            first = min((request.at for request in hub.requests), default=0.0)
            hub.requests.clear()
            hub.content_always = Behaviour(rate=json.loads(line))
            print(first, flush=True)


class Server:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.environment: dict[str, str] = json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def pace(self, rate: float | None) -> float:
        """Set bytes a second for what follows; when the first request before this came."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(rate) + "\n")
        self._process.stdin.flush()
        return float(self._line())


@contextmanager
def server(mib: int) -> Iterator[Server]:
    command = [sys.executable, __file__, "--serve", "--mib", str(mib)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Server(process)
        finally:
            process.kill()


def read_bare(endpoint: str) -> None:
    """A reader that does nothing but receive: the limit of the line and of Python's sockets."""
    link = _location(endpoint)
    with _request(link, "GET") as connection:
        buffer = memoryview(bytearray(1 << 20))
        while connection.recv_into(buffer):
            pass


def _location(endpoint: str) -> str:
    with _request(f"{endpoint}/{REPO}/resolve/main/{FILE}", "HEAD") as connection:
        answer = b""
        while block := connection.recv(65536):
            answer += block
    lines = answer.decode().split("\r\n")
    return next(line.split(" ", 1)[1] for line in lines if line.lower().startswith("location:"))


def _request(url: str, method: str) -> socket.socket:
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port))
    target = f"{parts.path}?{parts.query}"
    text = f"{method} {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    connection.sendall(text.encode())
    return connection


def seconds(command: list[str], environment: dict[str, str], line: Server, rate: Any) -> float:
    """From the first request to the end of the process."""
    folder = tempfile.mkdtemp(prefix="bench-pull-")
    try:
        line.pace(rate)
        places = {"HF_HOME": folder, "GEMMA_HOME": folder}
        subprocess.run(command, env=environment | places, check=True, capture_output=True)
        end = time.monotonic()
        return end - line.pace(rate)
    finally:
        shutil.rmtree(folder)


def compare(mib: int, gbit: float, runs: int) -> None:
    with server(mib) as line:
        environment = os.environ | line.environment | {"PYTHONPATH": str(ROOT)}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        bare = [sys.executable, __file__, "--read", line.environment["HF_ENDPOINT"]]
        clients = {
            "bare reader": bare,
            "gemma pull": [sys.executable, "-m", "gemma_cli", "pull", f"hf:{REPO}:{FILE}"],
            "hf_hub_download": [sys.executable, "-c", _LIBRARY.format(REPO, FILE)],
        }
        for label, rate in ((f"{gbit:g} Gbit/s", gbit * 1e9 / 8), ("unpaced", None)):
            best: dict[str, float] = {}
            for _ in range(runs):
                for name, command in clients.items():
                    spent = seconds(command, environment, line, rate)
                    best[name] = min(best.get(name, spent), spent)
            for name, spent in best.items():
                speed, share = mib * 1.048576 / spent, best["bare reader"] / spent
                print(f"{label:>10}  {name:<16} {spent:7.2f} s  {speed:7.0f} MB/s  {share:5.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--gbit", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--read", metavar="ENDPOINT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.mib)
    elif arguments.read:
        read_bare(arguments.read)
    else:
        compare(arguments.mib, arguments.gbit, arguments.runs)


if __name__ == "__main__":
    main()
