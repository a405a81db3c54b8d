import subprocess
import sys
from pathlib import Path

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from calib_data import leakage
from shipvlm.errors import InputError
from tests.calib_data.made_pictures import DISGUISES, FAMILIES, draw, through_jpeg
from tests.calib_data.made_records import encoded, record
from tests.calib_data.measure_guard import distances, measure


def made(family: str, seed: int) -> Image.Image:
    return draw(family, np.random.default_rng(seed))[0]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_dct_bits_are_those_of_imagehash(seed):
    grey = np.random.default_rng(seed).integers(0, 256, (64, 64), dtype=np.uint8)
    reference = imagehash.phash(Image.fromarray(grey), hash_size=16, highfreq_factor=4)
    assert np.array_equal(leakage.dct_bits(grey, 16), reference.hash.ravel())


def test_edge_maps_of_a_vertical_edge():
    """A step across the middle: energy in the middle columns alone, direction (cos, sin) of 2 * 0 degrees = (1, 0)."""
    image = Image.new("L", (64, 64), 0)
    image.paste(255, (32, 0, 64, 64))
    strength, across, along = leakage.edge_maps(image)
    assert strength[:, 31:33].min() > 0.3
    assert strength[:, :24].max() < 1e-6
    assert np.allclose(across, strength, atol=1e-6)
    assert np.allclose(along, 0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_fingerprint_does_not_depend_on_the_mode(family):
    image = made(family, 1)
    words = leakage.fingerprint(image)
    assert words.shape == (leakage.WORDS,)
    assert words.dtype == np.uint64
    assert np.array_equal(words, leakage.fingerprint(image.convert("RGBA")))
    assert np.array_equal(
        leakage.fingerprint(image.convert("L")), leakage.fingerprint(image.convert("L").convert("RGB"))
    )
    assert np.array_equal(words, leakage.fingerprints_rotated(image)[0])


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (3, 2), (2000, 10)])
def test_fingerprint_takes_any_size_and_blank_pictures(size):
    blank = leakage.fingerprint(Image.new("RGB", size, (10, 200, 30)))
    assert np.array_equal(blank, leakage.fingerprint(Image.new("RGB", (100, 100), "white")))
    assert leakage.fingerprints_rotated(Image.new("RGB", size)).shape == (1 + 2 * len(leakage.ROTATIONS), leakage.WORDS)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 0.22, 0.45]))
@settings(max_examples=15, deadline=None)
def test_near_duplicates_against_counting_bit_by_bit(seed, threshold):
    rng = np.random.default_rng(seed)
    left = rng.integers(0, 2**64, (19, 3, leakage.WORDS), dtype=np.uint64)
    right = rng.integers(0, 2**64, (40, leakage.WORDS), dtype=np.uint64)
    left[..., -1] &= np.uint64(2**32 - 1)  # as in real fingerprints the last half word is padding
    right[..., -1] &= np.uint64(2**32 - 1)
    for i in range(10):  # plant copies with a growing number of flipped bits
        right[4 * i] = left[i, i % 3]
        for bit in rng.choice(64 * (leakage.WORDS - 1), 12 * i, replace=False):
            right[4 * i, bit // 64] ^= np.uint64(1 << int(bit % 64))
    split = leakage.STRENGTH_WORDS
    expected = {}
    for i in range(len(left)):
        for j in range(len(right)):
            for version in left[i]:
                flips = [bin(int(a) ^ int(b)).count("1") for a, b in zip(version, right[j], strict=True)]
                distance = max(sum(flips[:split]) / 256, sum(flips[split:]) / 288)
                if distance <= threshold:
                    expected[i, j] = min(distance, expected.get((i, j), 1.0))
    found = leakage.near_duplicates(left, right, threshold)
    assert [(pair.left_index, pair.right_index) for pair in found] == sorted(expected)
    assert all(pair.distance == pytest.approx(expected[pair[:2]]) for pair in found)
    assert expected  # the planted copies


def test_near_duplicates_across_blocks_and_of_nothing():
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2**64, (9000, leakage.WORDS), dtype=np.uint64)
    left = right[[8999, 4096, 4095]]
    assert leakage.near_duplicates(left, right) == [(0, 8999, 0.0), (1, 4096, 0.0), (2, 4095, 0.0)]
    assert leakage.near_duplicates(left[:0], right) == []
    assert leakage.near_duplicates(left, right[:0]) == []


