"""The models of the benchmark as ONNX files, in every form that onnxruntime may be fastest with.

In:  a model of `make_models.py`. Out: CACHE/onnx/MODEL.FORM.onnx; the output `y` is the pooled, projected vector of
     unit length. Forms in f32: `plain` (as exported; onnxruntime fuses what it can at load), `mask` (the same with
     a second input that tells real tokens from padding), `fused` (onnxruntime's own transformer optimiser first,
     which also fuses attention; text models with the mask). Each also as `FORM.int8` and `FORM.int8_channel`:
     `quantize_dynamic` of all products with weights (MatMul, Gemm, Attention), one scale per tensor or per channel.
Not here: which form is the fastest (`run.py` measures that).
Traps: `torch.onnx.export` can leave a module in training mode, so it is put back, and outputs are compared;
     the optimiser finds attention only in transformers' eager form, only when it is told the number of heads,
     and in BERT only when there is a mask.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

SENTENCES = ("bert", "bert_cls", "minilm")
HEADS_AND_WIDTH = {"vit_b32": (12, 768), "vit_b16": (12, 768), "clip_text": (8, 512), "minilm": (12, 384)}


def forms(name, work, int8):
    """Names of the forms that may be the fastest for a model and a kind of work, the simplest first."""
    f32 = ["mask" if work == "texts" else "plain", "fused"]
    if name == "mobilenet":
        # All its products are convolutions, for which dynamic quantisation has no fast kernel.
        return [] if int8 else ["plain"]
    return [f"{form}.{kind}" for form in f32 for kind in ["int8", "int8_channel"]] if int8 else f32


class Vision(torch.nn.Module):
    """`[b, 3, side, side]` normalised pixels to vectors."""

    def __init__(self, folder, attention):
        from transformers import CLIPVisionModelWithProjection

        super().__init__()
        self.model = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
        self.eval()

    def forward(self, x):
        return F.normalize(self.model(pixel_values=x).image_embeds, dim=-1)


class ClipText(torch.nn.Module):
    """`[b, t]` ids, the last of each being the end of text, to vectors."""

    def __init__(self, folder, attention):
        from transformers import CLIPTextModelWithProjection

        super().__init__()
        self.model = CLIPTextModelWithProjection.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
        self.eval()

    def forward(self, x):
        return F.normalize(self.model(input_ids=x).text_embeds, dim=-1)


class Sentence(torch.nn.Module):
    """`[b, t]` ids, and where there is padding a mask, to vectors."""

    def __init__(self, folder, attention):
        import json

        from transformers import BertModel

        super().__init__()
        settings = json.loads((Path(folder) / "1_Pooling/config.json").read_text())
        self.first = settings["pooling_mode_cls_token"]
        options = {"dtype": torch.float32, "attn_implementation": attention, "add_pooling_layer": False}
        self.model = BertModel.from_pretrained(folder, **options)
        self.eval()

    def forward(self, x, mask=None):
        hidden = self.model(input_ids=x, attention_mask=mask).last_hidden_state
        if self.first:
            return F.normalize(hidden[:, 0], dim=-1)
        if mask is None:
            return F.normalize(hidden.mean(1), dim=-1)
        mask = mask[:, :, None].to(hidden.dtype)
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


class MobileNet(torch.nn.Module):
    """`[b, 3, side, side]` pixels from -1 to 1 to vectors; batch norms folded into the kernels.

    Source: Howard et al. 2017, with TensorFlow's padding: for stride 2 the odd row and column go behind the picture.
    """

    STRIDES = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]

    def __init__(self, folder, attention):
        del attention
        from safetensors.torch import load_file

        super().__init__()
        weights = {name: w.float() for name, w in load_file(Path(folder) / "model.safetensors").items()}
        layers = [("conv1", "kernel", 2, False)]
        for n, stride in enumerate(self.STRIDES, start=1):
            layers += [(f"conv_dw_{n}", "depthwise_kernel", stride, True), (f"conv_pw_{n}", "kernel", 1, False)]
        self.layers = torch.nn.Sequential(*[self.layer(weights, *layer) for layer in layers])
        self.eval()

    @staticmethod
    def layer(weights, name, kernel, stride, depthwise):
        w = weights[f"{name}/{kernel}"].permute(*((2, 3, 0, 1) if depthwise else (3, 2, 0, 1)))
        gamma, beta, mean, variance = [
            weights[f"{name}_bn/{part}"] for part in ["gamma", "beta", "moving_mean", "moving_variance"]
        ]
        scale = gamma / (variance + 1e-3).sqrt()
        n, inputs, side, _ = w.shape
        pad = (side - 1) // 2 if stride == 1 else 0
        groups = n if depthwise else 1
        convolution = torch.nn.Conv2d(inputs * groups, n, side, stride, pad, groups=groups)
        with torch.no_grad():
            convolution.weight.copy_(w * scale[:, None, None, None])
            convolution.bias.copy_(beta - mean * scale)
        before = [torch.nn.ZeroPad2d((0, 1, 0, 1))] if stride == 2 else []
        return torch.nn.Sequential(*before, convolution, torch.nn.ReLU6())

    def forward(self, x):
        return F.normalize(self.layers(x).mean((2, 3)), dim=-1)


def module(name, folder, attention="eager"):
    """The model as a module that gives vectors of unit length; `attention` is transformers' name of a way."""
    kinds = {"vit_b32": Vision, "vit_b16": Vision, "clip_text": ClipText, "mobilenet": MobileNet}
    return kinds.get(name, Sentence)(folder, attention)


