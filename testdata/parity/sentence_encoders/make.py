"""Sentence encoders: tiny random models of each family, saved by sentence-transformers itself, and every stage.

In:  nothing (seeded).
Out: per case a folder with
     - `checkpoint/`: what `SentenceTransformer.save_pretrained` (or the family's own layout) writes;
     - `inputs.json`: the texts, and the prompts, task or folder name that the case is about;
     - `golden.safetensors`: texts packed one behind the other, each run alone:
       `text.offsets` I64 [n+1], `text.ids` I64, `text.hidden.L` F32 [t, d] (0: what enters the first layer, L: what
       leaves layer L), `text.pooled` [n, d], `text.embedding` [n, e] of unit length, `text.dy` [n, e];
       per prompt also `prompt.NAME.offsets`, `.ids` and `.embedding`;
     - `gradients.safetensors` for one case of each family: d sum(text.embedding * text.dy) / d parameter, under the
       checkpoint's own names; those of a module in a folder of its own as `FOLDER/NAME`.
How: computed in F64 from the stored weights and rounded to F32 once. For each case it is asserted that the checkpoint
     as saved, opened by sentence-transformers in F32, gives the same vectors alone and in a padded batch.
     Where the library cannot open the layout (the remote code of jina-embeddings-v2 and v3, the first names of
     nomic-embed-text), the vectors come from the native port with the same numbers, or from `JinaBert` below, which
     follows the published description: symmetric ALiBi, GLU with the activated half first, post-norm.

Run: python testdata/parity/sentence_encoders/make.py [CASE ...]
"""

import copy
import json
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import sentence_transformers
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize, Pooling, Transformer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from tokenisers import bert_tokenizer, modernbert_tokenizer, mpnet_tokenizer, roberta_tokenizer, xlm_tokenizer

TEXTS = [
    "Two dogs run through shallow water.",
    "",
    "shoes",
    "Pizza night 🍕🎉 with Крем brûlée 日本語 и ботинок",
    "The lamp has a heavy base of cast iron, an arm that bends in two places and a shade of frosted glass; " * 8,
    "a red shoe, the size 39",
]


# --- models -----------------------------------------------------------------------------------------------------------


