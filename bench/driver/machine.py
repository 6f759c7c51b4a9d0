"""What a figure depends on besides the code."""

import os
import platform
import subprocess


def describe(manifest):
    processor = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), processor)
    except OSError:
        pass
    version = subprocess.run([manifest["compiler"], "--version"], capture_output=True, text=True).stdout.partition("\n")[0]
    return {
        "processor": processor,
        "processors": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "compiler": version,
        "flags": manifest["flags"].strip(),
        "load_average_before": os.getloadavg()[0],
    }
