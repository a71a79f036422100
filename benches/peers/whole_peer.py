"""A whole training of conjoin's small recipe in PyTorch: loader, steps, evaluation.

In:  RECIPE, one stage as `whole_training.py` derives it (its paths are relative to the working folder); START, the
     checkpoint that conjoin begins with; FORM; OUT, an empty folder.
Out: OUT/weights.safetensors, OUT/ranks.npz (of every held-out text and photo, and cosines of graded pairs),
     OUT/result.json (seconds, losses, figures).
Forms: `MODE+groupsN+workersN[+inductor]`. MODE is `f32` (products through MKL), `f32-onednn` (the same through
     oneDNN, as 1x1 convolutions), `bf16` (autocast) or `bf16-f32-depthwise` (the same with depthwise convolutions in
     f32, whose gradients are slow in bf16). N processes prepare batches. The texts of a step are sorted by length and
     padded in N groups, each to its longest; 1 is what a user gets. `inductor` is `torch.compile`,
     `inductor-images` the same of the image tower alone, whose shapes are always the same.
How: channels-last pictures, fused AdamW, frozen layers without gradients and in bf16 under autocast, the texts of all
     tasks in one pass, one backward of the summed losses. Random draws follow conjoin's rules but not its numbers.

Run by `whole_training.py`: python whole_peer.py RECIPE START FORM OUT [--threads 2]
"""

import argparse
import contextlib
import csv
import gzip
import io
import json
import math
import os
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from torch_layers import linear_by_onednn, pad_same

GREY = np.array([0.299, 0.587, 0.114], np.float32)
NO_DECAY = ("text.positions.", "text.types.")
BEFORE_LAYERS = ("text.tokens.", "text.positions.", "text.types.", "text.input_norm.")
CROP_TRIES = 10


class Form:
    """How PyTorch is run."""

    def __init__(self, text):
        self.text = text
        self.mode, *rest = text.split("+")
        self.compiled, self.compiled_images = "inductor" in rest, "inductor-images" in rest
        number = lambda word, other: next((int(r.removeprefix(word)) for r in rest if r.startswith(word)), other)
        self.workers, self.groups = number("workers", 1), number("groups", 1)
        assert self.mode in ("f32", "f32-onednn", "bf16", "bf16-f32-depthwise"), f"unknown mode {self.mode}"

    def autocast(self):
        return torch.autocast("cpu", torch.bfloat16) if self.mode.startswith("bf16") else contextlib.nullcontext()


def to_torch(name, weight):
    """A kernel as PyTorch has it: conjoin's are `[n, k]`, depthwise ones `[9, c]`."""
    weight = weight.clone()  # the given one stays as it is
    if not name.startswith("image.") or not name.endswith(".weight") or name == "image.projection.weight":
        return weight
    if name.endswith("depthwise.weight"):
        return weight.t().reshape(-1, 1, 3, 3).contiguous()
    if name == "image.stem.weight":
        return weight.view(-1, 3, 3, 3).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    return weight[:, :, None, None].contiguous(memory_format=torch.channels_last)


def from_torch(name, weight):
    """The way back."""
    if weight.ndim < 4:
        return weight
    if name.endswith("depthwise.weight"):
        return weight.reshape(-1, 9).t().contiguous()
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1).contiguous()


