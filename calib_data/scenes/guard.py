"""The fingerprints that training keeps clear of: `python -m calib_data.scenes.guard build/scene_assets/guard.npy`.

Made from the shipped evaluation and held-out pictures themselves, so that a retrained model is guarded against what is
shipped even where scenes would be drawn differently today.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calib_data.leakage import Words, fingerprints_rotated, save_fingerprints
from calib_data.load import load_records
from calib_data.records import Record, picture


def guard_of(records: Sequence[Record]) -> Words:
    """uint64 [records, rotations, words]: the left side of calib_data.leakage.near_duplicates."""
    return np.stack([fingerprints_rotated(picture(record)) for record in records])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="file to write, *.npy")
    out = parser.parse_args().out
    guard = guard_of(load_records("evaluation") + load_records("heldout"))
    save_fingerprints(out, guard)
    print(f"{out}: {len(guard)} pictures in {guard.shape[1]} versions each")


if __name__ == "__main__":
    main()
