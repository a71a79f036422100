"""Tables of what was measured, and the figures to reach beside what was reached.

In:  the results that `run.py` stores. Out: Markdown.

Run: python benches/peers/report.py CACHE/results.json
"""

import json
import statistics
import sys
from pathlib import Path

import cases


def ratios(entry, base):
    """Throughput relative to `base`, round by round."""
    per_second = lambda e: [e["items"] / s for s in e["seconds"]]
    return [a / b for a, b in zip(per_second(entry), per_second(base))]


def spread(values):
    return f"{statistics.median(values):.2f} [{min(values):.2f}–{max(values):.2f}]"


def table(shape):
    """One row per contender: throughput, conjoin's ratio to it, start-up, memory, agreement."""
    case, found = shape["case"], shape["contenders"]
    ours = [name for name in found if name.startswith("conjoin")]
    lines = [
        f"### {case['says']} (`{case['name']}`), {shape['threads']} threads, {shape['rounds']} rounds, "
        f"{'seconds of CPU, ' if shape['clock'] == 'processor' else ''}{shape['date']}",
        "",
        "| contender | form | items/s | ms per run | " + "".join(f"{name} is faster by | " for name in ours)
        + "start-up s | peak MiB | cosine |",
        "|---" * (7 + len(ours)) + "|",
    ]
    for name, entry in found.items():
        seconds = statistics.median(entry["seconds"])
        faster = [spread(ratios(found[our], entry)) if our != name else "" for our in ours]
        cosine = f"{entry['cosine']:.5f}" if "cosine" in entry else "losses" if entry.get("losses") else ""
        flag = " **differs**" if entry.get("flagged") else ""
        cells = [name, entry["form"], f"{entry['items'] / seconds:.1f}", f"{1e3 * seconds:.1f}", *faster,
                 f"{entry['startup']:.2f}", f"{entry['peak_kib'] / 1024:.0f}", cosine + flag]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"\nNot measured: {name}: {reason}" for name, reason in shape["refused"].items()]
    return "\n".join(lines) + "\n"


def outcome(stored, target, name):
    """Ratio and words of one target in one shape, at two threads."""
    found = stored["shapes"].get(f"{name} 2", {}).get("contenders", {})
    if target.ours not in found or target.peer not in found:
        return None, "not measured"
    values = ratios(found[target.ours], found[target.peer])
    share = statistics.median(values) / target.least
    verdict = "met" if share >= 1 else f"missed by {100 * (1 - share):.0f} %"
    flags = [n for n in (target.ours, target.peer) if found[n].get("flagged")]
    return share, f"{spread(values)} | {verdict}" + (f" ({', '.join(flags)} differs)" if flags else "")


def targets(stored):
    """The figures to reach, the farthest missed first."""
    rows = []
    for target in cases.TARGETS:
        for name in target.cases:
            share, words = outcome(stored, target, name)
            words = words if "|" in words else f" | {words}"
            row = f"| {name} | {target.ours} | {target.peer} | {target.least} | {words} |"
            rows.append((9.0 if share is None else share, row))
    rows.sort(key=lambda row: row[0])
    head = ["| shape | ours | against | at least | reached | |", "|---|---|---|---|---|---|"]
    return "\n".join(["## Figures to reach, two threads", "", *head, *[row for _, row in rows]]) + "\n"


def write(stored, path):
    machine = ", ".join(f"{key} {value}" for key, value in stored["machine"].items())
    parts = [f"# Speed beside the peers\n\n{machine}.\n", targets(stored), *map(table, stored["shapes"].values())]
    Path(path).write_text("\n".join(parts), encoding="utf-8")


def main():
    stored = json.loads(Path(sys.argv[1]).read_text())
    print("\n".join([targets(stored), *map(table, stored["shapes"].values())]))


if __name__ == "__main__":
    main()
