import hashlib
import random
import socket
import stat
import zlib
from contextlib import suppress

import datasets
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from calib_data import records
from calib_data.records import Record, decode, digest, picture, write_parquet
from shipvlm.errors import InputError
from tests.calib_data.made_records import encoded, record


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"task": "poetry"},
        {"image": b""},
        {"prompt": " \n"},
        {"answers": ()},
        {"answers": ("",)},
        {"more": 1},
    ],
)
def test_a_record_is_complete(changes):
    with pytest.raises(ValidationError):
        record(**changes)


def test_a_record_is_frozen():
    with pytest.raises(ValidationError):
        record().id = "b"


def test_parquet_opens_with_datasets_and_no_network(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    written = [record("a"), record("b", answers=("蓝色",), image=encoded(Image.new("RGB", (5, 6), "blue"), "JPEG"))]
    write_parquet(written, tmp_path / "new" / "two.parquet")
    data = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "new" / "two.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(data.features["image"], datasets.Image)
    assert data.column_names == ["id", "task", "image", "prompt", "answers", "source", "licence"]
    assert data["answers"][:] == [["red", "scarlet"], ["蓝色"]]
    assert [image.size for image in data["image"]] == [(4, 3), (5, 6)]
    raw = data.cast_column("image", datasets.Image(decode=False))
    assert [cell["bytes"] for cell in raw["image"]] == [one.image for one in written]


def test_parquet_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "set.parquet"
    write_parquet([record()], target)
    before = target.read_bytes()
    assert stat.S_IMODE(target.stat().st_mode) == 0o644

    def fail(table, file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("pyarrow.parquet.write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        write_parquet([record("b")], target)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_the_same_records_make_the_same_file(tmp_path):
    for name in ("one", "two"):
        write_parquet([record("a"), record("b")], tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_parquet_refuses_nothing_and_doubles(tmp_path):
    with pytest.raises(InputError, match="no records"):
        write_parquet([], tmp_path / "set.parquet")
    with pytest.raises(InputError, match="two records have the id 'a'"):
        write_parquet([record("b"), record("a"), record("a")], tmp_path / "set.parquet")
    assert not list(tmp_path.iterdir())


def test_digest_is_of_content_and_order():
    first, second = record("a"), record("b")
    assert digest([first, second]) == digest([record("a"), record("b")])
    assert len(digest([first])) == 64
    others = [
        [second, first],
        [first],
        [first, record("c")],
        [first, record("b", answers=("red scarlet",))],
        [first, record("b", image=encoded(Image.new("RGB", (4, 3), "blue")))],
        [first, record("b", licence="MIT")],
    ]
    digests = {digest(rows) for rows in [[first, second], *others]}
    assert len(digests) == len(others) + 1
    assert digest([]) == hashlib.sha256().hexdigest()


def test_digest_does_not_change_between_releases():
    fixed = Record(id="1", task="ocr", image=b"x", prompt="Read.", answers=("é",), source="s", licence="l")
    line = (
        '{"answers": ["\\u00e9"], "id": "1", '
        '"image": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",'
        ' "licence": "l", "prompt": "Read.", "source": "s", "task": "ocr"}\n'
    )
    assert digest([fixed]) == hashlib.sha256(line.encode()).hexdigest()


def test_picture_is_upright_rgb_on_white():
    turned = Image.new("RGB", (8, 4), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to show
    assert picture(record(image=encoded(turned, "JPEG", exif=exif))).size == (4, 8)
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 255, 255))
    shown = decode(encoded(clear))
    assert (shown.mode, shown.getpixel((0, 0)), shown.getpixel((1, 0))) == ("RGB", (255, 255, 255), (0, 0, 255))
    palette = Image.new("P", (2, 2))
    assert decode(encoded(palette)).mode == "RGB"
    assert decode(encoded(Image.new("L", (2, 2), 7), "WEBP", lossless=True)).getpixel((0, 0)) == (7, 7, 7)


def test_decode_refuses_what_is_no_picture():
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for form in ("PNG", "JPEG", "WEBP"):
        whole = encoded(Image.fromarray(noise), form)
        with pytest.raises(InputError, match="picture"):
            decode(whole[: len(whole) // 2])
    for other in (b"no picture", encoded(Image.new("RGB", (2, 2)), "GIF"), encoded(Image.new("RGB", (2, 2)), "TIFF")):
        with pytest.raises(InputError, match="not a picture in PNG, JPEG, WEBP"):
            decode(other)


def test_decode_refuses_a_bomb_before_decoding_it(monkeypatch):
    bomb, worse = encoded(Image.new("1", (9000, 9000))), header_of_a_bomb()
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InputError, match="too large: 9000 x 9000"):
        decode(bomb)
    monkeypatch.setattr(records, "MAX_PIXELS", 10**9)
    with pytest.raises(InputError, match="cannot be opened"):
        decode(worse)


def header_of_a_bomb() -> bytes:
    """A PNG whose header claims 60,000 x 60,000 pixels: past PIL's own limit."""
    small = bytearray(encoded(Image.new("1", (1, 1))))
    small[16:24] = (60_000).to_bytes(4, "big") * 2
    small[29:33] = zlib.crc32(bytes(small[12:29])).to_bytes(4, "big")
    return bytes(small)


@pytest.mark.filterwarnings("ignore:.*EXIF|Tag data:UserWarning")
def test_decode_raises_nothing_but_input_errors():
    random.seed(0)
    exif = Image.Exif()
    exif[0x0112] = 3
    noise = np.random.default_rng(1).integers(0, 256, (24, 24, 4), dtype=np.uint8)
    wholes = [
        encoded(Image.fromarray(noise)),
        encoded(Image.fromarray(noise[..., :3]), "JPEG", exif=exif),
        encoded(Image.fromarray(noise), "WEBP"),
    ]
    for whole in wholes * 150:
        damaged = bytearray(whole)
        for _ in range(random.randint(1, 6)):
            damaged[random.randrange(min(len(damaged), 200))] = random.randrange(256)
        with suppress(InputError):
            assert decode(bytes(damaged)).mode == "RGB"
