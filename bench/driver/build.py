"""The rows of "build": what including, building and linking weir costs. Times are user CPU time of the compiler."""

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from statistics import median

from figure import Figure, Ratio
from micro import run


class Header:
    """A header, compiled alone and beside a file that includes only what the header takes from elsewhere."""

    def __init__(self, build, name, own, goal=None, role="weir"):
        """`own`: a pattern for the files that count as the header's own."""
        self.build, self.name, self.own, self.goal, self.role = build, name, own, goal, role
        self.with_it, self.without = [], []

    def others(self):
        """The files that the header's own files include and that are not its own, as the compiler says (-H)."""
        command = [*self.build.compile, "-H", "-E", "-o", os.devnull, "-x", "c++", "-"]
        output = subprocess.run(command, input=f"#include <{self.name}>\n", capture_output=True, text=True, check=True)
        found, path = [], ["own"]  # `path`: by depth, whether a file is one of the header's own
        for line in output.stderr.splitlines():
            if matched := re.match(r"(\.+) (.*)", line):
                depth, file = len(matched[1]), matched[2]
                own = re.search(self.own, file) is not None
                if not own and path[depth - 1] == "own":
                    found.append(file)
                path[depth:] = ["own" if own else "other"]
        return found

    def measure(self, directory):
        sources = {"with": f"#include <{self.name}>\n", "without": "".join(f'#include "{file}"\n' for file in self.others())}
        for kind, times in (("without", self.without), ("with", self.with_it)):
            source = Path(directory) / f"{kind}.cpp"
            source.write_text(sources[kind])
            times.append(user_seconds([*self.build.compile, "-c", "-o", os.devnull, str(source)]))

    def figure(self):
        # Times of one round belong together.
        added = [1000 * (a - b) for a, b in zip(self.with_it, self.without)]
        ratios = [a / b for a, b in zip(self.with_it, self.without)]
        return Figure("build", f"#include <{self.name}>", self.role, "ms", added, limit=Ratio("its standard headers", ratios),
                      difference_of=1000 * median(self.with_it), goal=self.goal)


class Build:
    def __init__(self, manifest, commands, wanted, quick):
        self.manifest = manifest
        self.compile = [manifest["compiler"], "-std=c++20", *manifest["flags"].split(), "-I", manifest["include"]]
        relative = lambda files: [file.removeprefix(manifest["include"] + "/") for file in files if "/detail/" not in file]
        own = re.escape(manifest["include"] + "/")
        headers = [Header(self, name, own, goal=100) for name in relative(manifest["core_headers"])]
        headers += [Header(self, name, own) for name in relative(manifest["library_headers"])]
        if quick:
            headers = [header for header in headers if header.name == "weir/operation/operation.hpp"]
        if manifest["boost"]:
            headers.append(Header(self, "boost/signals2.hpp", r"/boost/", role="peer"))
        self.headers = [header for header in headers if wanted(f"build: #include <{header.name}>")]
        sources = Path(manifest["include"]).parent / "src"
        self.sources = [command["command"] for command in json.loads(commands.read_text()) if Path(command["file"]).is_relative_to(sources)]
        self.library = Figure("build", "library and command, every source", unit="s", goal=60)
        self.measures_library = not quick and wanted(f"build: {self.library.name}")
        self.size = Figure("build", "a program, stripped: one operation, one listener", unit="KB", goal=60)
        self.measures_size = wanted(f"build: {self.size.name}")

    def start(self, progress):
        with tempfile.TemporaryDirectory() as directory:
            for i, header in enumerate(self.headers):
                progress(f"compiling {header.name} ({i + 1} of {len(self.headers)})")
                header.measure(directory)
            if self.measures_library and len(self.library.starts) < 3:  # a sum of many: three are enough
                total = 0.0
                for i, command in enumerate(self.sources):
                    progress(f"compiling the library ({i + 1} of {len(self.sources)})")
                    command = re.sub(r"^\S*ccache ", "", command)
                    total += user_seconds(re.sub(r" -o \S+", f" -o {os.devnull}", re.sub(r" -M[DTF]( \S+\.[do])?", "", command)).split())
                self.library.starts.append(total)
            if self.measures_size and not self.size.starts:  # does not vary
                size = [stripped_size(self.manifest["strip"], self.manifest[program], directory) for program in ("hello", "hello_operation")]
                self.size.starts.append((size[1] - size[0]) / 1000)
                self.size.limit = Ratio("hello world", [size[1] / size[0]])

    def figures(self):
        figures = [header.figure() for header in self.headers if header.with_it]
        return figures + [figure for figure in (self.library, self.size) if figure.starts]


def user_seconds(command):
    """The user CPU time of a command and of the processes it started and waited for."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            raise SystemExit(f"bench: {' '.join(command)} failed\n{errors.read().decode()}")
        return usage.ru_utime


def stripped_size(strip, program, directory):
    stripped = Path(directory) / "stripped"
    run([strip, "-o", str(stripped), program])
    return stripped.stat().st_size
