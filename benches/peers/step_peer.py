"""A training step of the dual encoder in PyTorch, from conjoin's weights and on the same batch.

In:  CONTENDER `pytorch-f32` or `pytorch-bf16` (autocast), FORM `eager` (f32 products go through MKL), `onednn` (the
     same through oneDNN, as 1x1 convolutions, which also have its backward) or `inductor` (`torch.compile`); the
     files that `prepare` writes; then lines on stdin: a number of steps each.
Out: lines of JSON on stdout, as `crates/train/examples/step_speed.rs` writes them. `prepare` and `command` serve `run.py`.
How: towers of 6 layers, width 384, 6 heads; pictures of 128 pixels in patches of 16, texts of 32 tokens; mean
     pooling, symmetric InfoNCE with a learned scale, fused AdamW without decay on vectors and tables of positions.

Run by `run.py`: python step_peer.py CONTENDER FORM --folder CACHE/inputs/train --threads 2
"""

import argparse
import contextlib
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SIDE, BATCH, TOKENS, VOCABULARY = 128, 32, 32, 8192
LAYERS, HEADS, PATCH = 6, 6, 16
LEARNING_RATE = 1e-4
TOLD = 3


def prepare(args):
    """Writes the batch, and conjoin's fresh weights."""
    folder = args.cache / "inputs/train"
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "ids.json").exists():
        return
    generator = np.random.default_rng(5)
    pixels = generator.integers(0, 256, (BATCH, SIDE // 16, SIDE // 16, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    (folder / "pixels.u8").write_bytes(pixels.tobytes())
    worker = [str((args.bin / "step_speed").absolute()), "--write-weights", str(folder / "weights.safetensors")]
    subprocess.run(worker, check=True)
    ids = generator.integers(0, VOCABULARY, (BATCH, TOKENS))
    (folder / "ids.json").write_text(json.dumps(ids.tolist()) + "\n")


def command(args, contender, form, threads):
    """The worker's command line."""
    folder = (args.cache / "inputs/train").absolute()
    if contender.startswith("conjoin"):
        program = [str((args.bin / "step_speed").absolute()), "--precision", form, "--threads", str(threads)]
        files = {"--weights": "weights.safetensors", "--pixels": "pixels.u8", "--ids": "ids.json"}
        return program + [word for flag, name in files.items() for word in (flag, str(folder / name))]
    python = [sys.executable, "-W", "ignore", str(Path(__file__).resolve())]
    return [*python, contender, form, "--folder", str(folder), "--threads", str(threads)]


def model(weights, onednn):
    """Both towers and the loss as one module."""
    import torch
    import torch.nn.functional as F
    from torch_layers import linear_by_onednn

    class Dual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            parameters = {name.replace(".", "/"): torch.nn.Parameter(value) for name, value in weights.items()}
            self.weights = torch.nn.ParameterDict(parameters)
            self.log_scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07)))

        def get(self, name):
            key = name.replace(".", "/")
            return self.weights[key] if key in self.weights else None

        def linear(self, x, name):
            multiply = linear_by_onednn if onednn else F.linear
            return multiply(x, self.get(f"{name}.weight"), self.get(f"{name}.bias"))

        def norm(self, x, name):
            weight = self.get(f"{name}.weight")
            return F.layer_norm(x, weight.shape, weight, self.get(f"{name}.bias"), 1e-5)

        def attention(self, x, name):
            b, t, d = x.shape
            q, k, v = self.linear(x, f"{name}.qkv").view(b, t, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v)
            return self.linear(y.transpose(1, 2).reshape(b, t, d), f"{name}.out")

        def encode(self, x, tower):
            x = x + self.get(f"{tower}.positions.weight")
            for n in range(LAYERS):
                layer = f"{tower}.layers.{n}"
                x = x + self.attention(self.norm(x, f"{layer}.attention.norm"), f"{layer}.attention")
                hidden = F.gelu(self.linear(self.norm(x, f"{layer}.mlp.norm"), f"{layer}.mlp.up"))
                x = x + self.linear(hidden, f"{layer}.mlp.down")
            x = self.norm(x, f"{tower}.output_norm").mean(1)
            return F.normalize(self.linear(x, f"{tower}.head.0"), dim=-1)

        def forward(self, pixels, ids):
            kernel = self.get("image.patch.weight")
            kernel = kernel.view(-1, PATCH, PATCH, 3).permute(0, 3, 1, 2)
            patches = F.conv2d(pixels, kernel, self.get("image.patch.bias"), PATCH).flatten(2).transpose(1, 2)
            images = self.encode(patches, "image")
            texts = self.encode(F.embedding(ids, self.get("text.tokens.weight")), "text")
            logits = (self.log_scale.exp() * (texts @ images.t())).float()
            own = torch.arange(len(logits))
            return (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2

    return Dual()


def optimiser(module):
    import torch

    tables = ("positions/weight",)
    named = list(module.named_parameters())
    decays = [p for name, p in named if p.ndim > 1 and not name.endswith(tables)]
    others = [p for name, p in named if p.ndim <= 1 or name.endswith(tables)]
    groups = [{"params": decays, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)


def batch(folder):
    import torch

    pixels = np.frombuffer((folder / "pixels.u8").read_bytes(), np.uint8).reshape(-1, SIDE, SIDE, 3)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    x = (pixels.astype(np.float32) / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    ids = torch.tensor(json.loads((folder / "ids.json").read_text()))
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))), ids


def stepper(contender, form, folder):
    """A function that does one step and returns the loss before it."""
    import torch
    from safetensors.torch import load_file

    module = model(load_file(folder / "weights.safetensors"), form == "onednn")
    adamw, inputs = optimiser(module), batch(folder)
    run = torch.compile(module) if form == "inductor" else module

    def step():
        adamw.zero_grad()
        autocast = torch.autocast("cpu", torch.bfloat16) if contender.endswith("bf16") else contextlib.nullcontext()
        with autocast:
            loss = run(*inputs)
        loss.backward()
        adamw.step()
        return loss.item()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("contender")
    parser.add_argument("form")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    import torch

    from worker import say, serve

    torch.set_num_threads(args.threads)
    begun = time.perf_counter()
    step = stepper(args.contender, args.form, args.folder)
    losses = [step()]
    say(ready=time.perf_counter() - begun)
    losses += [step() for _ in range(1, TOLD)]
    say(losses=losses)
    serve(step, BATCH)


if __name__ == "__main__":
    main()
