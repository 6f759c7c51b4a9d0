"""A figure: what is known of one row after all process starts. The results file is a list of these."""

from dataclasses import asdict, dataclass, field
from statistics import median


@dataclass
class Ratio:
    """To another row of the same process: one number per process start. None of them: that row could not be measured."""

    to: str
    starts: list[float] = field(default_factory=list)

    @property
    def median(self):
        return median(self.starts) if self.starts else None


@dataclass
class Figure:
    group: str
    name: str
    role: str = "weir"  # or peer, limit
    unit: str = "ns"
    starts: list[float] = field(default_factory=list)  # one per process start, each the median of that start
    higher_is_better: bool = False
    limit: Ratio | None = None
    peers: list[Ratio] = field(default_factory=list)
    difference_of: float | None = None  # of a difference: the larger of the two; the spread is a part of that
    allocations: float | None = None
    may_allocate: bool = False
    goal: float | None = None  # of the median, in `unit`
    goal_ratio: float | None = None  # to the limit
    missing: str = ""  # why there is no figure
    fault: bool = False  # ... and it is the fault of the benchmark, not of a machine that lacks what it takes

    @property
    def median(self):
        return median(self.starts)

    @property
    def best(self):
        return max(self.starts) if self.higher_is_better else min(self.starts)

    @property
    def spread(self):
        """How far the process starts lie apart, as a part of the median."""
        return (max(self.starts) - min(self.starts)) / (self.difference_of or self.median or 1)

    @property
    def goal_met(self):
        """True, False, or None where there is no goal (or nothing to compare with it)."""
        if self.missing:
            return None
        if self.goal is not None:
            return self.median >= self.goal if self.higher_is_better else self.median <= self.goal
        if self.goal_ratio is not None and self.limit and self.limit.starts:
            return self.limit.median <= self.goal_ratio
        return None

    @property
    def allocates_wrongly(self):
        return self.role == "weir" and not self.may_allocate and bool(self.allocations)

    def as_json(self):
        json = asdict(self)
        if not self.missing:
            json |= {"median": self.median, "best": self.best, "spread": self.spread, "goal_met": self.goal_met}
            for ratio, plain in zip([self.limit, *self.peers], [json["limit"], *json["peers"]]):
                if ratio:
                    plain["median"] = ratio.median
        return json

    @staticmethod
    def from_json(json):
        known = {name: json[name] for name in Figure.__dataclass_fields__ if name in json}
        ratio = lambda plain: Ratio(plain["to"], plain["starts"])
        known["limit"] = ratio(json["limit"]) if json.get("limit") else None
        known["peers"] = [ratio(peer) for peer in json.get("peers", [])]
        return Figure(**known)
