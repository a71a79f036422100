//! CLIP, open_clip and timm, each in its library's own layout.

use conjoin_core::{Embedder, Modality};
use conjoin_model::Model;

use crate::{case, root, shared};

#[test]
fn parity_clip_with_quick_gelu_and_old_keys() {
    case::check("clip/quick_gelu");
}

#[test]
fn parity_clip_with_gelu_and_new_keys() {
    case::check("clip/gelu");
}

#[test]
fn parity_clip_text_tower_alone() {
    case::check("clip/text");
}

#[test]
fn parity_clip_vision_tower_alone() {
    case::check("clip/vision");
}

#[test]
fn parity_open_clip_built_in() {
    case::check("open_clip/vit");
}

#[test]
fn parity_open_clip_custom_text() {
    case::check("open_clip/custom");
}

#[test]
fn parity_open_clip_siglip_trunk() {
    case::check("open_clip/siglip");
}

#[test]
fn parity_open_clip_eva_trunk() {
    case::check("open_clip/eva");
}

#[test]
fn parity_open_clip_projections_of_trunks() {
    case::check("open_clip/linear");
    case::check("open_clip/mlp");
}

#[test]
fn parity_open_clip_xlm_roberta_text_tower() {
    case::check("open_clip/xlm");
}

#[test]
fn parity_timm_vit() {
    for name in ["vit", "clip", "gap", "avg", "dinov2", "siglip"] {
        case::check(&format!("timm/{name}"));
    }
}

#[test]
fn parity_timm_eva02() {
    case::check("timm/eva02");
    case::check("timm/eva02_packed");
}

/// A case's checkpoint with one file's text changed.
fn changed(case: &str, file: &str, from: &str, to: &str) -> String {
    let source = root().join("testdata/parity").join(case).join("checkpoint");
    let folder = tempfile::tempdir().unwrap();
    for entry in fs_err::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        fs_err::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let path = folder.path().join(file);
    let text = fs_err::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has {from}");
    fs_err::write(&path, text.replacen(from, to, 1)).unwrap();
    Model::open(folder.path()).unwrap_err().kind.to_string()
}

#[test]
fn values_that_would_change_numbers_are_refused() {
    let config = "config.json";
    for (case, file, from, to, named) in [
        ("clip/gelu", config, "\"gelu\"", "\"mish\"", "`text_config.hidden_act` is \"mish\""),
        ("clip/gelu", config, "\"clip\"", "\"clop\"", "`model_type` is \"clop\""),
        ("clip/gelu", "processor_config.json", "true", "false", "`image_processor.do_center_crop`"),
        ("clip/vision", config, "\"image_size\": 24", "\"image_size\": 32", "image size 32"),
        ("timm/vit", config, "vit_base_patch16_224", "vit_odd_patch16_224", "eva02_base_patch14"),
        ("timm/vit", config, "\"depth\": 2", "\"depth\": 3", "`model_args.depth` is 3"),
        (
            "timm/vit",
            config,
            "\"depth\": 2",
            "\"depth\": 2, \"qk_norm\": true",
            "`model_args.qk_norm`",
        ),
        ("timm/vit", config, "\"token\"", "\"avg\"", "`global_pool` is \"avg\""),
        ("timm/vit", config, "\"center\"", "\"odd\"", "`pretrained_cfg.crop_mode`"),
    ] {
        let error = changed(case, file, from, to);
        assert!(error.contains(named), "{case}, {to}: {error}");
    }
    let config = "open_clip_config.json";
    for (case, from, to, named) in [
        (
            "vit",
            "\"head_width\"",
            "\"qk_norm\": true, \"head_width\"",
            "vision_cfg.qk_norm` is true",
        ),
        ("vit", "\"heads\"", "\"embed_cls\": true, \"heads\"", "text_cfg.embed_cls` is true"),
        ("vit", "\"embed_dim\"", "\"multimodal_cfg\": {}, \"embed_dim\"", "multimodal_cfg"),
        ("custom", "\"last\"", "\"none\"", "text_cfg.pool_type` is \"none\""),
        ("custom", "canonicalize", "odd", "tokenizer_kwargs"),
        ("custom", "\"longest\"", "\"odd\"", "preprocess_cfg.resize_mode` is \"odd\""),
        ("eva", "eva02_base_patch16", "convnext_base", "timm_model_name"),
    ] {
        let error = changed(&format!("open_clip/{case}"), config, from, to);
        assert!(error.contains(named), "{case}, {to}: {error}");
    }
}

#[test]
fn opens_keras_mobilenet() {
    let Some(folder) = shared("weights/mobilenet_v1_0.75_224") else { return };
    let model = Model::open(&folder).unwrap();
    assert_eq!((model.width(), model.modalities()), (768, &[Modality::Image][..]));
}
