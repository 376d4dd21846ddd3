"""The doctor's look at the program: Python, packages, llama.cpp, processor and GPUs."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma_cli.commands.checking.finding import Finding
from gemma_cli.commands.loading.reinstalling import install, reinstall_llama

_SECONDS = 60
# -P: no file of the current folder may stand in for a module.
_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from gemma_cli.engine.build_report import main; sys.exit(main())"
)
_WINDOWS_ILLEGAL_INSTRUCTION = 0xC000001D
# Of /proc/cpuinfo, and as llama.cpp calls it: what makes answers faster.
_X86 = {
    "avx": "AVX",
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "amx_int8": "AMX_INT8",
}
_ARM = {"asimddp": "DOTPROD", "i8mm": "MATMUL_INT8", "sve": "SVE"}


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What llama.cpp said of itself; error: why it said nothing."""

    error: str | None = None
    library: str = ""
    system_info: str = ""
    backends: Sequence[str] = ()
    gpus: Sequence[dict[str, Any]] = ()


def ask_llama() -> BuildReport:
    """Load llama.cpp in a child process, which may crash, and read its report."""
    package = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-P", "-c", _PROGRAM, str(package)]
    env = os.environ | {"GGML_NO_BACKTRACE": "1", "GEMMA_DEBUG": ""}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            env=env,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return BuildReport(f"llama.cpp does not answer within {_SECONDS} seconds")
    except OSError as error:
        return BuildReport(f"cannot start {sys.executable}: {error.strerror}")
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    try:
        told = json.loads(lines[-1])
        return BuildReport(**told)
    except (IndexError, ValueError, TypeError):
        return BuildReport(_crash(done.returncode, done.stderr.decode("utf-8", "replace")))


def _crash(code: int, said: str) -> str:
    if code in (-getattr(signal, "SIGILL", 0), _WINDOWS_ILLEGAL_INSTRUCTION):
        return "llama.cpp was compiled for another processor: this one lacks its instructions"
    last = said.strip().splitlines()[-1:] or [f"exit code {code}"]
    return f"llama.cpp crashes while it starts: {last[0]}"


def python() -> Iterator[Finding]:
    version = platform.python_version()
    where = f"{platform.python_implementation()} {version}, {sys.executable}"
    if sys.maxsize < 1 << 32:
        yield Finding(
            "python", "problem", f"{where}: 32 bits hold no model of use", "install a 64-bit Python"
        )
    else:
        yield Finding("python", "good", where)


def packages() -> Iterator[Finding]:
    """Those that gemma needs: are they here, in versions that it was made for?"""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("gemma-cli") or []]
    except PackageNotFoundError:
        yield Finding("packages", "notice", "gemma is not installed, it runs from its source")
        return
    here = []
    for need in wanted:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        mend = install(f"{need.name}{need.specifier}")
        if need.name == "llama-cpp-python":
            mend = reinstall_llama()
        try:
            found = version(need.name)
        except PackageNotFoundError:
            yield Finding("packages", "problem", f"{need.name} is not installed", mend)
            continue
        if not need.specifier.contains(found, prereleases=True):
            text = f"{need.name} is {found}, and gemma needs {need.specifier}"
            yield Finding("packages", "problem", text, mend)
        else:
            here.append(f"{need.name} {found}")
    from gemma_cli import __version__

    yield Finding("packages", "good", ", ".join([f"gemma-cli {__version__}", *here]))


def llama(report: BuildReport) -> Iterator[Finding]:
    """Does it load, and was it compiled for what this processor can do?"""
    if report.error is not None:
        fix = reinstall_llama()
        if os.environ.get("LLAMA_CPP_LIB_PATH"):
            fix = "unset LLAMA_CPP_LIB_PATH    (it names another llama.cpp)"
        yield Finding("llama.cpp", "problem", report.error, fix)
        return
    yield Finding("llama.cpp", "good", f"built for {', '.join(report.backends)}: {report.library}")
    missing = missing_features(_processor_flags(), report.system_info)
    if missing:
        yield Finding(
            "processor",
            "notice",
            f"llama.cpp was built without {', '.join(missing)}, which this processor has:"
            " it could be several times faster",
            # That variable makes a build that runs on any processor.
            _without_epoch(reinstall_llama("-DGGML_NATIVE=on")),
        )
    else:
        yield Finding("processor", "good", _used_features(report.system_info))


