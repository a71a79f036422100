"""The same search as `search.rs` with numpy: one matrix product and a partition."""

import statistics
import time

import numpy as np

ITEMS, WIDTH, TOP_K, RUNS = 100_000, 384, 10, 15
rng = np.random.default_rng(1)
rows = rng.uniform(-1, 1, (ITEMS, WIDTH)).astype(np.float32)
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
print("numpy", np.__version__)
for n in (1, 8, 64):
    queries = rng.uniform(-1, 1, (n, WIDTH)).astype(np.float32)
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        scores = queries @ rows.T
        top = np.argpartition(scores, -TOP_K, axis=1)[:, -TOP_K:]
        order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1)
        top = np.take_along_axis(top, order, axis=1)
        times.append(time.perf_counter() - start)
    print(f"{n:3} queries: median {statistics.median(times) * 1e3:7.2f} ms, best {min(times) * 1e3:7.2f} ms")
