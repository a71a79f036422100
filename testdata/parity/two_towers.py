"""What the make.py of models with a text and an image tower share: inputs, weights, and how a case is written.

In:  a torch module with seeded weights, functions that run one text or one image through it.
Out: per case `inputs.json`, `golden.safetensors` and, where asked for, `gradients.safetensors`
     (what they hold is told in `README.md`).
How: every input runs alone, so neither padding nor the batch can matter; computed in F64 from the stored F32
     weights and rounded once.
"""

import json

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

TEXTS = [
    "A red bicycle leans against the blue wall of a bakery.",
    "",
    "Bicycle",
    "Кот 🐱 naïve 東京 (café) “quoted”, 100%!",
    "a very long text that goes on and on " * 12,
    "two  spaces,\ttabs and UPPER case",
]

# width x height; none is square, none a multiple of a patch, two are smaller than any model's input.
SIZES = {"wide": (131, 47), "tall": (38, 97), "small": (17, 13), "grey": (64, 75), "alpha": (73, 60)}


def make_images(folder):
    """Smooth colours with hard edges and noise: resizing errors show in all three."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(7)
    for name, (width, height) in SIZES.items():
        y, x = np.mgrid[0:height, 0:width]
        channels = [127 + 120 * np.sin(x / (5 + c) + c) * np.cos(y / (9 - c)) for c in range(3)]
        pixels = np.stack(channels, -1) + random.normal(0, 12, (height, width, 3))
        pixels[height // 3 : height // 2, width // 4 : width // 2] = [250, 20, 90]
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGB")
        if name == "grey":
            image = image.convert("L")
        if name == "alpha":
            # Wholly clear or wholly solid: how partly clear pixels round is not the model's rule.
            image.putalpha(Image.fromarray(np.where((x + y) % 20 < 7, 0, 255).astype(np.uint8), "L"))
        image.save(folder / f"{name}.png", optimize=True)


def randomise(parameters, generator):
    """Weights large enough that attention is far from uniform and no two roles can be swapped unseen."""
    with torch.no_grad():
        for name, p in parameters:
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim <= 1 and name.endswith("weight"):
                p.copy_(1.0 + 0.3 * noise)
            elif p.ndim <= 1:
                p.copy_(0.3 * noise)
            elif any(part in name for part in ("embed", "probe", "token")) and "proj" not in name:
                p.copy_(0.7 * noise)
            else:
                p.copy_(1.3 * noise / p[0].numel() ** 0.5)


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def watch(layers):
    """Records the input of the first layer and the output of every layer of one run."""
    seen = {}

    def before(_, args, kwargs):
        seen[0] = args[0] if args else kwargs["hidden_states"]

    def after(level):
        def record(_module, _args, output):
            seen[level] = output[0] if isinstance(output, tuple) else output

        return record

    hooks = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
    hooks += [layer.register_forward_hook(after(n + 1)) for n, layer in enumerate(layers)]
    return seen, hooks


def record(golden, side, layers, inputs, run, generator):
    """Runs inputs one by one; `run(input)` gives the pooled vector `[d]` and the embedding `[e]`, not yet unit."""
    hidden, pooled, embeddings = [], [], []
    for x in inputs:
        seen, hooks = watch(layers)
        p, e = run(x)
        for hook in hooks:
            hook.remove()
        hidden.append([seen[n].reshape(-1, seen[n].shape[-1]) for n in range(len(layers) + 1)])
        pooled.append(p.reshape(-1))
        embeddings.append(unit(e.reshape(-1)))
    for n in range(len(layers) + 1):
        golden[f"{side}.hidden.{n}"] = torch.cat([h[n] for h in hidden])
    golden[f"{side}.pooled"] = torch.stack(pooled)
    golden[f"{side}.embedding"] = torch.stack(embeddings)
    golden[f"{side}.dy"] = torch.randn(golden[f"{side}.embedding"].shape, generator=generator)


def write(folder, golden, texts, images, ids, pixels, parameters=None, extra=None):
    """`parameters`: name in the checkpoint's file -> tensor with a gradient; None where none are wanted."""
    offsets = np.cumsum([0] + [len(row) for row in ids])
    golden["text.offsets"] = torch.tensor(offsets, dtype=torch.int64)
    golden["text.ids"] = torch.tensor([i for row in ids for i in row], dtype=torch.int64)
    golden["image.pixels"] = torch.stack(pixels).permute(0, 2, 3, 1)
    if parameters is not None:
        loss = sum((golden[f"{s}.embedding"] * golden[f"{s}.dy"]).sum() for s in ("text", "image"))
        loss.backward()
        grads = {n: p.grad for n, p in parameters.items() if p.grad is not None}
        save(folder / "gradients.safetensors", grads)
    golden |= extra or {}
    save(folder / "golden.safetensors", golden)
    inputs = {"texts": texts, "images": [f"../images/{name}.png" for name in images]}
    (folder / "inputs.json").write_text(json.dumps(inputs, indent=1, ensure_ascii=False) + "\n")


def save(path, tensors):
    single = lambda t: t.detach().float() if t.is_floating_point() else t.detach()
    save_file({n: single(t).contiguous().clone() for n, t in tensors.items()}, path)


def norms_are_lively(golden):
    """No stage is near zero, constant or enormous: a wrong rule would show."""
    for name, t in golden.items():
        if ".hidden." in name or name.endswith(".pooled"):
            t = t.detach()
            assert torch.isfinite(t).all() and 0.05 < t.std() < 500, (name, t.std())
    for side in ("text", "image"):
        e = golden[f"{side}.embedding"].detach()
        cosines = e @ e.T - torch.eye(len(e), dtype=e.dtype)
        assert cosines.max() < 0.999, (side, cosines.max())
