//! Selections of small towers, with the names that the model crate gives.

use conjoin_core::Parameter;

use super::*;

const TRANSFORMER: [&str; 8] = [
    "text.tokens.weight",
    "text.input_norm.weight",
    "text.layers.0.attention.qkv.weight",
    "text.layers.0.mlp.up.bias",
    "text.layers.1.attention.qkv.weight",
    "text.layers.2.mlp.norm.weight",
    "text.output_norm.weight",
    "text.head.0.weight",
];

fn parameters(names: &[&str]) -> Vec<Parameter> {
    let parameter = |name: &&str| Parameter {
        name: (*name).to_owned(),
        shape: vec![1],
        value: vec![1.0].into(),
        decay: true,
        frozen: false,
    };
    names.iter().map(parameter).collect()
}

#[track_caller]
fn check_frozen(config: &SelectionConfig, names: &[&str], expect: &[&str]) {
    let mut parameters = parameters(names);
    config.select("text", &parameters).unwrap().freeze(&mut parameters);
    let frozen: Vec<&str> =
        parameters.iter().filter(|p| p.frozen).map(|p| p.name.as_str()).collect();
    assert_eq!(frozen, expect);
}

#[track_caller]
fn check_multipliers(config: &SelectionConfig, names: &[&str], expect: &[f64]) {
    let found = config.select("text", &parameters(names)).unwrap().lr_multipliers;
    assert_eq!(found.len(), expect.len());
    for ((found, expect), name) in found.iter().zip(expect).zip(names) {
        assert!((found - expect).abs() < 1e-15, "{name}: {found}, expected {expect}");
    }
}

#[track_caller]
fn check_fault(config: &SelectionConfig, names: &[&str], expect: &str) {
    let error = config.select("text", &parameters(names)).unwrap_err();
    assert_eq!(error.to_string(), expect);
}

#[test]
fn the_default_trains_everything_at_one_rate() {
    let config = SelectionConfig::default();
    check_frozen(&config, &TRANSFORMER, &[]);
    check_multipliers(&config, &TRANSFORMER, &[1.0; 8]);
}

#[test]
fn freezes_by_prefix_and_by_layers() {
    let freeze = vec!["text.tokens.".to_owned(), "text.head.".to_owned()];
    let by_name = SelectionConfig { freeze, ..SelectionConfig::default() };
    check_frozen(&by_name, &TRANSFORMER, &["text.tokens.weight", "text.head.0.weight"]);
    for (freeze_layers, n_frozen) in [(1, 4), (2, 5), (3, 6)] {
        let config = SelectionConfig { freeze_layers, ..SelectionConfig::default() };
        check_frozen(&config, &TRANSFORMER, &TRANSFORMER[..n_frozen]);
    }
}

#[test]
fn what_is_frozen_stays_frozen() {
    let mut parameters = parameters(&TRANSFORMER);
    parameters[7].frozen = true;
    let selection = SelectionConfig::default().select("text", &parameters).unwrap();
    assert!(selection.frozen[7] && !selection.frozen[6]);
}

#[test]
fn a_stem_and_blocks_count_as_layers_do() {
    let names =
        ["image.stem.weight", "image.blocks.0.depthwise.weight", "image.blocks.1.pointwise.bias"];
    let names = [&names[..], &["image.projection.weight"]].concat();
    let config = SelectionConfig { freeze_layers: 1, ..SelectionConfig::default() };
    check_frozen(&config, &names, &names[..2]);
    let config = SelectionConfig { layer_decay: 0.5, ..SelectionConfig::default() };
    check_multipliers(&config, &names, &[0.125, 0.25, 0.5, 1.0]);
}

/// BEiT's `scales = [d ** (num_layers + 1 - i) for i in range(num_layers + 2)]` for three layers, by
/// `get_num_layer_for_vit`: embeddings 0, block `l` is `l + 1`, the rest 4.
#[test]
fn layer_decay_agrees_with_beit() {
    let config =
        SelectionConfig { layer_decay: 0.75, lr_factor: 0.1, ..SelectionConfig::default() };
    let scales: Vec<f64> = (0..5).map(|i| 0.1 * 0.75_f64.powi(4 - i)).collect();
    let expect = [0, 0, 1, 1, 2, 3, 4, 4].map(|depth: usize| scales[depth]);
    check_multipliers(&config, &TRANSFORMER, &expect);
}

#[test]
fn prefixes_multiply_and_the_longest_counts() {
    let parameters = parameters(&TRANSFORMER);
    let multiplier = |prefix: &str, factor| LrMultiplier { prefix: prefix.to_owned(), factor };
    let list = [multiplier("text.head.", 10.0), multiplier("text.", 0.5)];
    assert_eq!(prefix_multipliers(&list, &parameters), [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 10.0]);
    let config = SelectionConfig { layer_decay: 0.5, ..SelectionConfig::default() };
    let selection = config.select("text", &parameters).unwrap().with_prefixes(&list, &parameters);
    assert_eq!(
        selection.lr_multipliers,
        [0.03125, 0.03125, 0.0625, 0.0625, 0.125, 0.25, 0.5, 10.0]
    );
    check_prefixes("optimizer.lr_multipliers", &list, &[&[], &parameters]).unwrap();
    let list = [list[0].clone(), multiplier("txet.", 1.0)];
    assert_eq!(
        check_prefixes("optimizer.lr_multipliers", &list, &[&parameters]).unwrap_err().to_string(),
        "`optimizer.lr_multipliers.1.prefix` is `txet.`, it must be the start of a parameter's name, such \
         as `text.tokens.weight`, `text.input_norm.weight`, `text.layers.0.attention.qkv.weight`, \
         `text.output_norm.weight`, `text.head.0.weight`"
    );
}

#[test]
fn names_the_setting_that_fits_nothing() {
    let base = SelectionConfig::default;
    let freeze = vec!["text.".to_owned(), "txet.".to_owned()];
    check_fault(
        &SelectionConfig { freeze, freeze_layers: 4, ..base() },
        &TRANSFORMER,
        "`text.freeze.1` is `txet.`, it must be the start of a parameter's name, such as \
         `text.tokens.weight`, `text.input_norm.weight`, `text.layers.0.attention.qkv.weight`, \
         `text.output_norm.weight`, `text.head.0.weight`; \
         `text.freeze_layers` is 4 in a tower of 3 layers, it must be at most the number of layers",
    );
    check_fault(
        &SelectionConfig { layer_decay: 0.9, ..base() },
        &["text.tokens.weight"],
        "`text.layer_decay` is 0.9 in a tower without layers, it must be 1 there",
    );
    check_fault(
        &SelectionConfig { layer_decay: f64::NAN, lr_factor: -1.0, ..base() },
        &TRANSFORMER,
        "`text.layer_decay` is NaN, it must be above 0 and at most 1; \
         `text.lr_factor` is -1, it must be a number of at least 0",
    );
}

#[test]
fn reads_only_known_settings() {
    let config: SelectionConfig = serde_json::from_str(r#"{"freeze_layers": 2}"#).unwrap();
    assert_eq!(config, SelectionConfig { freeze_layers: 2, ..SelectionConfig::default() });
    let error = serde_json::from_str::<SelectionConfig>(r#"{"freeze_layer": 2}"#).unwrap_err();
    assert!(error.to_string().contains("unknown field `freeze_layer`"), "{error}");
}
