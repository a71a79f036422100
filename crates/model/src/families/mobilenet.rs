//! MobileNet v1 in Keras' layout: HWIO kernels, batch norms beside them.
//!
//! In:  `layers.json` (Keras' list of layers) beside `model.safetensors`, whose tensors are named `conv1`,
//!      `conv_dw_N`, `conv_pw_N` and their `_bn`. Out: a [`Plan`], or the name map alone.
//! Parity: `testdata/parity/mobilenet`, `testdata/parity/towers/mobilenet_tiny`.

use std::path::Path;

use conjoin_input::{ImageContract, InputContract};
use serde::Deserialize;

use super::{Plan, Reading, config::Log, model_card};
use crate::{
    ImageSpec, Matryoshka, MobileNetBlock, MobileNetSpec, ModelErrorKind, Source, Weights,
    checkpoint::read_json, tower::IMAGE_PREFIX,
};

/// Tensors of the classifier, which an embedder does not use.
pub const IGNORED: [&str; 1] = ["conv_preds/"];

/// Our names to Keras', for a network of this many blocks.
#[must_use]
pub fn names(blocks: usize) -> Vec<(String, Source)> {
    let mut map = Vec::new();
    convolution(&mut map, "stem", "conv1", Source::Transposed("conv1/kernel".to_owned()));
    for i in 0..blocks {
        let (depthwise, pointwise) = (format!("conv_dw_{}", i + 1), format!("conv_pw_{}", i + 1));
        let taps = Source::Flattened(format!("{depthwise}/depthwise_kernel"));
        convolution(&mut map, &format!("blocks.{i}.depthwise"), &depthwise, taps);
        let kernel = Source::Transposed(format!("{pointwise}/kernel"));
        convolution(&mut map, &format!("blocks.{i}.pointwise"), &pointwise, kernel);
    }
    map
}

fn convolution(map: &mut Vec<(String, Source)>, ours: &str, theirs: &str, weight: Source) {
    map.push((format!("{ours}.weight"), weight));
    map.push((format!("{ours}.scale"), Source::NormScale(format!("{theirs}_bn"))));
    map.push((format!("{ours}.bias"), Source::NormShift(format!("{theirs}_bn"))));
}

/// How Keras' MobileNet wants its pictures: squashed to a square, scaled to -1 to 1.
#[must_use]
pub fn contract(size: usize) -> ImageContract {
    ImageContract::inception(size)
}

/// The file that tells the topology.
pub(crate) const LAYERS: &str = "layers.json";

/// A folder with Keras' list of layers beside the weights.
pub(crate) fn plan(folder: &Path, log: &Log) -> Result<Plan, ModelErrorKind> {
    let layers: Vec<Layer> = read_json(&folder.join(LAYERS))?;
    let spec = topology(&layers)?;
    log.family("MobileNet v1 of Keras");
    let words = format!("{} blocks on {} pixels", spec.blocks.len(), spec.image_size);
    log.note("topology", words, format!("{LAYERS}: strides and filters of its layers"));
    log.note("pictures", "squashed, values from -1 to 1", "Keras' MobileNet was trained so");
    let names = names(spec.blocks.len()).into_iter();
    Ok(Plan {
        text: None,
        contract: InputContract { text: None, image: Some(contract(spec.image_size)) },
        image: Some(ImageSpec::MobileNet(spec)),
        tokenizer: None,
        names: names.map(|(ours, source)| (format!("{IMAGE_PREFIX}{ours}"), source)).collect(),
        unused: IGNORED.map(str::to_owned).to_vec(),
        log_scale: 0.0,
        score_bias: 0.0,
        matryoshka: Matryoshka::default(),
        card: model_card::card(folder)?,
        weights: Weights::open_folder(folder)?,
        reading: Reading::default(),
    })
}

/// One of Keras' layers, with the keys that change a number.
#[derive(Debug, Deserialize)]
struct Layer {
    class_name: String,
    name: String,
    config: Settings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    batch_input_shape: Option<Vec<Option<usize>>>,
    strides: Option<[usize; 2]>,
    filters: Option<usize>,
    kernel_size: Option<[usize; 2]>,
    padding: Option<String>,
    epsilon: Option<f32>,
    activation: Option<String>,
    depth_multiplier: Option<usize>,
    use_bias: Option<bool>,
}

/// The layers up to the mean over pixels; what follows is the classifier.
fn topology(layers: &[Layer]) -> Result<MobileNetSpec, ModelErrorKind> {
    let pooled = layers.iter().position(|layer| layer.class_name.starts_with("GlobalAverage"));
    let body = &layers[..pooled.unwrap_or(layers.len())];
    body.iter().try_for_each(check)?;
    let stem = body.iter().find(|layer| layer.name == "conv1");
    let stem = stem.ok_or_else(|| unsupported("conv1", "absent", "a layer of this name"))?;
    let blocks = (1..).map_while(|n| {
        let find = |name: String| body.iter().find(|layer| layer.name == name);
        Some((find(format!("conv_dw_{n}"))?, find(format!("conv_pw_{n}"))?))
    });
    let blocks = blocks
        .map(|(depthwise, pointwise)| {
            Ok(MobileNetBlock { filters: filters(pointwise)?, stride: stride(depthwise)? })
        })
        .collect::<Result<_, ModelErrorKind>>()?;
    Ok(MobileNetSpec {
        image_size: image_size(body)?,
        stem_filters: filters(stem)?,
        stem_stride: stride(stem)?,
        blocks,
        projection: None,
    })
}

