"""Mutate bundles at random and read them; only the package's own exceptions may come out.

::

    python -m tests.fuzz --mutations 200000

A run is a function of its seed. What fails is named by a number: ``--first N --mutations 1`` makes
that mutant again.
"""

import argparse
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.corpus import seeds
from tests.fuzz.judge import judge
from tests.fuzz.mutations import mutate

_HEADROOM_BYTES = 2**28  # of address space, beyond what is in use when the run begins


def main() -> int:
    """Run, with progress; report what became of the mutants."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--mutations", type=int, default=200_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    _bound_memory()
    begin, before = time.monotonic(), _peak_mib()
    outcomes = run(range(chosen.first, chosen.first + chosen.mutations), chosen.seed)
    for outcome, count in sorted(outcomes.items()):
        sys.stdout.write(f"{count:9,d}  {outcome}\n")
    sys.stdout.write(
        f"{outcomes.total():9,d}  mutants in {time.monotonic() - begin:.0f} s; peak memory "
        f"{_peak_mib():.0f} MiB, {_peak_mib() - before:.0f} MiB of it since the start\n"
    )
    return 0


def run(numbers: range, seed: int) -> Counter[str]:
    """Make the mutants of these numbers and judge them.

    Raises:
        AssertionError: One of them was accepted and must not be, or raised what is not ours; the
            message has its number.
    """
    start = seeds()
    outcomes: Counter[str] = Counter()
    for done, number in enumerate(numbers, start=1):
        rng = random.Random(f"{seed}:{number}")
        origin, mutant = mutate(start, rng)
        try:
            outcomes[judge(origin, mutant, start)] += 1
        except Exception as error:
            raise AssertionError(
                f"mutant {number} of seed {seed}, made from {origin.name}: {error!r}"
            ) from error
        if len(numbers) >= 10_000 and done % 2_000 == 0:  # a short run is silent
            sys.stderr.write(f"\r{done:,} of {len(numbers):,} ")
    return outcomes


def _bound_memory() -> None:
    """Let an allocation that no bundle of this size needs fail, as a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
