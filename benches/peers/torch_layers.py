"""Layers as the PyTorch peers compute them: `step_peer.py`, `train.py` and `whole_peer.py`."""

import torch.nn.functional as F


def pad_same(x, kernel, stride):
    """TensorFlow's "same": the odd row and column go after the picture."""
    pads = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def linear_by_onednn(x, weight, bias):
    """`[…, k] -> […, n]` as a 1x1 convolution over channels-last rows, so that oneDNN does the product."""
    rows = x.reshape(-1, x.shape[-1])
    y = F.conv2d(rows.t()[None, :, None, :], weight[:, :, None, None], bias)  # [1, n, 1, rows]
    return y[0, :, 0].t().reshape(*x.shape[:-1], -1)
