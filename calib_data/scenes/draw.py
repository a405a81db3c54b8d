"""The kinds of scene by name, and what draws each."""

import random
from collections.abc import Callable

from calib_data.scenes.canvas import Assets, Scene
from calib_data.scenes.charts import chart_scene
from calib_data.scenes.objects import objects_scene
from calib_data.scenes.text import text_scene

DRAW: dict[str, Callable[[random.Random, Assets, tuple[int, int]], Scene]] = {
    "objects": objects_scene,
    "chart": chart_scene,
    "text": text_scene,
}
