"""Reference steps of PEFT's LoRA under torch.optim.AdamW, in f64: five steps of a small network.

Run: python make.py        (writes lora.json beside this file)
Made with: see "versions" in lora.json.

`fused` is one layer with one adapter; `q`, `k`, `v` stand for a layer whose three blocks lie below each other, of which
q and v are adapted. `d_merged` is the gradient of the merged weight, from a copy of the network without adapters.
"""

import copy
import json
import pathlib
import platform

import peft
import torch

RANK, ALPHA, LR, WEIGHT_DECAY, N_STEPS = 3, 6.0, 0.02, 0.1, 5
BETAS, EPS = (0.9, 0.98), 1e-6
WIDTHS = {"up": (5, 8), "fused": (8, 12), "q": (8, 6), "k": (8, 6), "v": (8, 6)}
ADAPTED = ["up", "fused", "q", "v"]


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, (n_in, n_out) in WIDTHS.items():
            setattr(self, name, torch.nn.Linear(n_in, n_out, bias=False))

    def forward(self, x):
        h = torch.tanh(self.up(x))
        return torch.cat([torch.tanh(getattr(self, n)(h)) for n in ("fused", "q", "k", "v")], dim=1)


def merged_copy(plain, adapted):
    """The network without adapters that computes the same."""
    copied = copy.deepcopy(plain)
    for name in ADAPTED:
        layer = getattr(adapted, name)
        weight = layer.base_layer.weight + layer.get_delta_weight("default")
        getattr(copied, name).weight.data.copy_(weight.detach())
    return copied


def flat(tensor):
    return tensor.detach().flatten().tolist()


def main():
    torch.manual_seed(11)
    # Numbers that f32 can hold, computed on in f64.
    plain = Network().double()
    x, y = torch.randn(7, 5).double(), torch.randn(7, 30).tanh().double()
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=ADAPTED, lora_dropout=0.0)
    adapted = peft.get_peft_model(copy.deepcopy(plain), config).base_model.model.double()
    adapters = lambda: {
        f"{name}.{part}": getattr(getattr(adapted, name), f"lora_{part.upper()}")["default"].weight
        for name in ADAPTED
        for part in ("a", "b")
    }
    loss_of = lambda network: ((network(x) - y) ** 2).sum()
    out = {
        "versions": {
            "torch": torch.__version__,
            "peft": peft.__version__,
            "python": platform.python_version(),
        },
        "rank": RANK,
        "alpha": ALPHA,
        "lr": LR,
        "betas": BETAS,
        "eps": EPS,
        "weight_decay": WEIGHT_DECAY,
        "widths": WIDTHS,
        "base": {name: flat(getattr(plain, name).weight) for name in WIDTHS},
        "start": {name: flat(weight) for name, weight in adapters().items()},
        "steps": [],
    }
    optimizer = torch.optim.AdamW(
        adapters().values(), lr=LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, foreach=False
    )
    for _ in range(N_STEPS):
        merged = merged_copy(plain, adapted)
        loss_of(merged).backward()
        optimizer.zero_grad()
        loss = loss_of(adapted)
        loss.backward()
        step = {
            "loss": loss.item(),
            "d_merged": {name: flat(getattr(merged, name).weight.grad) for name in WIDTHS},
            "d_adapters": {name: flat(weight.grad) for name, weight in adapters().items()},
        }
        optimizer.step()
        merged = merged_copy(plain, adapted)
        step["adapters"] = {name: flat(weight) for name, weight in adapters().items()}
        step["merged"] = {name: flat(getattr(merged, name).weight) for name in WIDTHS}
        out["steps"].append(step)
    pathlib.Path(__file__).with_name("lora.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
