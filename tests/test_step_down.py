"""Memory fails though the plan fits: one smaller plan is tried, and whoever waits is told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gemma_cli.commands.loading.stepping import step_down
from gemma_cli.engine.headroom import NoMemoryError, is_gpus, no_context, no_load
from gemma_cli.engine.llama import LlamaEngine
from gemma_cli.engine.protocol import Done, Sampling
from gemma_cli.engine.setup import Setup, Weights
from gemma_cli.machine.cpu import affinity, usable_threads
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.memory import Plan, Wishes, plan
from gemma_cli.models.gguf import Header, read_header
from tests.conftest import DEMO, Env, Gemma, program
from tests.gguf_files import write_gguf
from tests.gguf_models import (
    gemma3_27b_without_weights,
    gemma3_metadata,
    gemma3_tensors,
    tiny_gemma,
)

GIB = 1 << 30
SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Header:
    return read_header(gemma3_27b_without_weights(tmp_path_factory.mktemp("large") / "27b.gguf"))


def machine(ram: float, *gpus: float) -> Machine:
    host = Device("CPU", "cpu", int(ram * GIB), int(ram * GIB))
    cards = (
        Device(f"Card {i}", "gpu", int(size * GIB), int(size * GIB), id=f"CUDA{i}")
        for i, size in enumerate(gpus)
    )
    return Machine(host, tuple(cards), threads=4)


def steps(header: Header, here: Machine, wishes: Wishes, *, on_gpu: bool) -> tuple[Plan, Plan]:
    made = plan(header, here, wishes)
    smaller = step_down(made, header, here, wishes, on_gpu=on_gpu)
    assert smaller is not None
    return made, smaller


@pytest.mark.parametrize("gpus", [(48,), (24, 24), (16,)])
def test_a_gpu_gets_fewer_layers_and_the_context_stays(
    large: Header, gpus: tuple[float, ...]
) -> None:
    made, smaller = steps(large, machine(128, *gpus), Wishes(n_ctx=8192), on_gpu=True)
    assert 0 < smaller.gpu_layers < made.gpu_layers
    assert smaller.n_ctx == made.n_ctx
    for before, after in zip(made.shares[1:], smaller.shares[1:], strict=True):
        assert after.needed <= before.needed * 3 // 4
    assert f"{smaller.gpu_layers} of 63 layers on the GPU, not the {made.gpu_layers}" in smaller.why


@pytest.mark.parametrize("asked", ["all", 40])
def test_layers_that_were_asked_for_step_down_too_and_it_is_said(
    large: Header, asked: int | str
) -> None:
    wishes = Wishes(n_ctx=8192, gpu_layers="all" if asked == "all" else 40)
    made, smaller = steps(large, machine(128, 48), wishes, on_gpu=True)
    assert smaller.gpu_layers < made.gpu_layers
    assert smaller.why.endswith(f"not the {made.gpu_layers} that --gpu-layers asked for")


def test_a_host_without_room_for_those_layers_means_half_the_context(large: Header) -> None:
    made, smaller = steps(large, machine(4, 60), Wishes(n_ctx=32768), on_gpu=True)
    assert smaller.n_ctx == 16384
    assert smaller.gpu_layers == made.gpu_layers == 63


def test_the_hosts_memory_means_half_the_context_wherever_layers_are(large: Header) -> None:
    for gpus in ((), (24,)):
        made, smaller = steps(large, machine(128, *gpus), Wishes(), on_gpu=False)
        assert smaller.n_ctx == made.n_ctx // 2
        assert smaller.gpu_layers == made.gpu_layers
        assert smaller.why == f"a context of {smaller.n_ctx} tokens, not the {made.n_ctx}"


@pytest.mark.parametrize(
    ("asked", "then"),
    [(8192, 4096), (6000, 4096), (4096, 2048), (1000, 500), (400, 256), (256, None), (64, None)],
)
def test_a_context_steps_below_4096_only_where_so_few_were_asked_for(
    large: Header, asked: int, then: int | None
) -> None:
    wishes, here = Wishes(n_ctx=asked), machine(128)
    smaller = step_down(plan(large, here, wishes), large, here, wishes, on_gpu=False)
    assert (smaller and smaller.n_ctx) == then
    assert smaller is None or smaller.why.endswith("that --ctx asked for")


def test_the_smallest_context_that_is_chosen_unasked_is_not_halved(large: Header) -> None:
    few, here = replace(large, n_ctx_train=4096), machine(128)
    assert step_down(plan(few, here, Wishes()), few, here, Wishes(), on_gpu=False) is None


@pytest.mark.parametrize(
    ("reason", "on_gpu"),
    [
        ("unable to allocate CUDA0 buffer", True),
        ("allocating 512.00 MiB on device 0: cudaMalloc failed: out of memory", True),
        ("failed to allocate RPC0[127.0.0.1:50052] buffer of size 1048576", True),
        ("failed to allocate buffer for kv cache", True),
        ("unable to allocate CPU_REPACK buffer", False),
        ("unable to allocate CUDA_Host buffer", False),
        ("insufficient memory (attempted to allocate  512.00 MB)", False),
        ("std::bad_alloc", False),
    ],
)
def test_whose_memory_it_was(reason: str, on_gpu: bool) -> None:
    assert is_gpus(reason, 10) is on_gpu
    assert not is_gpus(reason, 0)


def test_the_errors_have_figures_and_what_to_type(large: Header, tmp_path: Path) -> None:
    made = plan(large, machine(128, 24), Wishes(n_ctx=8192))
    context = no_context(made, "why not", on_gpu=True)
    assert "on the GPU for a context of 8192 tokens (KV cache" in context.message
    assert "--ctx 4096" in (context.hint or "")
    assert "--ctx" not in (no_context(replace(made, n_ctx=256), "x").hint or "")
    file = tmp_path / "m.gguf"
    file.write_bytes(b"x" * (3 << 20))
    weights = no_load(file, "why not", on_gpu=True)
    assert isinstance(weights, NoMemoryError)
    assert "m.gguf (3 MiB)" in weights.message
    assert "--gpu-layers" in (weights.hint or "")


def test_a_draft_model_without_memory_is_left_out_and_said(tmp_path: Path) -> None:
    path = tiny_gemma(tmp_path / "tiny.gguf")
    header = read_header(path)
    made = plan(header, machine(8), Wishes(n_ctx=256, threads=1))
    host = replace(made.host, kv=1 << 50)  # no address space holds that
    too_large = Weights(path, header, replace(made, shares=(host,)))
    engine = LlamaEngine(Setup(Weights(path, header, made), draft=too_large))
    try:
        (warning,) = engine.info().warnings
        *_, done = engine.generate(engine.raw("a"), Sampling(temperature=0, max_tokens=2))
    finally:
        engine.close()
    assert "too little memory" in warning
    assert warning.endswith("going on without this draft model")
    assert isinstance(done, Done)
    assert done.stop_reason == "length"


def limited(
    env: Env, kib: int, arguments: Sequence[str], text: str = ""
) -> subprocess.CompletedProcess[str]:
    """The program with so much address space: mappings of weights count too."""
    return subprocess.run(
        ["sh", "-c", f'ulimit -v {kib}; exec "$@"', "sh", *program(), *arguments],
        input=text,
        capture_output=True,
        text=True,
        env=env,
        timeout=120,
        check=False,
    )


def attempts(
    env: Env, arguments: Sequence[str], text: str = "", step: int = 100_000
) -> Iterator[subprocess.CompletedProcess[str]]:
    """Runs with more and more memory; how much a process maps differs by machine."""
    for kib in range(400_000, 2_600_000, step):
        done = limited(env, kib, arguments, text)
        assert done.returncode in (0, 5), (kib, done.stderr)
        assert "Traceback" not in done.stderr, kib
        assert "OpenBLAS" not in done.stderr, kib
        yield done
        if done.returncode == 0 and "going on with" not in done.stderr:
            return


@LINUX_ONLY
def test_half_the_context_that_was_asked_for(with_demo: Env) -> None:
    """Real weights: first the limit fails both attempts, then the first one, then none."""
    arguments = ["run", "-m", DEMO, "--raw", "-t", "0", "-n", "3", "--json", "--no-cache"]
    arguments += ["--ctx", "131072", "--ctx-beyond-training", "1, 2, 3,"]
    all_done = list(attempts(with_demo, arguments))
    stepped = [done for done in all_done if "going on with" in done.stderr]
    assert stepped, [done.stderr for done in all_done]
    for done in stepped:
        report = json.loads(done.stdout)
        assert report["context"]["n_ctx"] == 65536
        assert report["text"].startswith(" 4")
        (warning,) = report["warnings"]
        assert "for a context of 131072 tokens (KV cache 39" in warning
        assert warning.endswith("a context of 65536 tokens, not the 131072 that --ctx asked for")
        assert done.stderr.count(warning) == 1
    twice = [done for done in all_done if "one step down" in done.stderr]
    assert twice
    for done in twice:
        assert (done.returncode, done.stdout) == (5, "")
        assert "context of 65536 tokens (KV cache" in done.stderr
        assert "--ctx 32768" in done.stderr
    assert json.loads(all_done[-1].stdout)["context"]["n_ctx"] == 131072  # nothing failed
    assert json.loads(all_done[-1].stdout)["warnings"] == []


@LINUX_ONLY
def test_a_chat_says_it_once_and_goes_on(home: Env, tmp_path: Path) -> None:
    """Nobody asked for a size: the context that was chosen is halved."""
    model = tiny_gemma(tmp_path / "tiny.gguf", heads=16, kv_heads=16, head_size=128)
    arguments = ["chat", str(model), "-t", "0", "-n", "2", "--no-history"]
    all_done = list(attempts(home, arguments, "Hello\nAgain\n", step=30_000))
    stepped = [done for done in all_done if "going on with" in done.stderr]
    assert stepped, [done.stderr for done in all_done]
    for done in stepped:
        assert done.stderr.count("going on with a context of 16384 tokens, not the 32768") == 1
        assert "asked for" not in done.stderr


RPC_CLIENT = """
import sys
sys.path[:0] = [sys.argv.pop(1)]
import rpc_devices
rpc_devices.register(sys.argv.pop(1))
from gemma_cli.__main__ import main
main()
"""


@LINUX_ONLY
@pytest.mark.skipif("GEMMA_TEST_RPC" not in os.environ, reason="no llama.cpp with RPC is named")
def test_a_device_beside_the_host_gets_fewer_layers(home: Env, tmp_path: Path) -> None:
    """GEMMA_TEST_RPC: a folder of llama.cpp's libraries with the RPC backend, whose server
    on loopback is a device like a GPU. It says that all RAM is free, and a limit forbids it."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        from rpc_devices import _free_port, _wait_for
    finally:
        sys.path.remove(str(SCRIPTS))
    metadata = gemma3_metadata(
        layers=12, embedding=1024, feed_forward=4096, heads=4, kv_heads=1, head_size=128
    )
    model = write_gguf(tmp_path / "even.gguf", metadata, gemma3_tensors(metadata))  # 637 MiB
    endpoint = f"127.0.0.1:{_free_port()}"
    env = home | {"LLAMA_CPP_LIB_PATH": os.environ["GEMMA_TEST_RPC"]}
    serve = [sys.executable, str(SCRIPTS / "rpc_devices.py"), endpoint.rpartition(":")[2]]
    server = subprocess.Popen(
        ["sh", "-c", 'ulimit -v 700000; exec "$@"', "sh", *serve], env=env, stdin=subprocess.PIPE
    )
    try:
        _wait_for(endpoint, server)
        client = [sys.executable, "-c", RPC_CLIENT, str(SCRIPTS), endpoint]
        asked = ["run", "-m", str(model), "--raw", "-n", "2", "--ctx", "512", "--json", "Hi"]
        done = subprocess.run(
            [*client, *asked], input="", capture_output=True, text=True, env=env, timeout=120
        )
    finally:
        server.kill()
        server.communicate()
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert 0 < report["gpu_layers"] < 13
    (warning,) = report["warnings"]
    assert "there is too little memory on the GPU to load even.gguf (637 MiB)" in warning
    assert warning.endswith(f"{report['gpu_layers']} of 13 layers on the GPU, not the 13")
    assert done.stderr.count(warning) == 1


