"""The tables of a report that show what stands behind it: fidelity, memory, blocks."""

from collections.abc import Collection, Mapping
from typing import Any

from bench.tables import Cell, Column, Entry, Table, get, loaded_files, table
from bench.words import NONE, number, percent, points, small, with_interval
from bench.words import size as sized

Report = Mapping[str, Any]
GPU = {
    "process": "GPU: this process",
    "allocated": "GPU: torch gave out",
    "reserved": "GPU: torch reserved",
    "context": "GPU: context, libraries",
    "device": "GPU: whole card",
}
HOST = {
    "load_rss": "host: by the load",
    "peak_rss": "host: peak",
    "peak_anon": "host: own pages",
    "peak_file": "host: mapped files",
}


def fidelity(report: Report) -> Table | None:
    """How close each variant stays to the baseline's answers; None where nothing was held to them."""
    names = [name for name, entry in report["variants"].items() if get(entry, "kl")]
    if not names:
        return None
    columns = [
        Column("same first choice, %", lambda entry: percent(entry["top1_agreement"], few="")),
        Column("KL, nats a token", lambda entry: with_interval(entry["kl"], small)),
        Column("median", lambda entry: small(entry["kl"]["median"])),
        Column("p99", lambda entry: small(entry["kl"]["p99"])),
        Column("largest, and its item", lambda entry: f"{small(entry['kl']['most'])} in {entry['kl']['worst_item']}"),
        Column("change of p, rms, points", lambda entry: points(entry["delta_p"]["rms"])),
        Column("length of answers", lambda entry: with_interval(entry["length"], lambda value: f"{value:.2f}x")),
        Column("empty, points", lambda entry: percent(entry["empty"], signed=True, few="")),
        Column("unreadable, points", lambda entry: percent(entry["unparsable"], signed=True, few="")),
    ]
    kls = [report["variants"][name]["kl"] for name in names]
    kept = min(kl["kept"] for kl in kls)
    lower = (
        ""
        if all(kl["whole"] for kl in kls)
        else f" KL is over the {kept} likeliest tokens and one bucket for all others: a lower bound."
    )
    note = f"Token by token along the baseline's own answers, {kls[0]['tokens']:,} tokens.{lower}"
    return table(report, "Fidelity", columns, names, note)


def memory(report: Report) -> Table:
    """Where the bytes are, the GPU's before the host's; only the columns of which something is known."""
    known = {name: entry for name, entry in report["variants"].items() if entry["memory"]}
    on_gpu = any(entry["device"] == "cuda" for entry in known.values())
    titles = {"peak": "peak (judged)", "weights": f"{'GPU' if on_gpu else 'host'}: weights held", **GPU, **HOST}
    cells: dict[str, Cell] = {"files": lambda entry: sized(entry["weights"]["bytes"])}
    cells |= {title: _held(name) for name, title in titles.items()}
    shown = {title: cell for title, cell in cells.items() if any(cell(entry) != NONE for entry in known.values())}
    note = " ".join([_judged(known.values()), *loaded_files(report)]).strip()
    return table(report, "Memory", [Column(title, cell, cell) for title, cell in shown.items()], list(known), note)


def _judged(known: Collection[Entry]) -> str:
    """What the judged peak is; nothing where none is judged."""
    if all(entry["memory"]["peak"] is None for entry in known):
        return ""
    if any(entry["memory"]["process"] is not None for entry in known):
        return (
            "The judged peak is what the driver counts for the process on the GPU, sampled between requests, CUDA's "
            "context and libraries included: those are what remains of it without what torch reserved."
        )
    if any(entry["memory"]["device"] is not None for entry in known):
        return "The judged peak is how far the use of the whole GPU rose, sampled between requests."
    return "The judged peak is the most of the process that was resident."


def _held(name: str) -> Cell:
    return lambda entry: sized(entry["memory"][name])