class Dual(torch.nn.Module):
    """Both towers and the losses of a step."""

    def __init__(self, spec, weights, recipe, form):
        super().__init__()
        self.form, self.onednn = form, form.mode == "f32-onednn"
        self.text, self.image = spec["text"], spec["image"]["mobile_net"]
        found = (self.text["norm"]["placement"], self.text["pooling"], self.text["input_norm"], len(self.text["head"]))
        assert found == ("post", "mean", True, 1), f"not the text tower of this benchmark: {found}"
        stage = recipe["stage"][0]
        self.n_frozen = recipe["train"].get("text", {}).get("select", {}).get("freeze_layers", 0)
        self.weights = torch.nn.ParameterDict(
            {
                name.replace(".", "/"): torch.nn.Parameter(to_torch(name, weight), self.is_trained(name))
                for name, weight in weights.items()
            }
        )
        scaling = spec["contract"]["image"]
        self.register_buffer("mean", 255 * torch.tensor(scaling["mean"]).view(1, 3, 1, 1))
        self.register_buffer("inverse_std", 1 / (255 * torch.tensor(scaling["std"]).view(1, 3, 1, 1)))
        self.batches = [task["batch"] for task in stage["task"]]
        self.scales = [task["loss"]["log_scale"] for task in stage["task"]]
        self.log_scales = torch.nn.ParameterList(
            [torch.nn.Parameter(torch.tensor(s["init"]), s["learned"]) for s in self.scales]
        )

    def is_trained(self, name):
        """Frozen are the first layers and what comes before them."""
        if self.n_frozen == 0 or not name.startswith("text."):
            return True
        layer = int(name.split(".")[2]) if name.startswith("text.layers.") else None
        return not name.startswith(BEFORE_LAYERS) and (layer is None or layer >= self.n_frozen)

    def named(self):
        return [(key.replace("/", "."), p) for key, p in self.weights.items()]

    def get(self, name):
        key = name.replace(".", "/")
        return self.weights[key] if key in self.weights else None

    def linear(self, x, name):
        """`[…, k] -> […, n]`"""
        multiply = linear_by_onednn if self.onednn else F.linear
        return multiply(x, self.get(f"{name}.weight"), self.get(f"{name}.bias"))

    def norm(self, x, name):
        weight, bias = self.get(f"{name}.weight"), self.get(f"{name}.bias")
        return F.layer_norm(x, weight.shape, weight, bias, self.text["norm"]["eps"])

    def convolution(self, x, name, stride=1, groups=1):
        """`relu6(scale * (kernel * x) + bias)`, the scale multiplied into the kernel."""
        kernel = self.get(f"{name}.weight") * self.get(f"{name}.scale").view(-1, 1, 1, 1)
        padding = kernel.shape[2] // 2
        if stride > 1:
            x, padding = pad_same(x, kernel.shape[2], stride), 0
        return F.relu6(F.conv2d(x, kernel, self.get(f"{name}.bias"), stride, padding, groups=groups), inplace=True)

    def depthwise(self, x, name, stride):
        if self.form.mode != "bf16-f32-depthwise":
            return self.convolution(x, name, stride, groups=x.shape[1])
        with torch.autocast("cpu", enabled=False):
            return self.convolution(x.float(), name, stride, groups=x.shape[1])

    def images(self, pixels):
        """`[b, h, w, 3]` of bytes to unit vectors."""
        # Outside of what is compiled: torch 2.11's inductor dies of a segmentation fault in it.
        return self.image_tower((pixels.permute(0, 3, 1, 2).float() - self.mean) * self.inverse_std)  # channels-last

    def image_tower(self, x):
        x = self.convolution(x, "image.stem", self.image["stem_stride"])
        for n, block in enumerate(self.image["blocks"]):
            x = self.depthwise(x, f"image.blocks.{n}.depthwise", block["stride"])
            x = self.convolution(x, f"image.blocks.{n}.pointwise")
        return F.normalize(self.linear(x.mean((2, 3)), "image.projection").float(), dim=1)

    def layer(self, x, mask, n):
        name = f"text.layers.{n}"
        b, t, d = x.shape
        h = self.text["attention"]["heads"]
        q, k, v = self.linear(x, f"{name}.attention.qkv").view(b, t, 3, h, d // h).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        y = self.linear(y.transpose(1, 2).reshape(b, t, d), f"{name}.attention.out")
        x = self.norm(x + y, f"{name}.attention.norm")
        y = self.linear(F.gelu(self.linear(x, f"{name}.mlp.up")), f"{name}.mlp.down")
        return self.norm(x + y, f"{name}.mlp.norm")

    def texts(self, ids, mask):
        """`[b, t]` to unit vectors; `mask` is true where a token is."""
        frozen = torch.no_grad() if self.n_frozen else contextlib.nullcontext()
        with frozen:
            x = F.embedding(ids, self.get("text.tokens.weight")) + self.get("text.positions.weight")[: ids.shape[1]]
            x = self.norm(x + self.get("text.types.weight")[0], "text.input_norm")
            for n in range(self.n_frozen):
                x = self.layer(x, mask, n)
        for n in range(self.n_frozen, self.text["layers"]):
            x = self.layer(x, mask, n)
        pooled = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(self.linear(pooled, "text.head.0").float(), dim=1)

    def forward(self, pixels, groups, places, others):
        """The losses: texts with pictures, texts with texts. `groups` are padded texts, row `places[i]` of them is
        text `i`; `others` tell per task which pairs besides the own are equal."""
        texts = torch.cat([self.texts(*group) for group in groups])[places]
        b, c = self.batches
        sides = [(texts[:b], self.images(pixels)), (texts[b : b + c], texts[b + c :])]
        return [self.info_nce(*side, *rest) for side, *rest in zip(sides, self.log_scales, others)]

    def info_nce(self, queries, documents, log_scale, other_equal):
        with torch.autocast("cpu", enabled=False):
            logits = log_scale.exp() * (queries @ documents.t())
            logits = logits.masked_fill(other_equal, -math.inf)
            own = torch.arange(len(logits))
            return F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)  # symmetric_sum

    def freeze_in_bf16(self):
        """Frozen matrices in bf16 once, not in every step; returns how to bring them back."""
        frozen = [p for name, p in self.named() if not p.requires_grad and name.startswith("text.layers.")]
        frozen = [p for p in frozen if p.ndim > 1] if self.form.mode.startswith("bf16") else []
        exact = [p.data for p in frozen]
        for p in frozen:
            p.data = p.data.bfloat16()

        def restore():
            for p, data in zip(frozen, exact):
                p.data = data

        return restore


