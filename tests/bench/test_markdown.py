"""Words, tables and Markdown: the same numbers as in the report, the verdict first."""

import copy

import pytest

from bench import evidence_tables, findings, gate, markdown, report, tables, words
from shipvlm.recipe import GateSection
from tests.bench.made_run import CASE, MB, made_plan, made_report, made_run


@pytest.fixture(scope="module")
def made():
    return made_report()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0004, "0.000"),
        (0.4116, "0.412"),
        (4.116, "4.12"),
        (41.16, "41.2"),
        (99.96, "100"),
        (411.6, "412"),
        (4116, "4116"),
    ],
)
def test_three_digits_count(value, text):
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0.000 kB"), (7168, "7.17 kB"), (26.6e6, "26.6 MB"), (17.5e9, "17.5 GB"), (1.2e12, "1200 GB")],
)
def test_sizes_have_their_unit(count, text):
    assert words.size(count) == text


def test_what_is_too_little_is_said():
    few = {"n": 12, "value": 0.5, "low": None, "high": None}
    assert words.percent(few) == "50.0 INCONCLUSIVE (n=12)"
    assert words.milliseconds(few) == "500"
    assert words.percent(None) == words.ratio(None) == words.judged(None) == "-"
    assert words.judged({**few, "value": None, "word": "AMBIGUOUS"}) == "AMBIGUOUS"
    assert words.percent({"n": 40, "value": -0.0004, "low": -0.01, "high": 0.0}, signed=True) == "-0.0 [-1.0, +0.0]"


def test_the_verdict_comes_first(made):
    text = markdown.markdown(made)
    assert text.startswith("**PASS**: onnx-w8a8-static holds what is asked of it against original.")
    entry = made["variants"]["onnx-w8a8-static"]["ratio"][CASE.name]["ttft"]
    row = next(line for line in text.splitlines() if line.startswith("| first token (TTFT), vqa-small"))
    shown = f"{entry['value']:.2f}x [{entry['low']:.2f}, {entry['high']:.2f}]"
    null = f"{entry['null']['value']:.2f}x [{entry['null']['low']:.2f}, {entry['null']['high']:.2f}]"
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["first token (TTFT), vqa-small", "FASTER", shown, null]
    assert made["command"] in text


def test_every_table_is_square(made):
    for line in markdown.markdown(made).split("\n\n"):
        if line.startswith("|"):
            assert len({row.count("|") for row in line.splitlines()}) == 1
            assert len({len(row) for row in line.splitlines()}) == 1


def test_deltas_have_a_row_a_variant(made):
    found = tables.deltas(made)
    assert [row.name for row in found.rows] == list(made["variants"])
    cells = dict(zip(found.head, found.rows[3].cells, strict=True))
    assert cells["files"] == "0.87x (27.0 MB)"
    assert cells["answers worse / better"] == "1 / 0"
    assert dict(zip(found.head, found.rows[1].cells, strict=True))["whole answer, vqa-small"] == "-"  # not timed
    assert found.rows[0].cells[0] == tables.BASELINE


def test_cells_cannot_break_a_table():
    text = markdown.lined([["a|b", "c\nd"], ["e", "f"]])
    assert text.splitlines()[0] == "| a\\|b | c d |"


@pytest.mark.parametrize(
    ("gates", "word", "part"),
    [
        ({"score": None}, "", "No gate is set"),
        ({"size": 0.5}, "FAIL", "does not hold what is asked of it against original: size of the files"),
        ({"score": 0.005}, "INCONCLUSIVE", "does not decide whether onnx-w8a8-static holds"),
    ],
)
def test_headlines(gates, word, part):
    found = _judged(gates)
    assert findings.headline(found)[0] == word
    assert part in findings.headline(found)[1]


def _judged(gates):
    judgement = gate.judge(made_report(), GateSection(**gates))
    return made_report() | {"judgement": judgement.as_dict() if judgement else None}


def test_every_gate_has_words():
    gates = {
        "score": 0.03, "score_by_task": {"ocr": 0.1}, "empty": 0.1, "unparsable": 0.1, "length": 0.1, "kl": 0.1,
        "top1_agreement": 0.9, "ttft": 1.0, "tpot": 1.0, "e2e": 1.0, "cold_start": 1.0, "memory": 0.8, "size": 0.6,
    }  # fmt: skip
    assert gates.keys() == GateSection.model_fields.keys()
    checks = findings.checks(_judged(gates))
    assert len(checks) == len(gates)
    assert [check["name"] for check in checks if "_" in check["name"]] == []
    asked = {check["name"]: check["asked"] for check in checks}
    assert asked["score all"] == "at most 3 points lower"
    assert asked["score ocr"] == "at most 10 points lower"
    assert asked["size of the files"] == "at most 0.6x the baseline's"
    measured = {check["name"]: check["measured"] for check in checks}
    assert measured["top-1 agreement"].startswith("97.7 [")


def test_a_result_of_one_folder_compares_nothing(made):
    alone = copy.deepcopy({**made, "candidate": "original", "judgement": None})
    said = "compile beside original: no other folder was given, so nothing passes or fails."
    alone["variants"] = {name: alone["variants"]["original"] for name in ("original", "compile", "null")}
    assert findings.headline(alone)[1] == said
    del alone["variants"]["compile"]
    assert findings.headline(alone)[1] == said.replace("compile beside original", "Only original was measured")
    assert "original against itself" not in markdown.verdict(alone)


