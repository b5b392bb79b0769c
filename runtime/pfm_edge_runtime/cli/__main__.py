"""Run ``pfm-device`` as ``python -m pfm_edge_runtime.cli``."""

import sys

from pfm_edge_runtime.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