class Trainer:
    """The model with its optimiser: AdamW without decay on vectors and tables of positions, rates by prefix."""

    def __init__(self, spec, weights, recipe, form):
        self.recipe, self.model = recipe, Dual(spec, weights, recipe, form)
        self.run = torch.compile(self.model) if form.compiled else self.model
        if form.compiled_images:
            self.model.image_tower = torch.compile(self.model.image_tower)
        rule = recipe["train"]["optimizer"]
        named = [(name, p) for name, p in self.model.named() if p.requires_grad]
        self.trained = [p for _, p in named] + [p for p in self.model.log_scales if p.requires_grad]
        groups = {}
        for name, p in named:
            fitting = [m for m in rule["lr_multipliers"] if name.startswith(m["prefix"])]
            factor = max(fitting, key=lambda m: len(m["prefix"]))["factor"] if fitting else 1.0
            decay = rule["weight_decay"] if p.ndim > 1 and not name.startswith(NO_DECAY) else 0.0
            groups.setdefault((factor, decay), []).append(p)
        groups.setdefault((1.0, 0.0), []).extend(p for p in self.model.log_scales if p.requires_grad)
        groups = [{"params": ps, "factor": factor, "weight_decay": decay} for (factor, decay), ps in groups.items()]
        self.adamw = torch.optim.AdamW(groups, lr=0.0, betas=tuple(rule["betas"]), eps=rule["eps"], fused=True)

    def rate(self, step):
        stage = self.recipe["stage"][0]
        rule, steps = stage["schedule"], stage["steps"]
        assert rule["decay"] == "cosine", "not the schedule of this benchmark"
        if step < rule["warmup_steps"]:
            return rule["peak_lr"] * (step + 1) / rule["warmup_steps"]
        done = (step - rule["warmup_steps"]) / max(steps - rule["warmup_steps"], 1)
        return rule["peak_lr"] * (rule["floor"] + (1 - rule["floor"]) * 0.5 * (1 + math.cos(math.pi * done)))

    def step(self, n, batch):
        """The losses of the tasks before the update, and the norm of all gradients."""
        for group in self.adamw.param_groups:
            group["lr"] = self.rate(n) * group["factor"]
        self.adamw.zero_grad()
        with self.model.form.autocast():
            losses = self.run(*batch)
        sum(losses).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.recipe["train"]["clip_norm"], foreach=True)
        self.adamw.step()
        with torch.no_grad():
            for p, rule in zip(self.model.log_scales, self.model.scales):
                p.clamp_(rule["min"], rule["max"])
        return [loss.item() for loss in losses], norm.item()

    def weights(self):
        return {name: from_torch(name, p.detach()) for name, p in self.model.named()}


