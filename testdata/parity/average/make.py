"""Reference averages of torch.optim.swa_utils in f32: twelve steps of one tensor, and a mean of two models.

Run: python make.py        (writes average.json beside this file)
Made with: see "versions" in average.json.

The decay of step t (from 0) is `decay`, and with warm-up `min(decay, (1 + t) / (10 + t))`.
"""

import json
import pathlib
import platform

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

DECAY, ALPHA, N_STEPS = 0.45, 0.3, 12


def main():
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(9, generator=generator)
    plain, warmed_up, steps = [start.clone()], [start.clone()], []
    for t in range(N_STEPS):
        value = torch.randn(9, generator=generator)
        get_ema_multi_avg_fn(DECAY)(plain, [value], t + 1)
        get_ema_multi_avg_fn(min(DECAY, (1 + t) / (10 + t)))(warmed_up, [value], t + 1)
        steps.append(
            {"value": value.tolist(), "plain": plain[0].tolist(), "warmed_up": warmed_up[0].tolist()}
        )
    out = {
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "decay": DECAY,
        "start": start.tolist(),
        "steps": steps,
        "alpha": ALPHA,
        "interpolated": ((1 - ALPHA) * start + ALPHA * value).tolist(),
    }
    pathlib.Path(__file__).with_name("average.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
