//! transformers' image processors: the rules for pictures beside a checkpoint.
//!
//! In:  `preprocessor_config.json`, or the `image_processor` of `processor_config.json`, keys old and new.
//! Out: an [`ImageContract`]. Whatever it cannot say is an error.
//! Source: the Pillow processors (`…ImageProcessorPil`, the slow ones before transformers 5); the
//! torchvision ones round resized pixels differently. Parity: `testdata/parity/clip`.

use std::path::Path;

use conjoin_input::{CropRounding, ImageContract, Interpolation, ResizeMode};
use serde_json::Value;

use super::config::{Config, Log};
use crate::ModelErrorKind;

const OLD: &str = "preprocessor_config.json";
const NEW: &str = "processor_config.json";

/// The classes whose rules this file knows; each family tells their defaults.
const CLASSES: [&str; 8] = [
    "CLIPImageProcessor",
    "CLIPImageProcessorFast",
    "CLIPImageProcessorPil",
    "CLIPFeatureExtractor",
    "SiglipImageProcessor",
    "SiglipImageProcessorFast",
    "SiglipImageProcessorPil",
    "SiglipFeatureExtractor",
];

/// Side of a picture where the file does not tell it.
const DEFAULT_SIZE: usize = 224;

/// How a picture becomes a square and how values between pixels are found, in the words of open_clip:
/// `resize_mode`, `fill_color` and `interpolation`.
pub(crate) fn open_clip_rules(
    config: &Config,
) -> Result<(ResizeMode, Interpolation), ModelErrorKind> {
    let fill = config.usize_or("fill_color", 0)?;
    let fill = u8::try_from(fill).map_err(|_| config.unsupported("fill_color", "0 to 255"))?;
    let resize = match config.text_or("resize_mode", "shortest")? {
        "shortest" => ResizeMode::ShortestCenterCrop { crop_rounding: CropRounding::HalfEven },
        "longest" => ResizeMode::LongestPad { fill: [fill; 3] },
        "squash" => ResizeMode::Squash,
        _ => return Err(config.unsupported("resize_mode", "shortest, longest or squash")),
    };
    let interpolation = match config.text_or("interpolation", "bicubic")? {
        // Only training chooses at random.
        "bicubic" | "random" => Interpolation::Bicubic,
        "bilinear" => Interpolation::Bilinear,
        _ => return Err(config.unsupported("interpolation", "bicubic or bilinear")),
    };
    Ok((resize, interpolation))
}

/// Reads the rules of a folder. `standard` are those of the family's image processor, for the size that
/// its tower sees.
pub(crate) fn read(
    folder: &Path,
    standard: &ImageContract,
    log: &Log,
) -> Result<ImageContract, ModelErrorKind> {
    let config = open(folder, log)?;
    let contract = contract(&config, standard)?;
    if contract.size != standard.size {
        let key = if config.has("crop_size") { "crop_size" } else { "size" };
        let supported = format!("the tower's image size {}", standard.size);
        return Err(config.unsupported(key, &supported));
    }
    Ok(contract)
}

fn open(folder: &Path, log: &Log) -> Result<Config, ModelErrorKind> {
    if folder.join(NEW).exists() {
        let whole = Config::open(&folder.join(NEW), NEW, log)?;
        whole.ignore(&["processor_class"]);
        if let Some(section) = whole.section("image_processor")? {
            return Ok(section);
        }
    }
    Config::open(&folder.join(OLD), OLD, log)
}

fn contract(config: &Config, standard: &ImageContract) -> Result<ImageContract, ModelErrorKind> {
    check_class(config)?;
    for (key, allowed) in [("do_resize", true), ("do_rescale", true), ("do_pad", false)] {
        config.only(key, &[allowed.into()])?;
    }
    for key in ["crop_pct", "do_reduce_labels", "do_flip_channel_order", "use_square_size"] {
        config.only(key, &[false.into()])?;
    }
    let factor = config.maybe_f32("rescale_factor")?;
    if factor.is_some_and(|factor| (factor * 255.0 - 1.0).abs() > 1e-6) {
        return Err(config.unsupported("rescale_factor", "1/255"));
    }
    config.ignore(&HARMLESS);
    let (size, resized, resize) = geometry(config, standard.resize != ResizeMode::Squash)?;
    let interpolation = match config.usize_or("resample", 3)? {
        2 => Interpolation::Bilinear,
        3 => Interpolation::Bicubic,
        _ => return Err(config.unsupported("resample", "2 (bilinear) or 3 (bicubic)")),
    };
    let (mean, std) = if config.flag_or("do_normalize", true)? {
        (
            channels(config, "image_mean", standard.mean)?,
            channels(config, "image_std", standard.std)?,
        )
    } else {
        ([0.0; 3], [1.0; 3])
    };
    let contract = ImageContract { size, resized, resize, interpolation, mean, std };
    let words = format!("{resize:?} to {size}, {interpolation:?}, as Pillow does");
    config.note("pictures", words, "size");
    Ok(contract)
}

/// Keys that change no pixel of an RGB picture.
const HARMLESS: [&str; 11] = [
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "do_convert_rgb",
    "default_to_square",
    "return_tensors",
    "data_format",
    "input_data_format",
    "device",
    "disable_grouping",
    "_valid_processor_keys",
];

fn check_class(config: &Config) -> Result<(), ModelErrorKind> {
    for key in ["image_processor_type", "feature_extractor_type"] {
        if let Some(name) = config.maybe_text(key)?
            && !CLASSES.contains(&name)
        {
            return Err(config.unsupported(key, "CLIPImageProcessor or SiglipImageProcessor"));
        }
    }
    Ok(())
}