def open_text(path):
    return gzip.open(path, "rt", encoding="utf-8") if str(path).endswith(".gz") else open(path, encoding="utf-8")


class Photos:
    """The items of a split, and their pictures by position in the shards."""

    def __init__(self, folder, split):
        self.folder, self.files = Path(folder), {}
        with open(self.folder / "items.jsonl", encoding="utf-8") as file:
            items = (json.loads(line) for line in file)
            self.items = [item for item in items if item["split"] == split and item["image"] and item["texts"]]

    def open(self, n):
        at = self.items[n]["image"]
        key = (os.getpid(), at["shard"])  # a forked process opens its own
        if key not in self.files:
            self.files[key] = open(self.folder / f"shard-{at['shard']:05}.tar", "rb")
        jpeg = os.pread(self.files[key].fileno(), at["length"], at["offset"])
        return Image.open(io.BytesIO(jpeg)).convert("RGB")

    def texts(self, n):
        return [text.strip() for _, text in self.items[n]["texts"]]


def augmented(picture, rule, size, draw):
    """A random resized crop by torchvision's rule, a flip, and brightness, contrast and saturation as one linear map
    (conjoin's), rounded once."""
    width, height = picture.size
    box = None
    for _ in range(CROP_TRIES):
        area = width * height * draw.uniform(*rule["crop"]["scale"])
        ratio = math.exp(draw.uniform(*(math.log(r) for r in rule["crop"]["ratio"])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 1 <= w <= width and 1 <= h <= height:
            left, top = int(draw.integers(width - w + 1)), int(draw.integers(height - h + 1))
            box = (left, top, left + w, top + h)
            break
    if box is None:  # the largest centred crop of an allowed shape
        narrow, wide = rule["crop"]["ratio"]
        w, h = min(width, round(height * wide)), min(height, round(width / narrow))
        box = ((width - w) // 2, (height - h) // 2, (width - w) // 2 + w, (height - h) // 2 + h)
    # Cropped first: `box` of `resize` would look beyond the crop's edges.
    x = np.asarray(picture.crop(box).resize((size, size), Image.BICUBIC))
    if draw.random() < rule["flip"]:
        x = x[:, ::-1]
    brightness, contrast, saturation = (
        1 + rule[key] * draw.uniform(-1, 1) for key in ("brightness", "contrast", "saturation")
    )
    assert rule["colour_cast"] == 0, "not the augmentation of this benchmark"
    x = x.astype(np.float32)
    grey = x @ GREY  # [h, w]
    gain, offset = brightness * contrast, (1 - contrast) * brightness * grey.mean()
    x *= saturation * gain
    x += ((1 - saturation) * gain * grey + offset)[:, :, None]
    x += 0.5
    return np.clip(x, 0, 255, out=x).astype(np.uint8)


def pad(rows):
    """Padded ids, and where tokens are."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return ids, torch.arange(ids.shape[1])[None, :] < torch.tensor([len(row) for row in rows])[:, None]


def in_groups(rows, n_groups):
    """Texts sorted by length and padded in groups, and the place of every text among them."""
    order = np.argsort([len(row) for row in rows], kind="stable")
    places = np.empty(len(rows), np.int64)
    places[order] = np.arange(len(rows))
    return [pad([rows[i] for i in part]) for part in np.array_split(order, n_groups)], torch.from_numpy(places)


def tokenizer(start, most):
    reader = Tokenizer.from_file(str(start / "tokenizer.json"))
    reader.no_padding()
    reader.enable_truncation(most)
    return reader


def other_equal(*keys):
    """Pairs that are no negatives: equal in one of the keys, and not the own."""
    equal = np.zeros((len(keys[0]), len(keys[0])), bool)
    for key in keys:
        numbers = np.unique(np.array(key), return_inverse=True)[1]
        equal |= numbers[:, None] == numbers[None, :]
    np.fill_diagonal(equal, False)
    return torch.from_numpy(equal)


def normal(text):
    return " ".join(text.lower().split())


class Batches(torch.utils.data.Dataset):
    """Item `n` is the batch of step `n`: texts with pictures, and texts with texts of a source drawn by weight."""

    def __init__(self, recipe, spec, start, form):
        stage = recipe["stage"][0]
        self.seed, self.steps, self.form = recipe["train"]["seed"], stage["steps"], form
        self.rule, self.size = recipe["train"]["augment"], spec["contract"]["image"]["size"]
        self.reader = tokenizer(start, stage["max_tokens"])
        images, texts = stage["task"]
        self.batches = (images["batch"], texts["batch"])
        self.photos = Photos(images["data"][0]["items"]["path"], "train")
        assert images["data"][0]["items"]["texts"] == "any" and len(images["data"]) == 1, "other data"
        pairs = texts["data"][1]["pairs"]
        columns = pairs["columns"]
        with open_text(pairs["path"]) as file:
            rows = (json.loads(line) for line in file)
            self.pairs = [(row[columns["query"]], row[columns["document"]]) for row in rows]
        # Which source gives the texts of a step, and how many steps it had before.
        share = texts["data"][0]["weight"] / sum(source["weight"] for source in texts["data"])
        self.turns = (np.random.default_rng([self.seed, 2]).random(self.steps) >= share).astype(int)
        self.before = [int((self.turns[:n] == turn).sum()) for n, turn in enumerate(self.turns)]
        self.orders = {}

    def __len__(self):
        return self.steps

    def rows(self, source, n_rows, batch, n):
        """The rows of a source's batch `n`: every epoch is a new order of all of them."""
        per_epoch = n_rows // batch
        epoch, at = divmod(n, per_epoch)
        key = (source, epoch)
        if key not in self.orders:
            self.orders = {k: v for k, v in self.orders.items() if k[0] != source}
            self.orders[key] = np.random.default_rng([self.seed, source, epoch]).permutation(n_rows)
        return self.orders[key][at * batch : (at + 1) * batch]

    def two_texts(self, n, draw):
        texts = self.photos.texts(n)
        first = int(draw.integers(len(texts)))
        return texts[first], texts[(first + int(draw.integers(1, len(texts)))) % len(texts)]

    def __getitem__(self, step):
        draw = np.random.default_rng([self.seed, 10, step])
        b, c = self.batches
        shown = self.rows(11, len(self.photos.items), b, step)
        pixels = np.stack([augmented(self.photos.open(n), self.rule, self.size, draw) for n in shown])
        captions = [texts[int(draw.integers(len(texts)))] for texts in map(self.photos.texts, shown)]
        keys_of = lambda rows: zip(*((self.photos.items[n]["group"], self.photos.items[n]["image"]["sha256"]) for n in rows))
        others = [other_equal(*keys_of(shown))]
        turn, before = self.turns[step], self.before[step]
        if turn == 0:
            rows = self.rows(12, len(self.photos.items), c, before)
            pairs = [self.two_texts(n, draw) for n in rows]
            others.append(other_equal(*keys_of(rows)))
        else:
            pairs = [self.pairs[n] for n in self.rows(13, len(self.pairs), c, before)]
            others.append(other_equal(*([normal(text) for text in side] for side in zip(*pairs))))
        texts = [*captions, *(query for query, _ in pairs), *(document for _, document in pairs)]
        groups, places = in_groups([e.ids for e in self.reader.encode_batch(texts)], self.form.groups)
        return torch.from_numpy(pixels), groups, places, others


class HeldOut:
    """What is measured on, read once: every caption and photo of the held-out part, and graded pairs."""

    def __init__(self, recipe, spec, start):
        reader = tokenizer(start, spec["contract"]["text"]["max_tokens"])
        by_name = {measure["name"]: measure for measure in recipe["measure"]}
        photos = Photos(by_name["flickr8k"]["items"], "val")
        size = spec["contract"]["image"]["size"]
        resized = lambda p: p if p.size == (size, size) else p.resize((size, size), Image.BICUBIC)
        self.pixels = torch.from_numpy(
            np.stack([np.asarray(resized(photos.open(n))) for n in range(len(photos.items))])
        )
        groups = np.array([item["group"] for item in photos.items])
        captions = [(n, text) for n in range(len(groups)) for text in photos.texts(n)]
        self.photo_of = np.array([n for n, _ in captions])
        self.captions = [e.ids for e in reader.encode_batch([text for _, text in captions])]
        numbers = np.unique(groups, return_inverse=True)[1]
        self.fits = numbers[self.photo_of][:, None] == numbers[None, :]  # [captions, photos]
        graded = by_name["stsb"]["graded"]
        with open_text(graded["path"]) as file:
            rows = [[row[graded["columns"][key]] for key in ("query", "document", "grade")] for row in csv.reader(file)]
        self.grades = np.array([float(grade) for *_, grade in rows])
        self.sides = [[e.ids for e in reader.encode_batch([row[i] for row in rows])] for i in range(2)]

    def measure(self, model):
        """Ranks of the first that fits, of every caption and photo, and cosines of the graded pairs; in f32."""
        with torch.inference_mode():
            images = torch.cat([model.images(part) for part in self.pixels.split(64)]).numpy()
            texts = [self.embed(model, rows) for rows in (self.captions, *self.sides)]
        scores = texts[0] @ images.T
        cosines = (texts[1] * texts[2]).sum(1)
        return {
            "text_to_image": ranks(scores, self.fits), "image_to_text": ranks(scores.T, self.fits.T),
            "cosines": cosines, "grades": self.grades, "photo_of": self.photo_of,
        }

    def embed(self, model, rows):
        groups, places = in_groups(rows, -(-len(rows) // 256))
        return torch.cat([model.texts(*group) for group in groups])[places].numpy()


def ranks(scores, fits):
    """From 1: how many that do not fit come before the first that does."""
    best = np.where(fits, scores, -np.inf).max(1)
    return 1 + ((scores > best[:, None]) & ~fits).sum(1)


def average_ranks(values):
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def spearman(a, b):
    return float(np.corrcoef(average_ranks(a), average_ranks(b))[0, 1])


def figures(found):
    """By conjoin's names."""
    told = {
        f"flickr8k/{way}/recall@{k}": float((found[way] <= k).mean())
        for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)
    }
    return told | {"stsb/spearman": spearman(found["cosines"], found["grades"])}


def train(trainer, batches, form):
    """All steps; seconds of each with the wait for its batch, of the wait alone, and of this process's CPU."""
    loader = torch.utils.data.DataLoader(
        batches, batch_size=None, num_workers=form.workers, prefetch_factor=2 if form.workers else None
    )
    restore = trainer.model.freeze_in_bf16()
    seconds, waits, processor, losses = [], [], [], []
    begun = time.perf_counter()
    loader = iter(loader)
    for n in range(len(batches)):
        worked = time.process_time()
        batch = next(loader)
        waits.append(time.perf_counter() - begun)
        found, norm = trainer.step(n, batch)
        assert math.isfinite(norm), f"step {n}: the norm of the gradients is {norm}"
        losses.append(found)
        processor.append(time.process_time() - worked)
        now = time.perf_counter()
        seconds.append(now - begun)
        begun = now
        if n % 50 == 0:
            print(f"step {n}: losses {found}, {seconds[-1]:.3f} s", file=sys.stderr, flush=True)
    restore()
    return {"seconds": seconds, "waits": waits, "processor": processor, "losses": losses}


def read(recipe, start):
    spec = json.loads((start / "spec.json").read_text())
    weights = {name: tensor.float() for name, tensor in load_file(start / "weights.safetensors").items()}
    return tomllib.loads(recipe.read_text()), spec, weights


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("recipe", "start"):
        parser.add_argument(name, type=Path)
    parser.add_argument("form", type=Form)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-measure", action="store_true", help="only train")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe, spec, weights = read(args.recipe, args.start)
    torch.manual_seed(recipe["train"]["seed"])
    trainer = Trainer(spec, weights, recipe, args.form)
    batches = Batches(recipe, spec, args.start, args.form)
    held_out = None if args.no_measure else HeldOut(recipe, spec, args.start)
    result = train(trainer, batches, args.form)
    if held_out:
        begun = time.perf_counter()
        found = held_out.measure(trainer.model)
        result |= {"figures": figures(found), "evaluation": time.perf_counter() - begun}
        np.savez(args.out / "ranks.npz", **found)
        save_file(trainer.weights(), args.out / "weights.safetensors")
    result["log_scale"] = trainer.model.log_scales[0].item()
    (args.out / "result.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
