"""What the machine has: the real one, and others built as folders of the kernel's files."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gemma_cli
from gemma_cli.machine import cgroup, cpu, devices, ram
from tests.gguf_models import tiny_gemma

GIB = 1 << 30
MIB = 1 << 20
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="the Linux kernel's files")


def lay_out(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_this_machine_is_what_the_system_says() -> None:
    here = devices.this_machine()
    assert 0 < here.host.free <= here.host.total
    assert here.threads >= 1
    assert "CPU" in devices.backends()
    for gpu in here.gpus:
        assert gpu.backend in devices.backends()
        assert 0 <= gpu.free <= gpu.total


V1 = "3:cpu,cpuacct:{0}\n4:memory:{0}\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, None),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        # The tightest of all groups above counts, under the path of this process.
        (
            {
                "proc/self/cgroup": "0::/user.slice/app.scope\n",
                "sys/fs/cgroup/user.slice/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/user.slice/app.scope/cpu.max": "max 100000\n",
                "sys/fs/cgroup/cpu.max": "800000 100000\n",
            },
            2.0,
        ),
        # A container sees its own group as the top, by a path of the host's.
        (
            {
                "proc/self/cgroup": V1.format("/docker/0123"),
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": V1.format("/"),
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"sys/fs/cgroup/cpu.max": "nonsense\n"}, None),
    ],
)
def test_the_cgroups_cpu_quota(tmp_path: Path, files: dict[str, str], cpus: float | None) -> None:
    assert cgroup.cpu_quota(lay_out(tmp_path, files)) == cpus


@pytest.mark.parametrize(
    ("files", "room"),
    [
        ({"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "5\n"}, None),
        (
            {
                "sys/fs/cgroup/memory.max": f"{4 * GIB}\n",
                "sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
                "sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {GIB}\n",
            },
            (4 * GIB, 2 * GIB),
        ),
        # The slice above is fuller than the scope itself.
        (
            {
                "proc/self/cgroup": "0::/a.slice/b.scope\n",
                "sys/fs/cgroup/a.slice/memory.max": f"{8 * GIB}\n",
                "sys/fs/cgroup/a.slice/memory.current": f"{7 * GIB}\n",
                "sys/fs/cgroup/a.slice/b.scope/memory.max": f"{4 * GIB}\n",
                "sys/fs/cgroup/a.slice/b.scope/memory.current": "0\n",
            },
            (4 * GIB, GIB),
        ),
        (
            {
                "proc/self/cgroup": V1.format("/job"),
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{GIB}\n",
                "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{MIB}\n",
                "sys/fs/cgroup/memory/job/memory.stat": "total_inactive_file 0\n",
            },
            (GIB, GIB - MIB),
        ),
    ],
)
def test_the_cgroups_memory_limit(
    tmp_path: Path, files: dict[str, str], room: tuple[int, int] | None
) -> None:
    assert cgroup.memory_room(lay_out(tmp_path, files)) == room


@LINUX_ONLY
def test_free_memory_is_bounded_by_the_cgroup(tmp_path: Path) -> None:
    meminfo = "MemTotal: 33554432 kB\nMemFree: 1 kB\nMemAvailable: 16777216 kB\nHugepagesize: 2\n"
    lay_out(tmp_path, {"proc/meminfo": meminfo})
    assert ram.total_and_free(tmp_path) == (32 * GIB, 16 * GIB)
    lay_out(tmp_path, {"sys/fs/cgroup/memory.max": f"{4 * GIB}\n"})
    assert ram.total_and_free(tmp_path) == (4 * GIB, 4 * GIB)
    lay_out(tmp_path, {"proc/meminfo": "MemTotal: 2048 kB\nMemFree: 512 kB\nCached: 512 kB\n"})
    assert ram.total_and_free(tmp_path) == (2 * MIB, MIB)


def topology(siblings: dict[int, str]) -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list": f"{text}\n"
        for number, text in siblings.items()
    }


@LINUX_ONLY
@pytest.mark.parametrize(
    ("files", "cpus", "threads"),
    [
        ({}, {0, 1, 2}, 3),
        # Four cores of two threads each; the affinity leaves one and a half of them.
        (topology({i: f"{i % 4},{i % 4 + 4}" for i in range(8)}), set(range(8)), 4),
        (topology({i: f"{i % 4},{i % 4 + 4}" for i in range(8)}), {0, 4, 1}, 2),
        # Intel hybrid: two performance cores of two threads, four efficiency cores.
        (
            topology({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"} | {i: f"{i}" for i in range(4, 8)})
            | {"sys/devices/cpu_core/cpus": "0-3\n", "sys/devices/cpu_atom/cpus": "4-7\n"},
            set(range(8)),
            2,
        ),
        # Tied to the efficiency cores, it uses them.
        ({"sys/devices/cpu_core/cpus": "0-3\n"}, {4, 5, 6}, 3),
        # ARM: a prime core, three large ones, four small ones.
        (
            {
                f"sys/devices/system/cpu/cpu{i}/cpu_capacity": f"{capacity}\n"
                for i, capacity in enumerate([300] * 4 + [800] * 3 + [1024])
            },
            set(range(8)),
            4,
        ),
        ({"sys/fs/cgroup/cpu.max": "250000 100000\n"}, set(range(16)), 2),
        ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, set(range(16)), 1),
    ],
)
def test_threads_are_the_cores_worth_computing_on(
    tmp_path: Path, files: dict[str, str], cpus: set[int], threads: int
) -> None:
    assert cpu.usable_threads(lay_out(tmp_path, files), cpus) == threads


def test_windows_counts_the_cores_of_the_highest_class() -> None:
    def core(efficiency: int) -> bytes:
        return struct.pack("<IIBB", 0, 48, 1, efficiency).ljust(48, b"\0")

    cache = struct.pack("<II", 2, 32).ljust(32, b"\0")
    assert cpu.count_fast_cores(core(0) * 6) == 6
    assert cpu.count_fast_cores(core(1) * 6 + cache + core(0) * 8) == 6
    assert cpu.count_fast_cores(b"") == 0
    assert cpu.count_fast_cores(core(0)[:7]) == 0


@LINUX_ONLY
def test_what_others_compute_leaves_fewer_threads(tmp_path: Path) -> None:
    cpus = sorted(cpu.affinity())

    def stat(busy: float) -> dict[str, str]:
        """busy: hundredths of a second since the start, on each CPU of ours."""
        lines = [f"cpu{number} {int(busy)} 0 0 500 7 0 0 0 0 0" for number in cpus]
        return {"proc/stat": "\n".join(["cpu 1 2 3 4 5 6 7 8 9 10", *lines, "intr 1 2"]) + "\n"}

    load = cpu.OtherLoad(lay_out(tmp_path, stat(0)))
    assert load.advise(len(cpus)) is None  # nothing can be said of so short a time
    time.sleep(0.2)
    lay_out(tmp_path, stat(0))
    assert load.advise(len(cpus)) == len(cpus)
    time.sleep(0.2)
    lay_out(tmp_path, stat(100_000))  # more than the time that passed: all of them are taken
    assert load.advise(len(cpus)) == 1
    assert cpu.OtherLoad(tmp_path / "nothing").advise(4) is None


@LINUX_ONLY
def test_an_answer_leaves_busy_cores_alone(tmp_path: Path) -> None:
    """The real engine beside real processes that compute on every core."""
    from gemma_cli.commands.loading.opening import plan_for
    from gemma_cli.engine.library import C
    from gemma_cli.engine.llama import LlamaEngine
    from gemma_cli.engine.protocol import Sampling
    from gemma_cli.engine.setup import Setup, Weights
    from gemma_cli.machine.memory import Wishes
    from gemma_cli.models.gguf import read_header

    path = tiny_gemma(tmp_path / "tiny.gguf")
    header = read_header(path)
    plan = plan_for(header, Wishes(n_ctx=256, threads=3, gpu_layers=0))
    spin = [sys.executable, "-c", "while True: pass"]
    used = {}
    for adapt in (False, True):
        engine = LlamaEngine(Setup(Weights(path, header, plan), adapt_threads=adapt))
        engine.info()
        others = [subprocess.Popen(spin) for _ in cpu.affinity()]
        try:
            time.sleep(0.5)
            list(engine.generate(engine.raw("a"), Sampling(temperature=0, max_tokens=1)))
            used[adapt] = C.llama_n_threads(engine._loaded._context.pointer)
        finally:
            for other in others:
                other.kill()
                other.wait()
            engine.close()
    assert used[False] == 3
    assert used[True] < 3


# Stands where llama.cpp's libraries are, with the functions of ggml-backend.h that are called.
GGML = r"""
#include <stddef.h>
struct device { const char *name, *text, *backend; int type; size_t free, total; };
static const struct device devices[] = {
    {"CPU", "A processor", "CPU", 0, 7, 8},
    {"CUDA0", "NVIDIA One", "CUDA", 1, 20000000000, 24000000000},
    {"CUDA1", "NVIDIA Two", "CUDA", 1, 9000000000, 8000000000},
    {"Vulkan0", "Integrated", "Vulkan", 2, 0, 0},
    {"BLAS", "An accelerator", "BLAS", 3, 0, 0},
};
static const char *backends[] = {"CUDA", "Vulkan", "BLAS", "CPU"};
size_t ggml_backend_dev_count(void) { return 5; }
const void *ggml_backend_dev_get(size_t i) { return &devices[i]; }
size_t ggml_backend_reg_count(void) { return 4; }
const void *ggml_backend_reg_get(size_t i) { return &backends[i]; }
const char *ggml_backend_reg_name(const char **reg) { return *reg; }
const char *ggml_backend_dev_name(const struct device *d) { return d->name; }
const char *ggml_backend_dev_description(const struct device *d) { return d->text; }
const void *ggml_backend_dev_backend_reg(const struct device *d) { return &d->backend; }
int ggml_backend_dev_type(const struct device *d) { return d->type; }
void ggml_backend_dev_memory(const struct device *d, size_t *free, size_t *total) {
    *free = d->free;
    *total = d->total;
}
"""


@LINUX_ONLY
@pytest.mark.skipif(not shutil.which("cc"), reason="builds a library")
def test_every_kind_of_device_that_ggml_may_report(tmp_path: Path) -> None:
    (tmp_path / "ggml.c").write_text(GGML)
    for name in ("ggml", "ggml-base"):
        library = tmp_path / f"lib{name}.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "ggml.c"], check=True)
    code = (
        "import json; from dataclasses import asdict; from gemma_cli.machine import devices as d;"
        "print(json.dumps([d.backends(), [asdict(gpu) for gpu in d.gpus()]]))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"LLAMA_CPP_LIB_PATH": str(tmp_path)},
        cwd=Path(gemma_cli.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names, found = json.loads(told)
    assert names == ["CUDA", "Vulkan", "BLAS", "CPU"]
    assert [devices.Device(**each) for each in found] == [
        devices.Device("NVIDIA One", "gpu", 24 * 10**9, 20 * 10**9, "CUDA", "CUDA0"),
        # More free than there is cannot be meant.
        devices.Device("NVIDIA Two", "gpu", 8 * 10**9, 8 * 10**9, "CUDA", "CUDA1"),
        devices.Device("Integrated", "igpu", 0, 0, "Vulkan", "Vulkan0", unified=True),
    ]
