"""`gemma bench`: the installed program measures real weights, in small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemma_cli.commands.bench import _print_scan
from gemma_cli.commands.benching import Scan, thread_counts
from gemma_cli.machine.bandwidth import read_bandwidth
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.memory import Wishes, plan
from gemma_cli.machine.ram import peak_resident
from gemma_cli.machine.speed import weights_read
from gemma_cli.models.gguf import Header, Tensor, read_header
from tests.conftest import Env, Gemma, program
from tests.gguf_models import tiny_gemma


def test_real_weights_at_two_contexts(gemma: Gemma, with_demo: Env) -> None:
    done = gemma("bench", "--ctx", "32", "--ctx", "64", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["model"] == "gemma3:270m-pt"
    assert report["complete"] is True
    assert report["threads"] is None  # none to compare: the count was named
    assert [(run["n_ctx"], run["threads"], run["gpu_layers"]) for run in report["runs"]] == [
        (32, 1, 0),
        (64, 1, 0),
    ]
    (bandwidth,) = report["bandwidth"]
    assert bandwidth["threads"] == 1
    for run in report["runs"]:
        assert run["prefill_tps"] > run["decode_tps"] > 1
        # The prompt is half of so small a context.
        assert run["ttft_s"] == pytest.approx(run["n_ctx"] / 2 / run["prefill_tps"], rel=0.5)
        assert 0.01 < run["load_s"] < 60
        assert run["limit_tps"] == pytest.approx(
            bandwidth["bytes_per_s"] / (report["file_bytes"] + run["kv_bytes"]), rel=0.1
        )
        assert run["limit_share"] == pytest.approx(run["decode_tps"] / run["limit_tps"])
        # The weights are mapped and read: the process held most of them.
        assert report["file_bytes"] / 2 < run["peak_rss"] < report["file_bytes"] * 4
        assert run["kv_bytes"] > 0
        assert run["compute_bytes"] > 0
        assert run["memory_source"] == "llama.cpp"
    home = Path(with_demo["GEMMA_HOME"])
    assert not (home / "data").exists()
    assert not (home / "cache" / "kv").exists()


def test_a_table_for_people_and_the_choice_of_threads(
    gemma: Gemma, home: Env, tmp_path: Path
) -> None:
    model = tiny_gemma(tmp_path / "tiny.gguf")
    del home["GEMMA_THREADS"]
    done = gemma("bench", str(model), "--ctx", "32,48", "--gpu-layers", "0")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].split()[:3] == ["CTX", "THREADS", "GPU"]
    assert [line.split()[0] for line in lines[2:4]] == ["32", "48"]
    assert lines[5].split()[3:] == ["LOAD", "PEAK", "KV", "COMPUTE"]
    assert [line.split()[0] for line in lines[6:8]] == ["32", "48"]
    assert "GB/s read by" in lines[9]
    assert max(map(len, lines[1:8])) <= 60
    assert lines[-1].startswith("--threads auto takes ")
    assert "% of the best" in lines[-1]
    assert "numbers of threads" in done.stderr
    assert "~" not in done.stdout  # no figure is only planned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ctx", "many"), "--ctx takes a number or auto, max, not 'many'"),
        (("--ctx", "8"), "--ctx must be 16 or more"),
        (("--ctx", ","), "--ctx takes numbers"),
        (("--threads", "1,0"), "--threads must be 1 or more"),
        (("--gpu-layers", "half"), "--gpu-layers takes"),
        (("--ctx", "99999999"), "trained on"),
        (("--gpu-layers", "999"), "this model has 19"),
    ],
)
@pytest.mark.usefixtures("with_demo")
def test_what_cannot_be_meant(gemma: Gemma, options: tuple[str, ...], message: str) -> None:
    done = gemma("bench", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_beyond_what_the_model_was_trained_on(gemma: Gemma, tmp_path: Path) -> None:
    model = tiny_gemma(tmp_path / "tiny.gguf", context=64)
    asked = ("bench", str(model), "--ctx", "96", "--threads", "1", "--json")
    refused = gemma(*asked)
    assert (refused.returncode, refused.stdout) == (2, "")
    done = gemma(*asked, "--ctx-beyond-training")
    assert done.returncode == 0, done.stderr
    assert [run["n_ctx"] for run in json.loads(done.stdout)["runs"]] == [96]


def test_a_file_that_is_none(gemma: Gemma, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and then nothing of the kind")
    done = gemma("bench", str(broken))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert gemma("bench", "gemma9:1b").returncode == 3


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_shows_what_was_measured(with_demo: Env) -> None:
    command = [*program(), "bench", "--ctx", "32,16384", "--threads", "1", "--json"]
    with subprocess.Popen(
        command, env=with_demo, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("context 16384"):
                break
        process.send_signal(signal.SIGINT)
        report = json.loads(process.stdout.read())
        assert process.wait(timeout=90) == 130
    assert report["complete"] is False
    assert [run["n_ctx"] for run in report["runs"]] == [32]


def is_at_work(pid: str) -> bool:
    """Not one that has ended and that nobody has asked about, as in a container without init."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the child in /proc")
