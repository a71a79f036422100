"""Tiny Jina CLIP models with random weights, in the layout of the published checkpoints, and every stage of them.

In:  nothing (seeded).
Out: per case a folder with `checkpoint/`, `inputs.json`, `golden.safetensors`, perhaps `gradients.safetensors`;
     `images/`.
     - `v1`: as jina-clip-v1. JinaBERT with the flash port's names, 6 heads (no power of two), EVA02 with sub-LN,
       SwiGLU and 2-D RoPE without interpolated positions.
     - `v1_hf`: the same text family with the names of jina-embeddings-v2, both projections, and an image tower with
       the other switches: fused queries/keys/values, plain MLP, layer scale, no sub-LN.
     - `v2`: as jina-clip-v2. Jina-XLM-RoBERTa with two LoRA tasks, instructions, Matryoshka widths; images whose
       side is no multiple of the patch, interpolated RoPE positions. `golden.safetensors` also holds
       `text.other_task` (the other LoRA task) and `text.truncated`, `image.truncated` (16 numbers).
       `gradients.safetensors` holds the gradient of each merged matrix under the name of its base matrix, and
       zeros for the factors, so that reading it like a checkpoint gives the gradient.
     - `v2_merged`: no adapters, weights in F16, padded pictures; no bias on queries and values of the image tower.
     Trained vocabularies may differ from run to run; everything else follows from the seeds.
How: `reference.py` (the original is code on the hub that no package holds), checked here against timm and
     transformers; `two_towers.py`. Images are prepared with torchvision on Pillow, as the original does.

Run: python testdata/parity/jina_clip/make.py
"""

import json
import shutil
import sys
from pathlib import Path

import timm
import tokenizers
import torch
import torchvision
import torchvision.transforms.functional as tvf
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models import eva
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torchvision.transforms import InterpolationMode
from transformers import BertConfig, BertModel, BertTokenizer, JinaEmbeddingsV3Config, JinaEmbeddingsV3Model
from transformers import XLMRobertaTokenizer
from transformers.models.bloom.modeling_bloom import _get_alibi_slopes

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import reference
import two_towers
from two_towers import TEXTS, unit

# A picture with alpha is left out: the original drops the alpha channel, conjoin puts the picture on white.
IMAGES = ["wide", "tall", "small", "grey"]
CORPUS = [TEXTS[0].lower(), "the quick brown fox jumps over the lazy dog", "a photo of a cat in a red hat near the wall",
          "blue bicycles lean on walls", "кот сидит на стене", "東京 タワー", "long texts go on", "spaces tabs upper case",
          "bakers bake bread while the bicycles are leaning", "represent the query for retrieving documents: "] * 3
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
INSTRUCTIONS = {"retrieval.passage": "Represent the document for retrieval: ",
                "retrieval.query": "Represent the query for retrieving evidence documents: "}


def wordpiece(folder, length):
    """BERT's kind, uncased."""
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer(lowercase=True)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=190, special_tokens=special,
                                                                  show_progress=False))
    tokenizer = BertTokenizer(vocab=trained.get_vocab(), model_max_length=length)
    tokenizer.save_pretrained(folder)
    return tokenizer


def unigram(folder, length):
    """XLM-RoBERTa's kind: SentencePiece unigram, `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3."""
    trained = Tokenizer(models.Unigram())
    trained.normalizer = normalizers.NFKC()
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=160, special_tokens=special,
                                                                unk_token="<unk>", show_progress=False))
    vocabulary = [tuple(p) for p in json.loads(trained.to_str())["model"]["vocab"]] + [("<mask>", 0.0)]
    tokenizer = XLMRobertaTokenizer(vocab=vocabulary, model_max_length=length)
    tokenizer.save_pretrained(folder)
    return tokenizer


def prepare(image, rule):
    """What the original's `image_transform` does for inference."""
    image, size = image.convert("RGB"), rule["size"]
    mode = getattr(InterpolationMode, rule["interpolation"].upper())
    if rule["resize_mode"] == "shortest":
        image = tvf.center_crop(tvf.resize(image, size, mode), [size, size])
    elif rule["resize_mode"] == "squash":
        image = tvf.resize(image, [size, size], mode)
    else:
        ratio = max(image.height, image.width) / size
        h, w = round(image.height / ratio), round(image.width / ratio)
        image = tvf.resize(image, [h, w], mode)
        left, top = (size - w) // 2, (size - h) // 2
        border = [left, top, size - w - left, size - h - top]
        image = tvf.pad(image, border, fill=rule["fill_color"])
    return tvf.normalize(tvf.to_tensor(image), rule["mean"], rule["std"]).double()


