"""Jina CLIP's two towers in PyTorch, written from the published description of their maths.

The original is code on the hub that no package holds. What is here is checked in `make.py` against independent
implementations: the image tower against timm's EVA02, the text tower of v2 against transformers' jina-embeddings-v3,
JinaBERT's slopes against transformers' BLOOM and its block against transformers' BERT.
Parameter names are those of the published checkpoints.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def slopes(heads):
    """ALiBi's slope per head (Press et al. 2022)."""
    power = 2 ** math.floor(math.log2(heads))
    first = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2 ** (-8 * (i + 1) / (2 * power)) for i in range(2 * power)]
    return torch.tensor(first + between[0::2][: heads - power], dtype=torch.float64)


def attention(q, k, v, heads, bias=0.0):
    """`[t, d]` each, one sequence, all tokens see all."""
    split = lambda x: x.view(x.shape[0], heads, -1).transpose(0, 1)  # [h, t, c]
    q, k, v = split(q), split(k), split(v)
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + bias
    return (scores.softmax(-1) @ v).transpose(0, 1).reshape(q.shape[1], -1)


def turn_pairs(x, angles):
    """Channels 2i and 2i + 1 are turned by angle i. `x`: `[t, h, c]`, `angles`: `[t, c / 2]`."""
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)


def turn_halves(x, angles):
    """Channels i and i + c/2 are turned by angle i."""
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class EvaAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, self.heads = c["width"], c["width"] // c["head_width"]
        if c["subln"]:
            self.q_proj, self.k_proj, self.v_proj = (nn.Linear(d, d, bias=False) for _ in range(3))
            self.inner_attn_ln = nn.LayerNorm(d, eps=1e-6)
        else:
            self.qkv = nn.Linear(d, 3 * d, bias=False)
        if c["qkv_bias"]:
            self.q_bias, self.v_bias = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.zeros(d))
        self.proj = nn.Linear(d, d)

    def forward(self, x, angles):
        if hasattr(self, "qkv"):
            q, k, v = self.qkv(x).chunk(3, -1)
        else:
            q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if hasattr(self, "q_bias"):
            q, v = q + self.q_bias, v + self.v_bias
        if angles is not None:
            heads = lambda y: y.view(len(y), self.heads, -1)
            turn = lambda y: torch.cat([y[:1], turn_pairs(heads(y[1:]), angles).flatten(1)])
            q, k = turn(q), turn(k)
        out = attention(q, k, v, self.heads)
        return self.proj(self.inner_attn_ln(out) if hasattr(self, "inner_attn_ln") else out)


class EvaMlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, hidden = c["width"], int(c["width"] * c["mlp_ratio"])
        self.swiglu = c["naive_swiglu"]
        if self.swiglu:
            self.w1, self.w2, self.w3 = nn.Linear(d, hidden), nn.Linear(d, hidden), nn.Linear(hidden, d)
        else:
            self.fc1, self.fc2 = nn.Linear(d, hidden), nn.Linear(hidden, d)
        if c["subln"]:
            self.ffn_ln = nn.LayerNorm(hidden, eps=1e-6)

    def forward(self, x):
        hidden = F.silu(self.w1(x)) * self.w2(x) if self.swiglu else F.gelu(self.fc1(x))
        if hasattr(self, "ffn_ln"):
            hidden = self.ffn_ln(hidden)
        return self.w3(hidden) if self.swiglu else self.fc2(hidden)


class EvaBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        d = c["width"]
        self.norm1, self.norm2 = nn.LayerNorm(d, eps=1e-6), nn.LayerNorm(d, eps=1e-6)
        self.attn, self.mlp = EvaAttention(c), EvaMlp(c)
        scaled = bool(c["ls_init_value"])
        self.gamma_1 = nn.Parameter(torch.full((d,), c["ls_init_value"])) if scaled else None
        self.gamma_2 = nn.Parameter(torch.full((d,), c["ls_init_value"])) if scaled else None

    def forward(self, x, angles):
        a = self.attn(self.norm1(x), angles)
        x = x + (a if self.gamma_1 is None else self.gamma_1 * a)
        m = self.mlp(self.norm2(x))
        return x + (m if self.gamma_2 is None else self.gamma_2 * m)


