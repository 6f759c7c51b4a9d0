"""The rows that programs measure (Google Benchmark): runs every program once per process start and gathers figures."""

import json
import re
import subprocess
from statistics import median

from figure import Figure, Ratio


class Program:
    """One of bench.json's programs, and those of its rows that were asked for, with what they are compared with."""

    def __init__(self, group, path, wanted):
        self.group, self.path = group, path
        rows = {row["name"]: row for row in json.loads(run([path, "--rows"]))}
        for row in rows.values():
            for other in [row["limit"], row["one_thread"], *row["peers"]]:
                if other and other not in rows:
                    raise SystemExit(f'bench: {group}: the row "{row["name"]}" is compared with "{other}", which does not exist')
        chosen = [name for name in rows if wanted(f"{group}: {name}")]
        for name in chosen:  # grows on the way
            others = [rows[name]["limit"], rows[name]["one_thread"], *rows[name]["peers"]]
            chosen += [other for other in others if other and other not in chosen]
        self.rows = {name: row for name, row in rows.items() if name in chosen}
        self.starts = []  # {row: {"cpu": ns, "cpu_best": ns, "wall_best": ns, "allocations": n} or {"error": text}}

    def start(self, repetitions, seconds):
        """One process: every repetition of every row, in random order."""
        names = "|".join(re.sub(r"([+.()])", r"\\\1", name) for name, row in self.rows.items() if row["installed"])
        output = run([
            self.path,
            "--benchmark_format=json",
            "--benchmark_enable_random_interleaving=true",
            f"--benchmark_repetitions={repetitions}",
            f"--benchmark_min_time={seconds}",
            f"--benchmark_filter=^({names})(/.*)?$",
        ])
        measured = {}
        for result in json.loads(output)["benchmarks"]:
            if result["run_type"] == "iteration":
                measured.setdefault(result["run_name"].split("/")[0], []).append(result)
        self.starts.append({name: self._start_of(results) for name, results in measured.items()})

    @staticmethod
    def _start_of(results):
        if any(result.get("error_occurred") for result in results):
            return {"error": results[0].get("error_message", "it failed")}
        return {
            "cpu": median(result["cpu_time"] for result in results),
            "cpu_best": min(result["cpu_time"] for result in results),
            "wall_best": min(result["real_time"] for result in results),
            "allocations": max(result["allocations"] for result in results),
        }

    def figures(self):
        figures = {name: self._figure(row) for name, row in self.rows.items()}
        for name, row in self.rows.items():
            ratio = lambda other: Ratio(other, [a / b for a, b in zip(figures[name].starts, figures[other].starts)])
            figures[name].limit = ratio(row["limit"]) if row["limit"] else None
            figures[name].peers = [ratio(peer) for peer in row["peers"]]
        return list(figures.values())

    def _figure(self, row):
        figure = Figure(self.group, row["name"], row["role"], may_allocate=row["may_allocate"])
        figure.goal, figure.goal_ratio = row["goal_ns"] or None, row["goal_ratio"] or None
        measured = [start.get(row["name"]) for start in self.starts]
        if not row["installed"]:
            figure.missing = "not installed"
        elif None in measured:
            figure.missing, figure.fault = "it was not run", True
        elif errors := [start["error"] for start in measured if "error" in start]:
            figure.missing = errors[0]  # it skipped itself
        else:
            figure.allocations = max(start["allocations"] for start in measured)
            figure.starts = [start["cpu"] for start in measured]
        if row["threads"] > 1:  # its figure is a throughput
            figure.unit, figure.higher_is_better, figure.goal = "× one thread", True, row["goal_throughput"] or None
            if not figure.missing:
                figure.starts = [start[row["one_thread"]]["cpu_best"] / start[row["name"]]["wall_best"] for start in self.starts]
        return figure


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"bench: {' '.join(command)} ended with status {done.returncode}\n{done.stderr}")
    return done.stdout