def test_the_tables_of_the_evidence(made):
    fidelity = evidence_tables.fidelity(made)
    assert [row.name for row in fidelity.rows] == ["w8a8-static", "onnx", "onnx-w8a8-static", "null"]
    assert "480 tokens" in fidelity.note
    assert "lower bound" in fidelity.note
    memory = evidence_tables.memory(made)
    assert "w8a8-static" not in [row.name for row in memory.rows]
    assert not [title for title in memory.head if title.startswith("GPU")]  # nothing is known of it
    assert memory.note.startswith("The judged peak is the most of the process that was resident.")
    [fits] = evidence_tables.fits(made)
    assert fits.rows[2].cells == ("7.17 kB", "6,168 at once; 4,096 tokens, the model's most")
    assert fits.note.endswith("single one. Set aside beside original: 1.07 GB of t4.")
    [left_out] = evidence_tables.disturbed(made)
    assert left_out.startswith("onnx-w8a8-static, block 3, attempt 1: other processes took 40 %")
    blocks = evidence_tables.blocks(made)
    assert dict(zip(blocks.head, blocks.rows[2].cells, strict=True))["clean blocks"] == "5 of 6"
    low, high = made["variants"]["onnx"]["blocks"]["preprocess"]
    shown = dict(zip(blocks.head, blocks.rows[1].cells, strict=True))["preprocess, ms"]
    assert shown == f"{1e3 * low:.2f} to {1e3 * high:.2f}"


def on_gpu(made):
    """The same report, as of a GPU: torch's allocator is known of all but the graphs."""
    found = copy.deepcopy(made)
    for entry in found["variants"].values():
        if entry["memory"]:
            torch = (
                {"allocated": 71 * MB, "reserved": 84 * MB, "context": 719 * MB}
                if entry["engine"] == "transformers"
                else {}
            )
            entry["memory"] |= {"peak": 803 * MB, "process": 803 * MB, "device": 812 * MB, **torch}
        entry["device"] = "cuda"
    return found


def test_the_memory_of_the_gpu_stands_apart_from_that_of_the_host(made):
    found = evidence_tables.memory(on_gpu(made))
    assert found.head[:2] == ("files", "peak (judged)")
    where = [title.partition(":")[0] for title in found.head[2:]]
    assert where == sorted(where)  # GPU, then host
    cells = {row.name: dict(zip(found.head, row.cells, strict=True)) for row in found.rows}
    assert cells["original"]["GPU: context, libraries"] == "719 MB"
    assert cells["onnx"]["GPU: context, libraries"] == "-"
    assert "sampled between requests" in found.note
    assert found.note.endswith("Loaded from the same files as original: null.")


def test_what_a_dash_means_is_said_below_the_table(made):
    found = copy.deepcopy(made)
    assert "Measured for the answers alone: w8a8-static." in tables.deltas(made).note
    found["variants"]["bnb-nf4"] = found["variants"]["null"] | {"engine": "bnb-nf4"}
    assert tables.deltas(found).note.endswith(
        "Loaded from the same files as original: null, bnb-nf4. bitsandbytes quantizes in memory, while it loads."
    )
    assert f"\n\n{tables.deltas(found).note}\n\n" in markdown.markdown(found)


def test_only_what_was_measured_is_explained(made):
    found = copy.deepcopy(made)
    assert "LOWER and HIGHER" in markdown.markdown(found)
    assert "system's memory" not in markdown.markdown(found)
    del found["variants"]["original"]["score"]
    assert not any("LOWER and HIGHER" in each for each in findings.reading(found))
    for entry in found["variants"].values():
        entry["cold_start"] = entry["cold_start"] and entry["cold_start"] | {"dropped": False}
    assert "Cold starts may have found the model's files in the system's memory." in tables.deltas(found).note


def test_what_is_not_known_is_not_nothing(made):
    found = copy.deepcopy(made)
    entry = found["variants"]["onnx"]
    entry["blocks"]["throttled"] = None
    entry["capacity"][CASE.name][0] |= {"largest_context": None, "largest_batch": None}
    blocks = evidence_tables.blocks(found)
    assert [row.cells[blocks.head.index("held down")] for row in blocks.rows] == ["-", "unknown", "-", "-"]
    [fits] = evidence_tables.fits(found)
    assert fits.rows[1].cells[1] == "15.0 GB beside the weights"
    assert fits.note.endswith("is not calculated: shipvlm bench fit tries what fits.")


def test_a_cold_start_says_what_was_read_from_the_disk(made):
    found = evidence_tables.starts(made)
    assert "The model's files were read from the disk. The first start on a machine also reads the lib" in found.note
    entry = made["variants"]["onnx"]["cold_start"]
    assert dict(zip(found.head, found.rows[1].cells, strict=True))["slowest"] == words.number(entry["slowest"])


def test_times_alone_and_answers_alone_have_a_report():
    made, lines, data = made_run()
    for phase in ("timing", "accuracy"):
        alone = made_plan(made.variants, data, phases=(phase,))
        own = {name: [line for line in said if line.phase == phase] for name, said in lines.items()}
        found = report.build(alone, own, data)
        assert found["complete"]
        text = markdown.markdown(found)
        assert ("whole answer" in text) == (phase == "timing")
        assert ("score all, %" in text or "all, % of 160" in text) == (phase == "accuracy")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("kl", 1e-6, "1e-06"), ("top1_agreement", 0.97, "97.0"), ("score all", -0.02, "-2.0"), ("length", 1.02, "1.02x")],
)
def test_a_number_without_bounds_is_said_in_its_own_unit(name, value, said):
    check = gate.Check(name, 0.5, "INCONCLUSIVE", "too few", value)
    report = {"judgement": gate.Judgement("INCONCLUSIVE", "onnx", (check,)).as_dict()}
    assert findings.checks(report)[0]["measured"] == said
