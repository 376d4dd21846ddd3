"""The program against a Hub that fails in every way: each download ends whole, or says why."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Env, program
from tests.gguf_files import gguf
from tests.hub_server import GOOD, Behaviour, LoopbackHub, loopback_hub

MIB = 1 << 20
REPO = "owner/tiny-GGUF"
FILE = "tiny-Q8_0.gguf"
NAME = f"hf:{REPO}:{FILE}"
DATA = gguf(tensor_bytes=6 * MIB)
SHA256 = hashlib.sha256(DATA).hexdigest()

Pull = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with loopback_hub() as server:
        server.add(REPO, {FILE: DATA}, license="mit")
        yield server


@pytest.fixture
def env(home: Env, hub: LoopbackHub) -> Env:
    return home | hub.environment() | {"HF_HUB_DOWNLOAD_TIMEOUT": "60", "HF_HUB_ETAG_TIMEOUT": "60"}


# For tests in which the Hub says nothing for longer than that.
IMPATIENT = {"HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1"}


@pytest.fixture
def pull(env: Env) -> Pull:
    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program(), "pull", *(arguments or (NAME,))],
            env=env | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    return run


def repo_folder(env: Env) -> Path:
    return Path(env["HF_HOME"]) / "hub" / f"models--{REPO.replace('/', '--')}"


def blob(env: Env) -> Path:
    return repo_folder(env) / "blobs" / SHA256


def part(env: Env) -> Path:
    return repo_folder(env) / "blobs" / f"{SHA256}.part"


def assert_whole(env: Env, hub: LoopbackHub) -> None:
    """The standard cache: a verified blob, a relative link, a ref, and nothing else."""
    folder = repo_folder(env)
    commit = hub.repos[REPO].commit
    link = folder / "snapshots" / commit / FILE
    assert link.read_bytes() == DATA
    assert link.is_symlink()
    assert link.readlink() == Path("../../blobs") / SHA256
    assert (folder / "refs" / "main").read_text() == commit
    assert [path.name for path in (folder / "blobs").iterdir()] == [SHA256]


def assert_clear(done: subprocess.CompletedProcess[str], code: int) -> None:
    """An expected failure: its exit code, a few lines, no traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert 1 <= len(done.stderr.strip().splitlines()) <= 12


