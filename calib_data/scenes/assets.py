"""Fetches the drawings, fonts and words that scenes are made of, from Debian and npm packages, into one folder.

Only rebuilding the shipped data or retraining the default model needs this (`pip install .[data]`, `apt-get`, `npm`);
`python -m calib_data.scenes.assets build/scene_assets`
"""

import argparse
import csv
import io
import json
import random
import re
import subprocess
import tarfile
import tempfile
from collections import defaultdict
from pathlib import Path

from PIL import Image

from calib_data.scenes.words import CHINESE_CHARACTERS, CHINESE_TOTAL

DEBIAN = [
    "fonts-noto-color-emoji", "openclipart-svg", "wamerican-small", "fonts-noto-cjk", "fonts-wqy-microhei",
    "fonts-wqy-zenhei", "fonts-arphic-ukai", "fonts-arphic-uming", "fonts-dejavu-core", "fonts-dejavu-extra",
    "fonts-liberation", "fonts-roboto-unhinted", "fonts-open-sans", "fonts-lato", "fonts-comic-neue",
    "fonts-freefont-ttf", "fonts-cantarell", "fonts-linuxlibertine", "fonts-hack",
]  # fmt: skip
NPM = "emojibase-data@17.0.0"

SPRITE_SIZE = 128
EMOJI_GROUPS = {3, 4, 5, 6, 7}  # animals and nature, food, travel, activities, objects
EMOJI_SUBGROUPS_LEFT_OUT = {  # told apart by a detail
    49,  # globes
    58,  # clocks
    59,  # moons and weather
    66,  # loudspeakers
    69,  # telephones
}
TWO_WORD_LABELS = {
    "hot dog", "birthday cake", "baby bottle", "soccer ball", "christmas tree", "polar bear", "police car",
    "fire engine",
}  # fmt: skip
LABELS_LEFT_OUT = {  # too hard to tell, or the name of no thing
    "moai", "kaaba", "dodo", "mate", "hamsa", "oden", "dango", "knot", "label", "link", "hook", "wing", "clamp",
    "rosette",
    "foggy", "locked", "unlocked", "cooking", "construction", "wedding", "camping", "pick", "seat", "station", "desert",
    "herb", "metro", "memo", "briefs", "microbe", "badminton", "lacrosse", "tennis", "ice",
}  # fmt: skip
CLIPART_NOISE = re.compile(
    r"\b(\d+|[a-z]|architetto|francesco|rollandin|ganson|clip|art|icon|svg|the|small|simple|cartoon|of)\b"
)

TRAIN_FONTS = {
    "latin": [
        "DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansCondensed",
        "LiberationSans-Regular", "LiberationSans-Bold", "LiberationSerif-Regular", "LiberationMono-Regular",
        "LiberationSansNarrow-Regular", "Roboto-Regular", "Roboto-Bold", "Roboto-Light", "RobotoCondensed-Regular",
        "OpenSans-Regular", "OpenSans-Bold", "FreeSans", "FreeSerif", "FreeMono", "FreeSansBold", "ComicNeue-Bold",
        "Hack-Regular",
    ],
    "chinese": ["NotoSansCJK-Regular", "NotoSansCJK-Bold", "NotoSerifCJK-Regular", "wqy-microhei", "ukai"],
}  # fmt: skip
HELDOUT_FONTS = {
    "latin": ["Lato-Regular", "Lato-Bold", "Cantarell-Regular", "LinLibertine_R", "FreeSerifBold"],
    "chinese": ["uming", "wqy-zenhei"],
}


def fetch_packages(folder: Path) -> None:
    """Downloads and unpacks the Debian and npm packages into `folder`, without installing them."""
    subprocess.run(["apt-get", "download", "-qq", *DEBIAN], cwd=folder, check=True)
    for deb in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", deb, folder / "debian"], check=True)
    subprocess.run(["npm", "pack", "-s", NPM], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder / "npm", filter="data")


def emoji_kinds(labels: Path) -> dict[str, dict]:
    """label -> {hexcode, family}: emoji whose label is a plain word, told apart by more than a detail."""
    kinds = {}
    for row in json.loads(labels.read_text()):
        label = row["label"].lower()
        plain = re.fullmatch(r"[a-z][a-z\-]{1,12}", label) or label in TWO_WORD_LABELS
        if (
            row.get("group") in EMOJI_GROUPS
            and row["subgroup"] not in EMOJI_SUBGROUPS_LEFT_OUT
            and plain
            and label not in LABELS_LEFT_OUT
        ):
            kinds[label] = {"hexcode": row["hexcode"], "family": row["subgroup"]}
    return kinds


def emoji_pictures(font: Path) -> dict[str, bytes]:
    """hexcode -> PNG, out of the colour bitmaps of Noto Color Emoji."""
    from fontTools.ttLib import TTFont

    loaded = TTFont(font)
    glyphs = {glyph: f"{code:X}" for code, glyph in loaded.getBestCmap().items()}
    pictures = {}
    for strike in loaded["CBDT"].strikeData:
        for glyph, data in strike.items():
            if glyph in glyphs:
                pictures[glyphs[glyph]] = data.imageData
    return pictures


