"""Makes the bundled demonstration data from a copy of the Grocery Store Dataset.

In:  the upstream `dataset` folder: classes.csv, train.txt, val.txt, test.txt, pictures.
Out: products.tar, photos-train.tar, photos-val.tar, LICENSE, beside this script.
Not here: any change to a picture's bytes.

    python make.py path/to/upstream

The same folder gives the same bytes: nothing is drawn at random and no clock is read. Only the
Python standard library is needed.
"""

import csv
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MAX_TOTAL_BYTES = 13_500_000
MAX_TRAIN_PER_CLASS = 18
MAX_VAL_PER_CLASS = 9
LICENSE_NAMES = ("LICENSE", "../LICENSE")


def main(upstream):
    for stale in ("products.tar", "photos-train.tar", "photos-val.tar"):
        remove(HERE / stale)
    license_file = next(upstream / n for n in LICENSE_NAMES if (upstream / n).exists())
    shutil.copyfile(license_file, HERE / "LICENSE")
    classes = read_classes(upstream)
    write_products(classes)
    fixed = sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file())
    pools = {
        "train": read_pool(upstream, ["train"]),
        "val": read_pool(upstream, ["test", "val"]),
    }
    n_train, n_val = largest_counts(upstream, classes, pools, MAX_TOTAL_BYTES - fixed)
    for split, n in (("train", n_train), ("val", n_val)):
        data, count = photo_tar(upstream, classes, pools[split], split, n)
        (HERE / f"photos-{split}.tar").write_bytes(data)
        print(f"photos-{split}.tar: {count} photos, up to {n} per class, {len(data)} bytes")
    total = sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file())
    assert total <= MAX_TOTAL_BYTES, total
    print(f"total: {total} bytes")


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()


def read_classes(upstream):
    """One dict per product class, in upstream's order of class ids."""
    classes = []
    with open(upstream / "classes.csv", newline="", encoding="utf-8") as f:
        for row in csv.DictReader(f):
            name = row["Class Name (str)"]
            text = upstream / row["Product Description Path (str)"].lstrip("/")
            classes.append({
                "id": name.lower(),
                "name": name.replace("-", " "),
                "category": row["Coarse Class Name (str)"].replace("-", " "),
                "description": " ".join(text.read_text(encoding="utf-8").split()),
                "picture": upstream / row["Iconic Image Path (str)"].lstrip("/"),
            })
    return classes


def write_products(classes):
    """A WebDataset tar: the studio picture of a product and what is written about it."""
    with tarfile.open(HERE / "products.tar", mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for c in classes:
            facts = {
                "id": c["id"], "product": c["name"], "category": c["category"],
                "name": c["name"], "description": c["description"], "split": "train",
            }
            add_pair(tar, c["id"], c["picture"], facts)


def read_pool(upstream, lists):
    """Photo paths by class id, in the order of upstream's lists."""
    pool = {}
    for name in lists:
        for line in (upstream / f"{name}.txt").read_text(encoding="utf-8").splitlines():
            path, class_id, _ = (part.strip() for part in line.split(","))
            pool.setdefault(int(class_id), []).append(path)
    return pool


def spread(paths, n):
    """`n` of `paths` at equal distances: neighbours in upstream's lists are often one burst."""
    n = min(n, len(paths))
    return [paths[i * len(paths) // n] for i in range(n)]


def largest_counts(upstream, classes, pools, budget):
    """The most photos per class that fit, two train photos for one held-out photo."""
    for n_train in range(MAX_TRAIN_PER_CLASS, 0, -1):
        train = len(photo_tar(upstream, classes, pools["train"], "train", n_train)[0])
        for n_val in range(MAX_VAL_PER_CLASS, n_train // 2 - 1, -1):
            val = len(photo_tar(upstream, classes, pools["val"], "val", n_val)[0])
            if train + val <= budget:
                return n_train, n_val
    raise SystemExit("not even one photo per class fits")


def photo_tar(upstream, classes, pool, split, n):
    """A WebDataset tar in memory (KEY.jpg, KEY.json), and its number of photos."""
    out, count = io.BytesIO(), 0
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for class_id, c in enumerate(classes):
            for path in spread(pool[class_id], n):
                # train/Fruit/Apple/Pink-Lady/Pink-Lady_001.jpg -> pink-lady-train-001
                source, number = path.split("/")[0], path.rsplit("_", 1)[1].removesuffix(".jpg")
                key = f"{c['id']}-{source}-{number}"
                facts = {
                    "id": key, "product": c["name"], "category": c["category"],
                    "name": c["name"], "description": c["description"], "split": split,
                }
                add_pair(tar, key, upstream / path, facts)
                count += 1
    return out.getvalue(), count


def add_pair(tar, key, picture, facts):
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
    add(tar, f"{key}.jpg", picture.read_bytes())
    add(tar, f"{key}.json", text.encode())


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), 0, 0o644
    tar.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
