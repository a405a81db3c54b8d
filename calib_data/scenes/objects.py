"""Scenes of several drawings: what they are, how many, which colour, where."""

import random

from calib_data.scenes.asks import caption, consistency
from calib_data.scenes.canvas import Assets, Scene, wear
from calib_data.scenes.composition import compose
from calib_data.scenes.object_asks import describe, statements, vqa


def objects_scene(rng: random.Random, assets: Assets, size: tuple[int, int]) -> Scene:
    scene = compose(rng, assets, size)
    asks = [*vqa(rng, scene), caption(rng, "objects", describe(scene))]
    return Scene(wear(rng, scene.image), "objects", asks + consistency(statements(rng, assets, scene)))
