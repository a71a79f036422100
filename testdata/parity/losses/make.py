"""Reference losses and gradients, from PyTorch's autograd in f64 on f32 inputs.

Run: python make.py        (writes losses.json beside this file)
Formulas: InfoNCE as in open_clip's ClipLoss (cross entropy of `scale * q @ d.T` and its
transpose); sigmoid as in Zhai et al. 2023, eq. 1. Left-out pairs have a logit of -inf.
Made with: see "versions" in losses.json.
"""

import json
import math
import pathlib
import platform

import torch
import torch.nn.functional as F

B, E = 7, 5
TEXT_IDS = [1, 2, 3, 1, 4, 5, 6]
IMAGE_IDS = [10, 11, 12, 13, 11, 14, 15]


def unit_rows(generator):
    rows = torch.randn(B, E, generator=generator, dtype=torch.float64)
    # Rounded to f32, so that both sides read the same numbers.
    return F.normalize(rows, dim=1).to(torch.float32).to(torch.float64)


def masked(logits, masking):
    if not masking:
        return logits
    ids = [torch.tensor(TEXT_IDS), torch.tensor(IMAGE_IDS)]
    same = torch.zeros(B, B, dtype=torch.bool)
    for column in ids:
        same |= column[:, None] == column[None, :]
    same &= ~torch.eye(B, dtype=torch.bool)
    return logits.masked_fill(same, -math.inf)


def info_nce(logits, reduction):
    target = torch.arange(B)
    rows = F.cross_entropy(logits, target)
    columns = F.cross_entropy(logits.T, target)
    return {"symmetric_mean": (rows + columns) / 2, "symmetric_sum": rows + columns, "one_way": rows}[
        reduction
    ]


def sigmoid(logits):
    sign = 2 * torch.eye(B, dtype=torch.float64) - 1
    return -F.logsigmoid(sign * logits).sum() / B


def case(name, q, d, log_scale, bias, masking):
    q, d = q.clone().requires_grad_(), d.clone().requires_grad_()
    log_scale = torch.tensor(log_scale, dtype=torch.float32).to(torch.float64).requires_grad_()
    scalars = [log_scale]
    logits = log_scale.exp() * q @ d.T
    if name == "sigmoid":
        scalars.append(torch.tensor(bias, dtype=torch.float64, requires_grad=True))
        logits = logits + scalars[1]
        loss = sigmoid(masked(logits, masking))
    else:
        loss = info_nce(masked(logits, masking), name)
    loss.backward()
    kept = masked(logits.detach(), masking)
    right = (kept.argmax(dim=1) == torch.arange(B)).double().mean()
    return {
        "loss_name": name,
        "masked": masking,
        "scalars": [s.item() for s in scalars],
        "loss": loss.item(),
        "accuracy": right.item(),
        "d_queries": q.grad.flatten().tolist(),
        "d_documents": d.grad.flatten().tolist(),
        "d_scalars": [s.grad.item() for s in scalars],
    }


def main():
    generator = torch.Generator().manual_seed(20240530)
    q, noise = unit_rows(generator), unit_rows(generator)
    # Documents near their queries, so that some are found and some are not.
    d = F.normalize(q + 1.2 * noise, dim=1).to(torch.float32).to(torch.float64)
    names = ["symmetric_mean", "symmetric_sum", "one_way", "sigmoid"]
    cases = [
        case(name, q, d, log_scale, -2.0, masking)
        for name in names
        for log_scale in (math.log(1 / 0.07), math.log(100.0))
        for masking in (False, True)
    ]
    out = {
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "width": E,
        "text_ids": TEXT_IDS,
        "image_ids": IMAGE_IDS,
        "queries": q.flatten().tolist(),
        "documents": d.flatten().tolist(),
        "cases": cases,
    }
    pathlib.Path(__file__).with_name("losses.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
