#!/usr/bin/env python3
"""Layers on devices beside the host: the plan's bytes against llama.cpp's, and the speed. Linux.

usage: check_offload.py (--lib FOLDER | --build) [--model FILE] [--shapes-only] [--record FILE]

No GPU is needed: llama.cpp's RPC backend on loopback lends it a processor as a
device like any other. --lib: its shared libraries, built with -DGGML_RPC=ON;
--build makes them in a temporary folder.

First a real model (the embedded one by default) is planned for devices of
several stated sizes, loaded and run, each time in a process of its own: the
layers that moved and the bytes of each device by llama.cpp's log, and as a
second witness the memory that the server holds. Its speeds prove nothing but
that it runs: both sides share the cores and each graph crosses a socket. Then
every model of the catalogue is laid out without weights, over one, two and three
devices. These behave as GPUs do: long batches of the host's layers are computed
on the first. Exits 1 where layers differ, weights or KV cache by more than 1 MiB,
compute buffers by more than 16 MiB, or 2 % where that is more.

--record: llama.cpp's own figures as tests/compute_buffers.json has them.
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
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import rpc_devices
from offload_figures import (
    FIGURES,
    MARGIN,
    MIB,
    Figure,
    counted_by_llama,
    device_of,
    figures_of,
    machine_with,
    pair,
)

from gemma_cli.machine.layout import CPU_UBATCH, KVType
from gemma_cli.machine.plans import Plan

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
        devices = held.enter_context(rpc_devices.servers(3, libraries))
        wrong += _all_shapes(libraries, devices, arguments.record)
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
    parser.add_argument("--record", type=Path)
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
        pairs = [pair(each) for each in figures if each.device == device]
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
    made = plan(header, machine_with(devices, case["free"]), wishes)
    layout = (made.gpu_layers, made.split, made.experts_on_host)
    names = [f"RPC0[{endpoint}]" for endpoint, _ in devices]
    counted = counted_by_llama(Path(path), made, names)
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
        "figures": [asdict(each) for each in figures_of(made, real)],
        "held": {str(i): after[i] - before[i] for i in range(len(devices))},
        "prefill": prefill,
        "decode": decode,
    }


def _by_device(said: str, what: str, names: Sequence[str]) -> dict[str, int]:
    """Bytes by device, of the lines of llama.cpp's log that state such a buffer."""
    found: dict[str, int] = {}
    for name, size in re.findall(rf"(\S+)\s+{what}\s+([\d.]+) MiB", said):
        device = device_of(name, names)
        found[device] = found.get(device, 0) + int(float(size) * MIB)
    return found


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


# What is laid out without weights. Q8_0's tensors would only be larger.
CIRCUMSTANCES: tuple[tuple[str, KVType], ...] = (("Q4_0", "f16"), ("Q5_K_M", "q8_0"))
CONTEXTS, UBATCHES = (4096, 32768), (256, 512)
PLACES = ("host", "device")


def _all_shapes(libraries: Path, devices: list[tuple[str, int]], record: Path | None) -> int:
    from gemma_cli.models.entries import load_catalog

    print("\nwithout weights: worst deviation, planned - llama.cpp, MiB")
    print(_shape_row("model", "layouts", *(f"{on} {what}" for on in PLACES for what in FIGURES)))
    wrong = 0
    recorded: list[dict[str, Any]] = []
    shapes: list[Any] = []
    for model in load_catalog().models:
        children = [{"name": model.id, "devices": devices[:count]} for count in (1, 2, 3)]
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
                print(f"  beyond: {what}, {place} {pair(figure)}", file=sys.stderr)
        cells = [worst[f"{on} {what}"] for on in PLACES for what in FIGURES]
        offs = [f"{(each.planned - each.real) / MIB:+.2f}" for each in cells]
        count = sum(said["layouts"] for said in told)
        print(_shape_row(model.id, str(count), *offs), flush=True)
        if model.shape not in shapes:
            recorded += [each for said in told for each in said["recorded"]]
        shapes.append(model.shape)
    if record:
        lines = ",\n".join(json.dumps(each) for each in recorded)
        record.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return wrong


