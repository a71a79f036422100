"""Makes the reference files of decoding and preprocessing.

Out: inputs/*            small pictures in every kind of encoding
     decode.json         per input: size, largest allowed difference, offset into expected.bin.gz
     prepare.json        per input and contract: offset into expected.bin.gz
     normalize.json      one picture: offset of its bytes and of its 32-bit floats
     expected.bin.gz     the reference pixels, RGB rows, one after the other

References: Pillow for decoding; torchvision on Pillow images for `half_even` crops, squash and padding
(the padding arithmetic is open_clip's `ResizeKeepRatio(longest=1)` and `center_crop_or_pad`); the
Pillow image processor of transformers for `down` crops; timm for pictures that are resized to more than is kept. Versions are written into decode.json.

Pillow must be older than 13: that version does the vertical pass first where the height shrinks much
more than the width, which moves up to a quarter of such a picture's bytes by one level (never more). All
published models were trained with the older order, so that is the one imitated.

Run: python make.py (needs pillow<13, numpy, torch, torchvision, transformers, timm)
"""

import gzip
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
import torchvision.transforms.functional as F
import timm
import transformers
from PIL import Image, ImageOps
from timm.data.transforms_factory import transforms_imagenet_eval
from torchvision.transforms import InterpolationMode as Mode
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

HERE = Path(__file__).parent
INPUTS = HERE / "inputs"
INPUTS.mkdir(exist_ok=True)
blob = bytearray()


def put(array):
    offset = len(blob)
    blob.extend(np.ascontiguousarray(array).tobytes())
    return offset


def scene(width, height, channels, seed):
    """Soft gradients with hard edges and a little noise: every filter tap matters."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(float)
    planes = []
    for c in range(channels):
        wave = 127 + 90 * np.sin(x / (5 + c) + c) * np.cos(y / (7 - c))
        edge = 255.0 * (((x // 6 + y // 9 + c) % 3) == 0)
        planes.append(0.6 * wave + 0.4 * edge)
    image = np.stack(planes, -1) + 4 * rng.integers(-2, 3, (height, width, channels))
    return image.clip(0, 255).astype(np.uint8)


def png16(array, colour_type):
    height, width = array.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def rgb(image):
    """Upright, over white, 8-bit RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


decoded = {}
decode_cases = []


def add(name, data, tolerance=0, reference=None):
    (INPUTS / name).write_bytes(data)
    image = rgb(Image.open(io.BytesIO(data))) if reference is None else reference
    decoded[name] = image
    decode_cases.append(
        {
            "file": name,
            "width": image.width,
            "height": image.height,
            "tolerance": tolerance,
            "offset": put(np.asarray(image)),
        }
    )


def picture(width, height, channels=3, seed=0):
    array = scene(width, height, channels, seed)
    return Image.fromarray(array[..., 0] if channels == 1 else array)


def png(image, **options):
    return encoded(image, "PNG", optimize=True, **options)


def make_inputs():
    for name, (width, height) in {
        "odd": (97, 61), "tall": (31, 140), "wide": (150, 23), "tiny": (3, 5), "one": (1, 1),
        "line": (40, 1), "small": (20, 17), "square": (64, 64), "margin1": (65, 64),
        "margin3": (67, 64), "large": (260, 201),
    }.items():
        add(f"{name}.png", png(picture(width, height, seed=width)))
    add("grey.png", png(picture(50, 37, 1)))
    add("bilevel.png", png(picture(33, 21, 1).point(lambda v: 255 * (v > 120)).convert("1")))
    add("grey_alpha.png", png(picture(23, 29, 2)))
    add("rgba.png", png(picture(45, 33, 4)))
    palette = picture(32, 24).quantize(16)
    add("palette.png", png(palette))
    add("palette_alpha.png", png(palette, transparency=bytes([0, 90, 200, 255] * 4)))
    rng = np.random.default_rng(3)
    wide = lambda channels: rng.integers(0, 65536, (11, 13, channels), dtype=np.uint16)  # noqa: E731
    add("rgb16.png", png16(wide(3), 2))
    add("rgba16.png", png16(wide(4), 6))
    add("grey_alpha16.png", png16(wide(2), 4))
    # Pillow clips 16-bit grey at 255, which makes nearly everything white; the reference here is
    # the rule it has for 16-bit colour: the high byte.
    grey = wide(1)
    high = Image.fromarray((grey[..., 0] >> 8).astype(np.uint8)).convert("RGB")
    add("grey16.png", png16(grey, 0), reference=high)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        add(f"orientation{orientation}.png", png(picture(7, 4), exif=exif.tobytes()))
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = dict(quality=92)
    # Decoders differ in the inverse transform and in chroma upsampling.
    smooth = picture(160, 90).resize((48, 40), Image.BICUBIC)
    add("upright.jpg", encoded(smooth, "JPEG", subsampling=0, exif=exif.tobytes(), **jpeg), 3)
    add("subsampled.jpg", encoded(smooth, "JPEG", subsampling=2, **jpeg), 12)
    add("progressive.jpg", encoded(smooth, "JPEG", subsampling=0, progressive=True, **jpeg), 3)
    add("grey.jpg", encoded(smooth.convert("L"), "JPEG", **jpeg), 2)
    add("cmyk.jpg", encoded(smooth.convert("CMYK"), "JPEG", subsampling=0, **jpeg), 6)
    add("restart.jpg", encoded(smooth, "JPEG", subsampling=0, restart_marker_blocks=2, **jpeg), 3)
    add("lossless.webp", encoded(picture(30, 22), "WEBP", lossless=True))
    add("lossless_alpha.webp", encoded(picture(30, 22, 4), "WEBP", lossless=True, exact=True))
    add("lossy.webp", encoded(smooth, "WEBP", quality=90), 4)
    first, second = palette, picture(32, 24, seed=9).quantize(16)
    moving = dict(save_all=True, duration=50, loop=0)
    add("moving.gif", encoded(first, "GIF", append_images=[second], **moving))
    add("moving.webp", encoded(picture(24, 18), "WEBP", lossless=True,
                               append_images=[picture(24, 18, seed=9)], **moving))
    add("transparent.gif", encoded(palette, "GIF", transparency=2))