/// The size, the side before the crop, and the rule; `standard_shortest` is whether a bare number as
/// `size` means the shortest side.
fn geometry(
    config: &Config,
    standard_shortest: bool,
) -> Result<(usize, Option<usize>, ResizeMode), ModelErrorKind> {
    let (resized, shortest) = resize_rule(config, standard_shortest)?;
    let crops = config.flag_or("do_center_crop", standard_shortest)?;
    let size = if crops { crop_size(config)? } else { resized };
    match shortest {
        true if crops && size <= resized => {
            let resize = ResizeMode::ShortestCenterCrop { crop_rounding: CropRounding::Down };
            Ok((size, (resized > size).then_some(resized), resize))
        }
        true if crops => Err(config.unsupported("crop_size", "no more than `size`")),
        true => Err(config.unsupported("do_center_crop", "true, where `size` is a shortest side")),
        false if size == resized => Ok((size, None, ResizeMode::Squash)),
        false => Err(config.unsupported("crop_size", "the same as a square `size`")),
    }
}

/// The side that pictures are resized to, and whether it is their shortest.
fn resize_rule(config: &Config, standard_shortest: bool) -> Result<(usize, bool), ModelErrorKind> {
    const SIZES: &str = "a number, {shortest_edge} or equal {height, width}";
    let side = |value: &Value| usize::try_from(value.as_u64()?).ok();
    let read = match config.get("size") {
        None => Some((DEFAULT_SIZE, standard_shortest)),
        Some(Value::Object(sides)) => {
            match (sides.len(), sides.get("shortest_edge"), square(sides)) {
                (1, Some(edge), _) => side(edge).map(|edge| (edge, true)),
                (2, None, Some(edge)) => Some((edge, false)),
                _ => None,
            }
        }
        Some(number) => side(number).map(|number| (number, standard_shortest)),
    };
    read.ok_or_else(|| config.unsupported("size", SIZES))
}

fn crop_size(config: &Config) -> Result<usize, ModelErrorKind> {
    let read = match config.get("crop_size") {
        None => Some(DEFAULT_SIZE),
        Some(Value::Object(sides)) => square(sides),
        Some(number) => number.as_u64().and_then(|n| usize::try_from(n).ok()),
    };
    read.ok_or_else(|| config.unsupported("crop_size", "a number or equal {height, width}"))
}

fn square(sides: &serde_json::Map<String, Value>) -> Option<usize> {
    let [height, width] = ["height", "width"].map(|key| sides.get(key).and_then(Value::as_u64));
    usize::try_from(height.filter(|_| height == width)?).ok()
}

/// Three numbers, one per channel, or the class's.
pub(crate) fn channels(
    config: &Config,
    key: &str,
    default: [f32; 3],
) -> Result<[f32; 3], ModelErrorKind> {
    let Some(value) = config.get(key) else { return Ok(default) };
    let numbers: Option<Vec<f32>> = value
        .as_array()
        .and_then(|numbers| numbers.iter().map(|n| Some(n.as_f64()? as f32)).collect());
    numbers
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| config.unsupported(key, "three numbers"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(standard: &ImageContract, value: Value) -> Result<ImageContract, String> {
        let Value::Object(keys) = value else { panic!("an object") };
        contract(&Config::new(OLD, keys, &Log::default()), standard).map_err(|e| e.to_string())
    }

    fn rules(value: Value) -> Result<ImageContract, String> {
        of(&ImageContract::clip(24), value)
    }

    fn down(size: usize) -> ImageContract {
        let resize = ResizeMode::ShortestCenterCrop { crop_rounding: CropRounding::Down };
        ImageContract { resize, ..ImageContract::clip(size) }
    }

    #[test]
    fn reads_old_and_new_sizes() {
        assert_eq!(rules(json!({})), Ok(down(224)));
        assert_eq!(rules(json!({"size": 24, "crop_size": 24})), Ok(down(24)));
        let new = json!({"size": {"shortest_edge": 30}, "crop_size": {"height": 24, "width": 24}});
        assert_eq!(rules(new), Ok(ImageContract { resized: Some(30), ..down(24) }));
        let siglip = ImageContract::inception(24);
        assert_eq!(of(&siglip, json!({"size": 24})), Ok(siglip));
        let squash = json!({"size": {"height": 24, "width": 24}, "do_center_crop": false});
        let expected = ImageContract { resize: ResizeMode::Squash, ..ImageContract::clip(24) };
        assert_eq!(rules(squash), Ok(expected));
    }

    #[test]
    fn refuses_what_a_contract_cannot_say() {
        for (rule, named) in [
            (json!({"size": {"height": 24, "width": 32}}), "`size`"),
            (json!({"size": {"shortest_edge": 24, "longest_edge": 48}}), "`size`"),
            (json!({"size": 24, "crop_size": 32}), "`crop_size`"),
            (json!({"do_center_crop": false}), "`do_center_crop`"),
            (json!({"do_rescale": false}), "`do_rescale`"),
            (json!({"rescale_factor": 0.5}), "`rescale_factor`"),
            (json!({"resample": 1}), "`resample`"),
            (json!({"image_mean": [0.5]}), "`image_mean`"),
            (json!({"image_processor_type": "BitImageProcessor"}), "BitImageProcessor"),
        ] {
            let error = rules(rule.clone()).unwrap_err();
            assert!(error.contains(named), "{rule}: {error}");
        }
    }
}
