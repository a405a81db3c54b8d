"""Blocks of timed requests as a machine with known faults would have given them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.ratio import Block


@dataclass(frozen=True)
class Machine:
    """Noise, as standard deviations of log times.

    `request`: of one timed answer. `outliers`: share of answers that take 1.5 to 4 times as long. `process`: of a fresh
    process as a whole (memory layout). `drift`: of the machine from block to block, each keeping `memory` of the one
    before. `trend`: how much slower all is at the end than at the start.
    """

    request: float = 0.04
    outliers: float = 0.02
    process: float = 0.01
    drift: float = 0.03
    memory: float = 0.7
    trend: float = 0.0


MODERATE = Machine()
MACHINES = {
    "quiet": Machine(request=0.02, process=0.003, drift=0.005),
    "mild": Machine(request=0.03, drift=0.02),
    "moderate": MODERATE,
    "drifting": Machine(drift=0.05),
    "slow drift": Machine(drift=0.05, memory=0.95),
    "heating": Machine(trend=0.05),
    "outliers": Machine(outliers=0.1),
    "rough": Machine(request=0.06, process=0.02, drift=0.05),
}


def made_blocks(
    rng: np.random.Generator,
    paces: Sequence[float],
    machine: Machine = MODERATE,
    blocks: int = 6,
    requests: int = 8,
    repeats: int = 2,
) -> list[list[Block]]:
    """Blocks of one variant for each pace (2.0 takes twice as long), measured in turns forwards and backwards."""
    base = rng.uniform(0.05, 0.5, requests)  # large and small pictures
    places = blocks * len(paces)
    fresh = rng.normal(0, machine.drift, places)
    drift = np.empty(places)
    drift[0] = fresh[0]
    for place in range(1, places):
        drift[place] = machine.memory * drift[place - 1] + np.sqrt(1 - machine.memory**2) * fresh[place]
    drift += machine.trend * np.arange(places) / places
    found: list[list[Block]] = [[] for _ in paces]
    for block in range(blocks):
        order = list(range(len(paces)))[:: 1 if block % 2 == 0 else -1]
        for position, variant in enumerate(order):
            noise = rng.normal(0, machine.request, (repeats, requests))
            late = rng.random((repeats, requests)) < machine.outliers
            noise += late * np.log(rng.uniform(1.5, 4, (repeats, requests)))
            whole = drift[block * len(paces) + position] + rng.normal(0, machine.process)
            seconds = base * paces[variant] * np.exp(np.median(noise, 0) + whole)
            found[variant].append({f"r{index}": float(value) for index, value in enumerate(seconds)})
    return found
