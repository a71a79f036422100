"""Reference losses and gradients, from PyTorch's autograd in f64 on f32 inputs.

Run: python make.py        (writes losses.json beside this file)
Needs: torch, sentence-transformers, open_clip.
Formulas: written out below. Wherever sentence-transformers or open_clip has the loss, `agrees` asserts
that ours gives the same number and the same gradients. Left-out pairs have a logit of -inf.
Rows: queries [b, e]; documents [b·(1+m), e], own ones first, then each query's hard negatives.
Made with: see "versions" in losses.json.
"""

import json
import math
import pathlib
import platform

import open_clip
import sentence_transformers
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss
from sentence_transformers import util
from sentence_transformers.sentence_transformer import losses as st

B, E, M = 7, 5, 3
TEXT_IDS = [1, 2, 3, 1, 4, 5, 6]
IMAGE_IDS = [10, 11, 12, 13, 11, 14, 15]
# What documents show, own ones first, then three hard negatives of each query.
DOCUMENT_IDS = IMAGE_IDS + [10, 40, 41, 42, 13, 43, 44, 44, 14, 45, 46, 47, 48, 49, 50, 51, 15, 14, 10, 52, 53]
# Queries' own texts, and documents that show them; two own documents are there once more.
QUERY_IDS = [60, 61, 62, 60, 63, 64, 65]
FOUND_IDS = [70, 71, 61, 73, 74, 75, 76] + [62, 73, 81, 82, 83, 84, 85, 86, 60, 87, 88, 89, 90, 91, 65, 92, 93, 65, 94, 70, 96]
ASPECTS = [
    {"queries": TEXT_IDS, "documents": []},
    {"queries": IMAGE_IDS, "documents": DOCUMENT_IDS},
    {"queries": QUERY_IDS, "documents": FOUND_IDS},
]
GRADES = [0.5, 1.0, 0.25, 0.5, 0.0, 0.75, 1.0]
SHARE = 0.95
# Above which of a teacher's similarities a document of the batch is no negative.
THRESHOLDS = {"above": 0.75, "share": 0.9, "margin": 0.05}


def rounded(rows):
    """To f32 and back, so that both sides read the same numbers."""
    return rows.to(torch.float32).to(torch.float64)


def unit_rows(n, generator):
    return rounded(F.normalize(torch.randn(n, E, generator=generator, dtype=torch.float64), dim=1))


class Masks:
    """What is left out between two sides, as booleans."""

    def __init__(self, kind, m, teacher, vectors):
        self.across = torch.zeros(B, B * (1 + m), dtype=torch.bool)
        self.queries = torch.zeros(B, B, dtype=torch.bool)
        self.documents = torch.zeros(B, B * (1 + m), dtype=torch.bool)
        if kind.startswith("ids"):
            for aspect in ASPECTS:
                self.add(aspect, m)
        own = torch.eye(B, dtype=torch.bool)
        self.across[:, :B] &= ~own
        self.queries &= ~own
        self.documents[:, :B] &= ~own
        if kind in ("teacher", "ids_and_teacher"):
            self.add_teacher(m, teacher)
        if "batch_" in kind:
            self.add_batch(*vectors, kind.rpartition("_")[2])

    def add(self, aspect, m):
        queries = torch.tensor(aspect["queries"])
        documents = torch.tensor(at(aspect["documents"], m) if aspect["documents"] else aspect["queries"])
        n = len(documents)
        self.across[:, :n] |= queries[:, None] == documents[None, :]
        self.queries |= queries[:, None] == queries[None, :]
        self.documents[:, :n] |= queries[:, None] == documents[None, :]
        self.documents[:, :n] |= documents[:B, None] == documents[None, :]

    def add_teacher(self, m, teacher):
        own = teacher[:, :1]
        for i, k in (teacher[:, 1 : 1 + m] > own - own.abs() * (1 - SHARE)).nonzero().tolist():
            self.across[i, B + i * m + k] = True

    def add_batch(self, queries, documents, rule):
        """By a teacher's vectors: GISTEmbed's rule, against each query's own threshold."""
        own = (queries * documents[:B]).sum(dim=1, keepdim=True)
        value = THRESHOLDS[rule]
        threshold = {
            "above": torch.full_like(own, value),
            "share": own - own.abs() * (1 - value),
            "margin": own - value,
        }[rule]
        for rows, columns, mask in (
            (queries, documents, self.across),
            (queries, queries, self.queries),
            (documents[:B], documents, self.documents),
        ):
            scores = rows @ columns.T
            assert (scores - threshold).abs().min() > 1e-6, "no threshold is a matter of rounding"
            found = scores > threshold
            found[:, :B] &= ~torch.eye(B, dtype=torch.bool)
            assert 0 < found.sum() < found.numel() / 2, found
            mask |= found


