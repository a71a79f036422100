"""Reference factors of torch.optim.lr_scheduler.ReduceLROnPlateau: the rate after every evaluation.

Run: python make.py        (writes plateau.json beside this file)
Made with: see "versions" in plateau.json.
"""

import json
import math
import pathlib
import platform
import random

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

SETTINGS = [
    {"factor": 0.5, "patience": 2, "min_delta": 0.0, "cooldown": 0, "floor": 0.0},
    {"factor": 0.1, "patience": 0, "min_delta": 0.02, "cooldown": 0, "floor": 0.005},
    {"factor": 0.3, "patience": 1, "min_delta": 0.01, "cooldown": 3, "floor": 0.0},
    {"factor": 0.9, "patience": 3, "min_delta": 0.001, "cooldown": 1, "floor": 0.7},
]


def curves():
    """A curve that rises and flattens with noise, one that falls, one with ties, one with evaluations that failed."""
    rng = random.Random(5)
    yield [0.6 * (1 - math.exp(-i / 8)) + rng.uniform(-0.02, 0.02) for i in range(40)]
    yield [0.5 - 0.01 * i for i in range(20)]
    yield [0.25, 0.25, 0.5, 0.5, 0.5, 0.5, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75]
    yield [math.nan, 0.1, math.nan, math.nan, math.nan, 0.2, 0.3, math.nan, -1.0, 0.3, 0.31]


def factors(settings, metrics):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = ReduceLROnPlateau(
        optimizer,
        mode="max",
        threshold_mode="abs",
        factor=settings["factor"],
        patience=settings["patience"],
        threshold=settings["min_delta"],
        cooldown=settings["cooldown"],
        min_lr=settings["floor"],
        eps=0.0,
    )
    for metric in metrics:
        scheduler.step(metric)
        yield optimizer.param_groups[0]["lr"]


def main():
    cases = [
        {
            "config": settings,
            "metrics": [None if math.isnan(metric) else metric for metric in metrics],
            "factors": list(factors(settings, metrics)),
        }
        for settings in SETTINGS
        for metrics in curves()
    ]
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    out = {"versions": versions, "cases": cases}
    pathlib.Path(__file__).with_name("plateau.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
