"""The shapes that are measured: which model, which work, and the figures to reach.

Out: `CASES`, one `Case` per shape; `TARGETS`, the least ratio of throughput that conjoin wants over a peer.
Not here: models and inputs on disk (`make_models.py`), contenders (`worker.py`), measuring (`run.py`).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One shape. `work` names the kind of input, which is also how a worker is told to read it."""

    name: str
    model: str
    work: str  # pixels, ids, texts, jpegs, train
    batch: int  # items per run; of `texts` and `jpegs` the most that are used
    length: int = 0  # tokens per text of `ids`
    side: int = 0  # of `pixels`
    says: str = ""

    @property
    def input(self):
        """The input's file or folder below the cache."""
        return {
            "pixels": f"pixels.{self.side}.{self.batch}.u8",
            "ids": f"ids.{self.model}.{self.length}.{self.batch}.json",
            "texts": "titles.txt",
            "jpegs": "jpegs",
            "train": "train",
        }[self.work]


CASES = [
    Case("vit_b32_b1", "vit_b32", "pixels", 1, side=224, says="CLIP ViT-B/32 vision, one picture"),
    Case("vit_b32_b16", "vit_b32", "pixels", 16, side=224, says="CLIP ViT-B/32 vision, 16 pictures"),
    Case("vit_b16_b1", "vit_b16", "pixels", 1, side=224, says="CLIP ViT-B/16 vision, one picture"),
    Case("vit_b16_b16", "vit_b16", "pixels", 16, side=224, says="CLIP ViT-B/16 vision, 16 pictures"),
    Case("clip_text_b1", "clip_text", "ids", 1, length=77, says="CLIP text, one of 77 tokens"),
    Case("clip_text_b32", "clip_text", "ids", 32, length=77, says="CLIP text, 32 of 77 tokens"),
    Case("bert_b1", "bert", "ids", 1, length=64, says="BERT-base, mean pooling, one text of 64 tokens"),
    Case("bert_b32", "bert", "ids", 32, length=64, says="BERT-base, mean pooling, 32 texts of 64 tokens"),
    Case("bert_cls_b32", "bert_cls", "ids", 32, length=64, says="BERT-base, first token (BGE), 32 texts of 64 tokens"),
    Case("minilm_titles", "minilm", "texts", 10_000, says="MiniLM-L6, product titles of mixed lengths"),
    Case("minilm_512", "minilm", "ids", 8, length=512, says="MiniLM-L6, 8 texts of 512 tokens"),
    Case("mobilenet_b1", "mobilenet", "pixels", 1, side=224, says="MobileNet v1 0.75, one picture"),
    Case("mobilenet_b16", "mobilenet", "pixels", 16, side=224, says="MobileNet v1 0.75, 16 pictures"),
    Case("jpeg_vit_b32", "vit_b32", "jpegs", 200, says="JPEG files to ViT-B/32 vectors"),
    Case("train_step", "dual", "train", 32, says="training step of a dual encoder, 32 pairs"),
]


@dataclass(frozen=True)
class Target:
    """conjoin in `ours` shall reach `least` times the throughput of `peer`."""

    cases: tuple
    ours: str
    peer: str
    least: float


# Table "Figures to reach" of the plan, at two threads.
TARGETS = [
    Target(("vit_b32_b16", "bert_b32"), "conjoin-f32", "onnxruntime-f32", 1.15),
    Target(("vit_b32_b16", "bert_b32"), "conjoin-bf16", "onnxruntime-f32", 2.0),
    Target(("vit_b32_b16", "bert_b32"), "conjoin-int8", "onnxruntime-int8", 1.15),
    Target(("minilm_titles",), "conjoin-f32", "sentence-transformers", 4.0),
    Target(("minilm_titles",), "conjoin-f32", "onnxruntime-f32", 1.5),
    Target(("jpeg_vit_b32",), "conjoin-f32", "onnxruntime-f32", 2.0),
    Target(("vit_b32_b1", "vit_b16_b1", "clip_text_b1", "bert_b1"), "conjoin-int8", "onnxruntime-int8", 1.15),
    Target(("train_step",), "conjoin-f32", "pytorch-f32", 1.25),
    Target(("train_step",), "conjoin-bf16", "pytorch-bf16", 1.5),
]


def named(starts):
    """The cases whose name starts with one of `starts`; all where there are none."""
    found = [case for case in CASES if not starts or any(case.name.startswith(start) for start in starts)]
    if not found:
        raise SystemExit(f"no shape starts with {starts}; there are {[case.name for case in CASES]}")
    return found
