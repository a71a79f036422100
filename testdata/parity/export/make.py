"""Opens what conjoin exported in the library it is meant for, and records that library's vectors.

In:  encoder/model/  a BERT sentence encoder with a new head, exported to sentence-transformers
     pair/model/     a text tower and a MobileNet of conjoin's own, exported to sentence-transformers: ESM and
                     MobileNetV1 behind a Router
     to_open_clip/model/  a CLIP of transformers, exported to open_clip
     to_clip/model/       a CLIP of open_clip, exported to transformers
     to_modules/model/    a CLIP of transformers, exported to sentence-transformers
     CASE/inputs.json  texts, and pictures by path relative to the case
Out: CASE/golden.safetensors: text.embedding, image.embedding
     versions.json

The models are written by `CONJOIN_WRITE_EXPORTS=1 cargo test -p conjoin-model --test parity export`; the same tests,
without the variable, write them again, compare every byte, and compare conjoin's vectors with these.

Run: python make.py (needs torch, transformers, sentence-transformers, open_clip, safetensors, pillow)
"""

import json
import logging
import platform
from pathlib import Path

import numpy
import open_clip
import safetensors.numpy
import sentence_transformers
import torch
import transformers
from PIL import Image
from sentence_transformers import SentenceTransformer

HERE = Path(__file__).parent
TEXTS = [
    "A red apple on a wooden table.",
    "",
    "apple",
    "🍎 яблоко 林檎 तुफ़ाह",
    "word after word " * 40,
]
PICTURES = [f"../../pictures/{name}.png" for name in ["alpha", "grey", "small", "tall", "wide"]]
BOTH = ["text", "image"]
# Of each case the library and what it embeds.
CASES = {
    "encoder": ("modules", ["text"]),
    "pair": ("modules", BOTH),
    "to_open_clip": ("open_clip", BOTH),
    "to_clip": ("clip", BOTH),
    "to_modules": ("modules", BOTH),
}
# Where an odd rest of pixels is cut off, open_clip and transformers crop one pixel apart; these leave none.
# open_clip resizes before it drops transparency, so a picture with some is not among them.
EVEN = [f"../../siglip/images/{name}.png" for name in ["grey", "tall", "wide"]]


class Warnings(logging.Handler):
    """A library that makes up a weight says so in a warning."""

    def emit(self, record):
        message = record.getMessage()
        assert "newly initialized" not in message and "UNEXPECTED" not in message and "MISSING" not in message, message


def close(a, b):
    assert numpy.abs(a - b).max() < 1e-6, numpy.abs(a - b).max()


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1).detach().numpy()


def with_modules(folder):
    model = SentenceTransformer(str(folder), device="cpu")
    return model.encode, model.encode


def with_open_clip(folder):
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}", device="cpu")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    texts = lambda texts: unit(model.encode_text(tokenizer(texts)))
    images = lambda pictures: unit(model.encode_image(torch.stack([preprocess(p) for p in pictures])))
    return texts, images


def with_clip(folder):
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")

    def texts(texts):
        words = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return unit(model.get_text_features(**words).pooler_output)

    def images(pictures):
        pixels = processor(pictures, return_tensors="pt")
        return unit(model.get_image_features(**pixels).pooler_output)

    return texts, images


OPEN = {"modules": with_modules, "open_clip": with_open_clip, "clip": with_clip}


@torch.no_grad()
def main():
    logging.getLogger("transformers").addHandler(Warnings())
    for case, (library, modalities) in CASES.items():
        folder = HERE / case
        texts, images = OPEN[library](folder / "model")
        inputs, golden = {}, {}
        if "text" in modalities:
            inputs["texts"] = TEXTS
            alone = numpy.concatenate([texts([text]) for text in TEXTS])
            close(texts(TEXTS), alone)
            golden["text.embedding"] = alone
        if "image" in modalities:
            inputs["images"] = EVEN if case in ("to_open_clip", "to_clip") else PICTURES
            pictures = [Image.open(folder / path) for path in inputs["images"]]
            alone = numpy.concatenate([images([picture]) for picture in pictures])
            close(images(pictures), alone)
            golden["image.embedding"] = alone
        (folder / "inputs.json").write_text(json.dumps(inputs, ensure_ascii=False, indent=1) + "\n")
        safetensors.numpy.save_file(golden, folder / "golden.safetensors")
        for name, values in golden.items():
            print(case, name, values.shape, "least cosine of two:", (values @ values.T).min())
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sentence_transformers": sentence_transformers.__version__,
        "open_clip": open_clip.__version__,
    }
    (HERE / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")


main()
