"""A whole training, conjoin beside PyTorch: the first stage of `recipes/jina_clip_small.toml`, from the same numbers.

In:  --work, a folder with the `data/` and `weights/` that the recipe names (`recipes/README.md`); --conjoin, the
     program; --cache, a folder for everything that is written.
Out: CACHE/whole/results.json and CACHE/whole/results.md: seconds of training (waits for batches included), of
     evaluation and of the rest, memory, what the models know with 95 % intervals. Progress goes to stderr.
How: both get the same recipe (its first stage, --steps long, the warm-up shortened alike, nothing measured meanwhile)
     and begin at the same weights, new heads included, which conjoin writes. A round is one training each, conjoin
     first in every other; it has one of the --seed numbers, which decides heads, batches and augmentation. Each draws its own
     batches by the same rules. Memory is the most that all processes of a contender held, shared pages counted once.
     Both models are measured by the same code, so that every caption of one has its twin in the other, in f32;
     conjoin's own figures stand beside it. Intervals are of the difference: photos, each with its captions, drawn
     anew 2,000 times (graded pairs likewise), seeds averaged before.
     --check proves equality instead: in f32, from the same weights, on the same batches, the losses of the first steps,
     the norms of their gradients and the weights after them. --choose runs PyTorch's forms for a few steps each,
     one choice after the other, and keeps the fastest in CACHE/whole/form.json; without a --form that one competes.

Run: python benches/peers/whole_training.py --work WORK --cache CACHE [--conjoin target/release/conjoin]
     [--check | --choose] [--steps 300] [--rounds 3] [--seed 1 --seed 2] [--contender conjoin] [--form FORM] [--threads 2]
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parents[1] / "recipes/jina_clip_small.toml"
CONTENDERS = ["conjoin", "pytorch"]
USUAL_FORM = "bf16+groups8+workers1"
# Alternatives to a part of the form that competes, tried in this order, each with the fastest of those before.
CHOICES = [
    ["bf16", "bf16-f32-depthwise", "f32-onednn", "f32"],
    ["groups4", "groups1", "groups2", "groups8"],
    ["workers1", "workers0", "workers2"],
    ["", "inductor", "inductor-images"],
]
CHECKED_STEPS = 3
# At the recipe's own rate, without a warm-up, the first steps go so far that rounding alone sets the two apart.
CHECKED_RATE = 1e-4
LOSS_TOLERANCE = 1e-4
RESAMPLES = 2000


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--conjoin", type=Path, default=HERE.parents[1] / "target/release/conjoin")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, action="append", default=[], help="of the rounds in turn; default: 1, 2, …")
    parser.add_argument("--contender", choices=CONTENDERS, action="append", default=[], help="default: both")
    parser.add_argument("--form", help="how PyTorch is run (whole_peer.py)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--choose-steps", type=int, default=8)
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall",
                        help="of --choose; processor: seconds of CPU, with --threads 1 on a machine that others use too")
    return parser.parse_args()


ARGS = arguments()
CACHE = ARGS.cache.absolute() / "whole"
# Before PyTorch starts its threads.
os.environ |= {f"{name}_NUM_THREADS": str(ARGS.threads) for name in ["OMP", "MKL", "RAYON"]}
os.environ |= {"TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}

import numpy as np

import whole_peer


def say(text):
    print(text, file=sys.stderr, flush=True)


def toml(value):
    """A value in one line."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value, ensure_ascii=False)
        case dict():
            return "{ " + ", ".join(f"{json.dumps(key)} = {toml(v)}" for key, v in value.items()) + " }"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case _:
            return repr(value)


def write_recipe(recipe, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in recipe.items()), encoding="utf-8")
    return path


def derived(steps, seed):
    """The recipe's first stage alone, so many steps long, on pictures as at the start and without what only one of
    the two has: tokens left out and the running average."""
    recipe = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    stage = recipe["stage"][0]
    warmup = stage["schedule"]["warmup_steps"] * steps / stage["steps"]
    stage["schedule"]["warmup_steps"] = max(1, round(warmup))
    stage["steps"] = steps
    for key in ["evaluate_every", "image_size", "token_dropout", "average"]:
        del stage[key]
    recipe["stage"] = [stage]
    recipe["measure"] = [measure for measure in recipe["measure"] if measure.get("during", True)]
    recipe["train"]["seed"] = seed
    return recipe


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def of_images_alone(recipe):
    """The recipe without its text task, which has no batches to export."""
    stage = recipe["stage"][0]
    return recipe | {"stage": [stage | {"task": stage["task"][:1]}]}


