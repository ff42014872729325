#!/usr/bin/env python3
"""Prints what `kfs bench cold-start --format json` measured as Markdown: the files of a directory."""

import json
import pathlib
import shlex
import sys


def median(side, kind):
    """The start of a kind whose time is the median, as the program itself chooses it."""
    starts = [start for run in side["runs"] for start in run["starts"] if start["kind"] == kind]
    starts.sort(key=lambda start: start["seconds"])
    return starts[len(starts) // 2] if starts else None


def seconds(start):
    return f"{start['seconds']:.2f}" if start else "failed"


def size(number):
    return f"{number / 1e6:.1f}" if number < 100e6 else f"{number / 1e6:.0f}"


def row(cells):
    print("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")


def table(title, names, figures):
    """The head of a table: columns of text, then columns of figures."""
    print(f"\n### {title}\n")
    row(names + figures)
    row(["---"] * len(names) + ["---:"] * len(figures))


def name_of(report):
    """The image without its registry."""
    return report["image"].split("/", 1)[-1]


def net_of(report):
    return report["net"] if report["net"][0].isdigit() else "loopback"


def runs_in(side):
    """What the command runs in, and the runtime of a container if it is not the tool's own choice."""
    return f"{side['runsIn']} ({side['runtime']})" if side["runtime"] else side["runsIn"]


def main():
    files = sorted(pathlib.Path(sys.argv[1]).glob("*.json"))
    reports = [json.loads(file.read_text()) for file in files]
    reports.sort(key=lambda report: (name_of(report), net_of(report) != "loopback", len(net_of(report))))

    table(
        "kfs, from an empty store to the exit, seconds",
        ["image", "net", "command"],
        ["runs", "cold", "second", "warm", "CPU", "requests", "MB fetched", "MB of it read", "MB of memory"],
    )
    for report in reports:
        kfs = report["sides"][0]
        cold = median(kfs, "cold")
        run = next(run for run in kfs["runs"] if cold in run["starts"])
        touched = (run["touched"] or {}).get("storedBytes", 0)
        row([
            name_of(report), net_of(report), f"`{shlex.join(report['command'])}`", len(kfs["runs"]),
            seconds(cold), seconds(median(kfs, "second")), seconds(median(kfs, "warm")),
            f"{cold['cpuSeconds']:.2f}", cold["requests"], size(cold["bytes"]), size(touched),
            size(cold["peakMemory"]),
        ])

    table(
        "Beside other tools, from an empty store to the exit, seconds",
        ["image, net, command", "side", "runs in"],
        ["runs", "cold", "kfs is", "second", "warm", "CPU", "MB fetched", "MB of memory"],
    )
    for report in reports:
        if len(report["sides"]) == 1:
            continue
        ours = median(report["sides"][0], "cold")
        title = f"{name_of(report)}, {net_of(report)}, `{shlex.join(report['command'])}`"
        for side in report["sides"]:
            cold = median(side, "cold")
            if not cold:
                row([title, side["tool"], runs_in(side), 0, "failed", side["error"]] + [""] * 5)
                continue
            ratio = "" if side["tool"] == "kfs" else f"{cold['seconds'] / ours['seconds']:.1f} x as fast"
            row([
                title, side["tool"], runs_in(side), len(side["runs"]), seconds(cold), ratio, seconds(median(side, "second")),
                seconds(median(side, "warm")), f"{cold['cpuSeconds']:.2f}", size(cold["bytes"]),
                size(cold["peakMemory"]),
            ])
            title = ""


main()
