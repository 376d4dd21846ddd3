"""What is published: a wheel and an sdist that hold what they need, and run alone."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from gemma_cli import __version__
from tests.conftest import DEMO, Env

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_the_sdist_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # since 3.11.4
        archive.extractall(tmp_path)
    assert {"models.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= set(names)
    assert not any(name.endswith((".gguf", ".pyc")) for name in names)
    (source,) = tmp_path.iterdir()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,), (again,) = built.glob("*.whl"), tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert sorted(first.namelist()) == sorted(second.namelist())
        assert first.read("gemma_cli/models.toml") == (ROOT / "models.toml").read_bytes()
        held = set(first.namelist())
    assert "gemma_cli/prompts/builtin/summarise.md" in held
    shared = {name.partition(".data/data/")[2] for name in held}
    assert "share/man/man1/gemma.1" in shared
    assert "share/bash-completion/completions/gemma" in shared


def test_the_wheel_runs_in_an_empty_environment(
    built: Path, tmp_path: Path, with_demo: Env
) -> None:
    (wheel,) = built.glob("*.whl")
    place = tmp_path / "venv"
    venv.create(place, with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(place), "platbase": str(place)})
    packages = Path(paths["purelib"])
    # The dependencies are lent by this environment (a path in a .pth file runs
    # no .pth file of its own, so the checkout stays out); gemma_cli is the wheel's.
    (packages / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(place), "--disable-pip-version-check"]
    install = [*pip, "install", "-q", "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    gemma = str(Path(paths["scripts"]) / "gemma")

    def out(*command: str) -> str:
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=with_demo,
            capture_output=True,
            text=True,
            check=True,
            stdin=subprocess.DEVNULL,
        ).stdout

    assert out(gemma, "--version") == f"gemma {__version__}\n"
    python = str(Path(paths["scripts"]) / "python")
    where = out(python, "-c", "import gemma_cli; print(gemma_cli.__file__)")
    assert str(packages) in where
    assert out(python, "-m", "gemma_cli", "--version") == f"gemma {__version__}\n"
    assert "gemma3:27b" in out(gemma, "list", "--available")
    assert out(gemma, "run", "-m", DEMO, "-n", "2", "-t", "0", "Hi").strip()