def randomise(model, seed):
    """Weights large enough that attention is far from uniform and no two roles can be swapped unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim == 1 and name.endswith("weight"):
                p.copy_(1.0 + 0.3 * noise)
            elif p.ndim == 1:
                p.copy_(0.3 * noise)
            elif "embedding" in name or "relative_attention_bias" in name:
                p.copy_(0.8 * noise)
            else:
                p.copy_(1.3 * noise / p[0].numel() ** 0.5)
    return model.eval()


def sizes(**other):
    return {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 44, "hidden_act": "gelu"} | other


SMALL = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=28)


def bert(tokenizer, **other):
    other = {"max_position_embeddings": 45} | other
    config = transformers.BertConfig(vocab_size=len(tokenizer), **sizes(**other))
    return transformers.BertModel(config, add_pooling_layer=True)


def roberta_like(config, model, tokenizer, **other):
    special = dict(pad_token_id=1, bos_token_id=0, eos_token_id=2)
    config = config(vocab_size=len(tokenizer), type_vocab_size=1, layer_norm_eps=1e-5, **special, **sizes(**other))
    return model(config)


def mpnet(tokenizer):
    config = transformers.MPNetConfig(
        vocab_size=len(tokenizer), max_position_embeddings=156, layer_norm_eps=1e-5, relative_attention_num_buckets=32, **sizes()
    )
    return transformers.MPNetModel(config)


def distilbert(tokenizer):
    config = transformers.DistilBertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=38, dim=32, n_layers=2, n_heads=4, hidden_dim=44, activation="gelu"
    )
    return transformers.DistilBertModel(config)


def modernbert(tokenizer):
    config = transformers.ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=44,
        max_position_embeddings=46, local_attention=8, global_attn_every_n_layers=3, pad_token_id=3, bos_token_id=1,
        eos_token_id=2, cls_token_id=1, sep_token_id=2, rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    )
    return transformers.ModernBertModel(config)


def nomic_bert(tokenizer):
    config = transformers.NomicBertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=48, rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        **(sizes() | {"hidden_act": "silu"}),
    )
    return transformers.NomicBertModel(config, add_pooling_layer=False)


def jina_v3(tokenizer):
    config = transformers.JinaEmbeddingsV3Config(
        vocab_size=len(tokenizer), max_position_embeddings=48, rope_parameters={"rope_type": "default", "rope_theta": 20000.0}, **sizes()
    )
    return transformers.JinaEmbeddingsV3Model(config)


class JinaBert(torch.nn.Module):
    """JinaBERT v2 of jina-embeddings-v2: names, and the places of norms and biases, are those of its files."""

    def __init__(self, vocabulary, d=36, layers=2, heads=6, mlp=44):
        super().__init__()
        self.heads = heads
        module = lambda **parts: torch.nn.ModuleDict(parts)
        linear, norm = torch.nn.Linear, lambda: torch.nn.LayerNorm(d, eps=1e-12)
        self.embeddings = module(
            word_embeddings=torch.nn.Embedding(vocabulary, d), token_type_embeddings=torch.nn.Embedding(2, d), LayerNorm=norm()
        )
        layer = lambda: module(
            attention=module(
                self=module(query=linear(d, d), key=linear(d, d), value=linear(d, d)), output=module(dense=linear(d, d), LayerNorm=norm())
            ),
            mlp=module(gated_layers=linear(d, 2 * mlp, bias=False), wo=linear(mlp, d), layernorm=norm()),
        )
        self.encoder = module(layer=torch.nn.ModuleList(layer() for _ in range(layers)))
        self.pooler = module(dense=linear(d, d))

    def slopes(self):
        """Press et al. 2022: a geometric series; heads beyond a power of two take every other of the next series."""
        series = lambda n: [2 ** (-8 * (i + 1) / n) for i in range(n)]
        power = 2 ** math.floor(math.log2(self.heads))
        return torch.tensor(series(power) + series(2 * power)[0::2][: self.heads - power], dtype=torch.float64)

    def forward(self, ids):
        """`ids` [t] to the hidden states, each [t, d]."""
        e, t = self.embeddings, len(ids)
        x = e["LayerNorm"](e["word_embeddings"](ids) + e["token_type_embeddings"].weight[0])
        place = torch.arange(t, dtype=torch.float64)
        bias = -self.slopes()[:, None, None] * (place[:, None] - place).abs()
        hidden = [x]
        for layer in self.encoder["layer"]:
            a, o, m = layer["attention"]["self"], layer["attention"]["output"], layer["mlp"]
            q, k, v = (a[n](x).reshape(t, self.heads, -1).transpose(0, 1) for n in ("query", "key", "value"))
            p = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + bias.to(q)).softmax(-1)
            x = o["LayerNorm"](o["dense"]((p @ v).transpose(0, 1).reshape(t, -1)) + x)
            active, passive = m["gated_layers"](x).chunk(2, -1)
            x = m["layernorm"](m["wo"](torch.nn.functional.gelu(active) * passive) + x)
            hidden.append(x)
        return hidden


# --- running ----------------------------------------------------------------------------------------------------------


def encoder_layers(model):
    for path in ("encoder.layer", "transformer.layer", "layers"):
        try:
            return model.get_submodule(path)
        except AttributeError:
            pass
    raise ValueError(type(model))


def capture(layers, hidden):
    def enter(_, args, kwargs):
        hidden.append(args[0] if args else kwargs["hidden_states"])

    def leave(_, args, output):
        hidden.append(output[0] if isinstance(output, tuple) else output)

    return [layers[0].register_forward_pre_hook(enter, with_kwargs=True), *[x.register_forward_hook(leave) for x in layers]]


def run_st(reference):
    """A function from ids [t] to (hidden states, pooled, output of all modules) of a sentence-transformers model."""
    transformer, *rest = reference

    def run(ids):
        hidden = []
        hooks = capture(encoder_layers(transformer.model), hidden)
        features = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
        features = transformer(features)
        for hook in hooks:
            hook.remove()
        pooled = None
        for module in rest:
            features = module(features)
            if isinstance(module, Pooling):
                pooled = features["sentence_embedding"][0]
        return [h[0] for h in hidden], pooled, features["sentence_embedding"][0]

    return run


def run_jina_bert(model):
    def run(ids):
        hidden = model(ids)
        return hidden, hidden[-1].mean(0), hidden[-1].mean(0)

    return run


def normalise(x):
    return torch.nn.functional.normalize(x, dim=-1)


def packed(prefix, ids):
    offsets = np.concatenate([[0], np.cumsum([len(i) for i in ids])])
    return {f"{prefix}.offsets": torch.tensor(offsets), f"{prefix}.ids": torch.tensor(np.concatenate(ids), dtype=torch.int64)}


def stages(run, ids, seed):
    """All stages as tensors; the embeddings keep their graph."""
    hidden, pooled, rows = zip(*(run(torch.tensor(i)) for i in ids))
    golden = packed("text", ids)
    golden |= {f"text.hidden.{level}": torch.cat(h) for level, h in enumerate(zip(*hidden))}
    golden["text.pooled"] = torch.stack(pooled)
    golden["text.embedding"] = normalise(torch.stack(rows))
    golden["text.dy"] = torch.randn(golden["text.embedding"].shape, generator=torch.Generator().manual_seed(seed + 500)).double()
    return golden


def save(golden, path):
    tensors = {n: (t.detach().float() if t.is_floating_point() else t).contiguous() for n, t in golden.items()}
    save_file(tensors, path)


def tokenise(transformer, texts):
    tokenizer = transformer.tokenizer
    return [tokenizer(t, truncation=True, max_length=tokenizer.model_max_length)["input_ids"] for t in texts]


def files_of(folder):
    """Every tensor of a saved sentence-transformers folder; those of its subfolders as FOLDER/NAME."""
    tensors = {}
    for file in sorted(folder.rglob("model*.safetensors")):
        prefix = "" if file.parent == folder else f"{file.parent.relative_to(folder)}/"
        tensors |= {prefix + n: t for n, t in load_file(file).items()}
    return tensors


def gradients_of(reference, write):
    """The gradients under the names that the library stores: they are saved as if they were the weights."""
    carrier = copy.deepcopy(reference)
    with torch.no_grad():
        for p, q in zip(carrier.parameters(), reference.parameters()):
            p.copy_(torch.zeros_like(p) if q.grad is None else q.grad)
    with tempfile.TemporaryDirectory() as folder:
        write(carrier, folder)
        return {n: t for n, t in files_of(Path(folder)).items() if t.abs().max() > 0}


def check(checkpoint, golden):
    """The checkpoint as it is on disk gives these vectors in F32: each text alone, and all in one padded batch."""
    opened = SentenceTransformer(str(checkpoint), device="cpu", model_kwargs={"dtype": torch.float32})
    alone = np.concatenate([opened.encode([t]) for t in TEXTS])
    batch = opened.encode(TEXTS)
    length = np.linalg.norm(alone, axis=1, keepdims=True)
    difference = np.abs(alone / length - golden["text.embedding"].detach().numpy()).max()
    assert difference < 5e-6, f"{checkpoint}: stages differ from encode by {difference}"
    together = (np.abs(alone - batch) / length).max()
    assert together < 1e-6 * max(1, math.sqrt(alone.shape[1])), f"{checkpoint}: a padded batch differs by {together}"
    lengths = [len(i) for i in tokenise(opened[0], TEXTS)]
    assert max(lengths) == opened.max_seq_length and min(lengths) == 2, lengths
    return opened


def write_inputs(folder, **more):
    about = {"texts": TEXTS, **more, "versions": {
        "torch": torch.__version__, "transformers": transformers.__version__,
        "sentence_transformers": sentence_transformers.__version__,
    }}
    (folder / "inputs.json").write_text(json.dumps(about, ensure_ascii=False, indent=1) + "\n")


def fresh(name):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "checkpoint").mkdir(parents=True)
    return folder, folder / "checkpoint"


def wrap(model, tokenizer, modules, max_seq_length=None, **kwargs):
    """A sentence-transformers model around a transformers model and its tokeniser."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = Transformer(folder, max_seq_length=max_seq_length)
    return SentenceTransformer(modules=[transformer, *modules], device="cpu", **kwargs)


