"""The rows of "pipeline": from services to the collector's store. One process start is one figure of each row."""

import json

from figure import Figure, Ratio
from micro import run

GROUP = "pipeline"
LIMITS = {"native": "bare ring", "JSON lines": "bare socket"}
THROUGHPUT_GOALS = {"native": 20, "JSON lines": 3}  # million spans a second, one service
CPU_GOALS = {"native": 50, "JSON lines": 300}  # ns of the collector for each span


class Pipeline:
    def __init__(self, path, wanted, quick):
        self.path, self.quick = path, quick
        rows = json.loads(run([path, "--rows"]))
        self.names = [name for name in rows if wanted(f"{GROUP}: {name}")]
        for name in list(self.names):
            limit = LIMITS.get(name.split(",")[0])
            if limit and limit not in self.names:
                self.names.append(limit)
        self.starts = {name: [] for name in self.names}

    def start(self):
        for name, starts in self.starts.items():
            command = [self.path, name] + (["--spans", "100000"] if self.quick else [])
            starts.append(json.loads(run(command)))

    def figures(self):
        return [figure for name in self.names for figure in self._figures(name)]

    def _figures(self, name):
        starts = self.starts[name]
        kind, _, services = name.partition(", ")
        alone = services == "1 service"
        limit = LIMITS.get(kind)
        rate = lambda of: [start["spans_per_second"] / 1e6 for start in self.starts[of]]
        ratio = lambda: Ratio(limit, [a / b for a, b in zip(rate(name), rate(limit))])
        yield Figure(GROUP, name, "weir" if limit else "limit", "M spans/s", rate(name), higher_is_better=True,
                     limit=ratio() if limit else None, goal=THROUGHPUT_GOALS[kind] if alone else None,
                     missing="it dropped spans" if any(start["dropped"] for start in starts) else "", fault=True)
        if alone:
            yield Figure(GROUP, f"{kind}, collector's processor time for a span", starts=[start["collector_ns"] for start in starts],
                         goal=CPU_GOALS[kind])
            yield Figure(GROUP, f"{kind}, service's thread for a span", starts=[start["service_ns"] for start in starts])