@pytest.mark.slow
def test_rates_on_made_pictures():
    """At least 95 % of planted copies are caught, less than 0.5 % of different pairs are flagged."""
    measured = measure(30)
    caught = {key: np.mean(values <= leakage.THRESHOLD) for key, values in measured.copies.items()}
    assert np.mean(list(caught.values())) >= 0.95, caught
    weak = {"shape"}  # 64 x 64 pixels: halved, through JPEG and rotated, little is left
    assert min(rate for (family, _), rate in caught.items() if family not in weak) >= 0.9, caught
    assert all(rate == 1.0 for (_, disguise), rate in caught.items() if disguise == "recoloured"), caught
    flagged = {family: np.mean(values <= leakage.THRESHOLD) for family, values in measured.within.items()}
    assert max(flagged.values()) < 0.005, flagged
    assert np.mean(measured.across <= leakage.THRESHOLD) < 0.0005


def test_check_is_red_on_a_planted_copy_and_green_without():
    rng = np.random.default_rng(5)
    evaluation = [record(f"e{seed}", image=encoded(made("objects", seed))) for seed in range(6)]
    calibration = [record(f"c{seed}", image=encoded(made("objects", seed))) for seed in range(100, 106)]
    assert leakage.check(evaluation, calibration) == []
    for index, disguise in enumerate(DISGUISES.values()):
        calibration[index] = record(f"copy{index}", image=encoded(disguise(made("objects", index), rng)))
    found = leakage.check(evaluation, calibration)
    assert [pair[:2] for pair in found] == [(f"e{i}", f"copy{i}") for i in range(len(DISGUISES))]
    assert all(0 <= pair[2] <= leakage.THRESHOLD for pair in found)
    assert leakage.check(evaluation, []) == []


def test_two_receipts_of_one_template_are_different_pictures():
    receipts = [made("receipt", seed) for seed in range(12)]
    rotated = np.stack([leakage.fingerprints_rotated(image) for image in receipts])
    again = np.stack([leakage.fingerprint(through_jpeg(image, 30)) for image in receipts])
    assert [pair[:2] for pair in leakage.near_duplicates(rotated, again)] == [(i, i) for i in range(12)]
    table = distances(rotated, again)
    assert np.diag(table).max() < table[~np.eye(12, dtype=bool)].min()


def test_fingerprints_on_disk(tmp_path):
    fingerprints = np.stack([leakage.fingerprint(made("chart", seed)) for seed in range(3)])
    leakage.save_fingerprints(tmp_path / "prints.npy", fingerprints)
    assert np.array_equal(leakage.load_fingerprints(tmp_path / "prints.npy"), fingerprints)


@pytest.mark.parametrize(
    "array",
    [np.zeros((3, leakage.WORDS)), np.zeros((3, 4), np.uint64), np.array([{"a": 1}], dtype=object)],
    ids=["float", "other width", "pickle"],
)
def test_load_refuses_other_arrays(tmp_path, array):
    np.save(tmp_path / "other.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=r"other\.npy"):
        leakage.load_fingerprints(tmp_path / "other.npy")


def test_load_refuses_other_files(tmp_path):
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(InputError, match="fingerprints"):
        leakage.load_fingerprints(tmp_path / "text.npy")
    np.savez(tmp_path / "several.npz", np.zeros(1))
    with pytest.raises(InputError, match="several arrays"):
        leakage.load_fingerprints(tmp_path / "several.npz")


def test_near_duplicates_refuses_other_shapes():
    good = np.zeros((2, leakage.WORDS), np.uint64)
    with pytest.raises(InputError, match="left"):
        leakage.near_duplicates(good[0], good)
    with pytest.raises(InputError, match="right"):
        leakage.near_duplicates(good, good.astype(np.int64))


def test_runs_where_only_numpy_scipy_and_pil_are():
    blocked = ("pydantic", "datasets", "imagehash", "pyarrow", "torch", "transformers")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from PIL import Image; from calib_data import leakage\n"
        "prints = leakage.fingerprints_rotated(Image.new('RGB', (50, 50)))[None]\n"
        "assert len(leakage.near_duplicates(prints, prints[:, 0])) == 1"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