def prompt_stages(opened, run):
    golden = {}
    for name, prompt in opened.prompts.items():
        if not prompt:
            continue
        texts = [prompt + t for t in TEXTS]
        ids = tokenise(opened[0], texts)
        rows = torch.stack([run(torch.tensor(i))[2] for i in ids])
        golden |= packed(f"prompt.{name}", ids) | {f"prompt.{name}.embedding": normalise(rows)}
        theirs = normalise(torch.tensor(opened.encode(TEXTS, prompt_name=name)))
        assert (theirs - golden[f"prompt.{name}.embedding"]).abs().max() < 5e-6, name
    return golden


def write_st(model, folder):
    model.save_pretrained(str(folder), create_model_card=False)


def write_native(model, folder):
    """With the names that the library uses in memory, not those of the first publisher."""
    write_st(model, folder)
    model[0].model.save_pretrained(folder, save_original_format=False)


def finish(folder, seed, gradients=False, write=write_st):
    """Opens the checkpoint with the library, runs every stage in F64, checks and writes."""
    checkpoint = folder / "checkpoint"
    reference = SentenceTransformer(str(checkpoint), device="cpu", model_kwargs={"dtype": torch.float32}).eval()
    start = reference.prompts.get(reference.default_prompt_name) or ""
    ids = tokenise(reference[0], [start + t for t in TEXTS])
    reference.double()
    run = run_st(reference)
    golden = stages(run, ids, seed)
    (golden["text.embedding"] * golden["text.dy"]).sum().backward()
    opened = check(checkpoint, golden)
    with torch.no_grad():
        golden |= prompt_stages(opened, run)
    save(golden, folder / "golden.safetensors")
    if gradients:
        found = gradients_of(reference, write)
        stored = set(files_of(checkpoint))
        assert set(found) <= stored, sorted(set(found) - stored)
        save(found, folder / "gradients.safetensors")
    write_inputs(folder)
    return reference


