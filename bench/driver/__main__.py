"""Runs the benchmarks of a build, gathers the figures, writes and judges them. script/bench calls it."""

import argparse
import datetime
import json
import os
import sys
import time
from pathlib import Path

import machine
import report
from build import Build
from compare import compare
from memory import Memory
from micro import Program
from pipeline import Pipeline
from view import View

HERE = Path(__file__).parent.parent


def arguments():
    parser = argparse.ArgumentParser(prog="script/bench", add_help=False)
    parser.add_argument("--build-directory", type=Path, required=True)
    parser.add_argument("--starts", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--filter", default="")
    parser.add_argument("--compare", type=Path, metavar="OLD.json")
    parser.add_argument("--with", type=Path, metavar="NEW.json", dest="new")
    parser.add_argument("--tolerance", type=float, default=0.2)
    given = parser.parse_args()
    if given.starts is not None and given.starts < 1:
        parser.error("--starts takes a number from 1 on")
    return given


class Progress:
    """One line that is written over on a terminal, one line for each process start elsewhere."""

    def __init__(self):
        self.terminal = sys.stderr.isatty()
        self.began = time.monotonic()

    def step(self, text):
        text = f"bench: {time.monotonic() - self.began:4.0f} s  {text}"
        print(f"\r\033[K{text}" if self.terminal else text, end="" if self.terminal else "\n", file=sys.stderr, flush=True)

    def detail(self, text):
        if self.terminal:
            self.step(text)

    def end(self):
        if self.terminal:
            print(file=sys.stderr)


def measure(given):
    manifest = json.loads((given.build_directory / "bench.json").read_text())
    starts = given.starts or (1 if given.quick else 7)
    repetitions, seconds = (2, 0.005) if given.quick else (5, 0.05)
    wanted = lambda name: given.filter.lower() in name.lower()
    programs = [Program(group, path, wanted) for group, path in manifest["programs"].items()]
    programs = [program for program in programs if program.rows]
    build = Build(manifest, given.build_directory / "compile_commands.json", wanted, given.quick)
    processes = [kind(manifest[kind.group], wanted, given.quick) for kind in (Memory, Pipeline, View)]
    processes = [rows for rows in processes if rows.names]
    if not programs and not processes and not build.headers and not build.measures_library and not build.measures_size:
        raise SystemExit(f'bench: no row has "{given.filter}" in its name')
    described = machine.describe(manifest)
    if described["load_average_before"] > 0.5 and not given.quick:
        print(f"bench: the load average is {described['load_average_before']:.1f}; figures are better when nothing else runs", file=sys.stderr)

    progress = Progress()
    for start in range(1, starts + 1):
        for program in programs:
            progress.step(f"start {start} of {starts}: {program.group}, {len(program.rows)} rows")
            program.start(repetitions, seconds)
        for rows in processes:
            progress.step(f"start {start} of {starts}: {rows.group}, {len(rows.names)} rows")
            rows.start()
        if build.headers or build.measures_library or build.measures_size:
            progress.step(f"round {start} of {starts}: build")
            build.start(lambda text: progress.detail(f"round {start} of {starts}: {text}"))
    progress.end()
    figures = [figure for source in [*programs, *processes, build] for figure in source.figures()]
    results = {
        "format": 1,
        "weir": manifest["version"],
        "date": datetime.date.today().isoformat(),
        "run": {"starts": starts, "repetitions": repetitions, "seconds": seconds, "filter": given.filter, "quick": given.quick},
        "machine": described | {"load_average_after": os.getloadavg()[0]},
        "noise": report.noise(figures)[0],
    }
    return results, figures


def judge(figures):
    """What must hold on any machine, however slow: the number of figures that are wrong."""
    wrong = 0
    for figure in figures:
        if figure.missing:
            wrong += figure.fault
            print(f"bench: {figure.group}: {figure.name}: not measured: {figure.missing}", file=sys.stderr)
        elif figure.allocates_wrongly:
            wrong += 1
            print(f"bench: {figure.group}: {figure.name} allocates {figure.allocations:.3g} times, and must not", file=sys.stderr)
    return wrong


def main():
    given = arguments()
    if given.compare and given.new:
        old, new = report.read_json(given.compare)[1], report.read_json(given.new)[1]
        return 1 if compare(old, new, given.tolerance) else 0
    old = report.read_json(given.compare)[1] if given.compare else None  # before it takes minutes to find that it is not there

    results, figures = measure(given)
    directory = HERE / "results"
    directory.mkdir(exist_ok=True)
    name = "quick" if given.quick else "filtered" if given.filter else "latest"
    json_file, markdown_file = directory / f"{name}.json", directory / f"{name}.md"
    report.write_json(json_file, results, figures)
    figures = report.read_json(json_file)[1]  # what is judged and shown is what was written
    text = report.markdown(results, figures)
    markdown_file.write_text(text)
    if not given.quick:
        print(text)
    wrong = judge(figures)
    measured = sum(not figure.missing for figure in figures)
    files = f"{os.path.relpath(markdown_file)} and {os.path.relpath(json_file)}"
    print(f"bench: {measured} of {len(figures)} rows measured; results are in {files}", file=sys.stderr)
    worse = 0
    if old is not None:
        wanted = [figure for figure in old if given.filter.lower() in f"{figure.group}: {figure.name}".lower()]
        worse = compare(wanted, figures, given.tolerance)
    return 1 if wrong or worse else 0


sys.exit(main())
