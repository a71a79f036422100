"""Times a training step of conjoin's dual encoder in PyTorch, on the same weights and the same batches.

The towers: MobileNet v1 (batch norm folded into a scale and a bias per channel, as conjoin trains it) and a
pre-norm transformer with mean pooling; a linear projection and unit length each; symmetric InfoNCE with a
learned temperature, equal texts never being negatives of each other; AdamW without decay on biases, norms
and position tables.

In:  CHECKPOINT, a folder written by conjoin (`docs/format/checkpoint.md`): `spec.json` says widths, heads, strides,
     pixel scaling and the temperature, `weights.safetensors` holds the parameters;
     BATCHES, a safetensors (or npz) file with, per step N from 0:
       `step.N.ids`      I32/I64 `[t]`       the token ids of all texts, one behind the other
       `step.N.offsets`  I32/I64 `[b + 1]`   where each text starts; the last is t
       `step.N.pixels`   U8 `[b, h, w, 3]`   the pictures; they enter as (x / 255 - mean) / std
       `step.N.groups`   I32/I64 `[b]`       optional: equal numbers are equal texts (else: equal ids are)
     Steps are used in turn, and again from 0 when they run out.
Out: one line of JSON per way of running it: the median and the quartiles of the step's time in ms, pairs per
     second, the losses of all steps. Progress goes to stderr.
How: every way starts from the same weights. `f32` lets PyTorch choose (its f32 matrix products go through
     MKL); `f32-onednn` sends the same products through oneDNN (as 1x1 convolutions), which is the faster library
     on many CPUs; `bf16` is autocast; `bf16-f32-depthwise` is the same with depthwise convolutions in f32, whose
     gradients PyTorch has only slow kernels for in bf16. All use channels-last pictures and the fused AdamW.
     `--compile` adds TorchInductor where a C++ compiler is there. Leave the machine alone meanwhile: PyTorch's
     threads spin, and a second busy process costs it several times its share.

Run: python benches/peers/train.py CHECKPOINT BATCHES [--modes f32,bf16] [--steps 30] [--threads 2] [--compile]
"""

import argparse
import contextlib
import json
import math
import os
import platform
import statistics
import sys
import time
from pathlib import Path

