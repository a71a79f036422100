//! Models as folders of transformers.
//!
//! In:  a model. Out: the folder it came from with its numbers of today; CLIP's layout for pairs of CLIP's
//!      shape; else a folder per tower, with the head beside it as `projection.safetensors`.

use conjoin_input::{Interpolation, ResizeMode};
use serde_json::{Value, json};

use super::{
    Folder, clip,
    folder::WEIGHTS,
    not_expressible,
    tensors::parameters,
    tokenizer::{self, parsed},
    towers,
};
use crate::{
    Content, FolderLayout, ForeignTensor, HeadLayer, Model, ModelErrorKind, Order, Origin, Piece,
    origin::Turned,
    tower::{IMAGE_PREFIX, TEXT_PREFIX},
};

/// How Python opens a model of transformers; `FOLDER` stands for its path.
pub(crate) const PYTHON: &str = "from transformers import AutoModel, AutoProcessor\n\
    model = AutoModel.from_pretrained(\"FOLDER\")\n\
    processor = AutoProcessor.from_pretrained(\"FOLDER\")";

const TIMM: &str = "import timm\n\
    model = timm.create_model(\"local-dir:FOLDER\", pretrained=True, num_classes=0)\n\
    config = timm.data.resolve_model_data_config(model)";

/// The folder, and the Python that opens it.
pub(crate) fn folder(model: &Model) -> Result<(Folder, String), ModelErrorKind> {
    if let Some(origin) = whole_origin(model, FolderLayout::Transformers) {
        let folder = from_origin(model, origin)?;
        return Ok((folder, PYTHON.to_owned()));
    }
    if let Some(origin) = whole_origin(model, FolderLayout::Timm) {
        return Ok((from_origin(model, origin)?, TIMM.to_owned()));
    }
    match clip::folder(model) {
        Ok(pair) => Ok(pair),
        Err(not_clip) => apart(model).map_err(|kind| {
            // A pair that is nearly CLIP is told what keeps it from being one.
            if model.parts().text.is_some() && model.parts().image.is_some() {
                not_clip
            } else {
                kind
            }
        }),
    }
}

/// The origin in this layout that all parameters of the model came from, if there is one.
pub(crate) fn whole_origin(model: &Model, layout: FolderLayout) -> Option<&Origin> {
    let mut origins = model.parts().origins.iter().filter(|origin| origin.layout == layout);
    origins.find(|origin| parameters(model).all(|p| origin.has(&p.name)))
}

/// A transformers folder as it was, with the numbers of today.
pub(crate) fn from_origin(model: &Model, origin: &Origin) -> Result<Folder, ModelErrorKind> {
    let mut folder = Folder::default();
    for (name, text) in &origin.files {
        if !name.contains('/') && name != "tokenizer_config.json" {
            folder.put(name, stored(name, text)?);
        }
    }
    tokenizer::add(&mut folder, model, Some(origin))?;
    folder.tensors(WEIGHTS, origin.tensors.clone());
    Ok(folder)
}

/// A configuration as it was, but for the type of the numbers: they are written as `F32`.
pub(crate) fn stored(name: &str, text: &str) -> Result<Vec<u8>, ModelErrorKind> {
    if name.rsplit('/').next() != Some("config.json") || !text.contains("dtype") {
        return Ok(text.as_bytes().to_vec());
    }
    let mut config = parsed(name, text)?;
    set_type(&mut config);
    Ok(format!("{config:#}\n").into_bytes())
}

fn set_type(config: &mut Value) {
    let Value::Object(keys) = config else { return };
    for (key, value) in keys {
        match (key.as_str(), &value) {
            ("dtype" | "torch_dtype", Value::String(_)) => *value = "float32".into(),
            _ => set_type(value),
        }
    }
}