def example(name, masked):
    """Inputs to trace with."""
    generator = torch.Generator().manual_seed(0)
    if name in ("vit_b32", "vit_b16", "mobilenet"):
        return (torch.randn(2, 3, 224, 224, generator=generator),)
    length, end = (77, 49_407) if name == "clip_text" else (16, 102)
    ids = torch.randint(1_000, 30_000, (2, length), generator=generator)
    ids[:, -1] = end
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    return (ids, mask) if masked else (ids,)


def export(model, inputs, path):
    names = ["x", "mask"][: len(inputs)]
    axes = {name: {0: "b"} if x.ndim == 4 else {0: "b", 1: "t"} for name, x in zip(names, inputs)}
    with torch.no_grad():
        torch.onnx.export(
            model, inputs, str(path), input_names=names, output_names=["y"],
            dynamic_axes=axes | {"y": {0: "b"}}, opset_version=17, dynamo=False,
        )
    model.eval()
    return names


def check(model, inputs, names, path, least):
    """Fails when the file does not compute what the module does."""
    import onnxruntime

    with torch.no_grad():
        expected = model(*inputs).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {name: x.numpy() for name, x in zip(names, inputs)})[0]
    cosine = float((found * expected).sum(1).min() / np.linalg.norm(found, axis=1).max())
    if not cosine > least:
        raise SystemExit(f"{path}: cosine {cosine} to PyTorch, expected above {least}")


def fuse(name, plain, fused):
    """Returns how many operations of which kind were fused."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    kind = "bert" if name in SENTENCES else "clip"
    heads, width = HEADS_AND_WIDTH.get(name, (12, 768))
    model = optimizer.optimize_model(
        str(plain), model_type=kind, num_heads=heads, hidden_size=width, opt_level=0,
        optimization_options=FusionOptions(kind),
    )
    model.save_model_to_file(str(fused))
    return {op: n for op, n in model.get_fused_operator_statistics().items() if n}


def quantise(source, per_channel, target):
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(source), str(target), weight_type=QuantType.QInt8, per_channel=per_channel,
        op_types_to_quantize=["MatMul", "Gemm", "Attention"],
        # The optimiser's own operations have no shape inference.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def make(cache, folder, name):
    """Writes all forms of a model and returns their paths."""
    onnx = Path(cache) / "onnx"
    unfinished = onnx / f"{name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    model = module(name, folder)
    for form in ["plain", "mask", "fused"]:
        masked = name in SENTENCES and form != "plain"
        if form == "mask" and not masked or form == "fused" and name == "mobilenet":
            continue
        inputs, path = example(name, masked), unfinished / f"{name}.{form}.onnx"
        names = export(model, inputs, path)
        if form == "fused":
            print(f"  fused: {fuse(name, path, path)}", flush=True)
        check(model, inputs, names, path, 0.9999)
        for kind in ["int8", "int8_channel"] if name != "mobilenet" else []:
            target = unfinished / f"{name}.{form}.{kind}.onnx"
            quantise(path, kind == "int8_channel", target)
            check(model, inputs, names, target, 0.9)
    paths = [path.rename(onnx / path.name) for path in sorted(unfinished.iterdir())]
    unfinished.rmdir()
    return paths


def variants(cache, folder, name, work, int8):
    """Paths of the forms that may be the fastest; made when they are not there."""
    paths = [Path(cache) / f"onnx/{name}.{form}.onnx" for form in forms(name, work, int8)]
    if not all(path.exists() for path in paths):
        make(cache, folder, name)
    return paths