def at(documents, m):
    """The first `m` hard negatives of each query."""
    return list(documents[:B]) + [documents[B + i * M + k] for i in range(B) for k in range(m)]


def own_negatives(m):
    """[b, b·m]: whose hard negative each is."""
    return torch.arange(B)[:, None] == torch.arange(B * m)[None, :] // max(m, 1)


def across(q, d, scale, masks, settings):
    logits = (scale * q @ d.T).masked_fill(masks.across, -math.inf)
    if settings.get("negatives") == "own":
        hidden = torch.zeros_like(masks.across)
        hidden[:, B:] = ~own_negatives(len(d) // B - 1)
        logits = logits.masked_fill(hidden, -math.inf)
    return logits


def accuracy(logits):
    return (logits.argmax(dim=1) == torch.arange(B)).double().mean().item()


def reduced(rows, columns, reduction):
    return {"symmetric_mean": (rows + columns) / 2, "symmetric_sum": rows + columns, "one_way": rows}[reduction]


def info_nce(q, d, scalars, batch, settings):
    logits = across(q, d, scalars[0].exp(), batch["masks"], settings)
    target = torch.arange(B)
    loss = reduced(
        F.cross_entropy(logits, target), F.cross_entropy(logits[:, :B].T, target), settings["reduction"]
    )
    return loss, accuracy(logits)


def weighted_info_nce(q, d, scalars, batch, settings):
    logits = across(q, d, scalars[0].exp(), batch["masks"], settings)
    target, weights = torch.arange(B), batch["grades"]
    mean = lambda logits: (F.cross_entropy(logits, target, reduction="none") * weights).sum() / weights.sum()
    return reduced(mean(logits), mean(logits[:, :B].T), settings["reduction"]), accuracy(logits)


def joint(q, d, scalars, batch, settings):
    masks, scale = batch["masks"], scalars[0].exp()
    logits = across(q, d, scale, masks, settings)
    eye = torch.eye(B, dtype=torch.bool)
    queries = (scale * q @ q.T).masked_fill(masks.queries | eye, -math.inf)
    same_query = torch.cat([eye, own_negatives(batch["m"])], dim=1)
    documents = (scale * d[:B] @ d.T).masked_fill(masks.documents | same_query, -math.inf)
    z = torch.logsumexp(torch.cat([logits, queries, logits[:, :B].T, documents], dim=1), dim=1)
    return (z - logits.diagonal()).mean(), accuracy(logits)


def sigmoid(q, d, scalars, batch, settings):
    logits = across(q, d, scalars[0].exp(), batch["masks"], settings) + scalars[1]
    sign = -torch.ones_like(logits)
    sign.fill_diagonal_(1)
    return -F.logsigmoid(sign * logits).sum() / B, accuracy(logits)


def candidates(q, d, m):
    """[b, 1+m] inner products."""
    return torch.einsum("be,bke->bk", q, torch.stack(columns(d, m), dim=1))


def columns(d, m):
    """Own documents, then the k-th hard negatives, [b, e] each, as sentence-transformers takes them."""
    return [d[:B]] + [d[B + k :: m] for k in range(m)]


def own_best(scores):
    return (scores.argmax(dim=1) == 0).double().mean().item()


def margin_mse(q, d, scalars, batch, settings):
    scores, teacher = candidates(q, d, batch["m"]), batch["teacher"]
    margins = scalars[0].exp() * (scores[:, :1] - scores[:, 1:])
    loss = ((margins - (teacher[:, :1] - teacher[:, 1:])) ** 2).mean()
    return loss, own_best(scores)


def kl(q, d, scalars, batch, settings):
    student, teacher = (settings["temperatures"][name] for name in ("student", "teacher"))
    scores = candidates(q, d, batch["m"])
    p = torch.softmax(batch["teacher"] / teacher, dim=1)
    log_q = torch.log_softmax(scores / student, dim=1)
    return student**2 * (p * (p.log() - log_q)).sum() / B, own_best(scores)


def concordance(scores, grades):
    right = [scores[i] < scores[j] for i in range(B) for j in range(B) if grades[i] < grades[j]]
    return torch.stack(right).double().mean().item()


def cosent(q, d, scalars, batch, settings):
    cosines, grades = (q * d[:B]).sum(dim=1), batch["grades"]
    scores = scalars[0].exp() * cosines
    wrong = [scores[i] - scores[j] for i in range(B) for j in range(B) if grades[i] < grades[j]]
    loss = torch.logsumexp(torch.stack([scores.new_zeros(()), *wrong]), dim=0)
    return loss, concordance(cosines, grades)


def cosine(q, d, scalars, batch, settings):
    cosines = (q * d[:B]).sum(dim=1)
    return F.mse_loss(cosines, batch["grades"]), concordance(cosines, batch["grades"])


def matryoshka(q, d, scalars, batch, settings):
    inner, total, found = LOSSES[settings["inner"]["kind"]], 0.0, {}
    for dim, weight in ((x["dim"], x["weight"]) for x in settings["dims"]):
        cut = [F.normalize(rows[:, :dim], dim=1) for rows in (q, d)]
        loss, found[dim] = inner(*cut, scalars, batch, settings["inner"])
        total = total + weight * loss
    return total, found[max(found)]


LOSSES = {
    loss.__name__: loss
    for loss in (info_nce, weighted_info_nce, joint, sigmoid, margin_mse, kl, cosent, cosine, matryoshka)
}
ALL_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")


def ranking(scale, reduction=None):
    """sentence-transformers' MultipleNegativesRankingLoss as one of ours."""
    ways = {
        None: (ALL_DIRECTIONS, "joint"),
        "one_way": (("query_to_doc",), "joint"),
        "symmetric_mean": (("query_to_doc", "doc_to_query"), "per_direction"),
        "symmetric_sum": (("query_to_doc", "doc_to_query"), "per_direction"),
    }
    directions, mode = ways[reduction]
    return st.MultipleNegativesRankingLoss(
        None, scale=scale, similarity_fct=util.dot_score, directions=directions, partition_mode=mode
    )


def sums(settings):
    """Theirs is the mean of both directions where Jina's is the sum."""
    return 2 if settings["reduction"] == "symmetric_sum" else 1


class Given(torch.nn.Module):
    """A model whose embeddings are its inputs."""

    def forward(self, features):
        return {"sentence_embedding": features["rows"]}

    def get_embedding_dimension(self):
        return E


class WideMse(torch.nn.Module):
    """The mean squared error in f64; CosineSimilarityLoss makes its labels f32."""

    def forward(self, found, labels):
        return F.mse_loss(found, labels.double())


def their_matryoshka(q, d, scale, batch, settings):
    inner = ranking(scale, settings["inner"]["reduction"])
    inner.model = model = Given()
    dims = [x["dim"] for x in settings["dims"]]
    loss = st.MatryoshkaLoss(model, inner, dims, [x["weight"] for x in settings["dims"]])
    return loss([{"rows": rows} for rows in [q, *columns(d, batch["m"])]], torch.zeros(B))


def their_losses(kind, scalars, batch, settings):
    """The same loss by other libraries: functions of (q, d)."""
    m = batch["m"]
    scale = math.exp(scalars[0].item()) if scalars else 1.0
    lists = lambda q, d: [q, *columns(d, m)]
    plain = batch["mask"] == "none" and settings.get("negatives") != "own"
    if kind == "info_nce" and plain:
        loss, factor = ranking(scale, settings["reduction"]), sums(settings)
        yield lambda q, d: factor * loss.compute_loss_from_embeddings(lists(q, d), None)
        if m == 0 and settings["reduction"] == "symmetric_mean":
            yield lambda q, d: ClipLoss()(q, d, scale)
    guided = batch["mask"] in ("batch_share", "batch_margin") and settings.get("negatives") != "own"
    if kind == "info_nce" and guided and settings["reduction"] == "one_way":
        yield lambda q, d: their_guided(q, d, scale, batch)
    if kind == "joint" and plain:
        yield lambda q, d: ranking(scale).compute_loss_from_embeddings(lists(q, d), None)
    if kind == "sigmoid" and plain and m == 0:
        yield lambda q, d: SigLipLoss()(q, d, scale, scalars[1].item())
    if kind == "margin_mse":
        similarity = lambda x, y: scale * util.pairwise_dot_score(x, y)
        loss = st.MarginMSELoss(None, similarity_fct=similarity)
        yield lambda q, d: loss.compute_loss_from_embeddings(lists(q, d), batch["teacher"])
    if kind == "kl":
        names = {f"{side}_temperature": settings["temperatures"][side] for side in ("student", "teacher")}
        loss = st.DistillKLDivLoss(None, **names)
        yield lambda q, d: loss.compute_loss_from_embeddings(lists(q, d), batch["teacher"])
    if kind == "cosent":
        loss = st.CoSENTLoss(None, scale=scale)
        yield lambda q, d: loss.compute_loss_from_embeddings([q, d[:B]], batch["grades"])
    if kind == "cosine":
        loss = st.CosineSimilarityLoss(None, loss_fct=WideMse())
        yield lambda q, d: loss.compute_loss_from_embeddings([q, d[:B]], batch["grades"])
    if kind == "matryoshka" and settings["inner"]["kind"] == "info_nce" and plain:
        yield lambda q, d: sums(settings["inner"]) * their_matryoshka(q, d, scale, batch, settings)


def their_guided(q, d, scale, batch, contrast=False):
    """CachedGISTEmbedLoss, in mini batches, with the teacher's vectors as what its guide gives.

    With `contrast` queries and own documents are told apart between each other too, as in `gist`.
    """
    loss = object.__new__(st.CachedGISTEmbedLoss)
    torch.nn.Module.__init__(loss)
    rule = batch["mask"].rpartition("_")[2]
    loss.margin_strategy = {"share": "relative", "margin": "absolute"}[rule]
    loss.margin = 1 - THRESHOLDS["share"] if rule == "share" else THRESHOLDS["margin"]
    loss.contrast_anchors = loss.contrast_positives = contrast
    loss.gather_across_devices = False
    loss.temperature, loss.mini_batch_size, loss.show_progress_bar = 1 / scale, 3, False
    loss.similarity_fct = lambda x, y: (x * y).sum(dim=-1)
    loss.cross_entropy_loss = torch.nn.CrossEntropyLoss()
    lists = lambda q, d: [[rows] for rows in [q, *columns(d, batch["m"])]]
    return loss.calculate_loss(lists(q, d), lists(*batch["vectors"]))


def gist(q, d, scale, batch):
    """GISTEmbed's whole loss: no loss of ours, but all masks of `joint` are in it."""
    masks, eye = batch["masks"], torch.eye(B, dtype=torch.bool)
    logits = across(q, d, scale, masks, {})
    queries = (scale * q @ q.T).masked_fill(masks.queries | eye, -math.inf)
    documents = (scale * d[:B] @ d[:B].T).masked_fill(masks.documents[:, :B] | eye, -math.inf)
    z = torch.logsumexp(torch.cat([logits, queries, documents], dim=1), dim=1)
    return (z - logits.diagonal()).mean()


def check_masks(data):
    """Asserts that what a teacher's vectors leave out is what GISTEmbed leaves out."""
    for m, rule in ((m, rule) for m in (0, 1, M) for rule in ("share", "margin")):
        vectors = data["teacher_queries"], torch.stack(at(data["teacher_documents"], m))
        mask = f"batch_{rule}"
        batch = {"m": m, "mask": mask, "masks": Masks(mask, m, None, vectors), "vectors": vectors}
        q = data["queries"].clone().requires_grad_()
        d = torch.stack(at(data["documents"], m)).requires_grad_()
        loss = gist(q, d, 2.0, batch)
        loss.backward()
        agrees("gist", q, d, loss, lambda q, d: their_guided(q, d, 2.0, batch, contrast=True))


def across_rows(rows, gradient):
    """Without the part along each row: what is left behind a normalisation."""
    return gradient - (gradient * rows).sum(dim=1, keepdim=True) * rows / (rows * rows).sum(dim=1, keepdim=True)


def agrees(kind, q, d, loss, theirs):
    """Asserts that another library has the same loss and the same gradients."""
    leaves = [rows.detach().clone().requires_grad_() for rows in (q, d)]
    found = theirs(*leaves)
    found.backward()
    close = lambda x, y: torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-9)
    close(found.detach(), loss.detach())
    for ours, rows in zip((q, d), leaves):
        # Theirs normalises its inputs in these, which takes away the part along a row.
        along = (lambda g: across_rows(rows.detach(), g)) if kind in ("cosent", "cosine") else (lambda g: g)
        close(along(rows.grad), along(ours.grad))


