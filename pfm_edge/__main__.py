"""`python -m pfm_edge`: the command, where it is not on the path."""

from pfm_edge.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