def _shape_row(*cells: str) -> str:
    return cells[0].ljust(16) + "".join(cell.rjust(15) for cell in cells[1:])


def _shapes(name: str, devices: list[tuple[str, int]]) -> dict[str, Any]:
    """In a child: one model of the catalogue, laid out in many ways without its weights."""
    from gemma_cli.engine.model import quiet_backend
    from gemma_cli.machine.layout import parts_of
    from gemma_cli.machine.offload import Offloading
    from gemma_cli.models.entries import load_catalog
    from gemma_cli.models.gguf import read_header
    from tests.weightless import weightless

    quiet_backend()
    machine = machine_with(devices, [1 << 20] * len(devices))
    names = [f"RPC0[{endpoint}]" for endpoint, _ in devices]
    model = load_catalog().get(name)
    assert model is not None
    found: dict[str, Any] = {"layouts": 0, "figures": [], "recorded": []}
    for quant, kv_type in CIRCUMSTANCES:
        with tempfile.TemporaryDirectory() as folder:
            path = weightless(Path(folder) / "model.gguf", model.shape, quant)
            header = read_header(path)
            for offload in _ways(header, len(devices)):
                for n_ctx, ubatch in product(_contexts(header), UBATCHES):
                    if not offload.gpu_layers and ubatch != CPU_UBATCH:
                        continue  # nothing is planned so
                    batch = (n_ctx, kv_type, ubatch)
                    way = Offloading(header, parts_of(header), n_ctx, kv_type, 0, ubatch)
                    shares = way.shares(machine.host, machine.gpus, offload)
                    made = _plan(header, offload, shares, *batch)
                    real = counted_by_llama(path, made, names)
                    what = f"{name}:{quant} {batch} {asdict(offload)}"
                    figures = figures_of(made, real)
                    if not offload.gpu_layers:
                        figures = (each for each in figures if each.what != "weights")
                    found["figures"] += [(what, asdict(each)) for each in figures]
                    found["layouts"] += 1
                    if (n_ctx, ubatch) == (_contexts(header)[-1], UBATCHES[-1]):
                        places = ["host", *map(str, range(len(devices)))]
                        compute = [real["compute"].get(place, 0) for place in places]
                        case = {"model": name, "quant": quant, "kv_type": kv_type, "n_ctx": n_ctx}
                        found["recorded"].append(case | asdict(offload) | {"compute": compute})
    return found


def _contexts(header: Any) -> list[int]:
    return sorted({min(n_ctx, header.n_ctx_train) for n_ctx in CONTEXTS})


def _ways(header: Any, devices: int) -> Iterator[Any]:
    """None, some, all layers on so many devices: also one layer or the output alone on one."""
    from gemma_cli.machine.offload import Offload

    everything = header.n_layers + 1
    half, third = everything // 2, everything // 3
    splits: dict[int, tuple[tuple[int, ...], ...]] = {
        1: ((1,), (2,), (third,), (half,), (everything - 1,), (everything,)),
        2: ((1, 1), (1, half), (half, 1), (everything, 0), (0, everything), (0, half),
            (1, everything - 1), (everything - 1, 1), (half, everything - half)),
        3: ((1, 1, 1), (third, 1, third), (third, third, everything - 2 * third),
            (1, everything - 2, 1), (everything - 2, 1, 1), (third, 0, everything - third)),
    }  # fmt: skip
    yield Offload(0, 0, (0,) * devices)
    for split in splits[devices]:
        yield Offload(sum(split), 0, split)
        if header.n_expert and sum(split) > half:
            yield Offload(sum(split), half - 1, split)


def _plan(header: Any, offload: Any, shares: Any, n_ctx: int, kv_type: KVType, ubatch: int) -> Plan:
    return Plan(
        n_ctx=n_ctx,
        n_ctx_max=header.n_ctx_train,
        n_layers=header.n_layers,
        gpu_layers=offload.gpu_layers,
        kv_type=kv_type,
        ubatch=ubatch,
        threads=1,
        shares=shares,
        why="",
        host_experts=offload.host_experts,
    )


if __name__ == "__main__":
    sys.exit(main())