MODES = ["f32", "f32-onednn", "bf16", "bf16-f32-depthwise"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("batches")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--compile", action="store_true", help="also run every mode through TorchInductor")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=3, help="steps that are not timed (their losses count)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--betas", type=float, nargs=2, default=[0.9, 0.98])
    parser.add_argument("--eps", type=float, default=1e-6)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--clip", type=float, help="largest norm of all gradients together")
    parser.add_argument("--max-log-scale", type=float, default=math.log(100))
    parser.add_argument("--freeze", nargs="*", default=[], help="starts of names that are not trained")
    return parser.parse_args()


ARGS = arguments()
# Before PyTorch starts its threads.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(ARGS.threads)

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from torch_layers import linear_by_onednn, pad_same

torch.set_num_threads(ARGS.threads)


class Step(torch.nn.Module):
    """Both towers and the loss as one module, so that a compiler sees all of it."""

    def __init__(self, spec, weights, mode):
        super().__init__()
        self.onednn = mode == "f32-onednn"
        self.f32_depthwise = mode == "bf16-f32-depthwise"
        self.text, self.image = spec["text"], spec["image"]["mobile_net"]
        shape = (self.text["norm"], self.text["mask"], self.text["pooling"], self.text["input_norm"])
        assert shape == ("pre", "bidirectional", "mean", False), f"not the text tower of this benchmark: {shape}"
        self.log_scale = torch.nn.Parameter(torch.tensor(spec["log_scale"]))
        is_trained = lambda name: not name.startswith(tuple(ARGS.freeze))
        # A name with dots is no attribute of a module.
        self.keys = {name: name.replace(".", "/") for name in weights}
        self.weights = torch.nn.ParameterDict(
            {key: torch.nn.Parameter(weights[name].clone(), is_trained(name)) for name, key in self.keys.items()}
        )
        scaling = spec["contract"]["image"]
        self.register_buffer("mean", 255 * torch.tensor(scaling["mean"]).view(1, 3, 1, 1))
        self.register_buffer("inverse_std", 1 / (255 * torch.tensor(scaling["std"]).view(1, 3, 1, 1)))

    def get(self, name):
        """The parameter of that name; None where the model has none."""
        return self.weights[self.keys[name]] if name in self.keys else None

    def linear(self, x, name):
        """`[…, k] -> […, n]`"""
        multiply = linear_by_onednn if self.onednn else F.linear
        return multiply(x, self.get(f"{name}.weight"), self.get(f"{name}.bias"))

    def norm(self, x, name):
        weight, bias = self.get(f"{name}.weight"), self.get(f"{name}.bias")
        return F.layer_norm(x, weight.shape, weight, bias, self.text["norm_eps"])

    def convolution(self, x, name, kernel, stride=1, groups=1):
        """`relu6(scale * (kernel * x) + bias)`, the scale multiplied into the kernel."""
        kernel = kernel * self.get(f"{name}.scale").view(-1, 1, 1, 1)
        padding = kernel.shape[2] // 2
        if stride > 1:
            x, padding = pad_same(x, kernel.shape[2], stride), 0
        return F.relu6(F.conv2d(x, kernel, self.get(f"{name}.bias"), stride, padding, groups=groups), inplace=True)

    def depthwise(self, x, name, stride):
        c = x.shape[1]
        kernel = self.get(f"{name}.weight").view(3, 3, c, 1).permute(2, 3, 0, 1)
        if not self.f32_depthwise:
            return self.convolution(x, name, kernel, stride, groups=c)
        with torch.autocast("cpu", enabled=False):
            return self.convolution(x.float(), name, kernel, stride, groups=c)

    def images(self, pixels):
        x = (pixels.permute(0, 3, 1, 2).float() - self.mean) * self.inverse_std  # channels-last already
        stem = self.get("image.stem.weight").view(-1, 3, 3, 3).permute(0, 3, 1, 2)
        x = self.convolution(x, "image.stem", stem, self.image["stem_stride"])
        for n, block in enumerate(self.image["blocks"]):
            x = self.depthwise(x, f"image.blocks.{n}.depthwise", block["stride"])
            name = f"image.blocks.{n}.pointwise"
            x = self.convolution(x, name, self.get(f"{name}.weight")[:, :, None, None])
        return F.normalize(self.linear(x.mean((2, 3)), "image.projection"), dim=1)

    def attention(self, x, mask, name):
        b, t, d = x.shape
        h = self.text["heads"]
        q, k, v = self.linear(x, f"{name}.qkv").view(b, t, 3, h, d // h).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return self.linear(y.transpose(1, 2).reshape(b, t, d), f"{name}.out")

    def mlp(self, x, name):
        x = self.linear(x, f"{name}.up")
        match self.text["activation"]:
            case "gelu":
                x = F.gelu(x)
            case "gelu_tanh":
                x = F.gelu(x, approximate="tanh")
            case "quick_gelu":
                x = x * torch.sigmoid(1.702 * x)
            case other:
                raise ValueError(f"unknown activation {other}")
        return self.linear(x, f"{name}.down")

    def texts(self, ids, mask):
        x = F.embedding(ids, self.get("text.tokens.weight")) + self.get("text.positions.weight")[: ids.shape[1]]
        if (types := self.get("text.types.weight")) is not None:
            x = x + types[0]
        for n in range(self.text["layers"]):
            layer = f"text.layers.{n}"
            x = x + self.attention(self.norm(x, f"{layer}.attention.norm"), mask, f"{layer}.attention")
            x = x + self.mlp(self.norm(x, f"{layer}.mlp.norm"), f"{layer}.mlp")
        if self.text["output_norm"]:
            x = self.norm(x, "text.output_norm")
        pooled = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(self.linear(pooled, "text.projection"), dim=1)

    def forward(self, pixels, ids, mask, other_equal):
        """`other_equal` `[b, b]`: pairs (i, j), i != j, whose texts are equal."""
        logits = self.log_scale.exp() * (self.texts(ids, mask) @ self.images(pixels).t()).float()
        logits = logits.masked_fill(other_equal, -math.inf)
        own = torch.arange(len(logits))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2


def read_batches(path):
    """Padded once, before anything is timed."""
    if path.endswith(".npz"):
        tensors = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    else:
        tensors = load_file(path)
    batches = []
    while f"step.{len(batches)}.ids" in tensors:
        step = f"step.{len(batches)}"
        ids, offsets = tensors[f"{step}.ids"].long(), tensors[f"{step}.offsets"].tolist()
        rows = [ids[a:b] for a, b in zip(offsets, offsets[1:])]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(padded.shape[1])[None, :] < torch.tensor([len(r) for r in rows])[:, None]
        groups = tensors.get(f"{step}.groups")
        if groups is None:
            seen = {}
            groups = torch.tensor([seen.setdefault(tuple(r.tolist()), len(seen)) for r in rows])
        equal = groups[:, None] == groups[None, :]
        batches.append((tensors[f"{step}.pixels"], padded, mask, equal.fill_diagonal_(False)))
    if not batches:
        sys.exit(f"{path} has no `step.0.ids`")
    return batches


def optimiser(step):
    """Decay on matrices only: not on vectors, scalars and the tables of positions and types."""
    tables = [step.get("text.positions.weight"), step.get("text.types.weight")]
    trained = [p for p in step.parameters() if p.requires_grad]
    decays = {id(p) for p in trained if p.ndim > 1 and not any(p is table for table in tables)}
    groups = [
        {"params": [p for p in trained if id(p) in decays], "weight_decay": ARGS.weight_decay},
        {"params": [p for p in trained if id(p) not in decays], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=ARGS.lr, betas=tuple(ARGS.betas), eps=ARGS.eps, fused=True)


def measure(mode, compiled, spec, weights, batches):
    """Trains from the given weights; returns losses, seconds per step, and the number of trained parameters."""
    step = Step(spec, weights, mode)
    run = torch.compile(step, dynamic=True) if compiled else step
    adamw = optimiser(step)
    autocast = torch.autocast("cpu", torch.bfloat16) if mode.startswith("bf16") else contextlib.nullcontext()
    losses, seconds = [], []
    for n in range(ARGS.warmup + ARGS.steps):
        start = time.perf_counter()
        adamw.zero_grad()
        with autocast:
            loss = run(*batches[n % len(batches)])
        loss.backward()
        if ARGS.clip:
            torch.nn.utils.clip_grad_norm_(step.parameters(), ARGS.clip)
        adamw.step()
        with torch.no_grad():
            step.log_scale.clamp_(0, ARGS.max_log_scale)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
        print(f"{mode} step {n}: loss {losses[-1]:.5f}, {1e3 * seconds[-1]:.1f} ms", file=sys.stderr)
    return losses, seconds[ARGS.warmup :], sum(p.numel() for p in step.parameters() if p.requires_grad)


def report(mode, compiled, losses, seconds, n_trained, b):
    quartiles = statistics.quantiles(seconds, n=4)
    line = {
        "peer": "pytorch" + ("+inductor" if compiled else ""),
        "mode": mode,
        "median_ms": round(1e3 * quartiles[1], 3),
        "quartiles_ms": [round(1e3 * quartiles[0], 3), round(1e3 * quartiles[2], 3)],
        "pairs_per_s": round(b / quartiles[1], 1),
        "batch": b,
        "timed_steps": len(seconds),
        "threads": ARGS.threads,
        "trained_parameters": n_trained,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "losses": [round(loss, 6) for loss in losses],
    }
    print(json.dumps(line), flush=True)


def main():
    torch.manual_seed(0)
    spec = json.loads((ARGS.checkpoint / "spec.json").read_text())
    weights = {name: tensor.float() for name, tensor in load_file(ARGS.checkpoint / "weights.safetensors").items()}
    batches = read_batches(ARGS.batches)
    for mode in ARGS.modes.split(","):
        for compiled in [False, True] if ARGS.compile else [False]:
            losses, seconds, n_trained = measure(mode, compiled, spec, weights, batches)
            report(mode, compiled, losses, seconds, n_trained, len(batches[0][0]))


if __name__ == "__main__":
    main()
