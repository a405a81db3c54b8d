"""What a result says it was measured with."""

import shutil
from hashlib import sha256
from pathlib import Path

from bench.environment import BEHAVIOUR_FILES, model_digest
from shipvlm.folder import weight_files


def test_a_digest_is_of_weights_and_of_what_decides_the_answers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    first = model_digest(folder)
    paths = [*weight_files(folder), *(folder / name for name in BEHAVIOUR_FILES if (folder / name).is_file())]
    lines = "".join(f"{path.name}\0{sha256(path.read_bytes()).hexdigest()}\n" for path in paths)
    assert first == sha256(lines.encode()).hexdigest()
    assert model_digest(tiny_checkpoint) == first
    (folder / "notes.txt").write_text("of no account")
    assert model_digest(folder) == first
    for path in paths:
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert model_digest(folder) != first
        path.write_bytes(content)
    assert model_digest(folder) == first
