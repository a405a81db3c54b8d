"""Requests of different sizes: noise pictures, words of the tiny checkpoint's tokenizer."""

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from shipvlm.runtime.inputs import Request

WORDS = ("red", "blue", "circle", "square", "yes", "no", "left", "right", "what", "is", "the", "total")


def picture(seed: int) -> Image.Image:
    draw = np.random.default_rng(seed)
    height, width = draw.integers(40, 200, 2)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))


# One picture, none, two, four: together they make a batch in which every row has another length.
REQUESTS = [
    Request("what is red", (picture(0),)),
    Request("total"),
    Request("what is left of the blue circle and right of the red square", (picture(1), picture(2))),
    Request("yes or no", (picture(3),)),
    Request("what is the total", tuple(picture(seed) for seed in range(4, 8))),
]


def requests() -> st.SearchStrategy[Request]:
    """0 to 4 pictures of their own sizes, 1 to 12 words."""
    pictures = st.lists(st.integers(0, 1000).map(picture), max_size=4).map(tuple)
    return st.builds(Request, st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join), pictures)
