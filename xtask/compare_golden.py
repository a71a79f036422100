"""Compares two folders of reference files number by number (used by `cargo xtask golden`).

In:  OLD NEW, two folders. Out: one line per tensor or file that differs; exit code 1 if any does.
How: `.safetensors` and `.npy` tensor by tensor (largest absolute difference, and relative to the largest
     value), `.json` number by number (texts under `versions` are shown, but are no difference), others byte by byte.
"""

import json
import sys
from pathlib import Path

import numpy as np


def tensors(path):
    if path.suffix == ".npy":
        return {"": np.load(path)}
    from safetensors.numpy import load_file

    return load_file(path)


def leaves(value, key=""):
    """`{dotted key: number or text}` of a JSON value."""
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in leaves(part, f"{key}.{name}").items()}
    if isinstance(value, list):
        return {k: v for n, part in enumerate(value) for k, v in leaves(part, f"{key}[{n}]").items()}
    return {key: value}


def compare_arrays(old, new):
    """What differs, as text; empty when nothing does."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"{old.dtype}{list(old.shape)} is now {new.dtype}{list(new.shape)}"
    if np.array_equal(old, new, equal_nan=old.dtype.kind == "f"):
        return ""
    gap = np.abs(old.astype(np.float64) - new.astype(np.float64)).max()
    return f"max abs {gap:.3e}, relative {gap / max(np.abs(old.astype(np.float64)).max(), 1e-300):.3e}"


def compare_values(old, new):
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (old, new))
    if old == new:
        return ""
    return f"{old} is now {new} (abs {abs(old - new):.3e})" if numbers else f"{old!r} is now {new!r}"


def compare_file(old, new):
    """`(key, difference)` for everything that differs between two files."""
    if old.suffix in (".safetensors", ".npy"):
        old, new, compare = tensors(old), tensors(new), compare_arrays
    elif old.suffix == ".json":
        old, new, compare = leaves(json.loads(old.read_text())), leaves(json.loads(new.read_text())), compare_values
    else:
        return [] if old.read_bytes() == new.read_bytes() else [("", "bytes differ")]
    gone = [(key, "gone") for key in sorted(old.keys() - new.keys())]
    added = [(key, "new") for key in sorted(new.keys() - old.keys())]
    changed = [(key, compare(old[key], new[key])) for key in sorted(old.keys() & new.keys())]
    return gone + added + [(key, text) for key, text in changed if text]


def main():
    old, new = Path(sys.argv[1]), Path(sys.argv[2])
    made = sorted(str(p.relative_to(new)) for p in new.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    faults = 0
    for name in made:
        if not (old / name).exists():
            print(f"{name}: new")
            faults += 1
            continue
        for key, text in compare_file(old / name, new / name):
            noted = ".versions" in key
            faults += not noted
            print(f"{name} {key}: {text}{' (noted only)' if noted else ''}")
    print(f"{len(made)} files, {faults} differences")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
