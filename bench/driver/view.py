"""The rows of "view": from a view server to its viewers, one more of whom reads nothing."""

from figure import Figure, Ratio
from processes import Processes

GOALS = {1: 2, 8: 1}  # million spans a second, by viewers


class View(Processes):
    group = "view"

    def limit_of(self, name):
        kind, _, viewers = name.partition(", ")
        return f"bare sockets, {viewers}" if kind == "broadcast" else None

    def figures_of(self, name):
        starts, limit = self.starts[name], self.limit_of(name)
        rate = lambda of: [start["spans_per_second"] / 1e6 for start in self.starts[of]]
        ratio = Ratio(limit, [a / b for a, b in zip(rate(name), rate(limit))]) if limit else None
        goal = GOALS.get(int(name.split()[-2])) if limit else None
        role = "weir" if limit else "limit"
        yield Figure(self.group, name, role, "M spans/s", rate(name), higher_is_better=True, limit=ratio, goal=goal)
        if limit:
            yield Figure(self.group, f"{name}, processor time for a span and a viewer", starts=[start["ns_per_line"] for start in starts])
