"""Rows that are whole processes, which a program of ours starts itself. One process start is one figure of each row."""

import json

from micro import run


class Processes:
    """The rows of a program that were asked for, with their limits."""

    group = ""

    def __init__(self, path, wanted, quick):
        self.path, self.quick = path, quick
        rows = json.loads(run([path, "--rows"]))
        self.names = [name for name in rows if wanted(f"{self.group}: {name}")]
        for name in list(self.names):
            limit = self.limit_of(name)
            if limit and limit not in self.names:
                self.names.append(limit)
        self.starts = {name: [] for name in self.names}

    def limit_of(self, name):
        """The row that `name` is compared with; None: it is a limit itself."""
        raise NotImplementedError

    def figures_of(self, name):
        raise NotImplementedError

    def start(self):
        for name, starts in self.starts.items():
            command = [self.path, name] + (["--spans", "100000"] if self.quick else [])
            starts.append(json.loads(run(command)))

    def figures(self):
        return [figure for name in self.names for figure in self.figures_of(name)]
