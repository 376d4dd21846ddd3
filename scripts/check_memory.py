#!/usr/bin/env python3
"""The planner's figures beside llama.cpp's, for every model, quantization and context. Linux.

    python scripts/check_memory.py [MODEL...]

Prints the worst deviation of each model's weights, KV cache and compute buffer;
exits 1 where one is beyond 2 % and 16 MiB. Nothing is downloaded or allocated:
the models are headers over sparse files. Run it after an update of llama.cpp;
the coefficients it judges are _ACTIVATIONS in gemma_cli/machine/layout.py.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gemma_cli.engine.model import quiet_backend
from gemma_cli.models.entries import load_catalog
from tests.memory_matrix import MIB, Compared, compared

QUANTS = ("Q4_0", "QAT_Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 1 << 20)
UBATCHES = (128, 256, 512)


def main() -> None:
    quiet_backend()
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for model in load_catalog().models:
            if len(sys.argv) > 1 and model.id not in sys.argv[1:]:
                continue
            worst: dict[str, Compared] = {}
            count = 0
            for quant in QUANTS:
                for one in compared(Path(folder), model, quant, CONTEXTS, ubatches=UBATCHES):
                    figure = one.what.rpartition(" ")[2]
                    if figure not in worst or abs(one.off) > abs(worst[figure].off):
                        worst[figure] = one
                    bad += not one.agrees
                    count += 1
                    if not one.agrees:
                        print(f"  beyond: {one.what} by {one.off / MIB:+.1f} MiB", file=sys.stderr)
            said = "  ".join(
                f"{figure} {one.off / MIB:+.2f} MiB ({100 * one.off / max(one.real, 1):+.2f} %)"
                for figure, one in worst.items()
            )
            print(f"{model.id:15} {count:5} figures  worst: {said}", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
