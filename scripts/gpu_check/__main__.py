"""Measures govor on one CUDA card; README.md beside this file has the whole story.

python scripts/gpu_check [--seconds 540] [--resume] [--only STEP,STEP] [--skip STEP,STEP]
python scripts/gpu_check --rehearse        on a CPU, with tiny shapes: every step runs
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # This folder stands first on the path: its neighbours and the repository are wanted
    scripts = Path(__file__).resolve().parents[1]
    sys.path[:1] = [str(scripts), str(scripts.parent)]

    from gpu_check.command_line import main

    main()
