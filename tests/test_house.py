"""The house: imports point one way, heavy libraries stay in their rooms, start-up is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gemma_cli

PACKAGE = Path(gemma_cli.__file__).parent
EVERYWHERE = {"errors", "paths", "settings", "__init__"}
MAY_IMPORT = {
    "models": set(),
    "machine": {"models"},
    "engine": {"machine", "models"},
    "chat": {"engine.protocol"},
    "terminal": set(),
    "documents": set(),
    "prompts": set(),
    "commands": {"models", "machine", "engine", "chat", "terminal", "documents", "prompts"},
}
ONLY_IN = {
    "llama_cpp": ["engine/"],
    "huggingface_hub": ["models/hub.py", "models/hub_"],
    "rich": ["terminal/"],
    "prompt_toolkit": ["terminal/"],
    "sqlite3": ["chat/"],
    "typer": ["commands/", "cli.py"],
    **{name: ["documents/"] for name in ("bs4", "charset_normalizer", "mammoth", "pypdf")},
}
HEAVY = {
    "bs4",
    "huggingface_hub",
    "jinja2",
    "llama_cpp",
    "markdown_it",
    "numpy",
    "platformdirs",
    "prompt_toolkit",
    "pydantic",
    "pypdf",
    "rich",
    "sqlite3",
}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it; TYPE_CHECKING hides none."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            yield module
            if module in ("gemma_cli", *(f"gemma_cli.{room}" for room in MAY_IMPORT)):
                yield from (f"{module}.{alias.name}" for alias in node.names)


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_one_way(room: str) -> None:
    allowed = MAY_IMPORT[room] | EVERYWHERE | {room}
    for path in (PACKAGE / room).rglob("*.py"):
        for module in imports(path):
            parts = module.split(".")
            if parts[0] != "gemma_cli" or len(parts) == 1 or parts[1].startswith("__"):
                continue
            inner = ".".join(parts[1:])
            good = parts[1] in allowed or any(
                inner == name or inner.startswith(f"{name}.") for name in allowed
            )
            # "from gemma_cli.engine import protocol" names the room first
            assert good or inner in {name.split(".")[0] for name in allowed if "." in name}, (
                f"{path.relative_to(PACKAGE)} imports {module}"
            )


@pytest.mark.parametrize("library", ONLY_IN)
def test_each_library_has_its_room(library: str) -> None:
    for path in sources():
        place = path.relative_to(PACKAGE).as_posix()
        if any(place.startswith(prefix) for prefix in ONLY_IN[library]):
            continue
        assert library not in {module.split(".")[0] for module in imports(path)}, place


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["chat", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print(sorted(set(sys.modules) & {HEAVY!r}), file=sys.stderr))\n"
        f"sys.argv = ['gemma', *{arguments!r}]\n"
        "from gemma_cli.__main__ import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: gemma" in done.stdout
    assert done.stderr.strip() == "[]"


def test_no_module_is_long_and_none_is_a_drawer() -> None:
    lengths = []
    for path in sources():
        assert path.stem not in {"utils", "common", "helpers", "manager", "misc"}
        lengths.append(len(path.read_text(encoding="utf-8").splitlines()))
        assert lengths[-1] <= 400, f"{path.relative_to(PACKAGE)} has {lengths[-1]} lines"
    assert sorted(lengths)[len(lengths) // 2] <= 200