def family(name, seed, model, tokenizer, modules, gradients=True, max_seq_length=None, write=write_st, **kwargs):
    """A case that the library saves and opens itself."""
    folder, checkpoint = fresh(name)
    randomise(model, seed)
    model = wrap(model, tokenizer, modules(model.config), max_seq_length, **kwargs)
    for i, module in enumerate(model):
        if isinstance(module, (Dense, LayerNorm)):
            randomise(module, seed + 70 + i)
    write(model, checkpoint)
    return folder, finish(folder, seed, gradients, write)


def mean_normalize(config):
    return [Pooling(width_of(config), "mean"), Normalize()]


def pooled_by(mode, *rest):
    return lambda config: [Pooling(width_of(config), mode), *rest]


def width_of(config):
    return getattr(config, "dim", None) or config.hidden_size


def edit(path, change):
    value = json.loads(path.read_text())
    changed = change(value)
    path.write_text(json.dumps(value if changed is None else changed, indent=2) + "\n")


# --- the families -----------------------------------------------------------------------------------------------------


def case_bert():
    tokenizer = bert_tokenizer(512)
    family("bert", 1, bert(tokenizer), tokenizer, mean_normalize, max_seq_length=30)


def case_roberta():
    tokenizer = roberta_tokenizer(36)
    model = roberta_like(transformers.RobertaConfig, transformers.RobertaModel, tokenizer, max_position_embeddings=38)
    family("roberta", 2, model, tokenizer, pooled_by("cls", Normalize()))


def case_xlm_roberta():
    tokenizer = xlm_tokenizer(36)
    model = roberta_like(transformers.XLMRobertaConfig, transformers.XLMRobertaModel, tokenizer, max_position_embeddings=38)
    prompts = {"query": "query: ", "passage": "passage: "}
    family("xlm_roberta", 3, model, tokenizer, mean_normalize, prompts=prompts, default_prompt_name="query")


def case_mpnet():
    tokenizer = mpnet_tokenizer(512)
    family("mpnet", 4, mpnet(tokenizer), tokenizer, mean_normalize, max_seq_length=150)


def case_distilbert():
    tokenizer = bert_tokenizer(38, transformers.DistilBertTokenizer)
    family("distilbert", 5, distilbert(tokenizer), tokenizer, mean_normalize)


def case_modernbert():
    tokenizer = modernbert_tokenizer(8192)
    family("modernbert", 6, modernbert(tokenizer), tokenizer, pooled_by("cls"))


def case_nomic_bert():
    tokenizer = bert_tokenizer(8192)
    prompts = {"search_query": "search_query: ", "search_document": "search_document: "}
    folder, reference = family("nomic_bert", 7, nomic_bert(tokenizer), tokenizer, mean_normalize, prompts=prompts, write=write_native)
    nomic_original(folder, reference)