def check_against_timm(tower, config, pixels):
    c = config
    other = eva.Eva(
        img_size=c["image_size"], patch_size=c["patch_size"], embed_dim=c["width"], depth=c["layers"],
        num_heads=c["width"] // c["head_width"], qkv_bias=c["qkv_bias"], qkv_fused=not c["subln"],
        mlp_ratio=c["mlp_ratio"], swiglu_mlp=c["naive_swiglu"], scale_mlp=c["subln"], scale_attn_inner=c["subln"],
        use_rot_pos_emb=c["rope_embeddings"], ref_feat_shape=c["pt_hw_seq_len"], init_values=c["ls_init_value"],
        global_pool="token", num_classes=0,
    ).double().eval()
    state = eva.checkpoint_filter_fn({k: v.detach() for k, v in tower.state_dict().items()}, other)
    missing, unexpected = other.load_state_dict(state, strict=False)
    assert not unexpected and all("rope" in m or "k_bias" in m for m in missing), (missing, unexpected)
    for x in pixels:
        theirs = other(x[None])[0]
        assert (theirs - tower(x)).abs().max() < 1e-5, (theirs - tower(x)).abs().max()


def check_against_transformers_v3(tower, ids):
    layers = len(tower.encoder.layers)
    config = JinaEmbeddingsV3Config(
        vocab_size=tower.embeddings.word_embeddings.num_embeddings, hidden_size=tower.emb_ln.weight.numel(),
        num_hidden_layers=layers, num_attention_heads=tower.heads, max_position_embeddings=64,
        intermediate_size=tower.encoder.layers[0].mlp.fc1.out_features, attn_implementation="eager",
    )
    other = JinaEmbeddingsV3Model(config, add_pooling_layer=False).double().eval()
    state = {}
    for name, value in tower.state_dict().items():
        name = name.replace("emb_ln", "embeddings.LayerNorm").replace("encoder.layers", "layers")
        name = name.replace("mixer.out_proj", "self_attn.o_proj").replace("norm1", "post_attention_layernorm")
        name = name.replace("norm2", "post_mlp_layernorm")
        if "mixer.Wqkv" in name:
            for part, rows in zip("qkv", value.chunk(3)):
                state[name.replace("mixer.Wqkv", f"self_attn.{part}_proj")] = rows
        else:
            state[name] = value
    other.load_state_dict(state)
    for row in ids:
        row = torch.tensor(row)
        theirs = other(input_ids=row[None]).last_hidden_state[0]
        # The library takes its frequencies in F32.
        assert (theirs - tower(row)).abs().max() < 2e-5, (theirs - tower(row)).abs().max()


def check_against_bert(tower, ids):
    """transformers' BERT with the positions zero, the MLP exchanged and the slopes in the additive mask."""
    for heads in (1, 3, 6, 8, 12, 16, 20):
        assert (reference.slopes(heads).float() - _get_alibi_slopes(heads, "cpu")).abs().max() < 1e-6
    d = tower.emb_ln.weight.numel()
    config = BertConfig(
        vocab_size=tower.embeddings.word_embeddings.num_embeddings, hidden_size=d, intermediate_size=7,
        num_hidden_layers=len(tower.encoder.layers), num_attention_heads=tower.heads, max_position_embeddings=64,
        layer_norm_eps=1e-12, attn_implementation="eager",
    )
    other = BertModel(config, add_pooling_layer=False).double().eval()
    copy = lambda to, source: to.load_state_dict(source.state_dict())
    with torch.no_grad():
        other.embeddings.position_embeddings.weight.zero_()
        copy(other.embeddings.word_embeddings, tower.embeddings.word_embeddings)
        copy(other.embeddings.token_type_embeddings, tower.embeddings.token_type_embeddings)
        copy(other.embeddings.LayerNorm, tower.emb_ln)
        for theirs, ours in zip(other.encoder.layer, tower.encoder.layers):
            parts = zip(("query", "key", "value"), ours.mixer.Wqkv.weight.chunk(3), ours.mixer.Wqkv.bias.chunk(3))
            for part, weight, bias in parts:
                linear = getattr(theirs.attention.self, part)
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
            copy(theirs.attention.output.dense, ours.mixer.out_proj)
            copy(theirs.attention.output.LayerNorm, ours.norm1)
            copy(theirs.output.LayerNorm, ours.norm2)
            theirs.intermediate = Gate(ours.mlp)
            theirs.output.dense = ours.mlp.wo
    slopes = _get_alibi_slopes(tower.heads, "cpu").double()
    for row in ids:
        place = torch.arange(len(row))
        bias = -slopes[:, None, None] * (place[:, None] - place).abs()
        theirs = other(input_ids=torch.tensor([row]), attention_mask=bias[None]).last_hidden_state[0]
        assert (theirs - tower(torch.tensor(row))).abs().max() < 1e-6


