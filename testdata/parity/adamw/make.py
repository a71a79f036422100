"""Reference steps of torch.optim.AdamW in f32: ten steps, three parameters, gradient clipping.

Run: python make.py        (writes adamw.json beside this file)
Made with: see "versions" in adamw.json.
"""

import json
import pathlib
import platform

import torch

BETAS, EPS, WEIGHT_DECAY = (0.9, 0.98), 1e-6, 0.2
MULTIPLIER = 0.1
N_STEPS, MAX_NORM = 10, 1.0
SHAPES = {"text.weight": [3, 4], "text.bias": [4], "image.weight": [2, 3]}


def main():
    generator = torch.Generator().manual_seed(7)
    parameters = {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator))
        for name, shape in SHAPES.items()
    }
    groups = [
        {"params": [parameters["text.weight"]], "weight_decay": WEIGHT_DECAY, "factor": 1.0},
        {"params": [parameters["text.bias"]], "weight_decay": 0.0, "factor": 1.0},
        {"params": [parameters["image.weight"]], "weight_decay": WEIGHT_DECAY, "factor": MULTIPLIER},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=BETAS, eps=EPS, foreach=False)
    flat = lambda tensors: {name: t.detach().flatten().tolist() for name, t in tensors.items()}
    out = {
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "betas": BETAS,
        "eps": EPS,
        "weight_decay": WEIGHT_DECAY,
        "image_multiplier": MULTIPLIER,
        "max_norm": MAX_NORM,
        "start": flat(parameters),
        "steps": [],
    }
    for step in range(N_STEPS):
        lr = 0.01 * (step + 1)
        # Small gradients at first, so that both sides of the clip are visited.
        size = 0.1 if step < 3 else 1.5
        for p in parameters.values():
            p.grad = size * torch.randn(p.shape, generator=generator)
        gradients = flat({name: p.grad for name, p in parameters.items()})
        norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), MAX_NORM, foreach=False)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        optimizer.step()
        out["steps"].append(
            {"lr": lr, "gradients": gradients, "norm": norm.item(), "after": flat(parameters)}
        )
    pathlib.Path(__file__).with_name("adamw.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
