"""Tries the programs that people already use against `govor serve` and `govor jobs serve`; README.md has the story.

python scripts/clients [CLIENT …]        `make test-clients` runs this

Exit code 1: something failed that the server does not refuse by name.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # This folder stands first on the path: its neighbours and the repository are wanted
    scripts = Path(__file__).resolve().parents[1]
    sys.path[:1] = [str(scripts), str(scripts.parent)]

    from clients.try_clients import main

    sys.exit(main(sys.argv[1:]))
