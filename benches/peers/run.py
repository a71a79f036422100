"""Measures conjoin against its peers, interleaved, and writes what came out.

In:  --cache, the folder of `make_models.py` (filled as needed); --bin, the folder with conjoin's workers (the examples
     `speed` and `step_speed`, built with --release); --candle, the worker of `candle/`, if it is built.
Out: CACHE/results.json (everything that was measured) and CACHE/results.md (`report.py`): a table per shape, and
     the figures to reach with what was reached, shortfalls first. Progress goes to stderr.
How: a contender that can be run in several forms is first run in each, one process at a time; the fastest one
     competes (kept in CACHE/forms.json; --choose measures anew). Then one process per
     contender stays open, and every round runs each of them once, for about --seconds; short work is repeated within
     its turn and the median taken. A ratio is that of one round; the median over rounds is told, with the
     smallest and largest. A contender whose vectors are not PyTorch's f32 ones is flagged.

Run: python benches/peers/run.py --cache CACHE --bin target/release/examples [--shape vit_b32] [--threads 2] [--rounds 5]
"""

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import cases
import export
import make_models
import report

HERE = Path(__file__).resolve().parent
# The least cosine to PyTorch's f32 vectors, by what the contender computes in.
LEAST_COSINE = {"f32": 0.9999, "bf16": 0.999, "int8": 0.98}
REFERENCE = ("pytorch-f32", "eager")
LOSS_TOLERANCE = {"f32": 1e-4, "bf16": 1e-2}
# Items of a list that are enough to tell which form is the fastest: batches of sorted texts must not be padded more
# than in the whole list.
TEXTS_TO_CHOOSE = 2000
PICTURES_TO_CHOOSE = 32


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--candle", type=Path)
    parser.add_argument("--shared", type=Path, default=make_models.default_shared())
    parser.add_argument("--shape", action="append", default=[], help="start of a shape's name; may be repeated")
    parser.add_argument("--contender", action="append", default=[], help="start of a contender's name; may be repeated")
    parser.add_argument("--threads", type=int, action="append", default=[], help="default: 2, then 1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long a contender works per round")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall",
                        help="processor: seconds of CPU, for one thread on a machine that others use too")
    parser.add_argument("--limit", type=int, help="take only so many texts or pictures of a list")
    parser.add_argument("--choose", action="store_true", help="look for the fastest forms again")
    parser.add_argument("--skip-slow-forms", action="store_true", help="leave out forms that compile for a minute")
    return parser.parse_args()


ARGS = arguments()


class Refused(Exception):
    """A contender that could not be run, with the last thing it said."""