/// One folder per tower, or the one there is.
fn apart(model: &Model) -> Result<(Folder, String), ModelErrorKind> {
    let mut folder = Folder::default();
    let mut python = vec!["from transformers import AutoModel".to_owned()];
    let both = model.parts().text.is_some() && model.parts().image.is_some();
    let mut add = |name: &str, mut tower: Folder, head: Option<Turned>| {
        if let Some(head) = head {
            tower.tensors("projection.safetensors", head.tensors());
        }
        let path = if both { format!("FOLDER/{name}") } else { "FOLDER".to_owned() };
        python.push(format!("{name} = AutoModel.from_pretrained(\"{path}\")"));
        if both {
            folder.add(name, tower);
        } else {
            folder = tower;
        }
    };
    if let Some(tower) = text(model)? {
        let head = tower.head()?;
        add("text", tower.folder, head);
    }
    if let Some(tower) = image(model)? {
        let head = tower.head()?;
        add("image", tower.folder, head);
    }
    Ok((folder, python.join("\n")))
}

/// A tower as a transformers folder, up to the layers of its head that are not in there.
pub(crate) struct TowerFolder {
    pub(crate) folder: Folder,
    /// The layers of the head behind those that the folder holds.
    pub(crate) head: Vec<HeadStep>,
    /// Where the folder came from, if from somebody else.
    pub(crate) origin: Option<Origin>,
}

/// A linear layer of a head.
#[derive(Debug, Clone)]
pub(crate) struct HeadStep {
    /// Our name, without `.weight`.
    pub(crate) name: String,
    pub(crate) inputs: usize,
    pub(crate) layer: HeadLayer,
}

impl HeadStep {
    /// Its tensors as PyTorch calls those of a linear layer.
    pub(crate) fn tensors(&self) -> Result<Turned, ModelErrorKind> {
        let HeadLayer::Dense { width, bias, .. } = self.layer else {
            return Err(not_expressible(&format!("`{}`", self.name), "a norm behind the pooling"));
        };
        let mut tensors = Turned::default();
        let mut put = |part: &str, shape: Vec<usize>| {
            let (parameter, count) = (format!("{}.{part}", self.name), shape.iter().product());
            let piece = Piece { parameter, order: Order::Same, from: 0, count, to: 0 };
            tensors.piece(&format!("linear.{part}"), shape, piece);
        };
        put("weight", vec![width, self.inputs]);
        if bias {
            put("bias", vec![width]);
        }
        Ok(tensors)
    }
}

impl TowerFolder {
    /// The head as one linear layer, if it has one.
    fn head(&self) -> Result<Option<Turned>, ModelErrorKind> {
        match self.head.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one.tensors()?)),
            many => Err(not_expressible("`head`", format!("{} layers", many.len()))),
        }
    }
}

/// The text tower.
pub(crate) fn text(model: &Model) -> Result<Option<TowerFolder>, ModelErrorKind> {
    let Some(spec) = &model.spec().text else { return Ok(None) };
    let steps = head_steps(TEXT_PREFIX, &spec.head, spec.width);
    let layouts = [FolderLayout::SentenceTransformers, FolderLayout::Transformers];
    let origin = tower_origin(model, TEXT_PREFIX, &layouts);
    let tower = match origin {
        Some(origin) => {
            let head =
                steps.into_iter().filter(|step| !origin.has(&format!("{}.weight", step.name)));
            let head = head.collect();
            TowerFolder {
                folder: transformers_part(model, &origin, &encoder_path(&origin)?)?,
                head,
                origin: Some(origin),
            }
        }
        None => TowerFolder { folder: towers::text(model, spec)?, head: steps, origin: None },
    };
    Ok(Some(tower))
}

/// The image tower.
pub(crate) fn image(model: &Model) -> Result<Option<TowerFolder>, ModelErrorKind> {
    let Some(spec) = &model.spec().image else { return Ok(None) };
    let head = match spec {
        crate::ImageSpec::Transformer(spec) => head_steps(IMAGE_PREFIX, &spec.head, spec.width),
        crate::ImageSpec::MobileNet(spec) => {
            let dense = |width| HeadStep {
                name: format!("{IMAGE_PREFIX}projection"),
                inputs: spec.features(),
                layer: HeadLayer::Dense {
                    width,
                    bias: false,
                    activation: conjoin_engine::Activation::Identity,
                },
            };
            spec.projection.map(dense).into_iter().collect()
        }
    };
    Ok(Some(TowerFolder { folder: towers::image(model, spec)?, head, origin: None }))
}

