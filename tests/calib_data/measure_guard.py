"""Measures the leakage guard on made pictures: `python -m tests.calib_data.measure_guard [pictures a family]`.

Prints, at several thresholds, how many planted copies are caught by family and disguise, how many pairs of different
pictures are flagged, and how long a fingerprint takes.
"""

import sys
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib_data import leakage
from tests.calib_data.made_pictures import DISGUISES, FAMILIES, alike, draw

THRESHOLDS = (0.16, 0.18, 0.20, 0.22, 0.24, 0.26)


@dataclass(frozen=True)
class Measured:
    """Distances (fractions of bits): of each copy to its picture, and of every pair of different pictures."""

    copies: dict[tuple[str, str], NDArray[np.float64]]  # by (family, disguise)
    within: dict[str, NDArray[np.float64]]  # different pictures of one family
    across: NDArray[np.float64]  # pictures of different families
    milliseconds: float  # a fingerprint of a 300 x 300 picture
    milliseconds_rotated: float


def distances(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.float64]:
    """(n, r, WORDS) and (m, WORDS) to (n, m): the guard's distance, computed over the whole table at once."""
    split = leakage.STRENGTH_WORDS
    bits = np.bitwise_count(left[:, :, None, :] ^ right[None, None, :, :])
    strength = bits[..., :split].sum(-1) / leakage.STRENGTH_BITS
    direction = bits[..., split:].sum(-1) / leakage.DIRECTION_BITS
    return np.maximum(strength, direction).min(axis=1)


def measure(per_family: int, seed: int = 0) -> Measured:
    rng = np.random.default_rng(seed)
    drawn = {family: [draw(family, rng) for _ in range(per_family)] for family in FAMILIES}
    rotated = {f: np.stack([leakage.fingerprints_rotated(p) for p, _ in pictures]) for f, pictures in drawn.items()}
    plain = {family: versions[:, 0] for family, versions in rotated.items()}
    copies, within, across = {}, {}, []
    for family, pictures in drawn.items():
        for name, disguise in DISGUISES.items():
            hidden = np.stack([leakage.fingerprint(disguise(picture, rng)) for picture, _ in pictures])
            copies[family, name] = np.array(
                [distances(rotated[family][i : i + 1], hidden[i : i + 1]).item() for i in range(per_family)]
            )
        table = distances(rotated[family], plain[family])
        within[family] = np.array(
            [
                table[i, j]
                for i, (_, left) in enumerate(pictures)
                for j, (_, right) in enumerate(pictures)
                if i != j and not alike(family, left, right)
            ]
        )
        across += [distances(rotated[family], plain[other]).ravel() for other in FAMILIES if other != family]
    picture = drawn["objects"][0][0].resize((300, 300))
    return Measured(
        copies, within, np.concatenate(across), clock(leakage.fingerprint, picture),
        clock(leakage.fingerprints_rotated, picture),
    )  # fmt: skip


def clock(function, picture, repeats: int = 50) -> float:
    """Milliseconds a call: the median of `repeats`."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(picture)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def main() -> None:
    measured = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    print("planted copies caught".ljust(28) + "".join(f"{t:9.2f}" for t in THRESHOLDS))
    for (family, disguise), values in measured.copies.items():
        print(f"{family:10}{disguise:18}" + "".join(f"{np.mean(values <= t):9.1%}" for t in THRESHOLDS))
    everything = np.concatenate(list(measured.copies.values()))
    print("all".ljust(28) + "".join(f"{np.mean(everything <= t):9.1%}" for t in THRESHOLDS))
    print("different pairs flagged")
    for family, values in measured.within.items():
        row = "".join(f"{np.mean(values <= t):9.3%}" for t in THRESHOLDS)
        print(f"{family:10}{len(values):8} pairs    " + row)
    row = "".join(f"{np.mean(measured.across <= t):9.4%}" for t in THRESHOLDS)
    print(f"{'others':10}{len(measured.across):8} pairs    " + row)
    print(f"fingerprint {measured.milliseconds:.2f} ms, with rotations {measured.milliseconds_rotated:.1f} ms")


if __name__ == "__main__":
    main()
