"""Runs a script on a card that seems to have less memory, and prints its peak.

    python limited_card.py GIB SCRIPT [arguments]

Without CUDA the script runs as it would anyway.
"""

import runpy
import sys
from pathlib import Path

from machine import GIB, has_cuda


def main() -> None:
    import torch

    limit, script = float(sys.argv[1]), sys.argv[2]
    if has_cuda():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(limit * GIB / total)
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(script).parent)  # as Python does for a script
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        if has_cuda():
            print(f"peak allocated: {torch.cuda.max_memory_allocated() / GIB:.2f} GiB")


if __name__ == "__main__":
    main()
