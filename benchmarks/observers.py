"""How much each observer costs: w8a8-static against the float model, token by token, on the model and its outlier twin.

One calibration serves all observers, and one loaded INT8 model: only its input scales change. The float model's own
greedy answers are put after the prompts; compared is the most likely token at each of their tokens.

    python -m benchmarks.observers examples/tiny_qwen3_vl --records 60
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from calib_data.load import load_records
from calib_data.records import Record, picture
from quantize.calibrate import Calibration, calibrate
from quantize.stage import run
from quantize.static import input_scales
from quantize.write import stored_dtypes
from shipvlm.families.outlier_twin import outlier_twin_folder
from shipvlm.families.qwen3_vl.layers import decoder_groups
from shipvlm.families.qwen3_vl.shape import read_shape
from shipvlm.folder import check_folder
from shipvlm.ignore import split_layers
from shipvlm.recipe import Observer, QuantizeSection
from shipvlm.runtime.checkpoint import Checkpoint, load
from shipvlm.runtime.generate import generate
from shipvlm.runtime.inputs import Request
from shipvlm.runtime.probe import forced_logits

VARIANTS: list[tuple[Observer, float]] = [
    ("minmax", 100.0),
    ("percentile", 99.9),
    ("percentile", 99.99),
    ("percentile", 99.999),
    ("mse", 100.0),
    ("entropy", 100.0),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--records", type=int, default=60, help="evaluation records, evenly spaced")
    parser.add_argument("--samples", type=int, default=128, help="calibration records, evenly spaced")
    parser.add_argument("--strength", type=float, default=64.0, help="of the outlier twin")
    parser.add_argument("--channels", type=int, default=4, help="of the outlier twin")
    arguments = parser.parse_args()
    calibration = spaced(load_records("calibration"), arguments.samples)
    evaluation = spaced(load_records("evaluation"), arguments.records)
    print("| model | observer | top-1 agreement | mean KL, nats | tokens |\n|---|---|---|---|---|", flush=True)
    with TemporaryDirectory() as folder:
        compare("model", arguments.model, calibration, evaluation, Path(folder))
        twin = Path(folder) / "twin"
        outlier_twin_folder(arguments.model, twin, arguments.strength, arguments.channels, seed=0)
        compare(f"twin x{arguments.strength:g}", twin, calibration, evaluation, Path(folder))


def compare(name: str, source: Path, calibration: list[Record], evaluation: list[Record], work: Path) -> None:
    """Print one line for each observer."""
    out = work / f"{name}-int8"
    out.mkdir()
    run(source, QuantizeSection(observer="minmax"), calibration[:4], out, lambda *_: None)
    groups, _ = split_layers(decoder_groups(read_shape(check_folder(source)).text.layers), ())
    original, integer = load(source), load(out)
    seen = calibrate(original, calibration, groups, 4, lambda *_: None)
    requests = [Request(record.prompt, (picture(record),)) for record in evaluation]
    forced = [[*answer.token_ids, original.end_ids[0]] for answer in generate(original, requests)]
    wanted = logits(original, requests, forced)
    for observer, percentile in VARIANTS:
        set_scales(integer, seen, QuantizeSection(observer=observer, percentile=percentile), source)
        found = logits(integer, requests, forced)
        agreed = np.mean(wanted.argmax(-1) == found.argmax(-1))
        left, right = (torch.from_numpy(each).double().log_softmax(-1) for each in (wanted, found))
        kl = float((left.exp() * (left - right)).sum(-1).mean())
        label = f"{observer} {percentile}" if observer == "percentile" else observer
        print(f"| {name} | {label} | {agreed:.4f} | {kl:.5f} | {len(wanted)} |", flush=True)


def logits(model: Checkpoint, requests: Sequence[Request], forced: Sequence[list[int]]) -> np.ndarray:
    return np.concatenate([forced_logits(model, *each) for each in zip(requests, forced, strict=True)])


def set_scales(integer: Checkpoint, seen: Calibration, section: QuantizeSection, source: Path) -> None:
    dtypes = stored_dtypes(source, read_shape(check_folder(source)))
    for site, scale in zip(seen.sites, input_scales(seen, section, dtypes), strict=True):
        for layer in site.layers:
            integer.model.get_submodule(layer).input_scale.data = scale.float()


def spaced(records: list[Record], count: int) -> list[Record]:
    return [records[int(index)] for index in np.linspace(0, len(records) - 1, min(count, len(records)))]


if __name__ == "__main__":
    main()