def case(data, kind, scalars, m=0, mask="none", **settings):
    teacher = data["teacher"][:, : 1 + m]
    grades = torch.tensor(GRADES, dtype=torch.float64)
    vectors = data["teacher_queries"], torch.stack(at(data["teacher_documents"], m))
    batch = {"m": m, "mask": mask, "masks": Masks(mask, m, teacher, vectors), "teacher": teacher}
    batch |= {"grades": grades, "vectors": vectors}
    q = data["queries"].clone().requires_grad_()
    d = torch.stack(at(data["documents"], m)).requires_grad_()
    scalars = [torch.tensor(x, dtype=torch.float32).to(torch.float64).requires_grad_() for x in scalars]
    loss, right = LOSSES[kind](q, d, scalars, batch, settings)
    loss.backward()
    n_others = 0
    for theirs in their_losses(kind, scalars, batch, settings):
        agrees(kind, q, d, loss, theirs)
        n_others += 1
    return {
        "kind": kind,
        "settings": settings,
        "agrees_with_others": n_others,
        "n_negatives": m,
        "mask": mask,
        "scalars": [s.item() for s in scalars],
        "loss": loss.item(),
        "accuracy": right,
        "d_queries": q.grad.flatten().tolist(),
        "d_documents": d.grad.flatten().tolist(),
        "d_scalars": [s.grad.item() for s in scalars],
    }


