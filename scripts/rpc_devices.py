"""RPC devices of llama.cpp on loopback: a processor that looks like a GPU to all above it.

Linux. Needs llama.cpp's libraries built with the RPC backend; `build` makes them from the
source that the installed llama-cpp-python was made from.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gemma_cli.machine.cpu import affinity
from gemma_cli.models.ggml import open_library

# Nothing of this may listen beyond the machine: the protocol has no defence.
_LOOPBACK = "127.0.0.1"
_START_S = 20.0
_CMAKE = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DGGML_RPC=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_BUILD_COMMON=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
)
_CPU, _GPU = 0, 1  # enum ggml_backend_dev_type (ggml-backend.h)
# Places in struct ggml_backend_device_i; rows from which CUDA takes an operation.
_HOST_BUFFER_TYPE, _OFFLOAD_OP, _LONG_BATCH = 7, 11, 32
_POINTER, _TEXT, _SIZE = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
_START = ctypes.CFUNCTYPE(None, _TEXT, _TEXT, _SIZE, _SIZE, ctypes.POINTER(_POINTER))
_ADD = ctypes.CFUNCTYPE(_POINTER, _TEXT)
_HOST_BUFFER = ctypes.CFUNCTYPE(_POINTER, _POINTER)
_WANTS = ctypes.CFUNCTYPE(ctypes.c_bool, _POINTER, _POINTER)
_KEPT: list[Any] = []  # what ggml calls from now on


class _Tensor(ctypes.Structure):
    """The beginning of ggml_tensor (ggml.h)."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", _POINTER),
        ("ne", ctypes.c_int64 * 4),
        ("nb", _SIZE * 4),
        ("op", ctypes.c_int),
    )


def build(folder: Path) -> Path:
    """The libraries, built here from the installed version's source; minutes of all cores
    that this process may use (under taskset, of those)."""
    wanted = f"llama-cpp-python=={version('llama-cpp-python')}"
    fetch = ["download", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *fetch, wanted], check=True, stdout=sys.stderr)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    source = next(folder.glob("*/vendor/llama.cpp"))
    made = folder / "build"
    subprocess.run(
        ["cmake", "-S", source, "-B", made, *_CMAKE], check=True, stdout=sys.stderr, cwd=folder
    )
    jobs = str(len(affinity()))
    subprocess.run(
        ["cmake", "--build", made, "--target", "llama", "-j", jobs], check=True, stdout=sys.stderr
    )
    return made / "bin"


@contextlib.contextmanager
def servers(count: int, libraries: Path) -> Iterator[list[tuple[str, int]]]:
    """So many servers in processes of their own: (endpoint, process id) of each."""
    if not any(libraries.glob("libggml-rpc.*")):
        sys.exit(f"no RPC backend in {libraries}: build llama.cpp with -DGGML_RPC=ON, or --build")
    started: list[tuple[str, subprocess.Popen[bytes]]] = []
    try:
        for _ in range(count):
            port = _free_port()
            process = subprocess.Popen(
                [sys.executable, __file__, str(port)],
                env=os.environ | {"LLAMA_CPP_LIB_PATH": str(libraries)},
                stdin=subprocess.PIPE,  # it ends when this process does
                stdout=subprocess.DEVNULL,
            )
            started.append((f"{_LOOPBACK}:{port}", process))
        for endpoint, process in started:
            _wait_for(endpoint, process)
        yield [(endpoint, process.pid) for endpoint, process in started]
    finally:
        for _, process in started:
            process.kill()
            process.communicate()


def register(endpoint: str) -> None:
    """Make a server's device one of ggml's in this process, after those that are there."""
    if not _answers(endpoint):  # llama.cpp would end this process
        raise ConnectionError(f"no RPC server answers at {endpoint}")
    ggml, _ = _libraries()
    registry = _ADD(_rpc_function("ggml_backend_rpc_add_server"))(endpoint.encode())
    assert registry, endpoint
    ggml.ggml_backend_register(registry)


def behave_as_gpus() -> None:
    """Let the devices that were registered do what a GPU does, and RPC's do not.

    Weights that stay on the host lie in a buffer of the device's choice, and long
    batches of them are computed on the device (ggml-cuda.cu: offload_op). Both are
    said by functions in the device's table (ggml-backend-impl.h), which are put there.
    """
    ggml, base = _libraries()
    ordinary = base.ggml_backend_cpu_buffer_type()

    def host_buffer(_device: int) -> Any:
        return ordinary

    def wants(_device: int, node: int) -> bool:
        tensor = _Tensor.from_address(node)
        name, (_, rows, third, fourth) = base.ggml_op_name(tensor.op), list(tensor.ne)
        counted = {b"GET_ROWS": 0, b"MUL_MAT": rows, b"MUL_MAT_ID": third, b"ROPE": third}
        return bool(counted.get(name, rows * third * fourth) >= _LONG_BATCH)

    functions = {_HOST_BUFFER_TYPE: _HOST_BUFFER(host_buffer), _OFFLOAD_OP: _WANTS(wants)}
    _KEPT.extend(functions.values())
    for number in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(number)
        if base.ggml_backend_dev_type(device) == _GPU:
            table = (_POINTER * (_OFFLOAD_OP + 1)).from_address(device)
            for place, function in functions.items():
                table[place] = ctypes.cast(function, _POINTER).value


def resident(process: int) -> int:
    """Bytes of RAM that a server holds."""
    pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _serve(port: int) -> None:
    """Never returns; one client at a time is served."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    ggml, _ = _libraries()
    devices = (_POINTER * 1)(ggml.ggml_backend_dev_by_type(_CPU))
    start = _START(_rpc_function("ggml_backend_rpc_start_server"))
    start(f"{_LOOPBACK}:{port}".encode(), None, 1, 1, devices)


def _end_with_the_parent() -> None:
    os.read(0, 1)
    os._exit(1)


def _rpc_function(name: str) -> int:
    ggml, base = _libraries()
    registry = ggml.ggml_backend_reg_by_name(b"RPC")
    assert registry, "the RPC backend is not registered"
    address: int = base.ggml_backend_reg_get_proc_address(registry, name.encode())
    return address


def _libraries() -> tuple[Any, Any]:
    """libggml and libggml-base with the signatures that are called here."""
    ggml, base = open_library("ggml"), open_library("ggml-base")
    for library, name, result, arguments in (
        (ggml, "ggml_backend_reg_by_name", _POINTER, [_TEXT]),
        (ggml, "ggml_backend_dev_by_type", _POINTER, [ctypes.c_int]),
        (ggml, "ggml_backend_register", None, [_POINTER]),
        (ggml, "ggml_backend_dev_count", _SIZE, []),
        (ggml, "ggml_backend_dev_get", _POINTER, [_SIZE]),
        (base, "ggml_backend_dev_type", ctypes.c_int, [_POINTER]),
        (base, "ggml_backend_cpu_buffer_type", _POINTER, []),
        (base, "ggml_op_name", _TEXT, [ctypes.c_int]),
        (base, "ggml_backend_reg_get_proc_address", _POINTER, [_POINTER, _TEXT]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return ggml, base


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_S
    while not _answers(endpoint):
        if process.poll() is not None or time.monotonic() > until:
            sys.exit(f"the RPC server of {endpoint} did not start (exit code {process.poll()})")
        time.sleep(0.05)


def _answers(endpoint: str) -> bool:
    host, _, port = endpoint.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
