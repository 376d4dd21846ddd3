"""The graphics processors that are here, whether or not this llama.cpp can use them."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gemma_cli.machine.cgroup import read

Vendor = Literal["nvidia", "amd", "intel", "apple"]

ROOT = Path("/")
_MIB = 1 << 20
# PCI vendor ids.
_VENDORS: dict[str, Vendor] = {"10de": "nvidia", "1002": "amd", "8086": "intel"}
_NAMES: dict[Vendor, str] = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel", "apple": "Apple"}
# What an integrated one calls its own is a corner of the host's memory.
_LARGEST_CARVE_OUT = 3072 * _MIB
# Where Intel's processors keep their own graphics on the PCI bus.
_INTEL_OWN = ":00:02.0"
# ggml's registries (backends) that can drive a vendor's GPUs.
_BACKENDS: dict[Vendor, tuple[str, ...]] = {
    "nvidia": ("CUDA", "Vulkan"),
    "amd": ("ROCm", "Vulkan"),
    "intel": ("SYCL", "Vulkan", "OPENVINO"),
    "apple": ("MTL",),
}
_VIDEO_CLASS = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"


@dataclass(frozen=True, slots=True)
class GraphicsCard:
    """A GPU as the system knows it. integrated: it shares the host's memory.

    driver: its kernel driver is loaded and lets this process in.
    """

    vendor: Vendor
    name: str
    integrated: bool
    driver: bool = True

    @property
    def backends(self) -> tuple[str, ...]:
        """ggml's registries that can drive it, the best first."""
        return _BACKENDS[self.vendor]


@dataclass(frozen=True, slots=True)
class Build:
    """How to build llama.cpp for a GPU. option: for CMake; needs: what must be installed."""

    backend: str
    option: str
    needs: str


def graphics_cards(root: Path | None = None) -> tuple[GraphicsCard, ...]:
    """Those of this computer, discrete ones first. root: where Linux's /sys, /proc, /dev are."""
    found: Iterable[GraphicsCard]
    if sys.platform == "darwin":
        found = _apple()
    elif sys.platform == "win32":
        found = _windows()
    else:
        found = _linux(root or ROOT)
    return tuple(sorted(found, key=lambda card: (not card.driver, card.integrated)))


def build_for(card: GraphicsCard, root: Path | None = None) -> Build:
    """The build that suits a card: its maker's toolkit where that is the way, else Vulkan."""
    root = root or ROOT
    if card.vendor == "nvidia":
        return Build("CUDA", "-DGGML_CUDA=on", "the CUDA toolkit")
    if card.vendor == "apple":
        return Build("Metal", "-DGGML_METAL=on", "Xcode's command line tools")
    if card.vendor == "amd" and (root / "opt/rocm").exists():
        return Build("ROCm", "-DGGML_HIP=on", "ROCm")
    if card.vendor == "intel" and (root / "opt/intel/oneapi/compiler").exists():
        option = "-DGGML_SYCL=on -DCMAKE_C_COMPILER=icx -DCMAKE_CXX_COMPILER=icpx"
        return Build("SYCL", option, "oneAPI, its setvars.sh sourced")
    return Build("Vulkan", "-DGGML_VULKAN=on", "the Vulkan SDK")


def _apple() -> Iterator[GraphicsCard]:
    from gemma_cli.machine.cpu import is_translated

    if platform.machine() == "arm64" or is_translated():
        yield GraphicsCard("apple", "Apple Silicon", integrated=False)


def _linux(root: Path) -> Iterator[GraphicsCard]:
    nvidia = list(_nvidia(root))
    yield from nvidia
    render = any((root / "dev/dri").glob("renderD*"))
    seen = set()
    for device in sorted(root.glob("sys/class/drm/card*/device")):
        vendor = _VENDORS.get(read(device / "vendor").removeprefix("0x"))
        place = device.resolve()
        if vendor is None or place in seen or (vendor == "nvidia" and nvidia):
            continue
        seen.add(place)
        name = read(device / "product_name") or f"{_NAMES[vendor]} GPU"
        own = vendor == "intel" and str(place).endswith(_INTEL_OWN)
        memory = read(device / "mem_info_vram_total")
        small = vendor == "amd" and memory.isdigit() and int(memory) <= _LARGEST_CARVE_OUT
        # Without NVIDIA's driver, or in a container without /dev/dri, no build helps.
        driver = vendor != "nvidia" and render
        yield GraphicsCard(vendor, name, integrated=own or small, driver=driver)


def _nvidia(root: Path) -> Iterator[GraphicsCard]:
    """Those whose driver is there: /proc knows the names, /dev whether we are let in."""
    if (root / "etc/nv_tegra_release").exists():
        yield GraphicsCard("nvidia", "NVIDIA Tegra", integrated=True)
        return
    names = []
    for file in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        model = re.search(r"^Model:\s*(.+)$", read(file), re.MULTILINE)
        names.append(model[1] if model else "NVIDIA GPU")
    let_in = (root / "dev/nvidiactl").exists()
    if let_in and not names:
        names = ["NVIDIA GPU" for _ in root.glob("dev/nvidia[0-9]*")]
    under_windows = (root / "dev/dxg").exists() and (root / "usr/lib/wsl/lib/libcuda.so.1").exists()
    if under_windows and not names:
        names, let_in = ["NVIDIA GPU"], True
    for name in names:
        yield GraphicsCard("nvidia", name, integrated=False, driver=let_in)


def _windows() -> list[GraphicsCard]:
    """The display adapters of the registry."""
    found: list[GraphicsCard | None] = []
    if sys.platform == "win32":
        import winreg

        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _VIDEO_CLASS) as adapters:
            for index in range(winreg.QueryInfoKey(adapters)[0]):
                # "Properties" is for the system alone to read.
                with (
                    suppress(OSError),
                    winreg.OpenKey(adapters, winreg.EnumKey(adapters, index)) as adapter,
                ):
                    count = winreg.QueryInfoKey(adapter)[1]
                    values = (winreg.EnumValue(adapter, i) for i in range(count))
                    found.append(_adapter({name: value for name, value, _ in values}))
    return [card for card in found if card is not None]


def _adapter(values: dict[str, object]) -> GraphicsCard | None:
    """One adapter of Windows' registry; None for one that computes nothing."""
    match = re.search(r"ven_([0-9a-f]{4})", str(values.get("MatchingDeviceId", "")).lower())
    vendor = _VENDORS.get(match[1]) if match else None
    if vendor is None:
        return None
    memory = values.get("HardwareInformation.qwMemorySize", 0)
    small = isinstance(memory, int) and memory <= _LARGEST_CARVE_OUT
    name = str(values.get("DriverDesc") or f"{_NAMES[vendor]} GPU")
    return GraphicsCard(vendor, name, integrated=small and vendor != "nvidia")


def hidden_by_environment() -> str | None:
    """The variable that keeps NVIDIA's or AMD's GPUs from programs, where one does."""
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if os.environ.get(variable, "0").strip() in ("", "-1"):
            return variable
    return None