CLIP, HARD = math.log(1 / 0.07), math.log(100.0)
REDUCTIONS = ("symmetric_mean", "symmetric_sum", "one_way")


def contrastive_cases(make):
    yield from (
        make("info_nce", [log_scale], mask=mask, reduction=reduction, negatives="all")
        for reduction in REDUCTIONS
        for log_scale in (CLIP, HARD)
        for mask in ("none", "ids")
    )
    yield from (
        make("info_nce", [CLIP], m, mask, reduction=reduction, negatives=negatives)
        for reduction in REDUCTIONS
        for m in (1, M)
        for negatives in ("all", "own")
        for mask in ("none", "ids", "ids_and_teacher")
    )
    # A small scale, so that every pair counts in the denominator.
    yield from (make("joint", [1.0], m, mask) for m in (0, 1, M) for mask in ("none", "ids", "ids_and_teacher"))
    yield from (
        make("sigmoid", [log_scale, -2.0], mask=mask, negatives="all")
        for log_scale in (CLIP, HARD)
        for mask in ("none", "ids")
    )
    yield from (
        make("sigmoid", [CLIP, -2.0], m, mask, negatives=negatives)
        for m in (1, M)
        for negatives in ("all", "own")
        for mask in ("none", "teacher")
    )
    yield from (
        make("weighted_info_nce", [CLIP], m, mask, reduction=reduction, negatives="all")
        for reduction in REDUCTIONS
        for m in (0, M)
        for mask in ("none", "ids")
    )