@pytest.mark.parametrize(
    "script",
    [
        [],
        [Behaviour(drop_at=2 * MIB)],
        [Behaviour(drop_at=2 * MIB, reset=True)],
        [Behaviour(drop_at=n * MIB // 2) for n in range(1, 8)],
        [Behaviour(drop_at=0)] * 3,
        [Behaviour(stall_at=2 * MIB, stall_s=3)],
        [Behaviour(drop_at=2 * MIB), Behaviour(ignore_range=True)],
        [Behaviour(drop_at=2 * MIB), Behaviour(wrong_range=True)],
        [Behaviour(drop_at=2 * MIB), Behaviour(status=416)],
        [Behaviour(status=503)],
        [Behaviour(status=500), Behaviour(status=502), Behaviour(status=504)],
        [Behaviour(status=429, headers={"Retry-After": "1"})],
        [Behaviour(status=403)],
        [Behaviour(drop_at=3 * MIB), Behaviour(status=403), Behaviour(status=404)],
        [
            Behaviour(drop_at=MIB, reset=True),
            Behaviour(status=503),
            Behaviour(drop_at=2 * MIB, ignore_range=True),
            Behaviour(status=403),
            Behaviour(stall_at=4 * MIB, stall_s=3),
        ],
    ],
    ids=lambda script: f"{len(script)} faults",
)
def test_survived(hub: LoopbackHub, env: Env, pull: Pull, script: list[Behaviour]) -> None:
    hub.content_script = list(script)
    stalls = any(behaviour.stall_at is not None for behaviour in script)
    done = pull(**(IMPATIENT if stalls else {}))
    assert done.returncode == 0, done.stderr
    assert not hub.content_script, "a fault was never met"
    assert_whole(env, hub)


def test_a_drop_resumes_at_the_byte_reached(hub: LoopbackHub, pull: Pull) -> None:
    hub.content_script = [Behaviour(drop_at=2 * MIB)]
    assert pull().returncode == 0
    assert hub.gets()[1].headers["range"] == f"bytes={2 * MIB}-"


def test_an_expired_link_is_replaced(hub: LoopbackHub, pull: Pull) -> None:
    hub.content_script = [Behaviour(status=403)]
    assert pull().returncode == 0
    first, second = hub.gets()
    assert first.path != second.path


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(hub: LoopbackHub, pull: Pull, status: int) -> None:
    """For the file's facts and for listings, as for content."""
    hub.hub_script = [Behaviour(status=status, headers={"Retry-After": "1"})]
    began = time.monotonic()
    assert pull().returncode == 0
    assert time.monotonic() - began > 1
    hub.hub_script = [Behaviour(status=status, headers={"Retry-After": "0"})] * 2
    assert pull(f"hf:{REPO}").returncode == 0
    assert not hub.hub_script


def test_a_spent_rate_limit_is_honoured(hub: LoopbackHub, pull: Pull) -> None:
    hub.hub_script = [Behaviour(status=429, headers={"RateLimit": '"api";r=0;t=1'})]
    done = pull()
    assert done.returncode == 0
    assert "too many requests (HTTP 429); trying again in 1 s" in done.stderr


def test_a_wait_of_an_hour_is_said_not_waited(hub: LoopbackHub, pull: Pull) -> None:
    hub.hub_always = Behaviour(status=429, headers={"Retry-After": "3600"})
    done = pull()
    assert_clear(done, 4)
    assert "try again in 60 min" in done.stderr


def test_a_flipped_byte_is_refused(hub: LoopbackHub, env: Env, pull: Pull) -> None:
    hub.content_script = [Behaviour(flip_at=3 * MIB)]
    done = pull()
    assert_clear(done, 4)
    assert "arrived damaged" in done.stderr
    assert SHA256 in done.stderr
    assert not blob(env).exists()
    assert not part(env).exists()
    assert not (repo_folder(env) / "snapshots").exists()
    assert pull().returncode == 0
    assert_whole(env, hub)


def test_damage_from_a_former_run_is_found(hub: LoopbackHub, env: Env, pull: Pull) -> None:
    part(env).parent.mkdir(parents=True)
    part(env).write_bytes(bytes(2 * MIB))
    assert_clear(pull(), 4)
    assert not part(env).exists()
    assert pull().returncode == 0
    assert_whole(env, hub)


def test_a_part_longer_than_the_file_is_dropped(hub: LoopbackHub, env: Env, pull: Pull) -> None:
    part(env).parent.mkdir(parents=True)
    part(env).write_bytes(bytes(len(DATA) + 1))
    assert pull().returncode == 0
    assert_whole(env, hub)


def test_a_complete_part_needs_no_content(hub: LoopbackHub, env: Env, pull: Pull) -> None:
    part(env).parent.mkdir(parents=True)
    part(env).write_bytes(DATA)
    assert pull().returncode == 0
    assert_whole(env, hub)
    assert hub.gets() == []


def test_a_dead_line_keeps_what_arrived(hub: LoopbackHub, env: Env, pull: Pull) -> None:
    hub.content_script = [Behaviour(drop_at=2 * MIB)]
    hub.content_always = Behaviour(status=503, headers={"Retry-After": "0"})
    done = pull()
    assert_clear(done, 4)
    assert f"stopped at {2 * MIB:,} of {len(DATA):,} bytes" in done.stderr
    assert "goes on from there" in done.stderr
    assert part(env).stat().st_size == 2 * MIB
    hub.content_always = GOOD
    assert pull().returncode == 0
    assert hub.gets()[-1].headers["range"] == f"bytes={2 * MIB}-"
    assert_whole(env, hub)


def test_no_hub_there(pull: Pull) -> None:
    done = pull(HF_ENDPOINT="http://127.0.0.1:9")
    assert_clear(done, 4)
    assert "http://127.0.0.1:9" in done.stderr


def test_a_hub_that_never_answers(hub: LoopbackHub, pull: Pull) -> None:
    hub.hub_always = Behaviour(hang_s=150)
    began = time.monotonic()
    done = pull(**IMPATIENT)
    # Five tries of a second each, and four seconds between them.
    assert time.monotonic() - began < 140
    assert_clear(done, 4)
    assert hub.endpoint in done.stderr
    assert "stopped answering" in done.stderr


def test_offline(hub: LoopbackHub, pull: Pull) -> None:
    done = pull(HF_HUB_OFFLINE="1")
    assert_clear(done, 3)
    assert "unset HF_HUB_OFFLINE" in done.stderr
    assert pull().returncode == 0
    asked = len(hub.requests)
    done = pull(HF_HUB_OFFLINE="1")
    assert done.returncode == 0
    assert "is here" in done.stderr
    assert len(hub.requests) == asked


def test_here_already_fetches_nothing(hub: LoopbackHub, env: Env, pull: Pull) -> None:
    assert pull().returncode == 0
    gets = len(hub.gets())
    assert pull().returncode == 0
    assert len(hub.gets()) == gets
    assert_whole(env, hub)


def test_what_the_library_fetched_is_found_and_the_reverse(
    hub: LoopbackHub, env: Env, pull: Pull
) -> None:
    code = f"from huggingface_hub import hf_hub_download as get; get({REPO!r}, {FILE!r})"
    quiet = env | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    subprocess.run([sys.executable, "-c", code], env=quiet, check=True, capture_output=True)
    gets = len(hub.gets())
    assert pull().returncode == 0
    assert len(hub.gets()) == gets
    blob(env).unlink()
    assert pull().returncode == 0
    assert len(hub.gets()) == gets + 1
    subprocess.run([sys.executable, "-c", code], env=quiet, check=True, capture_output=True)
    assert len(hub.gets()) == gets + 1


def test_two_at_once_share_one_download(hub: LoopbackHub, env: Env) -> None:
    hold = threading.Event()
    hub.content_always = Behaviour(stall_at=2 * MIB, hold=hold)
    first = start(env)
    wait_for_bytes(env, MIB)
    second = start(env)
    assert second.stderr is not None
    said = ""
    while "another process is downloading it" not in said:
        said = second.stderr.readline()
        assert said, "it ended"
    hold.set()
    for process in (first, second):
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert len(hub.gets()) == 1
    assert_whole(env, hub)


def start(env: Env) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*program(), "pull", NAME],
        env=env,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_bytes(env: Env, count: int) -> None:
    deadline = time.monotonic() + 90
    while not (part(env).exists() and part(env).stat().st_size >= count):
        assert time.monotonic() < deadline, "nothing arrives"
        time.sleep(0.01)


def test_ctrl_c_says_how_to_go_on(hub: LoopbackHub, env: Env, pull: Pull) -> None:
    hub.content_always = Behaviour(stall_at=2 * MIB)
    process = start(env)
    wait_for_bytes(env, MIB)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=50)[1]
    assert process.returncode == 130
    assert f"gemma pull {NAME}" in said
    assert "Traceback" not in said
    here = part(env).stat().st_size
    hub.content_always = GOOD
    assert pull().returncode == 0
    assert hub.gets()[-1].headers["range"] == f"bytes={here}-"
    assert_whole(env, hub)