def fits(report: Report) -> list[Table]:
    """What would fit on some cards, a table a case: calculated."""
    found = []
    for case in report["cases"]:
        known = {
            name: entry["capacity"][case] for name, entry in report["variants"].items() if case in entry["capacity"]
        }
        if not known:
            continue

        def token(entry: Entry, case: str = case) -> str:
            return sized(entry["capacity"][case][0]["cache_a_token"])

        (name, first), *_ = known.items()
        columns = [Column("cache a token", token, token)]
        for place, card in enumerate(first):

            def room(entry: Entry, case: str = case, place: int = place) -> str:
                card = entry["capacity"][case][place]
                if card["largest_context"] is None:
                    return f"{sized(card['free'])} beside the weights"
                if not card["largest_context"]:
                    return "does not fit"
                model = ", the model's most" if card["limit"]["largest_context"] == "model" else ""
                return f"{card['largest_batch']:,} at once; {card['largest_context']:,} tokens{model}"

            columns.append(Column(f"{card['card']}, {sized(card['memory'])}", room, room))
        aside = ", ".join(f"{sized(card['reserve'])} of {card['card']}" for card in first)
        note = (
            f"Requests of {first[0]['context']:,} tokens with a picture of {first[0]['patches']:,} patches, and the "
            f"tokens of the longest single one. Set aside beside {name}: {aside}."
        )
        if any(card["largest_batch"] is None for cards in known.values() for card in cards):
            note += " What graphs take beside their weights is not calculated: shipvlm bench fit tries what fits."
        found.append(table(report, f"What would fit, calculated: {case}", columns, list(known), note))
    return found


def blocks(report: Report) -> Table | None:
    """How quiet the machine was; None where nothing was timed."""
    names = [name for name, entry in report["variants"].items() if entry["blocks"]["measured"]]
    if not names:
        return None
    cells: dict[str, Cell] = {
        "clean blocks": lambda entry: f"{entry['blocks']['clean']} of {entry['blocks']['measured']}",
        "other processes": lambda entry: _share(entry, "others"),
        "other machines": lambda entry: _share(entry, "steal"),
        "waited for a core": lambda entry: _share(entry, "waited"),
        "GPU clock, MHz": lambda entry: _clock(entry["blocks"]["most"]),
        "GPU, degrees": lambda entry: _whole(entry, "celsius_max"),
        "GPU, watts": lambda entry: _whole(entry, "watts_max"),
        "held down": _held_down,
        "preprocess, ms": lambda entry: _span(entry["blocks"]["preprocess"]),
        "warm-ups not stable": lambda entry: str(entry["blocks"]["unstable"]),
    }
    kept = {
        title: cell for title, cell in cells.items() if any(cell(report["variants"][name]) != NONE for name in names)
    }
    note = (
        "The most that was seen in the blocks that count. Of preprocess the lowest and the highest median of a block: "
        "the same work on the CPU each time, it tells of a clock that cannot be read."
    )
    return table(report, "Blocks", [Column(title, cell, cell) for title, cell in kept.items()], names, note)


def starts(report: Report) -> Table | None:
    """Where the time of a cold start goes; None where nothing was timed."""
    names = [name for name, entry in report["variants"].items() if entry["cold_start"]]
    if not names:
        return None
    cells: dict[str, Cell] = {
        "program to first answer, s": lambda entry: with_interval(entry["cold_start"]["seconds"], number),
        "slowest": lambda entry: number(entry["cold_start"]["slowest"]),
        "libraries": lambda entry: number(entry["cold_start"]["parts"]["imports"]),
        "load": lambda entry: number(entry["cold_start"]["parts"]["load"]),
        "first request": lambda entry: number(entry["cold_start"]["parts"]["first"]),
        "starts": lambda entry: str(entry["cold_start"]["starts"]),
    }
    read = all(report["variants"][name]["cold_start"]["dropped"] for name in names)
    where = "were read from the disk" if read else "may have been in the system's memory: it would not drop them"
    note = (
        f"Medians over the starts that nothing disturbed. The model's files {where}. The first start on a machine also "
        "reads the libraries from the disk; later ones find them in memory."
    )
    return table(report, "Cold start", [Column(title, cell, cell) for title, cell in cells.items()], names, note)


def disturbed(report: Report) -> list[str]:
    """The blocks that were left out, each with why."""
    return [
        f"{name}, block {each['block'] + 1}, attempt {each['attempt'] + 1}: {'; '.join(each['reasons'])}"
        for name, entry in report["variants"].items()
        for each in entry["blocks"]["disturbed"]
    ]


def _share(entry: Entry, name: str) -> str:
    value = entry["blocks"]["most"][name]
    return NONE if value is None else f"{100 * value:.0f} %"


def _whole(entry: Entry, name: str) -> str:
    value = entry["blocks"]["most"][name]
    return NONE if value is None else f"{value:.0f}"


def _span(seconds: list[float] | None) -> str:
    return NONE if seconds is None else f"{number(1e3 * seconds[0])} to {number(1e3 * seconds[1])}"


def _held_down(entry: Entry) -> str:
    reasons = entry["blocks"]["throttled"]
    return "unknown" if reasons is None else ", ".join(reasons) or NONE


def _clock(most: Mapping[str, Any]) -> str:
    if most["sm_mhz_min"] is None:
        return NONE
    return f"{most['sm_mhz_min']} to {most['sm_mhz_max']}"