def batch_cases(make):
    """A teacher's vectors of the whole batch."""
    yield from (
        make("info_nce", [CLIP], m, f"batch_{rule}", reduction="one_way", negatives="all")
        for m in (0, 1, M)
        for rule in THRESHOLDS
    )
    yield from (
        make("info_nce", [CLIP], M, "ids_and_batch_share", reduction="symmetric_sum", negatives=negatives)
        for negatives in ("all", "own")
    )
    yield from (make("joint", [1.0], m, "batch_share") for m in (0, M))
    yield from (make("sigmoid", [CLIP, -2.0], m, "batch_above", negatives="all") for m in (0, M))
    yield make("weighted_info_nce", [CLIP], M, "batch_margin", reduction="symmetric_mean", negatives="all")
    dims = [{"dim": 2, "weight": 1.0}, {"dim": E, "weight": 0.5}]
    inner = {"kind": "info_nce", "reduction": "symmetric_mean", "negatives": "all"}
    yield make("matryoshka", [CLIP], M, "batch_share", dims=dims, inner=inner)


def taught(generator):
    """A teacher's vectors, of fewer numbers, in which some documents fit other queries."""
    rows = lambda n: F.normalize(torch.randn(n, 3, generator=generator, dtype=torch.float64), dim=1)
    near = lambda x, by: rounded(F.normalize(x + by * rows(len(x)), dim=1))
    queries = rounded(rows(B))
    own = near(queries, 0.5)
    return queries, torch.cat([own, near(own.repeat_interleave(M, dim=0), 1.0)])