class Gate(torch.nn.Module):
    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp

    def forward(self, x):
        hidden = self.mlp.wo.in_features
        weight = self.mlp.gated_layers.weight
        return torch.nn.functional.gelu(x @ weight[:hidden].T) * (x @ weight[hidden:].T)


def hf_names(name):
    """JinaBERT's names on the hub's jina-embeddings-v2."""
    for old, new in (("emb_ln", "embeddings.LayerNorm"), ("encoder.layers", "encoder.layer"),
                     ("mixer.out_proj", "attention.output.dense"), ("norm1", "attention.output.LayerNorm"),
                     ("norm2", "mlp.layernorm")):
        name = name.replace(old, new)
    return name


def text_state(tower, spelling):
    """The tensors of the text tower by the names of the checkpoint."""
    state = {}
    for name, value in tower.state_dict(keep_vars=True).items():
        if spelling == "hf" and "mixer.Wqkv" in name:
            for part, rows in zip(("query", "key", "value"), value.chunk(3)):
                state[hf_names(name).replace("mixer.Wqkv", f"attention.self.{part}")] = rows
        else:
            state[hf_names(name) if spelling == "hf" else name] = value
    return state


def add_adapters(state, rank, tasks, scaling, generator):
    """Factors for every matrix that the original parametrises; gives each task's merged matrices."""
    stored, merged = {}, [{} for _ in range(tasks)]
    for name, value in state.items():
        if value.ndim < 2:
            stored[name] = value
            continue
        rows, columns = value.shape
        embedding = "embeddings." in name
        a, b = ((rows, rank), (rank, columns)) if embedding else ((rank, columns), (rows, rank))
        a = torch.randn((tasks, *a), generator=generator) * (0.4 if embedding else columns**-0.5)
        b = torch.randn((tasks, *b), generator=generator) * (0.5 if embedding else 0.6)
        base = name.removesuffix(".weight") + ".parametrizations.weight"
        stored[f"{base}.original"] = value
        stored[f"{base}.0.lora_A"], stored[f"{base}.0.lora_B"] = a, b
        for task in range(tasks):
            product = a[task] @ b[task] if embedding else b[task] @ a[task]
            merged[task][name] = value.detach().double() + product.double() * scaling
    return stored, merged


def mean(hidden):
    return hidden.mean(0)