def conjoin(*words):
    command = [str(ARGS.conjoin.absolute()), *map(str, words)]
    subprocess.run(command, cwd=ARGS.work, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def exported(recipe, folder, n_batches):
    """Folder with `start/`, the checkpoint that training begins with, and batches of pictures."""
    fresh(folder)
    path = write_recipe(of_images_alone(recipe), folder / "recipe.toml")
    conjoin("train", path, "--quiet", "--out", folder, "--export-batches", n_batches)
    return folder


def start_of(seed):
    folder = CACHE / f"start-{seed}"
    if not (folder / "batches.safetensors").exists():
        exported(derived(CHECKED_STEPS, seed), folder, 1)
    return folder / "start"


class Memory(threading.Thread):
    """The most that a process and those below it held at once, in KiB, looked at every half second."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.most, self.ended = pid, 0, threading.Event()

    def run(self):
        while not self.ended.wait(0.5):
            self.most = max(self.most, sum(map(self.held, self.family(self.pid))))

    def family(self, pid):
        yield pid
        try:
            tasks = os.listdir(f"/proc/{pid}/task")
            below = [Path(f"/proc/{pid}/task/{task}/children").read_text().split() for task in tasks]
        except OSError:
            return
        for child in sum(below, []):
            yield from self.family(int(child))

    def held(self, pid):
        """Pages shared by several processes count in each by its share."""
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


class Refused(Exception):
    """A contender that could not be run, with the last things it said."""


def timed(command, log):
    """Runs a contender: seconds from start to end, and the most memory in KiB."""
    begun = time.perf_counter()
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=ARGS.work, stdout=file, stderr=file)
        memory = Memory(process.pid)
        memory.start()
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    memory.ended.set()
    memory.join()
    if status != 0:
        told = "\n".join(log.read_text().splitlines()[-5:])
        raise Refused(f"{command[0]} ended with {os.waitstatus_to_exitcode(status)}; the end of {log}:\n{told}")
    return {"whole": seconds, "peak_kib": max(memory.most, usage.ru_maxrss)}


def run_conjoin(steps, seed, folder):
    """A training by conjoin: times, memory, figures as it tells them."""
    path = write_recipe(derived(steps, seed), fresh(folder) / "recipe.toml")
    result = timed([str(ARGS.conjoin.absolute()), "train", str(path), "--out", str(folder)], folder / "log.txt")
    run = folder / "train"
    journal = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    assert len(journal) == steps and not any(line["rejected"] for line in journal), "not all of the batches"
    told = json.loads((run / "figures.json").read_text())
    # The last state is written when the steps are done, the figures when they are measured.
    trained = max(path.stat().st_mtime for path in run.glob("states/*/*"))
    return result | {
        "form": tomllib.loads(path.read_text())["train"]["precision"],
        "seconds": [line["seconds"] for line in journal],
        "waits": [line["seconds"] * line["wait_share"] for line in journal],
        "losses": [[line["tasks"][task]["loss"] for task in ("image_text", "text_text")] for line in journal],
        "norms": [line["grad_norm"] for line in journal],
        "evaluation": (run / "figures.json").stat().st_mtime - trained,
        "told": told["figures"],
        "log_scale": told["scalars"]["image_text"]["log_scale"],
    }


def run_pytorch(steps, seed, folder, form, measure=True):
    """A training by PyTorch."""
    start = start_of(seed)
    path = write_recipe(derived(steps, seed), fresh(folder) / "recipe.toml")
    words = [str(path), str(start), form, str(folder), "--threads", str(ARGS.threads)]
    words += [] if measure else ["--no-measure"]
    result = timed([sys.executable, "-W", "ignore", str(HERE / "whole_peer.py"), *words], folder / "log.txt")
    told = json.loads((folder / "result.json").read_text())
    return result | told | {"form": form, "told": told.get("figures")}


def measured(recipe, start, weights):
    """What a model knows, by the same code whoever trained it."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(ARGS.threads)
    spec = json.loads((start / "spec.json").read_text())
    model = whole_peer.Dual(spec, load_file(weights), recipe, whole_peer.Form("f32"))
    before = os.getcwd()
    os.chdir(ARGS.work)
    held_out = whole_peer.HeldOut(recipe, spec, start)
    os.chdir(before)
    return held_out.measure(model)


def form_that_competes():
    path = CACHE / "form.json"
    if ARGS.form:
        return ARGS.form
    return json.loads(path.read_text())["fastest"] if path.exists() else USUAL_FORM


def choose():
    """The fastest form, by the median step but the first two; kept with all that were tried. A form that cannot be run
    is told and left out.

    CPU seconds per step on one thread of a Zen 4 that others used too, torch 2.11, so ±10 %: bf16+groups8+workers1 2.6;
    one group 3.3, two 2.9, four 2.8; no worker 2.8, two 2.6; bf16-f32-depthwise 3.2, f32 4.0 and f32-onednn 4.8 (these in
    four groups); inductor-images 3.4 and half a minute of compiling; inductor died of a segmentation fault."""
    parts, tried = [choice[0] for choice in CHOICES], {}
    for place, choice in enumerate(CHOICES):
        for word in choice:
            form = "+".join(part for part in [*parts[:place], word, *parts[place + 1 :]] if part)
            if form not in tried:
                try:
                    result = run_pytorch(ARGS.choose_steps, 1, CACHE / "choose", form, measure=False)
                except Refused as refused:
                    say(f"  {form}: {refused}")
                    continue
                seconds = result["seconds" if ARGS.clock == "wall" else "processor"]
                tried[form] = statistics.median(seconds[2:])
                say(f"  {form}: {tried[form]:.3f} s a step, the first {seconds[0]:.1f} s")
        best = min(tried, key=tried.get).split("+")
        parts = [next((word for word in choice if word in best), "") for choice in CHOICES]
    fastest = min(tried, key=tried.get)
    found = {"fastest": fastest, "seconds_per_step": tried, "steps": ARGS.choose_steps, "clock": ARGS.clock}
    (CACHE / "form.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"the fastest form is {fastest}")


def check():
    """Exits with 1 when the two do not compute the same."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(ARGS.threads)
    recipe = derived(CHECKED_STEPS, 1)
    recipe["train"]["precision"] = "f32"
    stage = recipe["stage"][0]
    stage["schedule"]["peak_lr"] = CHECKED_RATE
    images, texts = stage["task"]
    given = exported(recipe, CACHE / "check-batches", CHECKED_STEPS)
    # As many pairs as a batch has: every batch is all of them, and the loss does not depend on their order.
    photos = whole_peer.Photos(ARGS.work / images["data"][0]["items"]["path"], "train")
    pairs = [photos.texts(n)[:2] for n in range(texts["batch"])]
    path = CACHE / "check-pairs.jsonl"
    path.write_text("".join(json.dumps({"q": q, "d": d}) + "\n" for q, d in pairs), encoding="utf-8")
    texts["data"] = [{"pairs": {"path": str(path), "columns": {"query": "q", "document": "d"}}}]
    folder = fresh(CACHE / "check-conjoin")
    conjoin("train", write_recipe(recipe, folder / "recipe.toml"), "--quiet", "--out", folder)
    journal = [json.loads(line) for line in (folder / "train/train.jsonl").read_text().splitlines()]

    spec = json.loads((given / "start/spec.json").read_text())
    start, batches = load_file(given / "start/weights.safetensors"), load_file(given / "batches.safetensors")
    reader = whole_peer.tokenizer(given / "start", stage["max_tokens"])
    trainer = whole_peer.Trainer(spec, start, recipe, whole_peer.Form("f32"))
    good = True

    def tell(what, ours, theirs, fits):
        nonlocal good
        good &= bool(fits)
        print(f"{what:<34} conjoin {ours:<14.8g} PyTorch {theirs:<14.8g} {'' if fits else '  DIFFERS'}")

    of_texts = [[text for pair in pairs for text in pair[i : i + 1]] for i in range(2)]
    for n, line in enumerate(journal):
        step = lambda name: batches[f"step.{n}.{name}"]
        ids, offsets = step("ids").tolist(), step("offsets").tolist()
        rows = [ids[a:b] for a, b in zip(offsets, offsets[1:])]
        rows += [e.ids for side in of_texts for e in reader.encode_batch(side)]
        others = [whole_peer.other_equal(step("groups").numpy()),
                  whole_peer.other_equal(*([whole_peer.normal(text) for text in side] for side in of_texts))]
        losses, norm = trainer.step(n, (step("pixels"), *whole_peer.in_groups(rows, 4), others))
        for task, loss in zip(("image_text", "text_text"), losses):
            ours = line["tasks"][task]["loss"]
            tell(f"step {n + 1}, loss of {task}", ours, loss, abs(ours - loss) <= LOSS_TOLERANCE)
        tell(f"step {n + 1}, norm of the gradients", line["grad_norm"], norm, abs(line["grad_norm"] / norm - 1) <= 5e-3)
    told = json.loads((folder / "train/figures.json").read_text())
    scale, ours = trainer.model.log_scales[0].item(), told["scalars"]["image_text"]["log_scale"]
    tell("log_scale after them", ours, scale, abs(ours - scale) <= 1e-5)
    ended, found = load_file(folder / "model/weights.safetensors"), trainer.weights()
    assert ended.keys() == found.keys(), "other parameters"
    moved = lambda weights, names: torch.cat([(weights[name] - start[name]).flatten() for name in names])
    for part in ("image.", "image.projection.", "text.", "text.head."):
        names = [name for name in start if name.startswith(part)]
        ours, theirs = moved(ended, names), moved(found, names)
        tell(f"{part}* moved by", ours.norm().item(), theirs.norm().item(), abs(ours.norm() / theirs.norm() - 1) <= 1e-2)
        cosine = torch.nn.functional.cosine_similarity(ours, theirs, dim=0).item()
        tell(f"{part}* moved, 1 and the cosine", 1, cosine, cosine >= 0.99)
    frozen = [name for name in start if not trainer.model.is_trained(name)]
    same = [name for name in start if torch.equal(ended[name], start[name])]
    tell("parameters that stayed", len(same), len(frozen), sorted(same) == sorted(frozen))
    figures = whole_peer.figures(measured(recipe, given / "start", folder / "model/weights.safetensors"))
    for name, value in figures.items():
        tell(name, told["figures"][name], value, abs(told["figures"][name] - value) <= 5e-3)
    drawn = derived(CHECKED_STEPS, 1)
    os.chdir(ARGS.work)
    loader = whole_peer.Batches(drawn, spec, given / "start", whole_peer.Form("f32"))
    pixels = torch.cat([loader[n][0] for n in range(CHECKED_STEPS)]).float()
    ours = torch.cat([batches[f"step.{n}.pixels"] for n in range(CHECKED_STEPS)]).float()
    tell("mean of the augmented pixels", ours.mean().item(), pixels.mean().item(), abs(ours.mean() - pixels.mean()) < 6)
    tell("deviation of the augmented pixels", ours.std().item(), pixels.std().item(), abs(ours.std() - pixels.std()) < 6)
    print("equal" if good else "NOT equal")
    sys.exit(0 if good else 1)


def differences(rounds):
    """By figure: both values and the interval of PyTorch's being subtracted from conjoin's."""
    of = lambda contender, key: np.stack([round[contender]["found"][key] for round in rounds])
    photo_of = rounds[0]["conjoin"]["found"]["photo_of"]
    draw = np.random.default_rng(0)
    n_photos = photo_of.max() + 1
    drawn = draw.multinomial(n_photos, np.full(n_photos, 1 / n_photos), RESAMPLES)  # how often each photo
    told = {}
    for way, photos in (("text_to_image", photo_of), ("image_to_text", np.arange(n_photos))):
        for k in (1, 5, 10):
            hits = [(of(contender, way) <= k).mean(0) for contender in CONTENDERS]
            weights = drawn[:, photos]
            told[f"flickr8k/{way}/recall@{k}"] = interval(
                hits[0].mean(), hits[1].mean(), weights @ (hits[0] - hits[1]) / weights.sum(1)
            )
    grades, cosines = rounds[0]["conjoin"]["found"]["grades"], [of(contender, "cosines") for contender in CONTENDERS]
    mean = lambda side, rows: np.mean([whole_peer.spearman(one[rows], grades[rows]) for one in side])
    everything = np.arange(len(grades))
    resampled = (draw.integers(len(grades), size=len(grades)) for _ in range(RESAMPLES))
    told["stsb/spearman"] = interval(
        *(mean(side, everything) for side in cosines),
        np.array([mean(cosines[0], rows) - mean(cosines[1], rows) for rows in resampled]),
    )
    return told


def interval(ours, theirs, resampled):
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {"conjoin": float(ours), "pytorch": float(theirs), "difference": [float(ours - theirs), float(low), float(high)]}


def spread(values):
    values = list(values)
    return f"{statistics.median(values):.2f} [{min(values):.2f}–{max(values):.2f}]"


def report(stored):
    """The results in Markdown."""
    rounds, names = stored["rounds"], stored["contenders"]
    machine = ", ".join(f"{key} {value}" for key, value in stored["machine"].items())
    lines = [
        f"# A whole training beside PyTorch\n\n{machine}. {stored['steps']} steps, {len(rounds)} rounds, "
        f"{stored['threads']} threads, {stored['date']}. Medians of the rounds.\n",
        "| | form | training s | ms per step | waiting for batches | evaluation s | rest s | whole s | peak MiB | temperature |",
        "|---" * 10 + "|",
    ]
    middle = lambda name, value: statistics.median(value(round[name]) for round in rounds)
    training, rest = lambda r: sum(r["seconds"]), lambda r: r["whole"] - sum(r["seconds"]) - r["evaluation"]
    peak = lambda r: r["peak_kib"] / 1024
    for name in names:
        step = middle(name, lambda r: 1e3 * statistics.median(r["seconds"]))
        waiting = middle(name, lambda r: sum(r["waits"]) / sum(r["seconds"]))
        cells = [name, rounds[0][name]["form"], f"{middle(name, training):.1f}", f"{step:.0f}", f"{100 * waiting:.1f} %"]
        cells += [f"{middle(name, value):.1f}" for value in (lambda r: r["evaluation"], rest, lambda r: r["whole"])]
        cells += [f"{middle(name, peak):.0f}", f"{middle(name, lambda r: np.exp(-r['log_scale'])):.4f}"]
        lines.append("| " + " | ".join(cells) + " |")
    if len(names) == 2:
        lines += ["", "PyTorch's by conjoin's, round by round: median [smallest–largest]", "", "| of | ratio |", "|---|---|"]
        for what, value in [("training", training), ("whole", lambda r: r["whole"]),
                            ("evaluation", lambda r: r["evaluation"]), ("memory", peak)]:
            lines.append(f"| {what} | {spread(value(round['pytorch']) / value(round['conjoin']) for round in rounds)} |")
        lines += ["", "| held out, % | conjoin | PyTorch | difference, 95 % interval | conjoin's own measurement |", "|---" * 5 + "|"]
        for name, row in stored["figures"].items():
            difference, low, high = (100 * x for x in row["difference"])
            own = statistics.mean(round["conjoin"]["told"][name] for round in rounds)
            lines.append(f"| {name} | {100 * row['conjoin']:.2f} | {100 * row['pytorch']:.2f} "
                         f"| {difference:+.2f} [{low:+.2f}, {high:+.2f}] | {100 * own:.2f} |")
    else:
        lines += ["", f"| held out, % | {names[0]} |", "|---|---|"]
        for name in rounds[0][names[0]]["told"]:
            value = statistics.mean(round[names[0]]["told"][name] for round in rounds)
            lines.append(f"| {name} | {100 * value:.2f} |")
    return "\n".join(lines) + "\n"


def machine():
    model = [line.split(":")[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8") if "model name" in line]
    import torch

    return {"processor": model[0], "cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}


def compare():
    names = [name for name in CONTENDERS if name in (ARGS.contender or CONTENDERS)]
    seeds = ARGS.seed or list(range(1, ARGS.rounds + 1))
    rounds = []
    for n in range(ARGS.rounds):
        seed, results = seeds[n % len(seeds)], {}
        start = start_of(seed)
        for name in names if n % 2 == 0 else names[::-1]:
            folder = CACHE / name
            if name == "conjoin":
                results[name] = run_conjoin(ARGS.steps, seed, folder)
            else:
                results[name] = run_pytorch(ARGS.steps, seed, folder, form_that_competes())
            weights = folder / ("model/weights.safetensors" if name == "conjoin" else "weights.safetensors")
            results[name]["found"] = measured(derived(ARGS.steps, seed), start, weights)
            seconds = results[name]["seconds"]
            say(f"round {n + 1}, seed {seed}, {name}: {sum(seconds):.1f} s of training, "
                f"{results[name]['whole']:.1f} s in all, {results[name]['peak_kib'] / 1024:.0f} MiB")
        rounds.append(results)
        store(rounds, names, seeds)
    print((CACHE / "results.md").read_text())


def store(rounds, names, seeds):
    """After every round, so that what is done is not lost."""
    plain = lambda r: {key: value for key, value in r.items() if key != "found"}
    stored = {
        "machine": machine(), "date": time.strftime("%Y-%m-%d"), "load_before": os.getloadavg()[2],
        "steps": ARGS.steps, "threads": ARGS.threads, "contenders": names, "seeds": seeds,
        "rounds": [{name: plain(result) for name, result in round.items()} for round in rounds],
        "figures": differences(rounds) if len(names) == 2 else None,
    }
    (CACHE / "results.json").write_text(json.dumps(stored, indent=1) + "\n")
    (CACHE / "results.md").write_text(report(stored), encoding="utf-8")


def main():
    CACHE.mkdir(parents=True, exist_ok=True)
    if ARGS.check:
        check()
    elif ARGS.choose:
        choose()
    else:
        compare()


if __name__ == "__main__":
    main()