def test_kill_9_at_twenty_points(hub: LoopbackHub, env: Env, pull: Pull) -> None:
    """No byte is fetched twice beyond what was in flight, and the end is right."""
    chance = random.Random(7)
    for kill in range(20):
        before = part(env).stat().st_size if part(env).exists() else 0
        # However late the signal is, the end does not come before it.
        most = (kill + 1) * len(DATA) // 21
        hub.content_always = Behaviour(rate=8 * MIB, stall_at=most)
        process = start(env)
        wait_for_bytes(env, before + chance.randrange(most - before))
        process.kill()
        process.communicate()
        reached = part(env).stat().st_size
        assert reached >= before, f"kill {kill} lost bytes"
        assert part(env).read_bytes() == DATA[:reached]
    hub.content_always = GOOD
    assert pull().returncode == 0
    assert_whole(env, hub)
    starts = [int(get.headers.get("range", "bytes=0-")[6:-1]) for get in hub.gets()]
    assert starts == sorted(starts)


def test_a_disk_too_small_is_said_before_the_first_byte(
    hub: LoopbackHub, env: Env, pull: Pull
) -> None:
    huge = {
        "X-Repo-Commit": "0" * 40,
        "X-Linked-Etag": f'"{SHA256}"',
        "X-Linked-Size": str(1 << 55),
        "Location": f"{hub.content_endpoint}/{REPO}/{FILE}?link=1",
    }
    hub.hub_script = [GOOD, Behaviour(status=302, headers=huge)]
    done = pull()
    assert_clear(done, 4)
    assert "the disk is too full" in done.stderr
    assert hub.gets() == []
    assert not repo_folder(env).exists()