fn head_steps(prefix: &str, head: &[HeadLayer], width: usize) -> Vec<HeadStep> {
    let mut inputs = width;
    let step = |(i, layer): (usize, &HeadLayer)| {
        let step = HeadStep { name: format!("{prefix}head.{i}"), inputs, layer: *layer };
        if let HeadLayer::Dense { width, .. } = layer {
            inputs = *width;
        }
        step
    };
    head.iter().enumerate().map(step).collect()
}

/// The origin of one tower in one of these layouts, without what it says of the other tower. It holds
/// every parameter but those of a head that was added.
fn tower_origin(model: &Model, prefix: &str, layouts: &[FolderLayout]) -> Option<Origin> {
    let ours =
        |name: &str| name.starts_with(prefix) && !name.starts_with(&format!("{prefix}head."));
    let fits = |origin: &&Origin| {
        layouts.contains(&origin.layout)
            && parameters(model).filter(|p| ours(&p.name)).all(|p| origin.has(&p.name))
    };
    let origin = model.parts().origins.iter().find(fits)?;
    // A folder with both towers is not the folder of one.
    let holds_another = |tensor: &ForeignTensor| match &tensor.content {
        Content::Pieces(pieces) => pieces.iter().any(|p| !p.parameter.starts_with(prefix)),
        Content::Filled(_) | Content::LogScale | Content::ScoreBias => false,
    };
    (!origin.tensors.iter().any(holds_another)).then(|| origin.clone())
}

/// Where in the folder the encoder lies: the first of its modules.
fn encoder_path(origin: &Origin) -> Result<String, ModelErrorKind> {
    let Some(modules) = origin.files.get("modules.json") else { return Ok(String::new()) };
    let modules = parsed("modules.json", modules)?;
    Ok(modules[0]["path"].as_str().unwrap_or_default().to_owned())
}

/// The transformers model inside a folder of either layout.
pub(crate) fn transformers_part(
    model: &Model,
    origin: &Origin,
    path: &str,
) -> Result<Folder, ModelErrorKind> {
    let mut inner = origin.clone();
    let inside = if matches!(path, "" | ".") { String::new() } else { format!("{path}/") };
    let files = inner.files.into_iter().filter_map(|(name, text)| {
        let name = name.strip_prefix(&inside)?;
        TRANSFORMERS_FILES.contains(&name).then(|| (name.to_owned(), text))
    });
    inner.files = files.collect();
    inner.tensors.retain(|tensor| !tensor.name.contains('/'));
    from_origin(model, &inner)
}

const TRANSFORMERS_FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
];

/// Adds the settings of the image processor.
pub(crate) fn add_preprocessor(
    folder: &mut Folder,
    model: &Model,
    processor: &str,
) -> Result<(), ModelErrorKind> {
    let Some(contract) = &model.spec().contract.image else {
        return Err(not_expressible("`contract.image`", "none"));
    };
    let square = |side: usize| json!({"height": side, "width": side});
    let (size, crop) = match contract.resize {
        ResizeMode::Squash if contract.resized() == contract.size => (square(contract.size), false),
        ResizeMode::Squash => (square(contract.resized()), true),
        // How an odd rest is cropped cannot be said; the export has a note where it differs.
        ResizeMode::ShortestCenterCrop { .. } => {
            (json!({"shortest_edge": contract.resized()}), true)
        }
        ResizeMode::LongestPad { .. } => {
            return Err(not_expressible("`contract.image.resize`", "`longest_pad`"));
        }
    };
    // Pillow's numbers of its filters.
    let resample = match contract.interpolation {
        Interpolation::Bilinear => 2,
        Interpolation::Bicubic => 3,
    };
    let settings = json!({
        "image_processor_type": processor,
        "do_convert_rgb": true,
        "do_resize": true,
        "size": size,
        "resample": resample,
        "do_center_crop": crop,
        "crop_size": square(contract.size),
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": contract.mean,
        "image_std": contract.std,
    });
    folder.json("preprocessor_config.json", &settings);
    Ok(())
}