class Case:
    def __init__(self, name, seed, text, vision, rule, **more):
        self.name, self.text, self.vision, self.rule, self.more = name, text, vision, rule, more
        self.folder = HERE / name
        self.generator = torch.Generator().manual_seed(seed)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.checkpoint = self.folder / "checkpoint"
        self.checkpoint.mkdir(parents=True)

    def build(self):
        t = self.text
        self.tokenizer = (wordpiece if t["kind"] == "bert" else unigram)(self.checkpoint, t["length"])
        self.texts = reference.FlashText(t["kind"], len(self.tokenizer), t["d"], t["heads"], t["layers"], t["hidden"])
        self.images = reference.Eva(self.vision)
        self.projections = torch.nn.ModuleDict()
        if "projection_dim" in self.more:
            e = self.more["projection_dim"]
            self.projections["text_projection"] = torch.nn.Linear(t["d"], e, bias=False)
            self.projections["visual_projection"] = torch.nn.Linear(self.vision["width"], e, bias=False)
        for module in (self.texts, self.images, self.projections):
            two_towers.randomise(module.named_parameters(), self.generator)
        if self.more.get("half"):
            for module in (self.texts, self.images, self.projections):
                module.half().float()

    def store(self):
        """Writes config, weights and preprocessor; gives checkpoint name -> parameter whose gradient counts."""
        state = text_state(self.texts, self.more.get("spelling"))
        prefix = "text_model.transformer."
        self.merged = None
        if "tasks" in self.more:
            kwargs = self.more["kwargs"]
            scaling = kwargs["lora_alpha"] / kwargs["lora_rank"]
            state, self.merged = add_adapters(state, kwargs["lora_rank"], self.more["tasks"], scaling, self.generator)
            prefix += "roberta."
        tensors = {prefix + k: v for k, v in state.items()}
        tensors |= {f"vision_model.{k}": v for k, v in self.images.state_dict(keep_vars=True).items()}
        tensors |= dict(self.projections.named_parameters())
        tensors["logit_scale"] = torch.tensor(2.6592)
        dtype = torch.float16 if self.more.get("half") else torch.float32
        save_file({k: v.detach().to(dtype).contiguous().clone() for k, v in tensors.items()},
                  self.checkpoint / "model.safetensors", metadata={"format": "pt"})
        self.write_json("config.json", self.config())
        self.write_json("preprocessor_config.json", {
            "auto_map": {"AutoImageProcessor": "jinaai/jina-clip-implementation--processing_clip.JinaCLIPImageProcessor"},
            "image_processor_type": "JinaCLIPImageProcessor", "processor_class": "JinaCLIPProcessor", **self.rule})
        licence = "cc-by-nc-4.0" if self.text["kind"] != "bert" else "apache-2.0"
        (self.checkpoint / "README.md").write_text(
            f"---\nlibrary_name: transformers\nlicense: {licence}\ntags:\n- clip\n---\n\nRandom weights.\n")
        return tensors

    def write_json(self, file, content):
        (self.checkpoint / file).write_text(json.dumps(content, indent=2) + "\n")

    def config(self):
        t, more = self.text, self.more
        name = "jinaai/jina-bert-flash-implementation" if t["kind"] == "bert" else "jinaai/jina-embeddings-v3"
        kwargs = {"use_flash_attn": t["kind"] != "bert", "num_attention_heads": t["heads"], **more.get("kwargs", {})}
        return {
            "add_projections": "projection_dim" in more,
            "architectures": ["JinaCLIPModel"],
            "auto_map": {"AutoConfig": "jinaai/jina-clip-implementation--configuration_clip.JinaCLIPConfig",
                         "AutoModel": "jinaai/jina-clip-implementation--modeling_clip.JinaCLIPModel"},
            "initializer_factor": 1.0,
            "logit_scale_init_value": 2.6592,
            "matryoshka_dimensions": more.get("matryoshka"),
            "model_type": "jina_clip",
            "projection_dim": more.get("projection_dim", t["d"]),
            "text_config": {
                "default_instruction_task": None, "default_lora_task": more.get("default_task"), "embed_dim": t["d"],
                "hf_model_config_kwargs": kwargs, "hf_model_name_or_path": name, "model_type": "jina_clip_text",
                "pooler_type": "mean_pooler", "proj_bias": False, "proj_type": None,
            },
            "torch_dtype": "float16" if more.get("half") else "float32",
            "transformers_version": "4.42.4",
            "truncate_dim": None,
            "use_text_flash_attn": None,
            "use_vision_xformers": None,
            "vision_config": {"embed_dim": self.vision["width"], "model_type": "jina_clip_vision", **self.vision},
        }

    def task_tower(self, task):
        """The text tower with a task's merged matrices, in F64."""
        tower = reference.FlashText(self.text["kind"], len(self.tokenizer), self.text["d"], self.text["heads"],
                                    self.text["layers"], self.text["hidden"]).double()
        tower.load_state_dict({**self.texts.state_dict(), **(self.merged[task] if self.merged else {})})
        return tower

    def project(self, name, x):
        return self.projections[name](x) if name in self.projections else x

    def run(self):
        self.build()
        tensors = self.store()
        for module in (self.images, self.projections):
            module.double()
        texts = self.task_tower(self.more.get("default_idx", 0))
        ids = [self.tokenizer(t, truncation=True, max_length=self.text["length"])["input_ids"] for t in TEXTS]
        assert max(map(len, ids)) == self.text["length"]
        pixels = [prepare(Image.open(HERE / "images" / f"{n}.png"), self.rule) for n in IMAGES]
        check_against_timm(self.images, self.vision, pixels)
        (check_against_bert if self.text["kind"] == "bert" else check_against_transformers_v3)(texts, ids)

        def run_text(tower):
            def run(row):
                pooled = mean(tower(torch.tensor(row)))
                return pooled, self.project("text_projection", pooled)
            return run

        def run_image(x):
            pooled = self.images(x)
            return pooled, self.project("visual_projection", pooled)

        golden, extra = {}, {}
        two_towers.record(golden, "text", texts.encoder.layers, ids, run_text(texts), self.generator)
        two_towers.record(golden, "image", self.images.blocks, pixels, run_image, self.generator)
        two_towers.norms_are_lively(golden)
        if self.merged:
            other = run_text(self.task_tower(1 - self.more["default_idx"]))
            extra["text.other_task"] = unit(torch.stack([other(row)[1] for row in ids]))
            assert (extra["text.other_task"] - golden["text.embedding"]).abs().max() > 0.05
            for side in ("text", "image"):
                extra[f"{side}.truncated"] = unit(golden[f"{side}.embedding"][:, :16])
        gradients = self.gradient_names(tensors, texts) if self.more.get("gradients") else None
        two_towers.write(self.folder, golden, TEXTS, IMAGES, ids, pixels, gradients, extra)
        print(self.name, {k: tuple(v.shape) for k, v in golden.items() if "hidden" not in k}, len(tensors))

    def gradient_names(self, tensors, texts):
        """Name in the checkpoint -> the F64 parameter that was used."""
        used = {f"vision_model.{k}": p for k, p in self.images.named_parameters()}
        prefix = "text_model.transformer." + ("roberta." if self.merged else "")
        for name, p in texts.named_parameters():
            base = prefix + name.removesuffix(".weight") + ".parametrizations.weight"
            used[f"{base}.original" if f"{base}.original" in tensors else prefix + name] = p
        zeros = {}
        for name in tensors:
            if ".lora_" in name:
                zeros[name] = tensors[name].detach().clone()
                zeros[name].grad = torch.zeros_like(tensors[name])
        return used | zeros


