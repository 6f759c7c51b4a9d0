"""The results as JSON, and as tables for people: ratios first."""

import json
from statistics import median

from figure import Figure

NOISY = 0.10


def write_json(path, results, figures):
    path.write_text(json.dumps(results | {"figures": [figure.as_json() for figure in figures]}, indent=1, ensure_ascii=False) + "\n")


def read_json(path):
    try:
        results = json.loads(path.read_text())
        return results, [Figure.from_json(figure) for figure in results["figures"]]
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"bench: {path} is not a results file: {error!r}")


def number(value):
    """Three significant digits."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def amount(figure, value):
    return f"{number(value)} {figure.unit}"


def times(figure):
    best = amount(figure, figure.best) if figure.difference_of is None else "–"
    return [amount(figure, figure.median), best, f"{figure.spread:.0%}"]


def ratio_to(other):
    label = other.to.split(",")[0]
    return f"{number(other.median)} × {label}" if other.starts else f"{label}: not measured"


def goal(figure):
    if figure.goal is not None:
        return f"{'≥' if figure.higher_is_better else '≤'} {amount(figure, figure.goal)}"
    return f"≤ {number(figure.goal_ratio)} × limit" if figure.goal_ratio is not None else "–"


def allocations(figure):
    if figure.allocations is None:
        return "–"
    return number(figure.allocations) + (" (must be 0)" if figure.allocates_wrongly else "")


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def title(figure):
    return f"`{figure.name}`" if "<" in figure.name else figure.name  # no HTML


def our_line(figure):
    met = {True: "yes", False: "**no**", None: "–"}[figure.goal_met]
    if figure.missing:
        return [title(figure), f"not measured: {figure.missing}", *["–"] * 5, goal(figure), met]
    limit = ratio_to(figure.limit) if figure.limit else "–"
    peers = ", ".join(map(ratio_to, figure.peers)) or "–"
    return [title(figure), limit, peers, allocations(figure), *times(figure), goal(figure), met]


def their_line(figure):
    if figure.missing:
        return [title(figure), figure.role, f"not measured: {figure.missing}", *["–"] * 3]
    return [title(figure), figure.role, allocations(figure), *times(figure)]


def group_tables(group, figures):
    figures = [figure for figure in figures if figure.group == group]
    ours = [our_line(figure) for figure in figures if figure.role == "weir"]
    theirs = [their_line(figure) for figure in figures if figure.role != "weir"]
    header = ["", "to the limit", "to peers", "allocations", "median", "best", "spread", "goal", "met"]
    text = f"\n## {group}\n\n" + table(header, ours)
    if theirs:
        text += "\nBeside them:\n\n" + table(["", "is a", "allocations", "median", "best", "spread"], theirs)
    return text


def noise(figures):
    """The middle spread of the rows, and a sentence about it."""
    spreads = [figure.spread for figure in figures if len(figure.starts) > 1]
    if not spreads:
        return None, "One process start: nothing is known of the noise."
    middle = median(spreads)
    if middle > NOISY:
        return middle, f"**The machine was noisy**: in the middle row the process starts lie {middle:.0%} apart. Measure again on an idle one."
    return middle, f"In the middle row the process starts lie {middle:.0%} apart."


def markdown(results, figures):
    machine, run = results["machine"], results["run"]
    quick = "\n**A quick run, to see that everything works: its times mean nothing.**" if run["quick"] else ""
    text = f"""# Benchmarks of weir {results["weir"]}

{machine["processor"]}, {machine["processors"]} processors, {machine["kernel"]}, {machine["libc"]}; {machine["compiler"]} {machine["flags"]}.
{results["date"]}, {run["starts"]} process starts of {run["repetitions"]} repetitions of {run["seconds"]} s. {noise(figures)[1]}{quick}

Ratios come first; they are what travels to other machines. Goals in ns are those of the machine on which they were set.
bench/README.md says how each figure is obtained.
"""
    for group in dict.fromkeys(figure.group for figure in figures):
        text += group_tables(group, figures)
    return text
