"""MobileNet v1 in plain PyTorch, the batch norm kept as batch norm: the reference for the parity cases.

In:  a dict of Keras-named tensors (`conv1/kernel`, `conv_dw_1_bn/gamma`, …; HWIO kernels, depthwise HWC1),
     pixels `[b, 3, h, w]` already scaled to [-1, 1].
Out: activations per block, pooled features `[b, c]`; the classifier lives with its only user (`make.py`).
Source: Howard et al. 2017, table 1. Padding is TensorFlow's "same": for stride 2 the odd row and column
     go after the picture, not before it.
"""

import torch
import torch.nn.functional as F

EPSILON = 1e-3
# Stride of the 13 depthwise blocks of the published network.
STRIDES = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]


def pad_same(x, kernel, stride):
    """Zero padding of TensorFlow's "same": half (rounded down) before, the rest after."""
    pads = []
    for size in (x.shape[3], x.shape[2]):  # F.pad wants the last axis first
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def batch_norm(x, weights, name):
    """With the stored statistics; nothing is folded."""
    return F.batch_norm(
        x,
        weights[f"{name}/moving_mean"],
        weights[f"{name}/moving_variance"],
        weights[f"{name}/gamma"],
        weights[f"{name}/beta"],
        training=False,
        eps=EPSILON,
    )


def convolution(x, weights, name, stride):
    kernel = weights[f"{name}/kernel"].permute(3, 2, 0, 1)  # HWIO -> OIHW
    x = F.conv2d(pad_same(x, kernel.shape[2], stride), kernel, stride=stride)
    return batch_norm(x, weights, f"{name}_bn")


def depthwise(x, weights, name, stride):
    kernel = weights[f"{name}/depthwise_kernel"].permute(2, 3, 0, 1)  # HWC1 -> C1HW
    x = F.conv2d(pad_same(x, kernel.shape[2], stride), kernel, stride=stride, groups=kernel.shape[0])
    return batch_norm(x, weights, f"{name}_bn")


def forward(pixels, weights, strides=STRIDES):
    """Returns (activations after the stem and after each block, pooled features `[b, c]`, all values
    that went into a relu6)."""
    before = [convolution(pixels, weights, "conv1", 2)]
    hidden = [F.relu6(before[-1])]
    for block, stride in enumerate(strides, start=1):
        before.append(depthwise(hidden[-1], weights, f"conv_dw_{block}", stride))
        before.append(convolution(F.relu6(before[-1]), weights, f"conv_pw_{block}", 1))
        hidden.append(F.relu6(before[-1]))
    return hidden, hidden[-1].mean((2, 3)), before