@LINUX_ONLY
@pytest.mark.parametrize("kib", [100_000, 300_000, 620_000, 660_000])
def test_a_bench_without_memory_is_an_error(with_demo: Env, kib: int) -> None:
    done = limited(with_demo, kib, ["bench", DEMO, "--ctx", "16384", "--threads", "1", "--json"])
    assert done.returncode in ((5,) if kib < 500_000 else (0, 5)), done.stderr
    assert "Traceback" not in done.stderr
    if done.returncode == 5:
        said = [line for line in done.stderr.splitlines() if line.startswith("gemma: ")]
        assert len(said) == 1
        assert re.search("too little memory|no memory for llama.cpp's library", said[0])


@LINUX_ONLY
@pytest.mark.skipif(usable_threads() < 2, reason="one core")
def test_fewer_threads_on_a_busy_machine_are_said(gemma: Gemma, with_demo: Env) -> None:
    del with_demo["GEMMA_THREADS"]
    spin = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(spin) for _ in affinity()]
    try:
        time.sleep(0.3)
        said = gemma("run", "--raw", "-t", "0", "-n", "2", "--stats", "--json", "1, 2, 3,")
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert said.returncode == 0, said.stderr
    most = usable_threads()
    found = re.search(rf"(\d+) of {most} threads: the machine is busy", said.stderr)
    assert found, said.stderr
    assert json.loads(said.stdout)["threads"] == int(found[1]) < most


def test_named_threads_are_taken_and_shown(gemma: Gemma, with_demo: Env) -> None:
    said = gemma("run", "--raw", "-n", "1", "--stats", "--threads", "1", "Hi", env=with_demo)
    assert said.stderr.rstrip().endswith("· 1 thread")
