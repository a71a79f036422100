"""Times a command from a cold start to its end, and splits its memory.

    python measure.py [--drop FOLDER] [--runs 5] -- conjoin embed one.txt --model MODEL --out VECTORS

Prints the median of wall time, of user + system time, and the peak of anonymous and file-backed memory (polled
every 2 ms, Linux). `--drop` removes the folder's files from the page cache before each run (`posix_fadvise`).
"""

import argparse
import os
import statistics
import subprocess
import time
from pathlib import Path


def drop(folder):
    for path in Path(folder).rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def memory(pid):
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines) if key.startswith("Rss")}
    return sizes.get("RssAnon", 0), sizes.get("RssFile", 0)


def run(command):
    before, start = os.times(), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    anonymous = backed = 0
    while process.poll() is None:
        now = memory(process.pid)
        anonymous, backed = max(anonymous, now[0]), max(backed, now[1])
        time.sleep(0.002)
    wall, after = time.perf_counter() - start, os.times()
    if process.returncode:
        raise SystemExit(process.stderr.read().decode())
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu, anonymous / 1024, backed / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--drop")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    results = []
    for _ in range(args.runs):
        if args.drop:
            drop(args.drop)
        results.append(run(args.command))
    wall, cpu, anonymous, backed = (statistics.median(column) for column in zip(*results))
    print(f"wall {wall:.2f} s, best {min(r[0] for r in results):.2f}; user+sys {cpu:.2f} s; "
          f"anonymous {anonymous:.0f} MiB, file-backed {backed:.0f} MiB")


if __name__ == "__main__":
    main()
