"""Compares two results files by ratios, never by times: those of an idle desktop and of a busy server differ by as much as
the machines do, the ratio of two rows that ran side by side hardly does."""

from report import number

SMALLEST_DIFFERENCE = 30  # ms of compile time: a header that adds less than this more than before is not worse


def ratio_of(figure):
    """What of a figure can be compared, larger being worse, and what it is: (value, text)."""
    if figure.missing:
        return None
    for ratio in [figure.limit, *figure.peers]:
        if ratio and ratio.starts:
            return 1 / ratio.median if figure.higher_is_better else ratio.median, f"{number(ratio.median)} × {ratio.to}"
    return None


def compare(old_figures, new_figures, tolerance):
    """Prints a line for every row that has become better or worse; returns the number of those that have become worse."""
    new = {(figure.group, figure.name): figure for figure in new_figures}
    worse, compared = 0, 0
    for old in old_figures:
        if old.role != "weir" or old.missing:
            continue
        now = new.get((old.group, old.name))
        problem = None
        if now is None or now.missing:
            problem = f"was not measured{': ' + now.missing if now else ''}"
        elif (now.allocations or 0) > (old.allocations or 0) * 1.01:
            problem = f"allocates {number(now.allocations)} times, was {number(old.allocations or 0)}"
        elif ratio_of(old) and ratio_of(now):
            compared += 1
            (before, before_text), (after, after_text) = ratio_of(old), ratio_of(now)
            grown = now.difference_of is None or now.median - old.median > SMALLEST_DIFFERENCE
            if after > before * (1 + tolerance) and grown:
                problem = f"{after_text}, was {before_text}"
            elif after < before / (1 + tolerance):
                print(f"better  {old.group}: {old.name}: {after_text}, was {before_text}")
        if problem:
            worse += 1
            print(f"WORSE   {old.group}: {old.name}: {problem}")
    print(f"{compared} ratios compared, {worse} rows worse (tolerance {tolerance:.0%})")
    return worse