MODES = {"bilinear": Mode.BILINEAR, "bicubic": Mode.BICUBIC}
PIL_MODES = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}


def half_even(image, size, interpolation):
    return F.center_crop(F.resize(image, size, MODES[interpolation]), [size, size])


def down(image, size, interpolation):
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        resample=PIL_MODES[interpolation],
        do_rescale=False,
        do_normalize=False,
    )
    values = processor(image)["pixel_values"][0]
    return Image.fromarray(np.asarray(values).transpose(1, 2, 0).astype(np.uint8))


def squash(image, size, interpolation):
    return F.resize(image, [size, size], MODES[interpolation])


def longest(image, size, interpolation):
    height, width = image.height, image.width
    ratio = max(height / size, width / size)
    height, width = (max(1, round(side * 1.0 / ratio)) for side in (height, width))
    image = F.resize(image, [height, width], MODES[interpolation])
    dx, dy = size - width, size - height
    return F.pad(image, [dx // 2, dy // 2, (dx + 1) // 2, (dy + 1) // 2], fill=(5, 70, 200))


CROP = {"shortest_center_crop": {"crop_rounding": "half_even"}}
RULES = {
    "half_even": (half_even, CROP),
    "down": (down, {"shortest_center_crop": {"crop_rounding": "down"}}),
    "squash": (squash, "squash"),
    "longest": (longest, {"longest_pad": {"fill": [5, 70, 200]}}),
}

prepare_cases = []


def resized_more(image, rule, size, resized, interpolation):
    """Resizes to `resized`, keeps the middle `size`: timm's `crop_pct` and `crop_mode`."""
    modes = {"half_even": "center", "squash": "squash", "longest": "border"}
    values = transforms_imagenet_eval(
        img_size=size, crop_pct=size / (resized + 0.5), crop_mode=modes[rule], interpolation=interpolation,
        mean=(5 / 255, 70 / 255, 200 / 255), normalize=False,
    )(image)
    return Image.fromarray(values.permute(1, 2, 0).numpy())


def prepare(name, rule, size, interpolation, resized=None):
    function, resize = RULES[rule]
    if resized:
        image = resized_more(decoded[name], rule, size, resized, interpolation)
    else:
        image = function(decoded[name], size, interpolation)
    assert image.size == (size, size), (name, rule, size, image.size)
    contract = {
        "size": size, "resize": resize, "interpolation": interpolation,
        "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
    } | ({"resized": resized} if resized else {})
    prepare_cases.append({"file": name, "contract": contract, "offset": put(np.asarray(image))})


def make_prepared():
    shapes = ["odd", "tall", "wide", "tiny", "one", "line", "small", "square", "large"]
    for name in shapes:
        for rule in RULES:
            for interpolation in MODES:
                prepare(f"{name}.png", rule, 32, interpolation)
    for name in ["odd", "tall", "small", "grey", "rgba", "palette_alpha", "rgb16", "grey16"]:
        prepare(f"{name}.png", "half_even", 64, "bicubic")
        prepare(f"{name}.png", "squash", 19, "bilinear")
    for name in ["margin1", "margin3"]:
        for rule in RULES:
            prepare(f"{name}.png", rule, 64, "bicubic")
    for name in ["odd", "tall", "wide", "small", "square"]:
        for rule in ["half_even", "squash", "longest"]:
            prepare(f"{name}.png", rule, 32, "bicubic", resized=39)
            prepare(f"{name}.png", rule, 32, "bilinear", resized=36)
    prepare("large.png", "half_even", 224, "bicubic")
    prepare("large.png", "down", 1, "bicubic")


def make_normalized():
    mean = [0.48145466, 0.4578275, 0.40821073]
    std = [0.26862954, 0.26130258, 0.27577711]
    image = decoded["small.png"]
    values = F.normalize(F.to_tensor(image), mean, std).permute(1, 2, 0).to(torch.float32)
    case = {"file": "small.png", "mean": mean, "std": std}
    while len(blob) % 4:
        blob.append(0)
    case["offset"] = put(values.numpy())
    return case


make_inputs()
make_prepared()
normalized = make_normalized()
versions = {
    "pillow": PIL.__version__,
    "torchvision": torchvision.__version__.split("+")[0],
    "transformers": transformers.__version__,
    "timm": timm.__version__,
}


def write(name, value):
    lines = ",\n".join("  " + json.dumps(case) for case in value["cases"])
    head = json.dumps(value["versions"])
    (HERE / name).write_text(f'{{"versions": {head}, "cases": [\n{lines}\n]}}\n')


write("decode.json", {"versions": versions, "cases": decode_cases})
write("prepare.json", {"versions": versions, "cases": prepare_cases})
write("normalize.json", {"versions": versions, "cases": [normalized]})
with open(HERE / "expected.bin.gz", "wb") as file:
    file.write(gzip.compress(bytes(blob), 9, mtime=0))
print(len(decode_cases), len(prepare_cases), len(blob))