def _without_epoch(command: str) -> str:
    if sys.platform == "win32":
        return f"Remove-Item Env:SOURCE_DATE_EPOCH -ErrorAction Ignore; {command}"
    return f"env -u SOURCE_DATE_EPOCH {command}"


def missing_features(flags: set[str], system_info: str) -> list[str]:
    """What the processor has and llama.cpp was not built to use, by llama.cpp's names."""
    used = dict(re.findall(r"(\w+) = (\d+)", system_info))
    known = _ARM if "asimd" in flags else _X86
    return [name for flag, name in known.items() if flag in flags and used.get(name, "0") == "0"]


def _used_features(system_info: str) -> str:
    names = [name for name, value in re.findall(r"(\w+) = (\d+)", system_info) if value != "0"]
    return f"{_processor_name()}; llama.cpp uses {', '.join(names) or 'no special instructions'}"


def _processor_flags() -> set[str]:
    """Linux's names of what it can do; empty elsewhere."""
    return set(_cpuinfo(r"^(?:flags|Features)\s*:(.*)$").split())


def _processor_name() -> str:
    return _cpuinfo(r"^model name\s*:(.*)$").strip() or platform.processor() or platform.machine()


def _cpuinfo(pattern: str) -> str:
    from gemma_cli.machine.cgroup import read

    match = re.search(pattern, read(Path("/proc/cpuinfo")), re.MULTILINE)
    return match[1] if match else ""


def memory() -> Iterator[Finding]:
    from gemma_cli.machine.cgroup import cpu_quota, memory_room
    from gemma_cli.machine.cpu import affinity, usable_threads
    from gemma_cli.machine.ram import address_space_left, total_and_free
    from gemma_cli.machine.sizes import memory_size

    total, free = total_and_free()
    limited = ", by the limit of its control group" if memory_room() else ""
    text = f"{memory_size(free)} of {memory_size(total)} are free{limited}"
    left = address_space_left()
    if left is not None and left < free:
        text += f", but ulimit -v leaves {memory_size(left)}: larger models fail to load"
        yield Finding("memory", "notice", text, "ulimit -v unlimited")
    elif free < total // 10 or free < 1 << 30:
        yield Finding("memory", "notice", text, "close other programs, or choose a smaller model")
    else:
        yield Finding("memory", "good", text)
    quota = cpu_quota()
    bound = "" if quota is None else f", a quota of {quota:g} CPUs"
    threads = f"{usable_threads()} by default; {len(affinity())} logical CPUs{bound}"
    yield Finding("threads", "good", threads)


def graphics(report: BuildReport) -> Iterator[Finding]:
    """The GPUs that llama.cpp sees, and those it does not use."""
    from gemma_cli.commands.loading.noticing import unused
    from gemma_cli.machine.graphics import graphics_cards, hidden_by_environment
    from gemma_cli.machine.sizes import memory_size

    for gpu in report.gpus:
        room = "does not state its memory"
        if gpu["total"]:
            room = f"{memory_size(gpu['free'])} of {memory_size(gpu['total'])} are free"
        shared = ", shared with the processor" if gpu["unified"] else ""
        text = f"{gpu['id']}, {gpu['name']}: {room}{shared}"
        yield Finding("gpu", "good" if gpu["total"] else "notice", text)
    cards = graphics_cards()
    hidden = hidden_by_environment()
    for card in cards:
        if not card.driver:
            text = f"{card.name}: its driver is missing, or this process may not use it"
            yield Finding("gpu", "notice", text, "install its maker's driver; see also: groups")
        elif not report.gpus and hidden:
            yield Finding("gpu", "notice", f"{card.name} is hidden by {hidden}", f"unset {hidden}")
        elif not report.gpus and report.error is None:
            yield Finding("gpu", "notice", *unused(card, report.backends))
    if not report.gpus and not cards:
        yield Finding("gpu", "good", "none in this machine: models run on the processor")
