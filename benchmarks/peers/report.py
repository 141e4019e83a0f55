# SPDX-License-Identifier: Apache-2.0
"""From what was measured to medians, quartiles, ratios and tables. No PyTorch here."""


def quantile(values, q):
    """The value at q of the sorted ones, interpolated. Errors: ValueError for none."""
    if not values:
        raise ValueError("a quantile of nothing")
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def spread(values):
    return {
        "median": quantile(values, 0.5),
        "low": quantile(values, 0.25),
        "high": quantile(values, 0.75),
    }


def ratios(ours, theirs):
    """Ours over theirs, round by round: what slows the machine for longer than a round slows both.
    Errors: ValueError for rounds that are not as many."""
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} rounds beside {len(theirs)}")
    each = [a / b for a, b in zip(ours, theirs)]
    return {"rounds": each, **spread(each)}


def apart(losses, reference):
    """The largest difference of two loss curves, of the first loss."""
    if len(losses) != len(reference):
        raise ValueError(f"{len(losses)} losses beside {len(reference)}")
    return max(abs(a - b) for a, b in zip(losses, reference)) / abs(reference[0])


def turned(items, by):
    """The order of a round: each begins with another."""
    by %= len(items)
    return items[by:] + items[:by]


def text_of(value, digits=2):
    return f"{value['median']:.{digits}f} ({value['low']:.{digits}f} to {value['high']:.{digits}f})"


def summarize(section):
    """Adds to a section of training what follows from its rounds: of each way its speed, its memory
    and its curve; of each of ours the ratios to every peer, and to the best of DDP and FSDP2."""
    rounds, ours, bound = section["rounds"], section["ours"], section["apart_bound"]
    ways = list(rounds[0]["runs"])
    speed = {way: [r["runs"][way]["tokens_per_s"] for r in rounds] for way in ways}
    reference = rounds[0]["runs"][ours]["losses"]
    reference_norm = rounds[0]["runs"][ours]["first_norm"]
    rows = []
    for way in ways:
        runs = [r["runs"][way] for r in rounds]
        row = {
            "way": way,
            "tokens_per_s": spread(speed[way]),
            "peak_MB": spread([run["peak_kb"] / 1000 for run in runs]),
            "peak_less_imports_MB": spread([(run["peak_kb"] - run["imported_kb"]) / 1000 for run in runs]),
            "apart": max(apart(run["losses"], reference) for run in runs),
        }
        norms = [run["first_norm"] for run in runs if run["first_norm"] is not None]
        row["norm_apart"] = max(abs(n - reference_norm) for n in norms) / reference_norm if norms else None
        row["agrees"] = row["apart"] <= bound and (row["norm_apart"] is None or row["norm_apart"] <= bound)
        rows.append(row)
    section["rows"] = rows
    peers = [way for way in ways if not way.startswith("shardexpr")]
    section["ratios"] = {
        mine: {
            peer: {
                "tokens_per_s": ratios(speed[mine], speed[peer]),
                "peak": ratios(
                    [r["runs"][mine]["peak_kb"] for r in rounds], [r["runs"][peer]["peak_kb"] for r in rounds]
                ),
                "peak_less_imports": ratios(
                    [r["runs"][mine]["peak_kb"] - r["runs"][mine]["imported_kb"] for r in rounds],
                    [r["runs"][peer]["peak_kb"] - r["runs"][peer]["imported_kb"] for r in rounds],
                ),
            }
            for peer in peers
        }
        for mine in ways
        if mine not in peers
    }
    for family in (("fsdp2",), ("ddp", "fsdp2")):
        rivals = [p for p in peers if p.removesuffix("_compiled") in family]
        if not rivals:
            continue
        best = max(rivals, key=lambda p: quantile(speed[p], 0.5))
        section["best_of_" + "_and_".join(family)] = {
            "way": best,
            "tokens_per_s": {mine: ratios(speed[mine], speed[best]) for mine in section["ratios"]},
        }


def shown(value):
    return "-" if value is None else f"{value:.1e}"


def training_table(section):
    lines = [
        f"{section['name']}, {section['dtype']}: {section['parameters']} parameters, {len(section['rounds'])} rounds",
        f"{'way':<28}{'tokens/s':>24}{'ours over it':>24}{'peak MB':>9}{'less imports':>13}{'apart':>10}{'norm':>10}",
    ]
    mine = section["ratios"][section["ours"]]
    for row in section["rows"]:
        ratio = text_of(mine[row["way"]]["tokens_per_s"]) if row["way"] in mine else ""
        lines.append(
            f"{row['way']:<28}{text_of(row['tokens_per_s'], 0):>24}{ratio:>24}"
            f"{row['peak_MB']['median']:>9.0f}{row['peak_less_imports_MB']['median']:>13.0f}"
            f"{row['apart']:>10.1e}{shown(row['norm_apart']):>10}{'' if row['agrees'] else '  DOES NOT AGREE'}"
        )
    for name, value in section.items():
        if name.startswith("best_of_"):
            ratio = text_of(value["tokens_per_s"][section["ours"]])
            lines.append(f"{section['ours']} over the {name.replace('_', ' ')}, {value['way']}: {ratio}")
    return "\n".join(lines)


def summarize_alone(section):
    """Of an optimizer or a collective: seconds of each round (a median of passes), and how many
    times as fast ours is."""
    rounds = section["rounds"]
    sides = list(rounds[0])
    seconds = {side: [quantile(r[side]["seconds"], 0.5) for r in rounds] for side in sides}
    section["ms"] = {side: spread([1e3 * s for s in seconds[side]]) for side in sides}
    ours = [side for side in sides if side.startswith("shardexpr")]
    section["speedup"] = {
        mine: {side: ratios(seconds[side], seconds[mine]) for side in sides if side not in ours} for mine in ours
    }
    checks = [r[side]["check"] for r in rounds for side in sides]
    section["apart"] = (max(checks) - min(checks)) / abs(checks[0])
    section["agrees"] = section["apart"] <= section["apart_bound"]


def alone_table(sections):
    lines = []
    for section in sections:
        times = ", ".join(f"{side} {value['median']:.2f} ms" for side, value in section["ms"].items())
        lines.append(f"{section['name']}: {times}{'' if section['agrees'] else '  DOES NOT AGREE'}")
        for mine, peers in section["speedup"].items():
            for side, value in peers.items():
                lines.append(f"    {mine} is {text_of(value)} times as fast as {side}")
    return "\n".join(lines)