class Worker:
    """A contender's process."""

    def __init__(self, command, threads):
        self.begun = time.perf_counter()
        library = {f"{name}_NUM_THREADS": str(threads) for name in ["OMP", "MKL", "RAYON"]}
        self.errors = open(ARGS.cache / "last_error.txt", "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
            env=os.environ | library, cwd=HERE,
        )

    def start(self):
        """Returns what `ready` says, with `startup`: seconds from the start of the process to the first embedding."""
        ready = self.read()
        ready["startup"] = time.perf_counter() - self.begun
        return ready | self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            told = [line for line in self.errors.read().splitlines() if line.strip()]
            told = [line for line in told if "Error" in line] or told
            raise Refused(told[-1] if told else f"ended with {self.process.returncode}")
        return json.loads(line)

    def run(self, repetitions=1):
        """What the worker says of so many repetitions."""
        before = self.processor_seconds()
        self.process.stdin.write(f"{repetitions}\n")
        self.process.stdin.flush()
        said = self.read()
        if ARGS.clock == "processor":
            said["seconds"] = (self.processor_seconds() - before) / repetitions
        return said

    def processor_seconds(self):
        """The CPU's time that the process has taken, all threads together."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        """Returns the most memory that was resident, in KiB."""
        self.process.stdin.close()
        peak = self.read()["peak_kib"]
        self.process.wait()
        return peak

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def forms(case, contender):
    """The forms in which a contender may be the fastest, by what they are a choice of: the first list is tried
    first, and each further one with what was the fastest of those before."""
    kind = contender.split("-")[0]
    if kind in ("conjoin", "candle", "transformers"):
        return [{"conjoin": [contender.split("-")[-1]], "candle": ["f32"], "transformers": ["eager"]}[kind]]
    if contender.startswith("sentence-transformers"):
        best = contender.endswith("best")
        return [[f"batch{n}" for n in ([8, 16, 64, 256] if best else [32])]]
    if contender.startswith("pytorch"):
        f32, bf16 = ["eager", "onednn", "inductor", "inductor_onednn"], ["eager", "autocast", "inductor"]
        if case.work == "train":
            f32, bf16 = f32[:3], ["eager", "inductor"]
        of_kind = bf16 if contender.endswith("bf16") else f32
        return [[form for form in of_kind if not (ARGS.skip_slow_forms and form.startswith("inductor"))]]
    of_model = export.forms(case.model, case.work, contender.endswith("int8"))
    ways = {
        "texts": ["+arrival256"] if kind == "fastembed" else ["+sorted32", "+sorted64", "+sorted256"],
        "jpegs": ["+pil", "+torchvision"],
    }.get(case.work, [""])
    return [of_model, ways]


def contenders(case):
    """Their names, ours first."""
    ours = ["conjoin-f32", "conjoin-bf16", "conjoin-int8"]
    if case.work == "train":
        return [*ours[:2], "pytorch-f32", "pytorch-bf16"]
    if case.work == "texts":
        peers = ["sentence-transformers", "sentence-transformers-best", "onnxruntime-f32", "onnxruntime-int8"]
        return [*ours, *peers, "fastembed-f32"]
    if case.work == "jpegs":
        return [*ours, "onnxruntime-f32", "onnxruntime-int8"]
    peers = ["transformers-f32", "pytorch-f32", "pytorch-bf16", "onnxruntime-f32", "onnxruntime-int8"]
    candle = ["candle-f32"] if ARGS.candle and case.model != "mobilenet" else []
    return [*ours, *[peer for peer in peers if forms(case, peer)[0]], *candle]


def precision(contender):
    last = contender.split("-")[-1]
    return last if last in LEAST_COSINE else "f32"


def worker_command(case, contender, form, threads, limit=None):
    folder = make_models.model_folder(ARGS.cache, ARGS.shared, case.model).absolute()
    path = make_models.make_input(ARGS.cache, ARGS.shared, case).absolute()
    few = ["--limit", str(limit)] if limit else []
    if case.work == "train":
        import step_peer

        return step_peer.command(ARGS, contender, form, threads)
    ours = {"conjoin": ARGS.bin / "speed", "candle": ARGS.candle}.get(contender.split("-")[0])
    if ours:
        options = [f"--{case.work}", str(path), "--threads", str(threads), "--precision", form]
        return [str(ours.absolute()), str(folder), *options, *few]
    python = [sys.executable, "-W", "ignore", str(HERE / "worker.py"), contender, form]
    where = ["--cache", str(ARGS.cache.absolute()), "--name", case.model, "--model", str(folder)]
    return [*python, *where, "--work", case.work, "--input", str(path), "--threads", str(threads), *few]


def say(text):
    print(text, file=sys.stderr, flush=True)


def seconds_of_form(case, contender, form, threads):
    """The fastest of some runs of a form, alone."""
    limit = {"texts": TEXTS_TO_CHOOSE, "jpegs": PICTURES_TO_CHOOSE}.get(case.work)
    limit = min(limit, ARGS.limit) if limit and ARGS.limit else limit
    worker = Worker(worker_command(case, contender, form, threads, limit), threads)
    try:
        worker.start()
        first = worker.run()["seconds"]
        repetitions = int(np.clip(ARGS.seconds / first, 1, 50))
        return min(worker.run(repetitions)["seconds"] for _ in range(2))
    finally:
        worker.kill()


def try_forms(case, contender, threads):
    """Seconds of every form that was tried."""
    first, *further = forms(case, contender)
    candidates, tried = first, {}
    for more in further:
        # The choice before is made with the first of this one.
        candidates = [form + more[0] for form in candidates]
    for more in [None, *further]:
        if more is not None:
            stem = min(tried, key=tried.get).removesuffix(more[0])
            candidates = [stem + way for way in more[1:]]
        for form in candidates:
            try:
                tried[form] = seconds_of_form(case, contender, form, threads)
                say(f"  {contender} {form}: {tried[form]:.4f} s")
            except Refused as refused:
                say(f"  {contender} {form}: {refused}")
        if not tried:
            raise Refused("no form could be run")
    return tried


def fastest_form(case, contender, threads):
    """The form that competes, and the seconds of all that were tried."""
    only = forms(case, contender)
    if all(len(choice) == 1 for choice in only):
        return "".join(choice[0] for choice in only), {}
    path = ARGS.cache / "forms.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    key = f"{case.name} {contender} {threads} threads, {ARGS.clock}, {ARGS.limit or 'all'}"
    if key not in known or ARGS.choose:
        known[key] = try_forms(case, contender, threads)
        path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return min(known[key], key=known[key].get), known[key]


def reference_of(case, entries, threads):
    """What the vectors of the first items should be: PyTorch's in f32, of lists those of a peer in f32."""
    if case.work == "train":
        return None
    if case.work in ("texts", "jpegs"):
        peers = [e for e in entries if not e.contender.startswith("conjoin") and precision(e.contender) == "f32"]
        return np.array(peers[0].vectors) if peers else None
    worker = Worker(worker_command(case, *REFERENCE, threads), threads)
    try:
        return np.array(worker.start()["vectors"])
    finally:
        worker.kill()