def test_a_disk_that_fills_up(hub: LoopbackHub, env: Env, tmp_path: Path, pull: Pull) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(small)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        hold = threading.Event()
        hub.content_always = Behaviour(stall_at=2 * MIB, hold=hold)
        process = start(env | {"HF_HOME": str(small)})
        wait_for_bytes(env | {"HF_HOME": str(small)}, MIB)
        with (small / "filler").open("wb") as filler:
            filler.write(bytes(75 * MIB))
        hold.set()
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 4
        assert "the disk became full" in said
        (small / "filler").unlink()
        assert pull(HF_HOME=str(small)).returncode == 0
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_cache_that_cannot_be_written(tmp_path: Path, pull: Pull) -> None:
    (tmp_path / "file").write_text("in the way")
    done = pull(HF_HOME=str(tmp_path / "file"))
    assert_clear(done, 4)
    assert "cannot write to the Hub cache" in done.stderr
    assert "HF_HOME" in done.stderr


def test_only_the_hub_and_its_content_host_are_asked(hub: LoopbackHub, env: Env) -> None:
    """Any name looked up, and any other port, would show in the traced connections."""
    trace = (
        "import socket, sys\n"
        "def watch(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'):\n"
        "        print(event, args[1] if event == 'socket.connect' else args[:2], file=out)\n"
        "out = open(sys.argv.pop(1), 'w')\n"
        "sys.addaudithook(watch)\n"
        "from gemma_cli.__main__ import main\n"
        "main()\n"
    )
    log = Path(env["HF_HOME"]).parent / "connections"
    subprocess.run(
        [sys.executable, "-c", trace, str(log), "pull", NAME], env=env, check=True, timeout=60
    )
    ports = {hub.endpoint.rsplit(":", 1)[1], hub.content_endpoint.rsplit(":", 1)[1]}
    lines = log.read_text().splitlines()
    assert lines
    for line in lines:
        assert "127.0.0.1" in line
        assert any(port in line for port in ports), line


def test_the_token_goes_to_the_hub_only(hub: LoopbackHub, pull: Pull) -> None:
    hub.content_script = [Behaviour(drop_at=MIB), Behaviour(status=403)]
    done = pull(HF_TOKEN="hf_secret")
    assert done.returncode == 0
    assert "hf_secret" not in done.stdout + done.stderr
    for request in hub.requests:
        expected = "Bearer hf_secret" if request.host == "hub" else None
        assert request.headers.get("authorization") == expected


def test_events_as_json(hub: LoopbackHub, pull: Pull) -> None:
    hub.content_script = [Behaviour(drop_at=2 * MIB)]
    done = pull(NAME, "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["resolved", "started"]
    assert kinds[-2:] == ["finished", "installed"]
    assert "waiting" in kinds
    assert events[-1]["sha256"] == SHA256
    assert events[-1]["path"].endswith(FILE)
