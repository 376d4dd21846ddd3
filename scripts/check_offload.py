#!/usr/bin/env python3
"""Layers on devices beside the host: the plan's bytes against llama.cpp's, and the speed. Linux.

usage: scripts/check_offload.py (--lib FOLDER | --build) [--model FILE] [--shapes-only]

No GPU is needed: llama.cpp's RPC backend on loopback lends it a processor as a
device like any other. --lib: its shared libraries, built with -DGGML_RPC=ON;
--build makes them in a temporary folder.

First a real model (the embedded one by default) is planned for devices of
several stated sizes, loaded and run, each time in a process of its own: the
layers that moved and the bytes of each device by llama.cpp's log, and as a
second witness the memory that the server holds. Its speeds prove nothing but
that it runs: both sides share the cores and each graph crosses a socket. Then
every model of the catalogue is laid out without weights. Exits 1 where layers
differ, weights or KV cache by more XX
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import rpc_devices

MIB = 1 << 20
MARGIN = 1024  # MiB that the planner leaves free on each device, as it does for a GPU
FIGURES = ("weights", "kv", "compute")
# A device with few layers may need this much less than planned; a GPU would also
# compute long batches of the host's layers, which this backend leaves to the host.
SPARE = 256 * MIB
TOLERANCE = {"weights": MIB, "kv": MIB, "compute": 16 * MIB}
PREFILL, DECODE = 512, 32


@dataclass(frozen=True, slots=True)
class Case:
    """What the planner is told. free: MiB beyond the margin, of each device."""

    free: tuple[int, ...]
    layers: int | str | None = None
    ctx: int | None = None
    kv: str = "f16"


CASES = (
    Case((2048,), layers=0),
    Case((160,)),
    Case((300,)),
    Case((330,)),
    Case((420,), ctx=32768, kv="q8_0"),
    Case((2048,)),
    Case((2048,), ctx=8192),
    Case((2048,), layers=7),
    Case((200, 400)),
    Case((110, 2048), ctx=16384),
    Case((100, 300), ctx=8192, kv="q4_0"),
    Case((130, 130)),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of bytes twice. device: "host", or the device's number from 0."""

    device: str
    what: str
    planned: int
    real: int

    @property
    def agrees(self) -> bool:
        """Never much less than real; more only where SPARE says why."""
        most = max(self.real // 50, TOLERANCE[self.what])
        over = SPARE if self.what == "compute" and self.device != "host" else most
        return -most <= self.planned - self.real <= over


def main() -> int:
    arguments = _arguments()
    if arguments.child:
        wish = json.loads(arguments.child)
        print(json.dumps(_real(**wish) if "case" in wish else _shapes(**wish)))
        return 0
    with contextlib.ExitStack() as held:
        libraries = arguments.lib
        if arguments.build:
            libraries = rpc_devices.build(
                Path(held.enter_context(tempfile.TemporaryDirectory(prefix="gemma-rpc-")))
            )
        wrong = 0
        if not arguments.shapes_only:
            wrong = _real_models(arguments.model or _embedded(), libraries)
        wrong += _all_shapes(libraries, held.enter_context(rpc_devices.servers(2, libraries)))
    print(f"{wrong} deviations" if wrong else "everything agrees")
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(usage=(__doc__ or "").split("usage: ")[1].split("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--lib", type=Path)
    source.add_argument("--build", action="store_true")
    source.add_argument("--child")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--shapes-only", action="store_true")
    return parser.parse_args()


def _embedded() -> Path:
    from gemma_cli.models.demo import assemble

    return assemble()


def _child(libraries: Path, wish: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(wish)],
        env=os.environ | {"LLAMA_CPP_LIB_PATH": str(libraries)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def _real_models(path: Path, libraries: Path) -> int:
    print(f"{path.name}, one thread on each side; MiB as planned/allocated")
    head = ("free for it", "asked", "ctx", "kv", "layers", "device", *FIGURES, "held by server")
    print(_row(*head, "prefill", "decode tok/s"))
    wrong = 0
    for case in CASES:
        # New servers each time: one that served before keeps some of what was freed.
        with rpc_devices.servers(len(case.free), libraries) as devices:
            wish = {"path": str(path), "case": asdict(case), "devices": devices}
            wrong += _print_case(case, _child(libraries, wish))
    return wrong


def _print_case(case: Case, said: dict[str, Any]) -> int:
    figures = [Figure(**each) for each in said["figures"]]
    wrong = sum(not each.agrees for each in figures) + int(said["moved"] != said["layers"])
    free = "+".join(map(str, case.free))
    asked = "auto" if case.layers is None else str(case.layers)
    moved = f"{said['layers']}/{said['moved']}"
    start = [free, asked, str(said["n_ctx"]), case.kv, moved]
    for number, device in enumerate(dict.fromkeys(each.device for each in figures)):
        pairs = [_pair(each) for each in figures if each.device == device]
        held = said["held"].get(device)
        ends = [f"{held / MIB:.1f}" if held is not None else ""]
        if number == 0:
            ends += [f"{said['prefill']:.0f}", f"{said['decode']:.1f}"]
        layers = said["split"].get(device)
        name = device if layers is None else f"{device} ({layers})"
        print(_row(*(start if number == 0 else [""] * 5), name, *pairs, *ends), flush=True)
        if held is not None and not _plausible(held, [f for f in figures if f.device == device]):
            print(f"  beyond: the server of device {device} holds {held / MIB:.1f} MiB")
            wrong += 1
    return wrong


def _plausible(held: int, figures: Sequence[Figure]) -> bool:
    """Weights and KV cache are written in full; of compute what was used, and what it spares."""
    sizes = {each.what: each.planned for each in figures}
    least = sizes["weights"] + sizes["kv"] - 8 * MIB
    return least <= held <= sum(sizes.values()) + 24 * MIB


def _pair(figure: Figure) -> str:
    mark = "" if figure.agrees else " !"
    return f"{figure.planned / MIB:.1f}/{figure.real / MIB:.1f}{mark}"


def _row(*cells: str) -> str:
    widths = (12, 6, 6, 5, 7, 9, 14, 14, 14, 15, 8, 8)
    return " ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)).rstrip()


def _real(path: str, case: dict[str, Any], devices: list[tuple[str, int]]) -> dict[str, Any]:
    """In a child: plan, load, run; by the program's own code."""
    from gemma_cli.engine.context import Context
    from gemma_cli.engine.library import AbortFlag
    from gemma_cli.engine.model import Model, quiet_backend
    from gemma_cli.machine.memory import Wishes, plan
    from gemma_cli.models.gguf import read_header

    log = quiet_backend()
    header = read_header(Path(path))
    wishes = Wishes(
        case["ctx"], case["layers"], threads=1, kv_type=case["kv"], gpu_margin=MARGIN * MIB
    )
    made = plan(header, _machine(devices, case["free"]), wishes)
    layout = (made.gpu_layers, made.split, made.experts_on_host)
    names = [f"RPC0[{endpoint}]" for endpoint, _ in devices]
    counted = _counted(Path(path), made, names)
    before = [rpc_devices.resident(pid) for _, pid in devices]
    model, said = log.read(
        lambda: Model(Path(path), layout[0], split=layout[1], experts_on_host=layout[2])
    )
    context, also = log.read(lambda: Context(model, made, AbortFlag()))
    prefill, decode = _speed(context, model.vocabulary.size)
    after = [rpc_devices.resident(pid) for _, pid in devices]
    _, last = log.read(context.close)
    model.close()
    # Of the file the log states the range that is mapped, not what of it is used.
    real = {
        "weights": _by_device(said, "model buffer size =", names)
        | {"host": counted["weights"]["host"]},
        "kv": _by_device(also, "KV buffer size =", names),
        # At its end a context says what its graphs really took.
        "compute": _by_device(last, "compute buffer size (?:is|of)", names),
    }
    moved = re.search(r"offloaded (\d+)/", said)
    return {
        "n_ctx": made.n_ctx,
        "layers": made.gpu_layers,
        "moved": int(moved[1]) if moved else 0,
        "split": {str(i): share.layers for i, share in enumerate(made.shares[1:])},
        "figures": [asdict(each) for each in _figures(made, header, real)],
        "held": {str(i): after[i] - before[i] for i in range(len(devices))},
        "prefill": prefill,
        "decode": decode,
    }


def _machine(devices: Sequence[tuple[str, int]], free: Sequence[int]) -> Any:
    """This machine, its devices as large as stated. free: MiB beyond the margin."""
    from gemma_cli.machine.devices import this_machine

    for endpoint, _ in devices:
        rpc_devices.register(endpoint)
    machine = this_machine()
    gpus = tuple(
        replace(gpu, free=(MARGIN + size) * MIB, total=(MARGIN + size) * MIB)
        for gpu, size in zip(machine.gpus, free, strict=True)
    )
    return replace(machine, gpus=gpus)


def _figures(made: Any, header: Any, real: dict[str, dict[str, int]]) -> Iterator[Figure]:
    """The plan's bytes beside the real ones, without room for what this backend never does.

    A GPU computes long batches of the layers that stayed on the host too, and
    has their largest tensor brought over. The RPC backend does not.
    """
    from gemma_cli.machine.layout import parts_of

    brought = 0 if made.all_on_gpu else parts_of(header).largest
    for number, share in enumerate(made.shares):
        device = str(number - 1) if number else "host"
        for what in FIGURES:
            planned = getattr(share, what)
            planned -= brought if what == "compute" and number and share.layers else 0
            yield Figure(device, what, planned, real[what].get(device, 0))


def _by_device(said: str, what: str, names: Sequence[str]) -> dict[str, int]:
    """Bytes by device, of the lines of llama.cpp's log that state such a buffer."""
    found: dict[str, int] = {}
    for name, size in re.findall(rf"(\S+)\s+{what}\s+([\d.]+) MiB", said):
        device = _device(name, names)
        found[device] = found.get(device, 0) + int(float(size) * MIB)
    return found


def _device(buffer_type: str, names: Sequence[str]) -> str:
    return str(names.index(buffer_type)) if buffer_type in names else "host"


def _speed(context: Any, vocabulary: int) -> tuple[float, float]:
    """Tokens per second of prefill and decode."""
    context.evaluate([2] * 8)  # connections, pools of threads, first reads of the weights
    tokens = [2, *(number * 7919 % vocabulary for number in range(1, PREFILL))]
    start = time.perf_counter()
    for at in range(0, PREFILL, context.n_batch):
        context.evaluate(tokens[at : at + context.n_batch])
    token, _ = context.best(-1)
    middle = time.perf_counter()
    for _ in range(DECODE):
        context.evaluate([token])
        token, _ = context.best(-1)
    return PREFILL / (middle - start), DECODE / (time.perf_counter() - middle)


# Parts of what the whole model takes on one device: what the devices have for it.
ROOMS = ((1.0,), (0.7,), (0.4,), (0.9, 0.9), (0.3, 0.35), (0.1, 1.2), (1.5, 0.5))
QUANTS = ("Q4_0", "Q5_K_M")
PLACES = ("host", "device")


def _all_shapes(libraries: Path, devices: list[tuple[str, int]]) -> int:
    from gemma_cli.models.entries import load_catalog

    print(
        "\nwithout weights, contexts of 8192 and 32768: worst deviation, planned - llama.cpp, MiB"
    )
    print(_shape_row("model", "plans", *(f"{on} {what}" for on in PLACES for what in FIGURES)))
    wrong = 0
    for model in load_catalog().models:
        children = [{"name": model.id, "devices": devices[:count]} for count in (1, 2)]
        told = [_child(libraries, each) for each in children]
        worst: dict[str, Figure] = {}
        for what, each in (figure for said in told for figure in said["figures"]):
            figure = Figure(**each)
            place = f"{PLACES[figure.device != 'host']} {figure.what}"
            off = abs(figure.planned - figure.real)
            if place not in worst or off > abs(worst[place].planned - worst[place].real):
                worst[place] = figure
            if not figure.agrees:
                wrong += 1
                print(f"  beyond: {what}, {place} {_pair(figure)}", file=sys.stderr)
        cells = [worst[f"{on} {what}"] for on in PLACES for what in FIGURES]
        offs = [f"{(each.planned - each.real) / MIB:+.2f}" for each in cells]
        plans = sum(said["plans"] for said in told)
        print(_shape_row(model.id, str(plans), *offs), flush=True)
    return wrong


def _shape_row(*cells: str) -> str:
    return cells[0].ljust(16) + "".join(cell.rjust(15) for cell in cells[1:])


def _shapes(name: str, devices: list[tuple[str, int]]) -> dict[str, Any]:
    """In a child: one model of the catalogue, laid out in many ways without its weights."""
    from gemma_cli.engine.model import quiet_backend
    from gemma_cli.machine.devices import Device
    from gemma_cli.models.entries import load_catalog
    from gemma_cli.models.gguf import read_header
    from tests.weightless import weightless

    quiet_backend()
    machine = _machine(devices, [1 << 20] * len(devices))
    machine = replace(machine, host=Device("CPU", "cpu", 1 << 50, 1 << 50))
    names = [f"RPC0[{endpoint}]" for endpoint, _ in devices]
    model = load_catalog().get(name)
    assert model is not None
    figures: list[tuple[str, dict[str, Any]]] = []
    plans = 0
    for quant in QUANTS:
        with tempfile.TemporaryDirectory() as folder:
            path = weightless(Path(folder) / "model.gguf", model.shape, quant)
            header = read_header(path)
            for rooms, made in _divisions(header, machine):
                real = _counted(path, made, names)
                where = "+".join(str(share.layers) for share in made.shares[1:])
                what = f"{name}:{quant} {made.n_ctx} in {rooms}: {where} layers"
                what += f", experts of {made.host_experts} on the host" if made.host_experts else ""
                figures += [(what, asdict(each)) for each in _figures(made, header, real)]
                plans += 1
    return {"plans": plans, "figures": figures}


def _divisions(header: Any, machine: Any) -> Iterator[tuple[tuple[float, ...], Any]]:
    """ROOMS for as many devices as there are, and the plan for each."""
    from gemma_cli.machine.memory import Wishes, layouts

    for n_ctx in sorted({min(n, header.n_ctx_train) for n in (8192, 32768)}):
        wishes = Wishes(n_ctx=n_ctx, gpu_margin=MARGIN * MIB)
        one = replace(machine, gpus=machine.gpus[:1])
        whole = layouts(header, one, wishes)[0].shares[1].needed
        for rooms in (each for each in ROOMS if len(each) == len(machine.gpus)):
            gpus = tuple(
                replace(gpu, free=int(room * whole) + MARGIN * MIB)
                for gpu, room in zip(machine.gpus, rooms, strict=True)
            )
            yield rooms, layouts(header, replace(machine, gpus=gpus), wishes)[0]


def _counted(path: Path, made: Any, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Bytes by figure and device, as llama.cpp would allocate them for a plan."""
    from tests.breakdown import Weightless

    opened = Weightless(path, made.gpu_layers, made.split, made.experts_on_host)
    accounts = opened.accounts(made)
    opened.close()
    real: dict[str, dict[str, int]] = {what: {} for what in FIGURES}
    for buffer, account in accounts.items():
        device = _device(buffer, names)
        sizes = (account.model, account.context, account.compute)
        for what, size in zip(FIGURES, sizes, strict=True):
            real[what][device] = real[what].get(device, 0) + size
    return real


if __name__ == "__main__":
    sys.exit(main())
