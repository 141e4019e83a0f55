#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns records of benchmarks into one HTML page, pictures and a summary.

    report.py --records DIR --out DIR

Reads DIR/strategies*.json (Google Benchmark's --benchmark_out of bench_strategies), DIR/timelines/*.json
(its --timelines) and, if there, DIR/peers.json (benchmarks/peers). Writes report.html, which needs nothing
beside it, the pictures in it as PNG, and summary.md. Needs matplotlib; ends with 2 and one line for records
that it cannot use.
"""
import argparse
import base64
import collections
import html
import json
import pathlib
import sys

MIB = 1024 * 1024
# Okabe and Ito's colours, which all eyes tell apart.
COLOURS = {
    "FullShard": "#0072B2",
    "ShardGradOp": "#E69F00",
    "ShardOptimizer": "#009E73",
    "NoShard": "#D55E00",
    "HybridShard": "#56B4E9",
    "HybridShardGradOp": "#CC79A7",
}
SPANS = {
    "gather": "#56B4E9",
    "reduce": "#CC79A7",
    "forward": "#009E73",
    "backward": "#E69F00",
    "update": "#D55E00",
}


class BadRecord(Exception):
    pass


def load(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise BadRecord(f"{path}: {error}; run the benchmark that writes it again") from error


def strip(record, path):
    """Leaves out of a record what is nobody's business, or changes without meaning."""
    context = record.get("context", {})
    gone = [key for key in ("host_name", "executable", "load_avg") if key in context]
    for key in gone:
        del context[key]
    if gone:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


Row = collections.namedtuple("Row", "name ranks network type figures")


def rows_of(record, path):
    """The measured strategies of a record."""
    rows = []
    for entry in record.get("benchmarks", []):
        if entry.get("run_type", "iteration") != "iteration":
            continue
        if entry.get("error_occurred"):
            raise BadRecord(f"{path}: {entry['name']}: {entry.get('error_message')}")
        name, *arguments = entry["name"].split("/")
        given = dict(word.split(":") for word in arguments if word.count(":") == 1)
        try:
            rows.append(Row(name, int(given["ranks"]), int(given["network"]), entry["label"], entry))
            entry["tokens/s"], entry["planned_device_peak_bytes"]
        except KeyError as error:
            raise BadRecord(f"{path}: {entry['name']} has no {error}") from error
    if not rows:
        raise BadRecord(f"{path}: no strategy in it; see --benchmark_filter")
    return rows


def sharding_of(row):
    return row.name.split(",")[0].split("<")[0]


def is_16_bit(row):
    return "bf16" in row.name


def place_of(row):
    for word, place in (("OnNvme", "disk"), ("OffloadAll", "host"), ("OnHost", "host")):
        if word in row.name:
            return place
    return "device"


def select(rows, ranks, network):
    return [row for row in rows if row.ranks == ranks and row.network == network]


# Pictures --------------------------------------------------------------------------------------------


def setup_plot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plot

    plot.rcParams.update(
        {
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#dddddd",
            "axes.axisbelow": True,
            "figure.dpi": 110,
            "legend.frameon": False,
        }
    )
    return plot


def sharding_handles(plot, rows):
    """What a legend says of the colours that these rows have."""
    seen = {sharding_of(row) for row in rows}
    return [
        plot.Line2D([], [], marker="o", linestyle="", color=colour, label=name)
        for name, colour in COLOURS.items()
        if name in seen
    ]


def best_of(rows):
    """Those that no other beats in memory and speed, by memory."""
    best, fastest = [], 0
    for row in sorted(rows, key=lambda r: (r.figures["device_peak_bytes"], -r.figures["tokens/s"])):
        if row.figures["tokens/s"] > fastest:
            fastest = row.figures["tokens/s"]
            best.append(row)
    return best


def draw_memory_throughput(plot, rows, ranks, path):
    networks = sorted({row.network for row in rows if row.ranks == ranks})
    figure, axes = plot.subplots(1, len(networks), figsize=(6.4 * len(networks), 5.6), squeeze=False)
    markers = {"device": "o", "host": "s", "disk": "^"}
    for axis, network in zip(axes[0], networks):
        here = select(rows, ranks, network)
        for row in here:
            colour = COLOURS.get(sharding_of(row), "#000000")
            axis.scatter(
                row.figures["device_peak_bytes"] / MIB,
                row.figures["tokens/s"],
                marker=markers[place_of(row)],
                s=46,
                facecolors=colour if is_16_bit(row) else "white",
                edgecolors=colour,
                linewidths=1.6,
                zorder=3,
            )
        best = best_of(here)
        axis.plot(
            [row.figures["device_peak_bytes"] / MIB for row in best],
            [row.figures["tokens/s"] for row in best],
            color="#888888",
            linewidth=1,
            zorder=2,
        )
        ends = best if len(best) <= 3 else [best[0], best[len(best) // 2], best[-1]]
        most = max(row.figures["device_peak_bytes"] for row in here) / MIB
        for i, row in enumerate(ends):
            x = row.figures["device_peak_bytes"] / MIB
            is_right = x > 0.55 * most
            axis.annotate(
                row.name.replace("MixedPrecision<bf16, fp32>", "bf16").replace("FullPrecision", "fp32"),
                (x, row.figures["tokens/s"]),
                xytext=(-8 if is_right else 8, 8 if i else -14),
                ha="right" if is_right else "left",
                textcoords="offset points",
                fontsize=8,
            )
        axis.set_xlabel("peak device memory of a rank, MiB")
        axis.set_ylabel("tokens/s, all ranks")
        axis.margins(0.12)
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
        axis.set_title("ranks share memory" if network == 0 else f"over a network of {network} MB/s a rank")
    handles = sharding_handles(plot, [row for row in rows if row.ranks == ranks])
    handles += [
        plot.Line2D([], [], marker=marker, linestyle="", color="#555555", label=f"state on {place}")
        for place, marker in markers.items()
    ]
    handles += [
        plot.Line2D([], [], marker="o", linestyle="", color="#555555", label="computes in bf16"),
        plot.Line2D(
            [], [], marker="o", linestyle="", color="#555555", markerfacecolor="white", label="in fp32"
        ),
        plot.Line2D([], [], color="#888888", linewidth=1, label="nothing is better in both"),
    ]
    figure.legend(handles=handles, loc="lower center", ncol=5, fontsize=9)
    figure.tight_layout(rect=(0, 0.11, 1, 1))
    figure.savefig(path)
    plot.close(figure)


BYTES = (
    ("device_peak_bytes", "device, peak", "#0072B2", "o"),
    ("host_peak_bytes", "host, peak", "#E69F00", "s"),
    ("nvme_bytes", "disk", "#009E73", "^"),
    ("sent_bytes", "sent a step", "#D55E00", "x"),
)


def equals_plan(row):
    return all(row.figures["planned_" + key] == row.figures[key] for key, *_ in BYTES)


def draw_predicted(plot, rows, ranks, path):
    networks = sorted({row.network for row in rows if row.ranks == ranks})
    figure, axes = plot.subplots(1, 2 if len(networks) > 1 else 1, figsize=(12.8, 5.8), squeeze=False)
    axis = axes[0][0]
    for key, text, colour, marker in BYTES:
        pairs = [(r.figures["planned_" + key], r.figures[key]) for r in rows if r.figures[key] > 0]
        if not pairs:
            continue
        axis.scatter(
            [planned / MIB for planned, _ in pairs],
            [seen / MIB for _, seen in pairs],
            marker=marker,
            s=34,
            facecolors=colour if marker == "x" else "none",
            edgecolors=None if marker == "x" else colour,
            label=text,
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    low, high = axis.get_xlim()
    axis.plot([low, high], [low, high], color="#888888", linewidth=1)
    axis.set_xlabel("planned, MiB a rank")
    axis.set_ylabel("measured, MiB a rank")
    equal = sum(map(equals_plan, rows))
    axis.set_title(f"bytes: {equal} of {len(rows)} runs equal their plan to the byte")
    axis.legend()

    if len(networks) > 1:
        axis = axes[0][1]
        alone = {row.name: row.figures["step_ms"] for row in select(rows, ranks, networks[0])}
        here = [row for row in select(rows, ranks, networks[-1]) if row.name in alone]
        here.sort(key=lambda r: alone[r.name] + r.figures["sending_ms"])
        for i, row in enumerate(here):
            base, sending = alone[row.name], row.figures["sending_ms"]
            axis.plot([i, i], [max(base, sending), base + sending], color="#bbbbbb", linewidth=5, zorder=1)
            axis.scatter(i, row.figures["step_ms"], color=COLOURS.get(sharding_of(row)), s=22, zorder=3)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("strategies, by what is predicted if nothing is hidden")
        axis.set_xticks([])
        axis.set_ylabel("a step, ms")
        axis.set_title(f"time over {networks[-1]} MB/s: grey from all hidden to nothing hidden")
        axis.legend(handles=sharding_handles(plot, here), loc="upper left")
    figure.tight_layout()
    figure.savefig(path)
    plot.close(figure)


def draw_timelines(plot, timelines, path):
    figure, axes = plot.subplots(len(timelines), 1, figsize=(12.8, 1.9 * len(timelines) + 0.7), sharex=True)
    axes = [axes] if len(timelines) == 1 else list(axes)
    last = max(span[2] for line in timelines for row in line["rows"] for span in row["spans"])
    for axis, line in zip(axes, timelines):
        streams = [row["stream"] for row in line["rows"]]
        for y, row in enumerate(line["rows"]):
            for text, begin, end in row["spans"]:
                kind = text.split()[0] if text else ""
                colour = next((c for k, c in SPANS.items() if kind.endswith(k)), "#999999")
                axis.barh(y, end - begin, left=begin, height=0.8, color=colour, edgecolor="white", linewidth=0.4)
                unit = text.split()[-1]
                if unit.isdigit() and end - begin > last * 0.012:
                    axis.text((begin + end) / 2, y, unit, ha="center", va="center", fontsize=7, color="white")
        axis.set_yticks(range(len(streams)), streams)
        axis.invert_yaxis()
        axis.set_title(line["title"], loc="left", fontsize=10)
        axis.grid(axis="y", visible=False)
    axes[-1].set_xlabel("ms since the step began, rank 0; numbers are units")
    axes[-1].set_xlim(0, last * 1.01)
    kinds = {**SPANS, "else": "#999999"}
    figure.legend(
        handles=[plot.Rectangle((0, 0), 1, 1, color=c, label=k) for k, c in kinds.items()],
        loc="upper right",
        ncol=len(kinds),
        fontsize=9,
    )
    figure.tight_layout()
    figure.savefig(path)
    plot.close(figure)


PEERS = {
    "fsdp2": "PyTorch FSDP2",
    "fsdp2_compiled": "FSDP2, compiled",
    "ddp": "PyTorch DDP",
    "ddp_compiled": "DDP, compiled",
    "zero1": "DeepSpeed ZeRO 1",
    "zero2": "DeepSpeed ZeRO 2",
    "zero3": "DeepSpeed ZeRO 3",
}


def peer_rows(sections):
    """Which row of a picture each peer has: the same in each section, also where one was not run."""
    ran = {name for section in sections for name in section["ratios"][section["ours"]]}
    return {name: row for row, name in enumerate(name for name in PEERS if name in ran)}


def draw_peers(plot, peers, path):
    """How many times as fast as each peer, and which part of its memory; quartiles of rounds."""
    sections = peers["training"]
    rows = peer_rows(sections)
    figure, axes = plot.subplots(2, len(sections), figsize=(3.2 * len(sections) + 1.6, 6.4), squeeze=False)
    for column, section in enumerate(sections):
        ratios = section["ratios"][section["ours"]]
        names = [name for name in rows if name in ratios]
        for axis, key, target in ((axes[0][column], "tokens_per_s", 1.5), (axes[1][column], "peak", 0.5)):
            values = [ratios[name][key] for name in names]
            medians = [value["median"] for value in values]
            axis.barh(
                [rows[name] for name in names],
                medians,
                xerr=[
                    [value["median"] - value["low"] for value in values],
                    [value["high"] - value["median"] for value in values],
                ],
                color="#0072B2" if key == "tokens_per_s" else "#E69F00",
                ecolor="#333333",
                height=0.7,
            )
            for name, median in zip(names, medians):
                axis.text(0.02 * max(medians), rows[name], f"{median:.2f}", va="center", fontsize=9, color="white")
            axis.axvline(1, color="#333333", linewidth=1)
            axis.axvline(target, color="#333333", linewidth=1, linestyle=":")
            axis.set_yticks(list(rows.values()), [PEERS[name] for name in rows] if column == 0 else [])
            axis.set_ylim(len(rows) - 0.5, -0.5)
            axis.grid(axis="y", visible=False)
            axis.set_xlabel("times its tokens/s" if key == "tokens_per_s" else "of its peak memory")
        axes[0][column].set_title(f"{section['name']}, {section['dtype']}: {section['ours']}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path)
    plot.close(figure)


def peers_line(peers):
    machine, versions = peers["machine"], peers["versions"]
    return ", ".join(
        [machine["cpu"], f"{machine['cores']} cores"]
        + [f"{name} {version}" for name, version in versions.items()]
        + [str(peers.get("began", ""))[:10]]
    )


def peers_table(peers):
    """A table for a README: FullShard beside FSDP2, and the best of DDP and FSDP2."""
    lines = [
        "| beside PyTorch, two ranks | tokens/s | of FSDP2 | of the best of DDP and FSDP2 | peak memory of FSDP2's |",
        "|---|---|---|---|---|",
    ]
    for section in peers["training"]:
        ours = section["ours"]
        speed = next(row for row in section["rows"] if row["way"] == ours)["tokens_per_s"]["median"]
        best = {
            key: section[key]["tokens_per_s"][ours]["median"] for key in ("best_of_fsdp2", "best_of_ddp_and_fsdp2")
        }
        memory = section["ratios"][ours]["fsdp2"]["peak"]["median"]
        lines.append(
            f"| {section['name']} parameters, {section['dtype']} | {speed:.0f} | {best['best_of_fsdp2']:.2f} |"
            f" {best['best_of_ddp_and_fsdp2']:.2f} | {memory:.2f} |"
        )
    return "\n".join(lines) + "\n"


# The page --------------------------------------------------------------------------------------------

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1240px;margin:2em auto;padding:0 1em}
h1{font-size:1.7em;margin-bottom:0}h2{margin-top:2em;font-size:1.25em}
table{border-collapse:collapse;font-size:13px;width:100%}
th,td{padding:3px 8px;border-bottom:1px solid #e3e3e3;text-align:right;white-space:nowrap}
th{position:sticky;top:0;background:#fff;cursor:pointer;border-bottom:2px solid #888}
td:first-child,th:first-child{text-align:left;white-space:normal}
tr:hover td{background:#f4f8fb}img{max-width:100%}.note{color:#666}
input,select{font:inherit;padding:2px 6px;margin:0 8px 8px 0}
"""
SCRIPT = """
document.querySelectorAll('table.sorts').forEach(table=>{
 const body=table.tBodies[0];
 [...table.tHead.rows[0].cells].forEach((head,i)=>{let up=false;head.addEventListener('click',()=>{up=!up;
  const value=row=>{const cell=row.cells[i];const n=parseFloat(cell.dataset.value??cell.textContent);
   return isNaN(n)?cell.textContent:n};
  [...body.rows].sort((a,b)=>{const x=value(a),y=value(b);return (x<y?-1:x>y?1:0)*(up?1:-1)})
   .forEach(row=>body.append(row))})})});
const filter=()=>{const words=document.getElementById('words').value.toLowerCase().split(' ');
 const where=document.getElementById('where').value;
 document.querySelectorAll('table.sorts tbody tr').forEach(row=>{const text=row.cells[0].textContent.toLowerCase();
  row.hidden=!(words.every(w=>text.includes(w))&&(where===''||row.dataset.where===where))})};
for(const id of ['words','where'])document.getElementById(id).addEventListener('input',filter);filter();
"""


def picture(path, text):
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<p><img alt="{html.escape(text)}" src="data:image/png;base64,{data}"></p>'


def machine_line(context):
    words = [
        context.get("processor", "unknown processor"),
        f"{context.get('num_cpus', '?')} cores",
        f"{int(context['memory_bytes']) / 2**30:.0f} GiB" if "memory_bytes" in context else "",
        context.get("kernel", ""),
        context.get("compiler", ""),
        f"Eigen {context['eigen']}" if "eigen" in context else "",
        " ".join(context.get("blas", "").split()[:2]),
        f"oneDNN {context['onednn']}" if "onednn" in context else "",
        context.get("mpi", ""),
        f"commit {context['commit']}" if "commit" in context else "",
        context.get("date", "")[:10],
    ]
    return ", ".join(word for word in words if word)


COLUMNS = (
    ("tokens/s", "tokens/s", 1, 0),
    ("step, ms", "step_ms", 1, 1),
    ("computes", "compute_ms", 1, 1),
    ("communicates", "communication_ms", 1, 1),
    ("exposed", "exposed_ms", 1, 1),
    ("device MiB", "device_peak_bytes", MIB, 1),
    ("host MiB", "host_peak_bytes", MIB, 1),
    ("disk MiB", "nvme_bytes", MIB, 1),
    ("sent MiB", "sent_bytes", MIB, 1),
)


def where_of(row):
    return f"{row.ranks} ranks, " + ("shared memory" if row.network == 0 else f"{row.network} MB/s")


def strategies_table(rows):
    wheres = sorted({where_of(row) for row in rows})
    first = where_of(min(rows, key=lambda r: (r.ranks, r.network)))
    out = ['<p><input id="words" placeholder="filter: FullShard bf16"><select id="where">']
    out.append('<option value="">everywhere</option>')
    out += [f'<option{" selected" if w == first else ""} value="{w}">{w}</option>' for w in wheres]
    out.append('</select></p><table class="sorts"><thead><tr><th>strategy</th>')
    out += [f"<th>{title}</th>" for title, *_ in COLUMNS]
    out.append("<th>plan</th></tr></thead><tbody>")
    for row in sorted(rows, key=lambda r: -r.figures["tokens/s"]):
        out.append(f'<tr data-where="{where_of(row)}"><td title="{html.escape(row.type)}">{html.escape(row.name)}</td>')
        for _, key, unit, digits in COLUMNS:
            out.append(f"<td>{row.figures[key] / unit:.{digits}f}</td>")
        out.append(f"<td>{'equal' if equals_plan(row) else 'differs'}</td></tr>")
    out.append("</tbody></table>")
    return "".join(out)


def find_timelines(folder):
    """One step of FullShard over the network with each backward prefetch, if they were recorded."""
    wanted = (
        ("FullShard, FullPrecision", "BackwardPre (the default)"),
        ("FullShard, BackwardPost, FullPrecision", "BackwardPost"),
        ("FullShard, BackwardNone, FullPrecision", "BackwardNone"),
    )
    found = {}
    for path in sorted(folder.glob("*.json")):
        line = load(path)
        found.setdefault(line["name"].split(" ranks ")[0], line)
    return [dict(found[name], title=title) for name, title in wanted if name in found]


def summary_of(rows):
    """A table for a README: the plainest strategies, two ranks, and what each costs."""
    ranks = min(row.ranks for row in rows)
    network = min(row.network for row in rows)
    here = {row.name: row for row in select(rows, ranks, network)}
    names = [
        name
        for name in (
            "NoShard, FullPrecision",
            "ShardOptimizer, FullPrecision",
            "ShardGradOp, FullPrecision",
            "FullShard, FullPrecision",
            "FullShard, MixedPrecision<bf16, fp32>",
            "FullShard, OffloadAll, MixedPrecision<bf16, fp32>",
            "FullShard, Recompute<gpt::Block>, MixedPrecision<bf16, fp32>",
            "FullShard, Offload<OnNvme, OnNvme>, MixedPrecision<bf16, fp32>",
        )
        if name in here
    ]
    lines = [
        "| strategy | tokens/s | device, MiB a rank | host | disk | sent a step |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        f = here[name].figures
        lines.append(
            f"| `{name}` | {f['tokens/s']:.0f} | {f['device_peak_bytes'] / MIB:.1f} |"
            f" {f['host_peak_bytes'] / MIB:.1f} | {f['nvme_bytes'] / MIB:.1f} | {f['sent_bytes'] / MIB:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    try:
        plot = setup_plot()
    except ImportError as error:
        raise BadRecord(f"pictures need matplotlib: {error}; Debian: python3-matplotlib") from error

    options.out.mkdir(parents=True, exist_ok=True)
    path = options.records / "strategies.json"
    record = load(path)
    rows = rows_of(record, path)
    strip(record, path)
    ranks = min(row.ranks for row in rows)
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>shardexpr: strategies measured</title>',
        f"<style>{STYLE}</style><h1>Strategies, measured</h1>",
        f'<p class="note">{html.escape(machine_line(record["context"]))}</p>',
        "<p>One GPT, trained by every legal strategy of the main axes: what a step costs in time, memory and"
        " traffic. Figures of memory are those of one rank; each run fails if they differ from the plan.</p>",
    ]

    def add(name, text, draw):
        draw(options.out / name)
        parts.append(picture(options.out / name, text))

    parts.append(f"<h2>Memory against throughput, {ranks} ranks</h2>")
    add("memory_throughput.png", "memory against throughput",
        lambda to: draw_memory_throughput(plot, rows, ranks, to))
    parts.append("<h2>Predicted and measured</h2>")
    add("predicted.png", "predicted against measured", lambda to: draw_predicted(plot, rows, ranks, to))
    timelines = find_timelines(options.records / "timelines")
    if timelines:
        parts.append("<h2>One step of FullShard over the network</h2>")
        add("timeline.png", "timelines of one step", lambda to: draw_timelines(plot, timelines, to))
    summary = summary_of(rows)
    peers_path = options.records / "peers.json"
    if peers_path.exists():
        peers = load(peers_path)
        try:
            parts.append("<h2>Beside PyTorch and DeepSpeed</h2>")
            parts.append(f'<p class="note">{html.escape(peers_line(peers))}; the dotted lines are the targets beside FSDP2</p>')
            add("peers.png", "ratios to peers", lambda to: draw_peers(plot, peers, to))
            summary += "\n" + peers_table(peers)
        except KeyError as error:
            raise BadRecord(f"{peers_path} has no {error}; run benchmarks/peers/run.py again") from error
    parts.append("<h2>All of them</h2>")
    parts.append(strategies_table(rows))
    parts.append(f"<script>{SCRIPT}</script></html>\n")
    (options.out / "report.html").write_text("".join(parts), encoding="utf-8")
    (options.out / "summary.md").write_text(summary, encoding="utf-8")
    print(f"{options.out / 'report.html'}: {len(rows)} runs, {len({r.name for r in rows})} strategies")


if __name__ == "__main__":
    try:
        main()
    except BadRecord as error:
        print(f"report.py: {error}", file=sys.stderr)
        sys.exit(2)