def least_cosine(vectors, reference):
    vectors = np.array(vectors)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    return float(((vectors * reference).sum(1) / norms).min())


class Entry:
    """What is measured of one contender in one shape."""

    def __init__(self, contender, form, tried):
        self.contender, self.form, self.tried = contender, form, tried
        self.seconds, self.worker = [], None

    def start(self, case, threads):
        self.worker = Worker(worker_command(case, self.contender, self.form, threads, ARGS.limit), threads)
        said = self.worker.start()
        self.startup, self.ready, self.vectors = said["startup"], said["ready"], said.get("vectors")
        self.losses = said.get("losses")
        first = self.worker.run()  # also warms up
        self.items = first["items"]
        self.repetitions = int(np.clip(ARGS.seconds / first["seconds"], 1, 200))

    def turn(self):
        self.seconds.append(self.worker.run(self.repetitions)["seconds"])

    def result(self, reference):
        """As it is stored."""
        told = {name: getattr(self, name) for name in ["form", "tried", "items", "seconds", "startup", "ready"]}
        if reference is not None and self.vectors is not None:
            cosine = least_cosine(self.vectors, reference)
            told |= {"cosine": cosine, "flagged": not cosine > LEAST_COSINE[precision(self.contender)]}
        return told | {"peak_kib": self.worker.end()}

    def judge_losses(self, reference):
        """Whether the first losses are those of PyTorch in f32."""
        far = max(abs(a - b) for a, b in zip(self.losses, reference))
        return {"losses": self.losses, "flagged": not far < LOSS_TOLERANCE[precision(self.contender)]}


def prepare(case):
    """Makes models and inputs before anything is timed."""
    folder = make_models.model_folder(ARGS.cache, ARGS.shared, case.model)
    make_models.make_input(ARGS.cache, ARGS.shared, case)
    if case.work == "train":
        import step_peer

        step_peer.prepare(ARGS)
        return
    for int8 in (False, True):
        export.variants(ARGS.cache, folder, case.model, case.work, int8)


def starting(case, contender, threads):
    """A started contender, or why there is none."""
    entry = None
    try:
        entry = Entry(contender, *fastest_form(case, contender, threads))
        entry.start(case, threads)
        say(f"  {contender} {entry.form}: ready after {entry.startup:.2f} s")
        return entry, None
    except Refused as refused:
        if entry and entry.worker:
            entry.worker.kill()
        say(f"  {contender}: {refused}")
        return None, str(refused)


def measure(case, threads):
    """All contenders of a shape: results by name, and reasons of those that could not run."""
    say(f"{case.name}, {threads} threads")
    prepare(case)
    wanted = [c for c in contenders(case) if not ARGS.contender or c.startswith(tuple(ARGS.contender))]
    started = {contender: starting(case, contender, threads) for contender in wanted}
    entries = [entry for entry, _ in started.values() if entry]
    try:
        for n in range(ARGS.rounds):
            for entry in entries:
                entry.turn()
            say(f"  round {n + 1}: " + ", ".join(f"{e.contender} {e.seconds[-1]:.4f}" for e in entries))
        reference = reference_of(case, entries, threads)
        results = {entry.contender: entry.result(reference) for entry in entries}
        by_torch = next((e for e in entries if e.contender == "pytorch-f32" and e.losses), None)
        for entry in entries if by_torch else []:
            results[entry.contender] |= entry.judge_losses(by_torch.losses)
    finally:
        for entry in entries:
            entry.worker.kill()
    return results, {contender: reason for contender, (_, reason) in started.items() if reason}


def machine():
    model = [line.split(":")[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8") if "model name" in line]
    packages = ["torch", "transformers", "sentence_transformers", "onnxruntime", "tokenizers"]
    versions = {name: __import__(name).__version__ for name in packages}
    return {"processor": model[0], "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def main():
    ARGS.cache.mkdir(parents=True, exist_ok=True)
    path = ARGS.cache / "results.json"
    stored = json.loads(path.read_text()) if path.exists() else {"shapes": {}}
    threads_of = ARGS.threads or ([1] if ARGS.clock == "processor" else [2, 1])
    for threads in threads_of:
        for case in cases.named(ARGS.shape):
            results, refused = measure(case, threads)
            stored["machine"] = machine()
            stored["shapes"][f"{case.name} {threads}"] = {
                "case": dataclasses.asdict(case), "threads": threads, "rounds": ARGS.rounds, "clock": ARGS.clock,
                "date": time.strftime("%Y-%m-%d"), "load_before": os.getloadavg()[2],
                "contenders": results, "refused": refused,
            }
            path.write_text(json.dumps(stored, indent=1) + "\n")
            report.write(stored, ARGS.cache / "results.md")
            print(report.table(stored["shapes"][f"{case.name} {threads}"]), flush=True)
    print(report.targets(stored))


if __name__ == "__main__":
    main()
