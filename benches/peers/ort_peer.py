"""onnxruntime as a contender, also with fastembed's way of batching texts.

In:  FORM: a form of `export.py`, for texts `FORM+ORDER` (`sorted64`: sorted by length, then padded in batches of 64;
     `arrival256`: as they come), for JPEG files `FORM+PROCESSOR` (`pil` or `torchvision`, in batches of 16).
Out: `Contender`, as `worker.py` drives it.
How: all graph optimisations; as many threads within an operation as told. Rows keep the order of the items.
"""

import io
import json
import re

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

JPEG_BATCH = 16


def session(path, threads):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Contender:
    """A model of one form and the way its batches are made."""

    def __init__(self, args, work):
        form, _, way = args.form.partition("+")
        self.work, self.way = work, way
        self.session = session(args.cache / f"onnx/{args.name}.{form}.onnx", args.threads)
        self.masked = len(self.session.get_inputs()) > 1
        if work.kind == "texts":
            self.tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
            limits = json.loads((args.model / "sentence_bert_config.json").read_text())
            self.tokenizer.enable_truncation(limits["max_seq_length"])
            self.tokenizer.no_padding()
        if work.kind == "jpegs":
            self.processor = image_processor(args.model, way)

    def embed(self, x, mask=None):
        feeds = {"x": x}
        if self.masked:
            feeds["mask"] = np.ones_like(x) if mask is None else mask
        return self.session.run(None, feeds)[0]

    def runner(self, n):
        """A function that embeds the first `n` items and returns their vectors."""
        if self.work.kind == "texts":
            return lambda: self.embed_texts(self.work.items[:n])
        if self.work.kind == "jpegs":
            return lambda: self.embed_jpegs(self.work.items[:n])
        x = self.work.arrays(n)
        mask = np.ones_like(x) if self.masked else None
        return lambda: self.embed(x, mask)

    def embed_texts(self, texts):
        order, size = re.fullmatch("([a-z]+)([0-9]+)", self.way).groups()
        size = int(size)
        if order == "arrival":  # fastembed tokenises batch by batch
            chunks = (texts[i : i + size] for i in range(0, len(texts), size))
            return np.concatenate([self.embed_padded(self.tokenizer.encode_batch_fast(chunk)) for chunk in chunks])
        encodings = self.tokenizer.encode_batch_fast(texts)
        longest_first = sorted(range(len(texts)), key=lambda i: -len(encodings[i]))
        rows = [None] * len(texts)
        for start in range(0, len(texts), size):
            chunk = longest_first[start : start + size]
            for i, row in zip(chunk, self.embed_padded([encodings[i] for i in chunk])):
                rows[i] = row
        return np.stack(rows)

    def embed_padded(self, encodings):
        longest = max(len(encoding) for encoding in encodings)
        ids = np.zeros((len(encodings), longest), np.int64)
        mask = np.zeros((len(encodings), longest), np.int64)
        for i, encoding in enumerate(encodings):
            ids[i, : len(encoding)] = encoding.ids
            mask[i, : len(encoding)] = 1
        return self.embed(ids, mask)

    def embed_jpegs(self, files):
        chunks = (files[i : i + JPEG_BATCH] for i in range(0, len(files), JPEG_BATCH))
        return np.concatenate([self.embed(self.processor(chunk)) for chunk in chunks])


def image_processor(folder, way):
    """transformers' image processor over JPEG files; by Pillow and numpy, or by torchvision."""
    from PIL import Image
    from transformers import CLIPImageProcessor, CLIPImageProcessorPil

    kind = {"pil": CLIPImageProcessorPil, "torchvision": CLIPImageProcessor}[way]
    processor = kind.from_pretrained(folder)
    tensors = "np" if way == "pil" else "pt"

    def process(files):
        pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
        return np.asarray(processor(pictures, return_tensors=tensors)["pixel_values"], np.float32)

    return process