def nomic_original(native, reference):
    """The names and keys of nomic-embed-text's own code, with the numbers of the native case."""
    folder, checkpoint = fresh("nomic_bert_original")
    shutil.copytree(native / "checkpoint", checkpoint, dirs_exist_ok=True)
    edit(checkpoint / "config.json", lambda c: {
        "activation_function": "swiglu", "architectures": ["NomicBertModel"], "attn_pdrop": 0.0, "auto_map": {
            "AutoConfig": "nomic-ai/nomic-bert-2048--configuration_hf_nomic_bert.NomicBertConfig",
            "AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
        "bos_token_id": None, "causal": False, "dense_seq_output": True, "embd_pdrop": 0.0, "eos_token_id": None,
        "fused_bias_fc": True, "fused_dropout_add_ln": True, "initializer_range": 0.02, "layer_norm_epsilon": 1e-12,
        "max_trained_positions": 48, "mlp_fc1_bias": False, "mlp_fc2_bias": False, "model_type": "nomic_bert",
        "n_embd": 32, "n_head": 4, "n_inner": 44, "n_layer": 2, "n_positions": 96, "pad_vocab_size_multiple": 64,
        "parallel_block": False, "parallel_block_tied_norm": False, "prenorm": False, "qkv_proj_bias": False,
        "reorder_and_upcast_attn": False, "resid_pdrop": 0.0, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "rotary_scaling_factor": 2,
        "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True, "summary_activation": None,
        "summary_first_dropout": 0.0, "summary_proj_to_labels": True, "summary_type": "cls_index",
        "summary_use_proj": True, "torch_dtype": "float32", "transformers_version": "4.37.2", "type_vocab_size": 2,
        "use_cache": True, "use_flash_attn": True, "use_rms_norm": False, "use_xentropy": True, "vocab_size": c["vocab_size"],
    })
    names = [("embeddings.LayerNorm", "emb_ln"), ("post_attention_layernorm", "norm1"), ("post_mlp_layernorm", "norm2"),
             ("up_proj", "fc11"), ("gate_proj", "fc12"), ("down_proj", "fc2"), ("self_attn.o_proj", "attn.out_proj")]

    def original(tensors):
        out = {}
        for name, tensor in tensors.items():
            if ".q_proj." in name:
                rows = [tensors[name.replace("q_proj", p)] for p in ("q_proj", "k_proj", "v_proj")]
                name, tensor = name.replace("self_attn.q_proj", "attn.Wqkv"), torch.cat(rows)
            elif ".k_proj." in name or ".v_proj." in name:
                continue
            for theirs, first in names:
                name = name.replace(theirs, first)
            name = f"encoder.{name}" if name.startswith("layers.") else name
            out[name] = tensor.contiguous()
        return out

    tensors = {n: t.detach().float() for n, t in reference[0].model.state_dict().items()}
    save_file(original(tensors), checkpoint / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(native / "golden.safetensors", folder)
    write_inputs(folder)


def jina_bert_checkpoint(checkpoint, model, tokenizer):
    tokenizer.save_pretrained(checkpoint)
    config = {
        "model_max_length": 8192, "architectures": ["JinaBertModel"], "attention_probs_dropout_prob": 0.0, "auto_map": {
            "AutoConfig": "jinaai/jina-bert-implementation--configuration_bert.JinaBertConfig",
            "AutoModel": "jinaai/jina-bert-implementation--modeling_bert.JinaBertModel"},
        "classifier_dropout": None, "gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "hidden_size": 36, "initializer_range": 0.02, "intermediate_size": 44, "layer_norm_eps": 1e-12,
        "max_position_embeddings": 8192, "model_type": "bert", "num_attention_heads": 6, "num_hidden_layers": 2,
        "pad_token_id": 0, "position_embedding_type": "alibi", "torch_dtype": "float32", "transformers_version": "4.26.0",
        "type_vocab_size": 2, "use_cache": True, "vocab_size": len(tokenizer), "feed_forward_type": "geglu",
        "emb_pooler": "mean", "attn_implementation": None,
    }
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
               {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    pooling = {"word_embedding_dimension": 36, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
               "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False}
    (checkpoint / "1_Pooling").mkdir()
    for path, value in [("config.json", config), ("modules.json", modules), ("1_Pooling/config.json", pooling),
                        ("sentence_bert_config.json", {"max_seq_length": 44, "do_lower_case": False})]:
        (checkpoint / path).write_text(json.dumps(value, indent=2) + "\n")
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, checkpoint / "model.safetensors", metadata={"format": "pt"})


def check_jina_bert(model, ids):
    """Attention by another way: transformers' BERT without positions, ALiBi handed in as a mask, its MLP replaced."""
    config = transformers.BertConfig(
        vocab_size=model.embeddings["word_embeddings"].num_embeddings, hidden_size=36, num_hidden_layers=2, num_attention_heads=6,
        intermediate_size=44, max_position_embeddings=64, attn_implementation="eager",
    )
    other = transformers.BertModel(config).double().eval()
    state = {n: t for n, t in model.state_dict().items() if "mlp" not in n}
    other.load_state_dict(state, strict=False)
    other.embeddings.position_embeddings.weight.data.zero_()
    t = len(ids)
    slopes = torch.tensor([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3], dtype=torch.float64)
    bias = -slopes[:, None, None] * (torch.arange(t)[:, None] - torch.arange(t)).abs()
    x = other.embeddings(input_ids=torch.tensor(ids)[None])
    for theirs, ours in zip(other.encoder.layer, model.encoder["layer"]):
        attended = theirs.attention(x, attention_mask=bias[None])[0]
        m = ours["mlp"]
        both = attended @ m["gated_layers"].weight.T
        mixed = torch.nn.functional.gelu(both[..., :44]) * both[..., 44:]
        x = m["layernorm"](m["wo"](mixed) + attended)
    assert (x[0] - model(torch.tensor(ids))[-1]).abs().max() < 1e-9


def case_jina_bert_v2():
    folder, checkpoint = fresh("jina_bert_v2")
    tokenizer = bert_tokenizer(8192)
    model = randomise(JinaBert(len(tokenizer)), 8)
    jina_bert_checkpoint(checkpoint, model, tokenizer)
    model.double()
    ids = [tokenizer(t, truncation=True, max_length=44)["input_ids"] for t in TEXTS]
    assert max(map(len, ids)) == 44
    golden = stages(run_jina_bert(model), ids, 8)
    check_jina_bert(model, ids[0])
    (golden["text.embedding"] * golden["text.dy"]).sum().backward()
    save(golden, folder / "golden.safetensors")
    save({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, folder / "gradients.safetensors")
    write_inputs(folder)


def case_jina_embeddings_v3():
    tokenizer = xlm_tokenizer(8194)
    folder, reference = family("jina_embeddings_v3", 9, jina_v3(tokenizer), tokenizer, mean_normalize)
    jina_v3_original(folder, reference)


TASKS = ["retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"]
INSTRUCTIONS = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ", "separation": "", "classification": "", "text-matching": "",
}
RANK, ALPHA = 3, 2.0


def jina_v3_original(native, reference):
    """The names of jina-embeddings-v3's own code, with adapters; vectors of the native port with the sums in it."""
    folder, checkpoint = fresh("jina_embeddings_v3_original")
    shutil.copytree(native / "checkpoint", checkpoint, dirs_exist_ok=True)
    edit(checkpoint / "config.json", lambda c: {
        "_name_or_path": "jinaai/jina-embeddings-v3", "architectures": ["XLMRobertaModel"], "attention_probs_dropout_prob": 0.1,
        "auto_map": {"AutoConfig": "jinaai/xlm-roberta-flash-implementation--configuration_xlm_roberta.XLMRobertaFlashConfig",
                     "AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_lora.XLMRobertaLoRA"},
        "bos_token_id": 0, "classifier_dropout": None, "emb_pooler": "mean", "eos_token_id": 2, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 44,
        "layer_norm_eps": 1e-05, "load_trained_adapters": True, "lora_adaptations": TASKS, "lora_alpha": ALPHA,
        "lora_dropout_p": 0.0, "lora_main_params_trainable": False, "lora_rank": RANK,
        "matryoshka_dimensions": [8, 16, 32], "max_position_embeddings": 48, "model_type": "xlm-roberta",
        "num_attention_heads": 4, "num_hidden_layers": 2, "output_past": True, "pad_token_id": 1,
        "position_embedding_type": "rotary", "rotary_emb_base": 20000.0, "task_instructions": INSTRUCTIONS,
        "torch_dtype": "bfloat16", "transformers_version": "4.44.2", "truncate_dim": None, "type_vocab_size": 1,
        "use_cache": True, "use_flash_attn": True, "use_reg_tokens": False, "vocab_size": c["vocab_size"],
    })
    edit(checkpoint / "modules.json", lambda m: [
        m[0] | {"name": "transformer", "type": "custom_st.Transformer", "kwargs": ["task"]},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ])
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps({
        "__version__": {"sentence_transformers": "3.1.0", "transformers": "4.41.2", "pytorch": "2.3.1+cu121"},
        "prompts": INSTRUCTIONS, "default_prompt_name": None, "similarity_fn_name": "cosine"}, indent=2) + "\n")
    model = reference[0].model
    generator = torch.Generator().manual_seed(90)
    stored, merged = {}, {}

    def linear(theirs, weight, bias):
        adapted(theirs, weight, embedding=False)
        stored[f"{theirs}.bias"] = bias
        return theirs

    def adapted(theirs, weight, embedding):
        rows, columns = weight.shape
        normal = lambda *shape: 0.4 * torch.randn(shape, generator=generator)
        a = normal(len(TASKS), rows, RANK) if embedding else normal(len(TASKS), RANK, columns)
        b = normal(len(TASKS), RANK, columns) if embedding else normal(len(TASKS), rows, RANK)
        stored[f"{theirs}.parametrizations.weight.original"] = weight
        stored[f"{theirs}.parametrizations.weight.0.lora_A"] = a
        stored[f"{theirs}.parametrizations.weight.0.lora_B"] = b
        sums = a.double() @ b.double() if embedding else b.double() @ a.double()
        merged[theirs] = weight.double() + sums * (ALPHA / RANK)

    e = model.embeddings
    adapted("roberta.embeddings.word_embeddings", e.word_embeddings.weight, embedding=True)
    adapted("roberta.embeddings.token_type_embeddings", e.token_type_embeddings.weight, embedding=True)
    norm = lambda theirs, n: stored.update({f"{theirs}.weight": n.weight, f"{theirs}.bias": n.bias})
    norm("roberta.emb_ln", e.LayerNorm)
    linear("roberta.pooler.dense", model.pooler.dense.weight, model.pooler.dense.bias)
    for i, layer in enumerate(model.layers):
        at, a = f"roberta.encoder.layers.{i}", layer.self_attn
        qkv = [a.q_proj, a.k_proj, a.v_proj]
        linear(f"{at}.mixer.Wqkv", torch.cat([m.weight for m in qkv]), torch.cat([m.bias for m in qkv]))
        linear(f"{at}.mixer.out_proj", a.o_proj.weight, a.o_proj.bias)
        linear(f"{at}.mlp.fc1", layer.mlp.fc1.weight, layer.mlp.fc1.bias)
        linear(f"{at}.mlp.fc2", layer.mlp.fc2.weight, layer.mlp.fc2.bias)
        norm(f"{at}.norm1", layer.post_attention_layernorm)
        norm(f"{at}.norm2", layer.post_mlp_layernorm)
    tensors = {n: t.detach().float().contiguous() for n, t in stored.items()}
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    golden = load_file(native / "golden.safetensors")
    for n, task in enumerate(TASKS):
        if task in ("retrieval.query", "separation"):
            golden |= adapter_stages(reference, merged, n, task)
    save(golden, folder / "golden.safetensors")
    write_inputs(folder, tasks=INSTRUCTIONS)


def adapter_stages(reference, merged, n, task):
    adapted = copy.deepcopy(reference)
    model = adapted[0].model
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.copy_(merged["roberta.embeddings.word_embeddings"][n])
        model.embeddings.token_type_embeddings.weight.copy_(merged["roberta.embeddings.token_type_embeddings"][n])
        for i, layer in enumerate(model.layers):
            at, a = f"roberta.encoder.layers.{i}", layer.self_attn
            for m, rows in zip([a.q_proj, a.k_proj, a.v_proj], merged[f"{at}.mixer.Wqkv"][n].chunk(3)):
                m.weight.copy_(rows)
            a.o_proj.weight.copy_(merged[f"{at}.mixer.out_proj"][n])
            layer.mlp.fc1.weight.copy_(merged[f"{at}.mlp.fc1"][n])
            layer.mlp.fc2.weight.copy_(merged[f"{at}.mlp.fc2"][n])
        ids = tokenise(reference[0], [INSTRUCTIONS[task] + t for t in TEXTS])
        rows = torch.stack([run_st(adapted)(torch.tensor(i))[2] for i in ids])
    return packed(f"task.{task}", ids) | {f"task.{task}.embedding": normalise(rows)}


# --- layouts around the encoder ---------------------------------------------------------------------------------------


def small(name, seed, modules, tokenizer=None, gradients=False, **kwargs):
    tokenizer = tokenizer or bert_tokenizer(512, size=150)
    return family(name, seed, bert(tokenizer, **SMALL), tokenizer, modules, gradients, max_seq_length=30, **kwargs)


def case_old_keys():
    """A folder as sentence-transformers before 3 wrote it, around a cased tokeniser that is told to lower-case."""
    tokenizer = bert_tokenizer(512, lower=False, size=170)
    folder, checkpoint = fresh("old_keys")
    model = wrap(randomise(bert(tokenizer, **SMALL), 20), tokenizer, [Pooling(16, "mean"), Normalize()], 28)
    write_st(model, checkpoint)
    names = ["Transformer", "Pooling", "Normalize"]
    edit(checkpoint / "modules.json", lambda modules: [
        m | {"type": f"sentence_transformers.models.{n}"} for m, n in zip(modules, names)])
    edit(checkpoint / "1_Pooling/config.json", lambda _: {
        "word_embedding_dimension": 16, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False})
    edit(checkpoint / "sentence_bert_config.json", lambda _: {"max_seq_length": 28, "do_lower_case": True})
    edit(checkpoint / "config_sentence_transformers.json", lambda _: {
        "__version__": {"sentence_transformers": "2.0.0", "transformers": "4.7.0", "pytorch": "1.9.0+cu102"}})
    finish(folder, 20)


def case_dense():
    small("dense", 21, lambda c: [Pooling(16, "mean"), Dense(16, 11, activation_function=torch.nn.Tanh()), LayerNorm(11),
                                   Dense(11, 7, bias=False, activation_function=torch.nn.Identity()), Normalize()],
          gradients=True)


def case_cls_no_normalize():
    """Its `tokenizer.json` keeps capitals; the library obeys `do_lower_case` of `tokenizer_config.json`."""
    folder, _ = small("cls_no_normalize", 22, pooled_by("cls"))
    edit(folder / "checkpoint/tokenizer.json", lambda t: t["normalizer"].update(lowercase=False))
    finish(folder, 22)


def case_lasttoken():
    small("lasttoken", 23, pooled_by("lasttoken"))


def case_plain():
    """A folder of transformers alone: sentence-transformers takes the mean."""
    folder, checkpoint = fresh("plain")
    tokenizer = bert_tokenizer(33, size=150)
    randomise(bert(tokenizer, **SMALL), 24).save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    finish(folder, 24)


def vocab_txt(checkpoint, tokenizer, config):
    """Only what old repositories have: `vocab.txt` and a short `tokenizer_config.json`."""
    (checkpoint / "tokenizer.json").unlink()
    words = sorted(tokenizer.get_vocab().items(), key=lambda word: word[1])
    (checkpoint / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words))
    edit(checkpoint / "tokenizer_config.json", lambda _: config)


def case_vocab_txt():
    tokenizer = bert_tokenizer(512, lower=False, size=170)
    folder, checkpoint = fresh("vocab_txt")
    model = wrap(randomise(bert(tokenizer, **SMALL), 25), tokenizer, [Pooling(16, "mean"), Normalize()], 30)
    write_st(model, checkpoint)
    vocab_txt(checkpoint, tokenizer, {
        "do_lower_case": False, "model_max_length": 30, "strip_accents": None, "tokenize_chinese_chars": True,
        "tokenizer_class": "BertTokenizer"})
    finish(folder, 25)


def case_mpnet_vocab_txt():
    tokenizer = mpnet_tokenizer(512)
    folder, checkpoint = fresh("mpnet_vocab_txt")
    config = transformers.MPNetConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **sizes(**SMALL))
    model = wrap(randomise(transformers.MPNetModel(config), 26), tokenizer, [Pooling(16, "mean")], 30)
    write_st(model, checkpoint)
    vocab_txt(checkpoint, tokenizer, {"do_lower_case": True, "model_max_length": 30, "tokenizer_class": "MPNetTokenizer"})
    finish(folder, 26)


