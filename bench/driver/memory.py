"""The rows of "memory": what the collector's store takes."""

from figure import Figure, Ratio
from processes import Processes

GOALS = {"1 M spans kept": 110}  # megabytes


class Memory(Processes):
    group = "memory"

    def limit_of(self, name):
        return None

    def figures_of(self, name):
        starts = self.starts[name]
        early = [start["peak_mb"] / start["early_mb"] for start in starts if start["early_mb"] > 0]
        flat = Ratio("its first twentieth", early) if "through" in name and early else None
        yield Figure(self.group, name, unit="MB", starts=[start["peak_mb"] for start in starts], limit=flat, goal=GOALS.get(name))
