"""Makes the reference values for the retrieval metrics and the calibration.

Needs: pytrec-eval-terrier, scikit-learn, scipy, numpy (versions are written into the files).
Run:   python make.py   (in this folder; writes ranking.json and calibration.json)
"""

import json
from importlib.metadata import version

import numpy as np
import pytrec_eval
from scipy.stats import mannwhitneyu
from sklearn.linear_model import LogisticRegression

MEASURES = {"ndcg_cut_10", "recip_rank", "success_1", "success_5", "success_10"}


def versions(*names):
    return {name: version(name) for name in names}


def runs(rng):
    """Few distinct scores, so that most ranks are decided by the tie rule; ids whose order as text
    is not their order as numbers; graded judgements; one query in four leaves out a document."""
    n_queries, n_documents = 48, 57
    ids = [f"doc{i}" if i % 3 else f"d-{i * 7919 % 1000:03}é" for i in range(n_documents)]
    rng.shuffle(ids)
    levels = np.float32([-1.0, -0.25, -0.0, 0.0, 0.1, 0.1000001, 0.3, 1.0])
    queries = []
    for number in range(n_queries):
        n_levels = [1, 2, 3, len(levels)][number % 4]
        chosen = rng.choice(len(levels), n_levels, replace=False)
        scores = levels[rng.choice(chosen, n_documents)]
        n_judged = int(rng.integers(1, 25))
        rows = rng.choice(n_documents, n_judged, replace=False)
        grades = rng.choice([0, 1, 1, 2, 3], n_judged)
        grades[0] = max(1, grades[0])
        exclude = int(rng.integers(n_documents)) if number % 4 == 3 else None
        judged = {int(r): int(g) for r, g in zip(rows, grades)}
        kept = {r: g for r, g in judged.items() if r != exclude}
        if not any(g > 0 for g in kept.values()):
            exclude, kept = None, judged
        run = {ids[r]: float(scores[r]) for r in range(n_documents) if r != exclude}
        qrel = {ids[r]: g for r, g in kept.items()}
        evaluator = pytrec_eval.RelevanceEvaluator({"q": qrel}, {"ndcg_cut", "recip_rank", "success"})
        found = evaluator.evaluate({"q": run})["q"]
        queries.append(
            {
                "scores": [float(s) for s in scores],
                "judged": [[r, g] for r, g in judged.items()],
                "exclude": exclude,
                "expected": {m: found[m] for m in sorted(MEASURES)},
            }
        )
    return {"versions": versions("pytrec-eval-terrier", "numpy"), "ids": ids, "queries": queries}


def calibration(rng, matching, other):
    """Unpenalised logistic regression with Platt's softened targets: every score goes in once as a
    match and once as none, weighted by its target; both kinds have the total weight one half."""
    matching, other = np.float32(matching), np.float32(other)
    t_matching = (len(matching) + 1) / (len(matching) + 2)
    t_other = 1 / (len(other) + 2)
    x = np.concatenate([matching, other, matching, other]).astype(np.float64)
    y = np.repeat([1, 0], len(matching) + len(other))
    w = np.concatenate(
        [
            np.full(len(matching), t_matching / (2 * len(matching))),
            np.full(len(other), t_other / (2 * len(other))),
            np.full(len(matching), (1 - t_matching) / (2 * len(matching))),
            np.full(len(other), (1 - t_other) / (2 * len(other))),
        ]
    )
    mean, deviation = x.mean(), x.std()
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-14, max_iter=1000)
    model.fit(((x - mean) / deviation)[:, None], y, sample_weight=w * len(x))
    a = model.coef_[0, 0] / deviation
    b = model.intercept_[0] - a * mean
    auc = mannwhitneyu(matching, other).statistic / (len(matching) * len(other))
    return {
        "matching": [float(s) for s in matching],
        "other": [float(s) for s in other],
        "a": float(a),
        "b": float(b),
        "auc": float(auc),
    }


def calibrations(rng):
    cases = {
        "cosines_of_a_weak_model": (rng.normal(0.28, 0.05, 60), rng.normal(0.2, 0.04, 300)),
        "with_many_ties": (rng.integers(0, 9, 80) / 10, rng.integers(-3, 7, 120) / 10),
        "separable": (rng.uniform(0.5, 0.9, 20), rng.uniform(-0.2, 0.3, 50)),
        "worse_than_chance": (rng.normal(0.0, 0.1, 40), rng.normal(0.1, 0.1, 40)),
        "one_of_each": ([0.4], [0.1]),
    }
    made = {name: calibration(rng, *sides) for name, sides in cases.items()}
    return {"versions": versions("scikit-learn", "scipy", "numpy"), "cases": made}


def write(name, value):
    with open(name, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")


write("ranking.json", runs(np.random.default_rng(1)))
write("calibration.json", calibrations(np.random.default_rng(2)))
