"""A GPU that this llama.cpp cannot use: found in built folders, told by the real program."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gemma_cli.commands.loading import reinstalling
from gemma_cli.commands.loading.noticing import unused
from gemma_cli.machine import graphics
from gemma_cli.machine.graphics import GraphicsCard, build_for, graphics_cards
from tests.conftest import Env

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="built of Linux's folders")
GIB = 1 << 30


def lay_out(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def on_pci(folder: Path, number: int, vendor: str, address: str, **files: str) -> None:
    """A card as sysfs shows it: a link to its place on the bus, and a connector of its own."""
    place = folder / "sys/devices/pci0000:00" / address
    lay_out(place, {"vendor": f"{vendor}\n"} | {name: f"{text}\n" for name, text in files.items()})
    card = folder / f"sys/class/drm/card{number}"
    card.mkdir(parents=True)
    (card / "device").symlink_to(place)
    (folder / f"sys/class/drm/card{number}-HDMI-A-1").mkdir()
    lay_out(folder, {f"dev/dri/renderD{128 + number}": ""})


NVIDIA = {
    "proc/driver/nvidia/gpus/0000:01:00.0/information": (
        "Model: \t\t NVIDIA GeForce RTX 4090\nIRQ:   \t\t 90\n"
    ),
    "dev/nvidiactl": "",
}


def test_nvidias_driver_names_its_cards(tmp_path: Path) -> None:
    lay_out(tmp_path, NVIDIA)
    on_pci(tmp_path, 0, "0x10de", "0000:01:00.0")
    on_pci(tmp_path, 1, "0x8086", "0000:00:02.0")
    rtx, intel = graphics_cards(tmp_path)
    assert rtx == GraphicsCard("nvidia", "NVIDIA GeForce RTX 4090", integrated=False)
    assert intel == GraphicsCard("intel", "Intel GPU", integrated=True)
    assert build_for(rtx, tmp_path).option == "-DGGML_CUDA=on"


def test_a_card_that_no_build_would_reach_is_known_as_such(tmp_path: Path) -> None:
    on_pci(tmp_path, 0, "0x10de", "0000:01:00.0")  # nouveau, or no driver at all
    assert [card.driver for card in graphics_cards(tmp_path)] == [False]
    container = lay_out(tmp_path / "container", NVIDIA)
    (container / "dev/nvidiactl").unlink()
    assert [card.driver for card in graphics_cards(container)] == [False]


@pytest.mark.parametrize(
    ("files", "name", "integrated"),
    [
        ({"dev/nvidiactl": "", "dev/nvidia0": "", "dev/nvidia-uvm": ""}, "NVIDIA GPU", False),
        ({"dev/dxg": "", "usr/lib/wsl/lib/libcuda.so.1": ""}, "NVIDIA GPU", False),
        ({"etc/nv_tegra_release": "# R36\n"}, "NVIDIA Tegra", True),
    ],
)
def test_nvidia_without_proc(
    tmp_path: Path, files: dict[str, str], name: str, integrated: bool
) -> None:
    assert graphics_cards(lay_out(tmp_path, files)) == (
        GraphicsCard("nvidia", name, integrated=integrated),
    )


def test_amd_and_intel_by_what_the_bus_says(tmp_path: Path) -> None:
    on_pci(tmp_path, 0, "0x1002", "0000:0b:00.0", mem_info_vram_total=str(512 << 20))
    on_pci(tmp_path, 1, "0x1002", "0000:03:00.0", mem_info_vram_total=str(24 * GIB))
    on_pci(tmp_path, 2, "0x8086", "0000:04:00.0")
    on_pci(tmp_path, 3, "0x1a03", "0000:05:00.0")  # a server's management controller
    cards = graphics_cards(tmp_path)
    assert [(card.vendor, card.integrated) for card in cards] == [
        ("amd", False),
        ("intel", False),
        ("amd", True),
    ]
    assert build_for(cards[0], tmp_path).option == "-DGGML_VULKAN=on"
    lay_out(tmp_path, {"opt/rocm/bin/hipcc": "", "opt/intel/oneapi/compiler/latest/x": ""})
    assert build_for(cards[0], tmp_path).option == "-DGGML_HIP=on"
    assert build_for(cards[1], tmp_path).option.startswith("-DGGML_SYCL=on")


def test_nothing_here_is_nothing_found(tmp_path: Path) -> None:
    assert graphics_cards(tmp_path) == ()


def test_windows_registry_values() -> None:
    values = {
        "MatchingDeviceId": r"PCI\VEN_10DE&DEV_2684",
        "DriverDesc": "NVIDIA GeForce RTX 4090",
        "HardwareInformation.qwMemorySize": 24 * GIB,
    }
    expected = GraphicsCard("nvidia", "NVIDIA GeForce RTX 4090", integrated=False)
    assert graphics._adapter(values) == expected
    arc = {"MatchingDeviceId": r"pci\ven_8086&dev_56a0", "HardwareInformation.qwMemorySize": GIB}
    assert graphics._adapter(arc) == GraphicsCard("intel", "Intel GPU", integrated=True)
    assert graphics._adapter({"MatchingDeviceId": r"root\basicdisplay"}) is None
    assert graphics._adapter({}) is None


def test_a_build_whose_backend_finds_nothing_is_not_to_be_built_again() -> None:
    card = GraphicsCard("nvidia", "NVIDIA RTX", integrated=False)
    why, command = unused(card, ("CUDA", "CPU"))
    assert "finds no device" in why
    assert command == "nvidia-smi"


def test_the_command_is_one_that_a_shell_takes_apart_as_meant() -> None:
    command = reinstalling.reinstall_llama("-DGGML_CUDA=on")
    words = shlex.split(command)
    assert words[0] == "CMAKE_ARGS=-DGGML_CUDA=on"
    assert words[1] == sys.executable
    assert {"--force-reinstall", "--no-cache-dir", "--no-deps"} <= set(words)
    assert words[-1].startswith("llama-cpp-python==")  # the version that the bindings match
    done = subprocess.run([*words[1:], "--dry-run", "--help"], capture_output=True, check=False)
    assert done.returncode == 0


WITH_CARDS = """
import sys
from pathlib import Path
from gemma_cli.machine import graphics
graphics.ROOT = Path(sys.argv.pop(1))
from gemma_cli.__main__ import main
main()
"""


def run_with(root: Path, env: Env, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITH_CARDS, str(root), *arguments]
    return subprocess.run(
        command, env=env, input="", capture_output=True, text=True, timeout=120, check=False
    )


def test_the_program_says_it_and_is_silenced(with_demo: Env, tmp_path: Path) -> None:
    root = lay_out(tmp_path / "root", NVIDIA)
    said = ("run", "-t", "0", "-n", "1", "--ctx", "256", "Hi")
    env = {key: value for key, value in with_demo.items() if key != "CUDA_VISIBLE_DEVICES"}
    for _ in range(2):  # every command says so, once
        told = run_with(root, env, *said)
        assert told.returncode == 0
        assert told.stderr.count("RTX 4090 is not used") == 1
        assert 'CMAKE_ARGS="-DGGML_CUDA=on" ' in told.stderr
    assert "RTX" not in told.stdout
    for silenced, options in (
        (env, ("--gpu-layers", "0")),
        (env | {"GEMMA_GPU_LAYERS": "0"}, ()),
        (env | {"CUDA_VISIBLE_DEVICES": ""}, ()),
    ):
        assert "not used" not in run_with(root, silenced, *said, *options).stderr


def test_an_integrated_one_is_mentioned_once_on_a_machine(with_demo: Env, tmp_path: Path) -> None:
    root = tmp_path / "root"
    on_pci(root, 0, "0x8086", "0000:00:02.0")
    said = ("run", "-t", "0", "-n", "1", "--ctx", "256", "Hi")
    assert "Intel GPU is not used" in run_with(root, with_demo, *said).stderr
    assert "not used" not in run_with(root, with_demo, *said).stderr


def test_looking_for_cards_takes_no_time(tmp_path: Path) -> None:
    root = lay_out(tmp_path, NVIDIA)
    for number in range(4):
        on_pci(root, number, "0x1002", f"0000:0{number}:00.0")
    times = []
    for _ in range(20):
        start = time.perf_counter()
        graphics_cards(root)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02
