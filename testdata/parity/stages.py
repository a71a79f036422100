"""What the parity cases of image and text towers share: lively weights, recorded stages, packed files.

A `make.py` builds a tiny model of its library, calls `lively`, saves the checkpoint, and hands one function per
modality to `record`. A case is a folder:

    checkpoint/            the library's own layout
    inputs.json            {"texts": [...], "images": ["PNG relative to the case", ...]}
    golden.safetensors     F32, inputs one behind the other, each run alone and without padding (unless the model
                           reads its padding): text.offsets, text.ids (I64), text.hidden.L, text.pooled,
                           text.embedding, text.dy; image.pixels (channels last), image.hidden.L, ...
    gradients.safetensors  of Σ text.embedding ∘ text.dy + Σ image.embedding ∘ image.dy, under the checkpoint's names

The reference runs in F64, so that its own rounding is not part of the measured error.
"""

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

PARITY = Path(__file__).parent
PICTURES = ["wide.png", "tall.png", "small.png", "grey.png", "alpha.png"]

TEXTS = [
    "A photo of two red apples on the kitchen table",
    "",
    "apple",
    "🍎🍏 яблоко りんご apple, ñandú 3½",
    "fresh green apples and yellow bananas, ripe red tomatoes, brown bread and cold milk for 2 people " * 3,
]

CORPUS = TEXTS + [
    "two red apples on a wooden table", "a bowl of fresh fruit: apples, bananas, oranges and lemons",
    "green tea with milk", "brown bread and butter", "ripe tomatoes from the garden", "cold milk in a glass",
    "a photo of the kitchen", "a photo of a table", "people eat fruit", "the apple tree in the garden",
]


def lively(model, seed):
    """Weights large enough that attention is far from uniform and no two roles can be swapped unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            last = name.rsplit(".", 1)[-1]
            if p.ndim == 0 or "logit_" in name:
                continue
            if "gamma" in name or "lambda" in name:
                p.copy_(0.6 + 0.3 * noise)
            elif p.ndim == 1 and last == "weight":
                p.copy_(1.0 + 0.3 * noise)
            elif p.ndim == 1:
                p.copy_(0.3 * noise)
            elif "embed" in name and "patch" not in name or any(word in name for word in ("token", "latent", "probe")):
                p.copy_(0.7 * noise)
            else:
                p.copy_(1.3 * noise / p[0].numel() ** 0.5)
    return model.eval()


class Stages:
    """The input of the first layer and the output of each, of the last call."""

    def __init__(self, layers):
        self.hidden = {}
        layers[0].register_forward_pre_hook(self._before, with_kwargs=True)
        for n, layer in enumerate(layers):
            layer.register_forward_hook(lambda _, __, y, n=n: self._put(n + 1, y))

    def _before(self, _, args, kwargs):
        self._put(0, args[0] if args else kwargs["hidden_states"])

    def _put(self, level, x):
        self.hidden[level] = (x[0] if isinstance(x, tuple) else x)[0]


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def record(golden, modality, stages, inputs, run, seed):
    """Runs `run(x) -> (pooled [1, d], embedding [1, e])` on each input alone; returns the loss of the modality."""
    hidden, pooled, embeddings = {}, [], []
    for x in inputs:
        p, e = run(x)
        pooled.append(p[0])
        embeddings.append(unit(e[0]))
        for level, h in stages.hidden.items():
            hidden.setdefault(level, []).append(h)
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.stack(embeddings)
    dy = torch.randn(embedding.shape, generator=generator).to(embedding.dtype)
    golden |= {f"{modality}.hidden.{level}": torch.cat(h) for level, h in hidden.items()}
    golden |= {f"{modality}.pooled": torch.stack(pooled), f"{modality}.embedding": embedding, f"{modality}.dy": dy}
    return (embedding * dy).sum()


def put_ids(golden, ids):
    """`ids`: one list per text."""
    ends = torch.tensor([0] + [len(row) for row in ids]).cumsum(0)
    golden |= {"text.offsets": ends, "text.ids": torch.tensor([i for row in ids for i in row])}


def put_pixels(golden, pixels):
    """`pixels`: one `[3, h, w]` per picture."""
    golden["image.pixels"] = torch.stack([p.permute(1, 2, 0) for p in pixels])


def write(case, golden, texts=None, images=None, versions=None):
    inputs = {}
    if texts is not None:
        inputs["texts"] = texts
    if images is not None:
        inputs["images"] = [os.path.relpath(PARITY / "pictures" / name, case) for name in images]
    (case / "inputs.json").write_text(json.dumps(inputs, ensure_ascii=False, indent=1) + "\n")
    save_file(
        {n: (t.detach().float() if t.is_floating_point() else t).contiguous() for n, t in golden.items()},
        case / "golden.safetensors", metadata={"versions": json.dumps(versions)},
    )


def write_gradients(case, model, loss, weights, names=lambda name: name):
    """The gradients of `loss`, under the names of the file `weights`."""
    loss.backward()
    stored = load_file(weights)
    gradients = {names(n): p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert set(gradients) <= set(stored), sorted(set(gradients) - set(stored))
    save_file({n: g.float().contiguous() for n, g in gradients.items()}, case / "gradients.safetensors")
    return set(stored) - set(gradients)


def fresh(case):
    """An empty case folder; its checkpoint folder."""
    shutil.rmtree(case, ignore_errors=True)
    (case / "checkpoint").mkdir(parents=True)
    return case / "checkpoint"


def pictures(names=PICTURES):
    """RGB pictures, transparent ones over white: how a picture is decoded is conjoin's rule, not the libraries'."""
    from PIL import Image

    opened = [Image.open(PARITY / "pictures" / name) for name in names]
    whites = [Image.new("RGB", picture.size, (255, 255, 255)) for picture in opened]
    for white, picture in zip(whites, opened):
        white.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
    return whites


def merges_of(corpus, letter_of, count):
    """The most frequent pairs, one after the other; ties by spelling (the trainer of `tokenizers` rolls dice)."""
    words = Counter(word for text in corpus for word in re.findall(r"[^\W\d_]+", text.lower()))
    spelled = {word: [letter_of[b] for b in word.encode()] for word in words}
    for letters in spelled.values():
        letters[-1] += "</w>"
    merges = []
    while len(merges) < count:
        pairs = Counter()
        for word, parts in spelled.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += words[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in spelled.values():
            for n in range(len(parts) - 2, -1, -1):
                if tuple(parts[n : n + 2]) == best:
                    parts[n : n + 2] = ["".join(best)]
    return merges


def clip_tokenizer(max_tokens, extra=()):
    """CLIP's own kind: bytes, bytes at the end of a word, merges, two special tokens; then `extra` words."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letter_of = bytes_to_unicode()
    letters = sorted(letter_of.values())
    merges = merges_of(CORPUS, letter_of, 48)
    words = letters + [f"{letter}</w>" for letter in letters] + [a + b for a, b in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: n for n, word in enumerate(dict.fromkeys(words))}
    made = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_tokens)
    made.add_tokens(list(extra))
    assert made.eos_token_id == len(vocab) - 1
    return made