def vision(**changes):
    """jina-clip-v1's switches on a tiny tower."""
    base = dict(
        drop_path_rate=0.0, fused_layer_norm=False, head_width=12, image_size=42, intp_freq=False, layers=2,
        ls_init_value=None, mlp_ratio=2.6667, naive_swiglu=True, patch_dropout=0.1, patch_size=6, post_norm=False,
        proj_type=None, pt_hw_seq_len=7, qkv_bias=True, rope_embeddings=True, subln=True, width=36, x_attention=False,
    )
    return base | changes


def rule(size, mode="shortest", interpolation="bicubic", fill=0):
    return {"fill_color": fill, "interpolation": interpolation, "mean": MEAN, "resize_mode": mode, "size": size,
            "std": STD}


def main():
    torch.manual_seed(0)
    two_towers.make_images(HERE / "images")
    (HERE / "images" / "alpha.png").unlink()
    Case("v1", 21, dict(kind="bert", d=36, heads=6, layers=2, hidden=50, length=24), vision(), rule(42),
         gradients=True).run()
    Case("v1_hf", 22, dict(kind="bert", d=32, heads=4, layers=2, hidden=44, length=19),
         vision(width=40, head_width=8, subln=False, naive_swiglu=False, ls_init_value=0.5, mlp_ratio=1.7,
                image_size=40, patch_size=8, pt_hw_seq_len=5),
         rule(40, "squash", "bilinear"), spelling="hf", projection_dim=28).run()
    Case("v2", 23, dict(kind="xlm-roberta", d=36, heads=3, layers=2, hidden=54, length=29),
         vision(image_size=52, patch_size=8, intp_freq=True, pt_hw_seq_len=4, x_attention=True, patch_dropout=0.0),
         rule(52), gradients=True, matryoshka=[8, 16, 24, 36], tasks=2, default_idx=1, default_task="retrieval.query",
         kwargs=dict(load_trained_adapters=False, lora_adaptations=list(INSTRUCTIONS), lora_alpha=2, lora_dropout_p=0.0,
                     lora_main_params_trainable=False, lora_rank=3, task_instructions=INSTRUCTIONS)).run()
    Case("v2_merged", 24, dict(kind="xlm-roberta", d=40, heads=4, layers=2, hidden=36, length=23),
         vision(width=40, head_width=20, image_size=33, patch_size=8, intp_freq=True, pt_hw_seq_len=16, qkv_bias=False),
         rule(33, "longest", "bicubic", 117), half=True).run()
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__,
                "tokenizers": tokenizers.__version__, "transformers": transformers.__version__}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")


if __name__ == "__main__":
    main()
