"""The rows of "pipeline": from services to the collector's store."""

from figure import Figure, Ratio
from processes import Processes

GROUP = "pipeline"
LIMITS = {"native": "bare ring", "JSON lines": "bare socket"}
THROUGHPUT_GOALS = {"native": 20, "JSON lines": 3}  # million spans a second, one service
KILLED_GOAL = 5000  # ns of the slowest of a thousand spans
CPU_GOALS = {"native": 50, "JSON lines": 300}  # ns of the collector for each span


class Pipeline(Processes):
    group = GROUP

    def limit_of(self, name):
        return LIMITS.get(name.split(",")[0])

    def figures_of(self, name):
        starts = self.starts[name]
        if name.startswith("collector killed"):
            yield Figure(GROUP, f"{name}: a span, 99.9th percentile", starts=[start["p999_ns"] for start in starts], goal=KILLED_GOAL)
            return
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