def case_sharded():
    folder, reference = small("sharded", 27, mean_normalize)
    checkpoint = folder / "checkpoint"
    (checkpoint / "model.safetensors").unlink()
    reference[0].model.float().save_pretrained(checkpoint, max_shard_size="6KB")
    assert len(list(checkpoint.glob("model-*.safetensors"))) > 2
    finish(folder, 27)


def half(name, seed, dtype):
    tokenizer = bert_tokenizer(512, size=150)
    folder, checkpoint = fresh(name)
    model = wrap(randomise(bert(tokenizer, **SMALL), seed), tokenizer, [Pooling(16, "mean"), Normalize()], 30)
    write_st(model.to(dtype), checkpoint)
    assert {t.dtype for t in files_of(checkpoint).values()} == {dtype}
    finish(folder, seed)


def case_f16():
    half("f16", 28, torch.float16)


def case_bf16():
    half("bf16", 29, torch.bfloat16)


def case_tied():
    """A masked language model as it was pre-trained: a prefix, a head, and its decoder tied to the embeddings."""
    tokenizer = roberta_tokenizer(28)
    model = roberta_like(transformers.RobertaConfig, transformers.RobertaForMaskedLM, tokenizer, max_position_embeddings=30, **SMALL)
    folder, checkpoint = fresh("tied")
    randomise(model, 30).save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    names = set(load_file(checkpoint / "model.safetensors"))
    assert "lm_head.dense.weight" in names and "lm_head.decoder.weight" not in names
    finish(folder, 30)


def main():
    torch.set_num_threads(1)
    cases = {n.removeprefix("case_"): f for n, f in globals().items() if n.startswith("case_")}
    for name in sys.argv[1:] or cases:
        print(name)
        cases[name]()


if __name__ == "__main__":
    main()