def other_cases(make):
    yield from (make("margin_mse", [log_scale], m) for log_scale in (0.0, 1.5) for m in (1, M))
    yield from (
        make("kl", [], m, temperatures={"student": student, "teacher": teacher})
        for student, teacher in ((1.0, 1.0), (0.0625, 0.5))
        for m in (1, M)
    )
    yield from (make("cosent", [log_scale]) for log_scale in (0.0, math.log(20.0)))
    yield make("cosine", [])
    dims = [{"dim": 2, "weight": 1.0}, {"dim": E, "weight": 0.5}, {"dim": 4, "weight": 2.0}]
    inner = {"kind": "info_nce", "reduction": "symmetric_sum", "negatives": "all"}
    for mask in ("none", "ids"):
        yield from (make("matryoshka", [CLIP], m, mask, dims=dims, inner=inner) for m in (0, M))
    yield make("matryoshka", [CLIP, -2.0], M, dims=dims, inner={"kind": "sigmoid", "negatives": "all"})
    yield make("matryoshka", [], M, dims=dims, inner={"kind": "kl", "temperatures": {"student": 0.5, "teacher": 1.0}})


def main():
    generator = torch.Generator().manual_seed(20240530)
    q, noise = unit_rows(B, generator), unit_rows(B, generator)
    # Documents near their queries, so that some are found and some are not.
    own = rounded(F.normalize(q + 1.2 * noise, dim=1))
    negatives = own.repeat_interleave(M, dim=0) + 1.1 * unit_rows(B * M, generator)
    documents = torch.cat([own, rounded(F.normalize(negatives, dim=1))])
    # A teacher that finds most own documents best, with scores of both signs.
    teacher = torch.randn(B, 1 + M, generator=generator, dtype=torch.float64)
    teacher[:, 0] = teacher[:, 0].abs() + 0.3
    teacher[1, :2] = torch.tensor([-1.0, -1.02])
    data = {"queries": q, "documents": documents, "teacher": rounded(teacher)}
    data["teacher_queries"], data["teacher_documents"] = taught(torch.Generator().manual_seed(20240226))
    check_masks(data)
    make = lambda *args, **settings: case(data, *args, **settings)
    cases = [*contrastive_cases(make), *other_cases(make), *batch_cases(make)]
    others = {x["kind"] for x in cases if x["agrees_with_others"]}
    guided = [x for x in cases if x["mask"] in ("batch_share", "batch_margin") and x["kind"] == "info_nce"]
    assert all(x["agrees_with_others"] for x in guided) and len(guided) == 6
    assert others == set(LOSSES) - {"weighted_info_nce"}, others
    modules = {"torch": torch, "sentence_transformers": sentence_transformers, "open_clip": open_clip}
    out = {
        "versions": {name: m.__version__ for name, m in modules.items()} | {"python": platform.python_version()},
        "width": E,
        "aspects": ASPECTS,
        "grades": GRADES,
        "teacher_share": SHARE,
        "teacher": data["teacher"].flatten().tolist(),
        "teacher_thresholds": THRESHOLDS,
        "teacher_queries": data["teacher_queries"].flatten().tolist(),
        "teacher_documents": data["teacher_documents"].flatten().tolist(),
        "queries": q.flatten().tolist(),
        "documents": documents.flatten().tolist(),
    }
    lines = ",\n".join(json.dumps(x) for x in cases)
    text = json.dumps(out, indent=None)[:-1] + ', "cases": [\n' + lines + "\n]}\n"
    pathlib.Path(__file__).with_name("losses.json").write_text(text)


if __name__ == "__main__":
    main()
