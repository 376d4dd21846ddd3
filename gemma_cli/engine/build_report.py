"""A program of its own: what this llama.cpp is and sees, as JSON on stdout.

`gemma doctor` starts it as a child process, because a library that was built
for another processor ends the process that calls it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from gemma_cli.errors import GemmaError


def main() -> int:
    try:
        report = _report()
    except (GemmaError, ImportError, OSError, AttributeError) as error:
        report = {"error": getattr(error, "message", None) or f"{type(error).__name__}: {error}"}
    print(json.dumps(report))
    return 0


def _report() -> dict[str, Any]:
    """AttributeError where a library lacks a function that the bindings name."""
    from gemma_cli.engine.library import C
    from gemma_cli.engine.model import quiet_backend
    from gemma_cli.machine.devices import backends, gpus

    quiet_backend()
    return {
        "library": C.__dict__["_lib"]._name,
        "system_info": C.llama_print_system_info().decode("utf-8", "replace"),
        "backends": backends(),
        "gpus": [asdict(gpu) for gpu in gpus()],
    }


if __name__ == "__main__":
    sys.exit(main())
