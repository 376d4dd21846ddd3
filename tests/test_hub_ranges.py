"""Several connections for one file: when they are used, and that nothing else changes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemma_cli.models.ranges import Tempo
from tests.conftest import Env, program
from tests.gguf_files import gguf
from tests.hub_server import GOOD, Behaviour, LoopbackHub, loopback_hub, sha256

MIB = 1 << 20
REPO, FILE = "owner/large-GGUF", "large-Q8_0.gguf"
DATA = gguf(tensor_bytes=96 * MIB)


@pytest.fixture
def hub(home: Env) -> Iterator[LoopbackHub]:
    with loopback_hub() as server:
        server.add(REPO, {FILE: DATA}, license="mit")
        home.update(server.environment())
        home["HF_HUB_DOWNLOAD_TIMEOUT"] = "60"
        yield server


def start(home: Env) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*program(), "pull", f"hf:{REPO}:{FILE}"],
        env=home,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def part(home: Env) -> Path:
    blobs = Path(home["HF_HOME"]) / "hub" / "models--owner--large-GGUF" / "blobs"
    return blobs / f"{sha256(DATA)}.part"


def finish(process: subprocess.Popen[str], home: Env) -> None:
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert part(home).with_suffix("").read_bytes() == DATA


def wait_for(home: Env, count: int) -> None:
    deadline = time.monotonic() + 120
    while not (part(home).exists() and part(home).stat().st_size >= count):
        assert time.monotonic() < deadline, "nothing arrives"
        time.sleep(0.02)


def test_where_a_connection_is_slow_several_are_used(hub: LoopbackHub, home: Env) -> None:
    hub.content_always = Behaviour(rate=6 * MIB)
    finish(start(home), home)
    assert len(hub.gets()) > 4
    assert hub.most_at_once > 1


def test_killed_and_gone_on_with(hub: LoopbackHub, home: Env) -> None:
    hub.content_always = Behaviour(rate=6 * MIB)
    process = start(home)
    wait_for(home, 36 * MIB)
    process.kill()
    process.communicate()
    reached = part(home).stat().st_size
    assert part(home).read_bytes() == DATA[:reached]
    hub.content_always = GOOD
    gets = len(hub.gets())
    finish(start(home), home)
    assert hub.gets()[gets].headers["range"] == f"bytes={reached}-"


def test_faults_while_several_are_used(hub: LoopbackHub, home: Env) -> None:
    """One connection from then on, and a whole file in the end."""
    hub.content_always = Behaviour(rate=6 * MIB)
    process = start(home)
    wait_for(home, 36 * MIB)
    hub.content_script = [
        Behaviour(status=429, headers={"Retry-After": "1"}),
        Behaviour(drop_at=50 * MIB, reset=True),
        Behaviour(status=403),
    ]
    hub.content_always = GOOD
    finish(process, home)
    assert not hub.content_script


def test_a_line_that_is_away_for_a_while(hub: LoopbackHub, home: Env) -> None:
    hub.content_script = [Behaviour(drop_at=8 * MIB, rate=4 * MIB)]
    process = start(home)
    wait_for(home, 4 * MIB)
    hub.content_goes_away()
    time.sleep(3)
    hub.content_comes_back()
    finish(process, home)


def test_the_tempo_is_decided_by_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)

    def after(tempo: Tempo, seconds: float, mib: int) -> bool:
        nonlocal now
        tempo.begin()
        now += seconds
        return tempo.should_change(mib * MIB, 10_000 * MIB)

    fast = Tempo()
    assert not after(fast, 4, 1000)
    assert not fast.several
    slow = Tempo()
    assert not after(slow, 1, 5)  # too early to say
    assert after(slow, 4, 20)
    assert slow.several
    assert slow.range_length == 20 * MIB // 4 // 2
    assert not after(slow, 4, 20)  # no gain: back to one, for good
    assert not slow.several
    assert not after(slow, 4, 20)
    gain = Tempo()
    assert after(gain, 4, 20)
    assert not after(gain, 4, 60)
    assert gain.several
    gain.failed()
    assert not gain.several
    assert not after(gain, 4, 20)