def clipart_by_name(root: Path) -> dict[str, list[Path]]:
    """plain name -> drawings of Open Clip Art whose file name says it."""
    found = defaultdict(list)
    for path in sorted(root.rglob("*.svg")):
        if "duplicates" in path.parts or "icons" in path.parts:
            continue
        name = re.sub(r"[\W_]+", " ", re.sub(r"\d+", " ", path.stem.lower()))
        found[" ".join(CLIPART_NOISE.sub(" ", name).split())].append(path)
    return found


def square(picture: Image.Image) -> bytes:
    """Trims transparent edges and fits the drawing into SPRITE_SIZE x SPRITE_SIZE; PNG, RGBA."""

    picture = picture.convert("RGBA")
    box = picture.getchannel("A").point(lambda a: 255 if a > 24 else 0).getbbox()
    if box is None:
        raise ValueError("the drawing is empty")
    picture = picture.crop(box)
    scale = SPRITE_SIZE / max(picture.size)
    picture = picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS
    )
    out = Image.new("RGBA", (SPRITE_SIZE, SPRITE_SIZE))
    out.paste(picture, ((SPRITE_SIZE - picture.width) // 2, (SPRITE_SIZE - picture.height) // 2))
    buffer = io.BytesIO()
    out.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_sprites(packages: Path, out: Path) -> None:
    """sprites/*.png and sprites.csv (file, label, family, style, heldout). Every third kind's clip art is held out."""
    import cairosvg

    kinds = emoji_kinds(packages / "npm/package/en/data.json")
    pictures = emoji_pictures(next((packages / "debian").rglob("NotoColorEmoji.ttf")))
    clipart = clipart_by_name(packages / "debian/usr/share/openclipart")
    (out / "sprites").mkdir(parents=True, exist_ok=True)
    rows = []

    def add(label: str, style: str, number: int, heldout: bool, picture: Image.Image) -> None:
        name = f"{label.replace(' ', '_')}-{style}{number}.png"
        try:
            (out / "sprites" / name).write_bytes(square(picture))
        except ValueError:
            return
        rows.append((name, label, kinds[label]["family"], style, int(heldout)))

    shared = 0
    for label, kind in sorted(kinds.items()):
        if kind["hexcode"].split("-")[0] not in pictures:
            continue
        add(label, "noto", 0, False, Image.open(io.BytesIO(pictures[kind["hexcode"].split("-")[0]])))
        drawings = clipart.get(label, [])[:4]
        shared += bool(drawings)
        for number, path in enumerate(drawings):
            try:
                png = cairosvg.svg2png(url=str(path), output_width=256)
            except Exception as error:  # a drawing that the rasteriser cannot read is left out, and said
                print(f"left out {path.name}: {type(error).__name__}")
                continue
            add(label, "clipart", number, shared % 3 == 0, Image.open(io.BytesIO(png)))
    with (out / "sprites.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("file", "label", "family", "style", "heldout"), *rows])
    print(f"{len(rows)} drawings of {len({r[1] for r in rows})} kinds, {sum(r[4] for r in rows)} held out")


def write_fonts(packages: Path, out: Path) -> None:
    """fonts/latin|chinese/train|heldout/*.ttf, cut down to the characters that scenes use."""
    latin = "".join(chr(c) for c in range(32, 127)) + "€£¥"
    texts = {"latin": latin, "chinese": latin + CHINESE_CHARACTERS + CHINESE_TOTAL}
    for side, fonts in (("train", TRAIN_FONTS), ("heldout", HELDOUT_FONTS)):
        for script, names in fonts.items():
            target = out / "fonts" / script / side
            target.mkdir(parents=True, exist_ok=True)
            for name in names:
                found = sorted((packages / "debian").rglob(f"{name}.*"))
                source = next(path for path in found if path.suffix in (".ttf", ".otf", ".ttc"))
                cut_font(source, texts[script], target / f"{name}.ttf")


def cut_font(source: Path, text: str, target: Path) -> None:
    from fontTools import subset

    options = subset.Options(layout_features=[], hinting=True, font_number=0)
    font = subset.load_font(source, options)
    worker = subset.Subsetter(options)
    worker.populate(text=text)
    worker.subset(font)
    subset.save_font(font, target, options)


def write_words(packages: Path, out: Path, count: int = 2500) -> None:
    """words.txt: English words of 3 to 8 letters."""
    words = [
        w
        for w in (packages / "debian/usr/share/dict/american-english-small").read_text().split()
        if re.fullmatch("[a-z]{3,8}", w)
    ]
    (out / "words.txt").write_text("\n".join(sorted(random.Random(0).sample(words, count))) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write into")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        packages = Path(folder)
        fetch_packages(packages)
        write_sprites(packages, out)
        write_fonts(packages, out)
        write_words(packages, out)


if __name__ == "__main__":
    main()