def test_no_child_outlives_a_killed_bench(with_demo: Env) -> None:
    command = [*program(), "bench", "--ctx", "16384", "--threads", "1"]
    with subprocess.Popen(command, env=with_demo, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("context 16384"):
                break
        children: list[str] = []
        until = time.monotonic() + 90
        while not children and time.monotonic() < until:
            tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            children = tasks.read_text().split()
        assert children
        time.sleep(0.5)
        process.kill()
    until = time.monotonic() + 90
    while is_at_work(children[0]):
        assert time.monotonic() < until, "it goes on"
        time.sleep(0.05)


def test_the_limit_counts_what_a_token_reads(demo_gguf: Path) -> None:
    header = read_header(demo_gguf)
    plenty = Device("CPU", "cpu", 64 << 30, 64 << 30)

    def read(model: Header) -> int:
        made = plan(model, Machine(plenty, (), 2), Wishes(n_ctx=512))
        host, gpu = weights_read(model, made)
        assert gpu == 0
        return host

    assert read(header) == header.tensor_bytes  # a tied embedding is the output too
    made = replace(
        header,
        tensors=(
            Tensor("token_embd.weight", "F16", (1,), 1000, 0),
            Tensor("per_layer_token_embd.weight", "F16", (1,), 5000, 0),
            Tensor("output.weight", "F16", (1,), 200, 0),
            Tensor("blk.0.attn_q.weight", "F16", (1,), 30, 0),
            Tensor("blk.0.ffn_up_exps.weight", "F16", (1,), 1280, 0),
        ),
        n_expert=128,
        n_expert_used=8,
    )
    assert read(made) == 200 + 30 + 80


def test_the_share_of_the_best_is_that_of_rounds_side_by_side() -> None:
    def rounds(*rates: float) -> list[dict[str, float]]:
        return [{"decode_tps": rate, "prefill_tps": rate} for rate in rates]

    scan = Scan(2, {1: rounds(50, 100, 40), 2: rounds(49, 98, 39.2), 4: rounds(10, 90, 11)})
    assert scan.best == 1
    assert scan.share == pytest.approx(0.98)
    assert Scan(2, {2: rounds(5)}).share == 1


def test_fewer_threads_that_were_faster_are_no_reason_yet_to_set_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def rounds(rate: float) -> list[dict[str, float]]:
        return [{"decode_tps": rate, "prefill_tps": rate}]

    _print_scan(Scan(2, {1: rounds(80), 2: rounds(20)}))
    shown = capsys.readouterr()
    assert "--threads auto takes 2: 25% of the best, 1" in shown.out
    said = " ".join(shown.err.split())
    assert "1 thread was faster here now" in said
    assert "If other programs were busy" in said
    assert said.endswith("gemma config set threads 1")
    _print_scan(Scan(2, {1: rounds(50), 2: rounds(80)}))
    assert capsys.readouterr().err == ""


def test_the_counts_that_are_compared() -> None:
    assert 1 in thread_counts(1)
    assert {1, 4, 7, 8} <= set(thread_counts(8))
    assert thread_counts(3) == sorted(set(thread_counts(3)))


def test_memory_is_read_at_a_rate_that_memory_has() -> None:
    rate: float = read_bandwidth(1, 64 << 20)
    assert 0.3e9 < rate < 3e12


def test_the_peak_is_more_than_what_is_held_now() -> None:
    block: Any = bytearray(os.urandom(1 << 20)) * 64
    peak = peak_resident()
    del block
    assert peak > 64 << 20
    assert peak_resident() > 0.9 * peak  # the kernel counts in strides
