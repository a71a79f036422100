"""Makes the parity cases of timm's ViT and EVA02 image towers, in timm's hub layout.

Out, as told in `../stages.py` (images only):
     vit/            class token, a classifier that is ignored; centre crop of less than the whole
     clip/           a norm before the blocks, no patch bias, quick GELU, ε 1e-5
     gap/            no class token, no qkv bias, layer scale, mean of normed patches; crop of a squashed picture
     avg/            mean of patches, normed behind it
     dinov2/         layer scale, a patch size that does not divide the picture
     siglip/         MAP head; "squash"
     eva02/          rotary grid, SwiGLU, sub-LN, class token, with gradients
     eva02_packed/   rotary grid on another size, packed SwiGLU without sub-LN, mean of patches; "border"

Run: python make.py (needs torch, timm, safetensors, pillow)
"""

import platform
import sys
from pathlib import Path

import timm
import torch
from timm.models._hub import save_for_hf

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import stages  # noqa: E402

VERSIONS = {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__}
SIZES = {"embed_dim": 40, "depth": 2, "num_heads": 5, "img_size": 24, "patch_size": 8, "mlp_ratio": 1.8}
EVA = {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 24, "patch_size": 8}
CASES = {
    "vit": ("vit_base_patch16_224", SIZES | {"num_classes": 7}, {}),
    "clip": ("vit_base_patch32_clip_quickgelu_224", SIZES | {"num_classes": 0}, {"crop_pct": 1.0}),
    "gap": ("vit_medium_patch16_gap_256", SIZES | {"num_classes": 0}, {"crop_mode": "squash", "crop_pct": 0.8}),
    "avg": ("vit_small_patch16_224", SIZES | {"num_classes": 0, "global_pool": "avg"}, {"interpolation": "bilinear"}),
    "dinov2": ("vit_small_patch14_dinov2", SIZES | {"num_classes": 0, "patch_size": 7}, {"crop_pct": 1.0}),
    "siglip": ("vit_base_patch16_siglip_224", SIZES | {"num_classes": 0}, {"crop_mode": "squash", "crop_pct": 1.0}),
    "eva02": ("eva02_base_patch16_clip_224", EVA | {"num_classes": 0}, {}),
    "eva02_packed": ("eva02_small_patch14_224", EVA | {"num_classes": 3, "img_size": 32}, {"crop_mode": "border"}),
}


def make(case, seed, name, arguments, data):
    out = stages.fresh(case)
    model = stages.lively(timm.create_model(name, pretrained=False, **arguments), seed)
    save_for_hf(model, out, safe_serialization=True, data_config=data)
    # What `timm.create_model("local-dir:…")` reads.
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval().double()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    pixels = [transform(picture) for picture in stages.pictures()]
    seen = stages.Stages(model.blocks)

    def run(x):
        features = model.forward_head(model.forward_features(x[None].double()), pre_logits=True)
        return features, features

    golden = {}
    stages.put_pixels(golden, pixels)
    loss = stages.record(golden, "image", seen, pixels, run, seed + 100)
    stages.write(case, golden, None, stages.PICTURES, VERSIONS)
    if case.name == "eva02":
        without = stages.write_gradients(case, model, loss, out / "model.safetensors")
        assert not without, without


def main():
    torch.set_num_threads(1)
    for seed, (case, (name, arguments, data)) in enumerate(CASES.items()):
        make(HERE / case, seed, name, arguments, data)


if __name__ == "__main__":
    main()
