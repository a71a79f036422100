"""One contender in one process: embeds the same work again and again, when told to.

In:  CONTENDER and FORM (how it is run; `run.py` knows them), a model, the work, the number of threads; then lines
     on stdin: a number of repetitions each.
Out: lines of JSON on stdout, as `crates/model/examples/speed.rs` writes them: `ready` (seconds from the start of
     loading to the first embedding), `vectors` (of the first items), per line of stdin the median `seconds` of
     the repetitions and `items`; at the end of stdin the most memory that was resident, in KiB.
How: ids and pixels are prepared as the library wants them before anything is timed; texts and JPEG files are timed
     from the string and the file's bytes on.
"""

import argparse
import importlib
import io
import json
import os
import sys
import time
from pathlib import Path

TOLD = 4


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("contender")
    parser.add_argument("form")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--name", required=True, help="the model's name in `cases.py`")
    parser.add_argument("--model", type=Path, required=True, help="its folder")
    parser.add_argument("--work", required=True)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, default=sys.maxsize)
    return parser.parse_args()


class Work:
    """The items of one run, in memory, as every contender gets them."""

    def __init__(self, args):
        self.kind, self.name = args.work, args.name
        self.items = getattr(self, args.work)(args.input)[: args.limit]

    def pixels(self, path):
        import numpy as np

        return np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 224, 224, 3)

    def ids(self, path):
        return json.loads(path.read_text())

    def texts(self, path):
        return path.read_text(encoding="utf-8").splitlines()

    def jpegs(self, folder):
        return [path.read_bytes() for path in sorted(folder.iterdir())]

    def arrays(self, n):
        """The first `n` of ids or pixels as the models take them."""
        import numpy as np

        if self.kind == "ids":
            return np.array(self.items[:n], np.int64)
        x = self.items[:n].astype(np.float32) / 255  # [b, side, side, 3]
        if self.name == "mobilenet":
            mean, std = 0.5, 0.5
        else:
            mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
        x = (x - np.array(mean, np.float32)) / np.array(std, np.float32)
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2).astype(np.float32))


def peak_kib():
    with open("/proc/self/status", encoding="ascii") as file:
        return int(next(line.split()[1] for line in file if line.startswith("VmHWM:")))


def say(**line):
    print(json.dumps(line), flush=True)


def serve(run, n_items):
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            begun = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begun)
        say(seconds=sorted(seconds)[len(seconds) // 2], items=n_items)
    say(peak_kib=peak_kib())


def main():
    args = arguments()
    for library in ["OMP", "MKL", "RAYON"]:  # read when the libraries start
        os.environ[f"{library}_NUM_THREADS"] = str(args.threads)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "CUDA_VISIBLE_DEVICES": ""}
    work = Work(args)
    peer = {"onnxruntime": "ort_peer", "fastembed": "ort_peer"}.get(args.contender.split("-")[0], "torch_peer")
    peer = importlib.import_module(peer)
    begun = time.perf_counter()
    contender = peer.Contender(args, work)
    contender.runner(1)()
    say(ready=time.perf_counter() - begun)
    run = contender.runner(len(work.items))
    say(vectors=[list(map(float, row)) for row in contender.runner(min(TOLD, len(work.items)))()])
    serve(run, len(work.items))


if __name__ == "__main__":
    main()
