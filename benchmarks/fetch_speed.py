"""How fast `shipvlm fetch`, which hashes every byte, is against huggingface_hub's own download of the same files.

    python -m benchmarks.fetch_speed --folder /dev/shm

A Hub on the loopback serves a checkpoint with four large sparse shards from a process of its own, the shards with
1 GB/s in all, in equal parts. Each download is a fresh process; the two take turns (ABBA), so that a machine that
slows down does so for both. Every round gives one ratio of seconds.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import geometric_mean, median
from time import perf_counter, process_time

from shipvlm.cli import main as shipvlm
from shipvlm.folder import WEIGHTS_INDEX
from tests.fetch.fake_hub import FakeHub
from tests.fetch.made_repository import repository
from tests.fetch.serving import ALWAYS, Blob, Fault, blob

REPO = "owner/large"


def ours(url: str, folder: Path) -> None:
    try:
        shipvlm(["fetch", REPO, "--source", "hf", "--endpoint", url, "-o", str(folder)])
    except SystemExit as stop:
        assert not stop.code, stop.code


def theirs(url: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(REPO, endpoint=url, local_dir=folder, token=False)


CLIENTS: dict[str, Callable[[str, Path], None]] = {"ours": ours, "huggingface_hub": theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to work; needs 5 GB")
    parser.add_argument("--rounds", type=int, default=4, help="of ours, theirs, theirs, ours")
    parser.add_argument("--large", type=int, default=4, help="how many large files")
    parser.add_argument("--large-bytes", type=int, default=10**9, help="of each of the large files")
    parser.add_argument("--rate", type=float, default=1e9, help="bytes per second of all large files; 0: no limit")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=2, metavar=("NAME", "URL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.folder, options.large, options.large_bytes, options.rate)
    elif options.client:
        name, url = options.client
        print(json.dumps(timed(lambda: CLIENTS[name](url, options.folder))))
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as work:
            compare(Path(work), options.rounds, options.large, options.large_bytes, options.rate)


def compare(work: Path, rounds: int, large: int, large_bytes: int, rate: float) -> None:
    """Print seconds of every run, and the ratio of ours to theirs with its spread."""
    ratios = []
    with server(work, large, large_bytes, rate) as url:
        for _ in range(rounds):
            seconds: dict[str, float] = dict.fromkeys(CLIENTS, 0.0)
            for name in ("ours", "huggingface_hub", "huggingface_hub", "ours"):
                run = one_run(name, url, work, [large_bytes] * large)
                seconds[name] += run["seconds"]
                gigabytes = large * large_bytes / 1e9 / run["seconds"]
                print(f"{name:16} {run['seconds']:6.2f} s  {gigabytes:.2f} GB/s  CPU {run['cpu']:5.2f} s", flush=True)
            ratios.append(seconds["ours"] / seconds["huggingface_hub"])
    print(
        f"seconds of ours / huggingface_hub: {geometric_mean(ratios):.2f}, "
        f"median {median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f} in {rounds} rounds"
    )


def one_run(name: str, url: str, work: Path, expected: list[int]) -> dict[str, float]:
    """Download everything in a fresh process, look at what came, and remove it."""
    target = work / "out"
    environment = {
        **os.environ,
        "HF_HOME": str(work / "home"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-m", "benchmarks.fetch_speed", "--client", name, url, "--folder", str(target)]
    run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    sizes = [path.stat().st_size for path in target.glob("*.safetensors")]
    assert sizes == expected, sizes
    shutil.rmtree(target)
    return dict(json.loads(run.stdout.splitlines()[-1]))


def timed(work: Callable[[], None]) -> dict[str, float]:
    start, cpu = perf_counter(), process_time()
    work()
    return {"seconds": perf_counter() - start, "cpu": process_time() - cpu}


@contextmanager
def server(work: Path, large: int, large_bytes: int, rate: float) -> Iterator[str]:
    """The address of a Hub in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.fetch_speed", "--serve", "--folder", str(work)]
    command += ["--large", str(large), "--large-bytes", str(large_bytes), "--rate", str(rate)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def serve(work: Path, large: int, large_bytes: int, rate: float) -> None:
    """Serve until stdin ends."""
    sparse = work / "large"
    with sparse.open("wb") as file:
        file.truncate(large_bytes)
    one = blob(sparse)
    shards = {f"model-{number}.safetensors": one for number in range(large)}
    small = {name: content for name, content in repository().items() if not name.endswith(".safetensors")}
    index = {"metadata": {}, "weight_map": {f"tensor.{place}": name for place, name in enumerate(shards)}}
    files: dict[str, bytes | Path | Blob] = {**small, **shards, WEIGHTS_INDEX: json.dumps(index).encode()}
    with FakeHub(files, REPO) as hub:
        if rate:
            hub.cdn.fail("*", Fault(rate=rate / large, times=ALWAYS))
        print(hub.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
