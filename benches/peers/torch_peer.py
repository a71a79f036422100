"""PyTorch with transformers, and sentence-transformers, as contenders.

In:  CONTENDER `pytorch-f32`, `pytorch-bf16`, `transformers` or `sentence-transformers`, FORM as below.
Out: `Contender`, as `worker.py` drives it.
Forms: `eager` is what a user gets, f32 products going through MKL; `onednn` calls oneDNN for them, with weights laid
     out beforehand, which is faster on many CPUs; `inductor` is `torch.compile` with frozen weights, through MKL
     in f32, and `inductor_onednn` the same through oneDNN; `autocast` keeps weights in f32 and computes in bf16.
     sentence-transformers: `batchN`. JPEG files: `FORM+PROCESSOR`, as in `ort_peer.py`.
"""

import contextlib

import numpy as np
import torch

import export


class OneDnnLinear(torch.nn.Module):
    """A linear layer whose product oneDNN does, its weight laid out once."""

    def __init__(self, linear):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x):
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def through_onednn(module):
    """Replaces every linear layer below `module`."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.Linear):
            setattr(module, name, OneDnnLinear(child))
        else:
            through_onednn(child)


def compiled(module, onednn):
    import torch._inductor.config as inductor

    inductor.freezing = True
    if onednn:
        # Inductor packs f32 weights for MKL where there is one; without it, for oneDNN.
        torch._C.has_mkl = False
    return torch.compile(module)


class Contender:
    """A model of one form."""

    def __init__(self, args, work):
        torch.set_num_threads(args.threads)
        self.work = work
        if args.contender.startswith("sentence-transformers"):
            self.sentences, self.batch = sentence_transformer(args.model), int(args.form.removeprefix("batch"))
            return
        form, _, way = args.form.partition("+")
        self.half = args.contender.endswith("bf16") and form != "autocast"
        self.autocast = form == "autocast"
        module = export.module(args.name, args.model, attention="sdpa")
        module = module.bfloat16() if self.half else module
        if args.name == "mobilenet":
            module = module.to(memory_format=torch.channels_last)
        if form == "onednn":
            through_onednn(module)
        self.module = compiled(module, form == "inductor_onednn") if form.startswith("inductor") else module
        if work.kind == "jpegs":
            from ort_peer import image_processor

            self.processor = image_processor(args.model, way)

    def runner(self, n):
        """A function that embeds the first `n` items and returns their vectors."""
        if self.work.kind == "texts":
            return lambda: self.sentences.encode(
                self.work.items[:n], batch_size=self.batch, normalize_embeddings=True, show_progress_bar=False
            )
        if self.work.kind == "jpegs":
            return lambda: self.embed_jpegs(self.work.items[:n])
        x = self.tensor(self.work.arrays(n))
        return lambda: self.embed(x)

    def tensor(self, array):
        x = torch.from_numpy(array)
        x = x.bfloat16() if self.half and x.is_floating_point() else x
        return x.contiguous(memory_format=torch.channels_last) if self.work.name == "mobilenet" else x

    def embed(self, x):
        autocast = torch.autocast("cpu", torch.bfloat16) if self.autocast else contextlib.nullcontext()
        # Frozen weights are those of `no_grad`: inductor does not freeze in inference mode.
        with torch.no_grad(), autocast:
            return self.module(x).float().numpy()

    def embed_jpegs(self, files):
        chunks = (files[i : i + 16] for i in range(0, len(files), 16))
        return np.concatenate([self.embed(self.tensor(self.processor(chunk))) for chunk in chunks])


def sentence_transformer(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