fn unsupported(key: &str, found: &str, supported: &str) -> ModelErrorKind {
    let [key, found, supported] = [key, found, supported].map(str::to_owned);
    ModelErrorKind::Unsupported { file: LAYERS.to_owned(), key, found, supported }
}

fn image_size(layers: &[Layer]) -> Result<usize, ModelErrorKind> {
    let shape = layers.first().and_then(|layer| layer.config.batch_input_shape.as_deref());
    match shape {
        Some([_, Some(height), Some(width), Some(3)]) if height == width => Ok(*height),
        other => Err(unsupported("batch_input_shape", &format!("{other:?}"), "[n, side, side, 3]")),
    }
}

fn filters(layer: &Layer) -> Result<usize, ModelErrorKind> {
    let key = format!("{}.filters", layer.name);
    layer.config.filters.ok_or_else(|| unsupported(&key, "absent", "a number"))
}

fn stride(layer: &Layer) -> Result<usize, ModelErrorKind> {
    match layer.config.strides {
        Some([y, x]) if y == x => Ok(y),
        other => {
            let key = format!("{}.strides", layer.name);
            Err(unsupported(&key, &format!("{other:?}"), "two equal numbers"))
        }
    }
}

/// Refuses what the forward does not do.
fn check(layer: &Layer) -> Result<(), ModelErrorKind> {
    let Settings { kernel_size, padding, epsilon, activation, depth_multiplier, use_bias, .. } =
        &layer.config;
    let side = if layer.name.starts_with("conv_pw_") { 1 } else { 3 };
    let fits = match layer.class_name.as_str() {
        "InputLayer" | "Dropout" => true,
        "Conv2D" | "DepthwiseConv2D" => {
            *kernel_size == Some([side; 2])
                && padding.as_deref() == Some("same")
                && matches!(activation.as_deref(), None | Some("linear"))
                && depth_multiplier.unwrap_or(1) == 1
                && *use_bias == Some(false)
        }
        "BatchNormalization" => *epsilon == Some(1e-3),
        "Activation" => activation.as_deref() == Some("relu6"),
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let found = format!("{} with {:?}", layer.class_name, layer.config);
    Err(unsupported(&layer.name, &found, "the layers of MobileNet v1, padded `same`, with ReLU6"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn layers() -> Vec<Value> {
        let conv = |class: &str, name: &str, side: usize, stride: usize, filters: Value| {
            json!({"class_name": class, "name": name, "config": {
                "strides": [stride, stride], "kernel_size": [side, side], "padding": "same",
                "use_bias": false, "activation": "linear", "filters": filters}})
        };
        let norm =
            json!({"class_name": "BatchNormalization", "name": "n", "config": {"epsilon": 1e-3}});
        let relu =
            json!({"class_name": "Activation", "name": "r", "config": {"activation": "relu6"}});
        let input = json!({"batch_input_shape": [null, 32, 32, 3]});
        vec![
            json!({"class_name": "InputLayer", "name": "i", "config": input}),
            conv("Conv2D", "conv1", 3, 2, 8.into()),
            norm,
            relu,
            conv("DepthwiseConv2D", "conv_dw_1", 3, 2, Value::Null),
            conv("Conv2D", "conv_pw_1", 1, 1, 16.into()),
            json!({"class_name": "GlobalAveragePooling2D", "name": "g", "config": {}}),
            json!({"class_name": "Reshape", "name": "classes", "config": {}}),
        ]
    }

    fn read(layers: Vec<Value>) -> Result<MobileNetSpec, String> {
        let layers: Vec<Layer> = serde_json::from_value(Value::Array(layers)).unwrap();
        topology(&layers).map_err(|e| e.to_string())
    }

    #[test]
    fn reads_the_topology_of_keras() {
        let found = read(layers()).unwrap();
        assert_eq!((found.image_size, found.stem_filters, found.stem_stride), (32, 8, 2));
        assert_eq!(found.blocks, [MobileNetBlock { filters: 16, stride: 2 }]);
    }

    #[test]
    fn refuses_other_layers() {
        for (layer, key, value, named) in [
            (1, "padding", json!("valid"), "`conv1`"),
            (2, "epsilon", json!(1e-5), "`n`"),
            (3, "activation", json!("relu"), "`r`"),
            (4, "strides", json!([1, 2]), "`conv_dw_1.strides`"),
        ] {
            let mut changed = layers();
            changed[layer]["config"][key] = value;
            let error = read(changed).unwrap_err();
            assert!(error.contains(named), "{key}: {error}");
        }
    }
}