class Eva(nn.Module):
    """`config`: the keys of `vision_config`."""

    def __init__(self, config):
        super().__init__()
        c, d = config, config["width"]
        self.config, self.grid = c, c["image_size"] // c["patch_size"]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, d))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, d, c["patch_size"], c["patch_size"])
        self.blocks = nn.ModuleList(EvaBlock(c) for _ in range(c["layers"]))
        self.norm = nn.LayerNorm(d, eps=1e-6)

    def angles(self):
        """Row angles, then column angles, of every patch: `[p, c / 2]`."""
        c = self.config
        if not c["rope_embeddings"]:
            return None
        per_axis = c["head_width"] // 2
        frequencies = 10000.0 ** (-torch.arange(0, per_axis, 2, dtype=torch.float64) / per_axis)
        side = self.grid if c["intp_freq"] else c["pt_hw_seq_len"]
        assert side == self.grid, "the reference fails with another number of positions"
        place = torch.arange(side, dtype=torch.float64) / side * c["pt_hw_seq_len"]
        axis = place[:, None] * frequencies
        rows = axis[:, None].expand(side, side, -1)
        columns = axis[None].expand(side, side, -1)
        return torch.cat([rows, columns], -1).flatten(0, 1)

    def forward(self, pixels):
        x = self.patch_embed.proj(pixels[None]).flatten(2)[0].T  # [p, d]
        x = torch.cat([self.cls_token[0], x]) + self.pos_embed[0]
        angles = self.angles()
        for block in self.blocks:
            x = block(x, angles)
        return self.norm(x)[0]


class BertEmbeddings(nn.Module):
    def __init__(self, vocabulary, types, d):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, d)
        self.token_type_embeddings = nn.Embedding(types, d)

    def forward(self, ids):
        return self.word_embeddings(ids) + self.token_type_embeddings.weight[0]


class Mixer(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.Wqkv, self.out_proj = nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x, angles, bias):
        q, k, v = self.Wqkv(x).chunk(3, -1)
        if angles is not None:
            turn = lambda y: turn_halves(y.view(len(y), self.heads, -1), angles).flatten(1)
            q, k = turn(q), turn(k)
        return self.out_proj(attention(q, k, v, self.heads, bias))


class GatedMlp(nn.Module):
    """JinaBERT's: no bias in front, the gate is the first half."""

    def __init__(self, d, hidden):
        super().__init__()
        self.gated_layers, self.wo = nn.Linear(d, 2 * hidden, bias=False), nn.Linear(hidden, d)

    def forward(self, x):
        gate, value = self.gated_layers(x).chunk(2, -1)
        return self.wo(F.gelu(gate) * value)


class PlainMlp(nn.Module):
    def __init__(self, d, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(d, hidden), nn.Linear(hidden, d)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class FlashBlock(nn.Module):
    """A post-norm block of either text tower."""

    def __init__(self, d, heads, mlp, eps):
        super().__init__()
        self.mixer, self.mlp = Mixer(d, heads), mlp
        self.norm1, self.norm2 = nn.LayerNorm(d, eps=eps), nn.LayerNorm(d, eps=eps)

    def forward(self, x, angles, bias):
        x = self.norm1(x + self.mixer(x, angles, bias))
        return self.norm2(x + self.mlp(x))


class FlashText(nn.Module):
    """JinaBERT (`kind` "bert": ALiBi, gated) or Jina-XLM-RoBERTa (`kind` "xlm-roberta": rotary)."""

    def __init__(self, kind, vocabulary, d, heads, layers, hidden):
        super().__init__()
        bert = kind == "bert"
        eps = 1e-12 if bert else 1e-5
        self.kind, self.heads, self.channels = kind, heads, d // heads
        self.embeddings = BertEmbeddings(vocabulary, 2 if bert else 1, d)
        self.emb_ln = nn.LayerNorm(d, eps=eps)
        self.encoder = nn.Module()
        mlp = GatedMlp if bert else PlainMlp
        self.encoder.layers = nn.ModuleList(FlashBlock(d, heads, mlp(d, hidden), eps) for _ in range(layers))

    def positions(self, t):
        place = torch.arange(t, dtype=torch.float64)
        if self.kind == "bert":
            return None, -slopes(self.heads)[:, None, None] * (place[:, None] - place).abs()
        channels = torch.arange(0, self.channels, 2, dtype=torch.float64)
        return place[:, None] * 20000.0 ** (-channels / self.channels), 0.0

    def forward(self, ids):
        x = self.emb_ln(self.embeddings(ids))
        angles, bias = self.positions(len(ids))
        for layer in self.encoder.layers:
            x = layer(x, angles, bias)
        return x
