//! Models as folders of sentence-transformers.
//!
//! In:  a model. Out: its modules in a row; two towers stand behind a `Router` that looks at the input's
//!      modality. A pair that is one model of transformers stays one.
//! Source: sentence-transformers 6.2. Parity: `testdata/parity/export`.

use conjoin_engine::Activation;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Folder, clip,
    folder::WEIGHTS,
    hf::{self, HeadStep, from_origin, whole_origin},
    not_expressible,
    tokenizer::parsed,
};
use crate::{FolderLayout, ForeignTensor, HeadLayer, Model, ModelErrorKind, Origin, Pooling};

const TEXT_PYTHON: &str = "from sentence_transformers import SentenceTransformer\n\
    model = SentenceTransformer(\"FOLDER\")\n\
    vectors = model.encode([\"a red apple\"])";
const IMAGE_PYTHON: &str = "from sentence_transformers import SentenceTransformer\n\
    model = SentenceTransformer(\"FOLDER\")\n\
    vectors = model.encode([\"photo.jpg\"])";
const PAIR_PYTHON: &str = "from sentence_transformers import SentenceTransformer\n\
    model = SentenceTransformer(\"FOLDER\")\n\
    texts, images = model.encode([\"a red apple\"]), model.encode([\"photo.jpg\"])";

/// One module and what its folder holds.
#[derive(Debug)]
struct Module {
    /// Its class, as `modules.json` names it.
    class: String,
    folder: Folder,
}

impl Module {
    fn new(class: &str, folder: Folder) -> Self {
        Self { class: class.to_owned(), folder }
    }

    /// The class without its Python module.
    fn kind(&self) -> &str {
        self.class.rsplit('.').next().unwrap_or(&self.class)
    }
}

// The names that every release since 2.0 knows; the last three came with the router of inputs.
const TRANSFORMER: &str = "sentence_transformers.models.Transformer";
const POOLING: &str = "sentence_transformers.models.Pooling";
const DENSE: &str = "sentence_transformers.models.Dense";
const NORMALIZE: &str = "sentence_transformers.models.Normalize";
const ROUTER: &str = "sentence_transformers.base.modules.router.Router";

/// The folder, and the Python that opens it.
pub(crate) fn folder(model: &Model) -> Result<(Folder, String), ModelErrorKind> {
    let parts = model.parts();
    let (mut folder, python) = match (&parts.text, &parts.image) {
        (Some(_), Some(_)) => match one_model(model)? {
            Some(modules) => (in_a_row(modules), PAIR_PYTHON),
            None => (routed(text(model)?, image(model)?), PAIR_PYTHON),
        },
        (Some(_), None) => (in_a_row(text(model)?), TEXT_PYTHON),
        (None, _) => (in_a_row(image(model)?), IMAGE_PYTHON),
    };
    folder.json(SETTINGS, &settings(model)?);
    Ok((folder, python.to_owned()))
}

const SETTINGS: &str = "config_sentence_transformers.json";

/// Prompts and the like: as they were, else the model's own.
fn settings(model: &Model) -> Result<Value, ModelErrorKind> {
    let parts = model.parts();
    let kept = parts.origins.iter().find_map(|origin| origin.files.get(SETTINGS));
    if let Some(text) = kept {
        return parsed(SETTINGS, text);
    }
    let prompts = model.spec().contract.text.as_ref().map(|text| text.prompts.clone());
    Ok(json!({
        "model_type": "SentenceTransformer",
        "prompts": prompts.unwrap_or_default(),
        "default_prompt_name": null,
        "similarity_fn_name": "cosine",
    }))
}

/// Modules one behind the other; the first lies in the folder itself.
fn in_a_row(modules: Vec<Module>) -> Folder {
    let (mut folder, mut list) = (Folder::default(), Vec::new());
    for (i, module) in modules.into_iter().enumerate() {
        let path = if i == 0 { String::new() } else { format!("{i}_{}", module.kind()) };
        list.push(json!({"idx": i, "name": i.to_string(), "path": path, "type": module.class}));
        if i == 0 {
            folder = module.folder;
        } else {
            folder.add(&path, module.folder);
        }
    }
    folder.json("modules.json", &list.into());
    folder
}

/// Two rows of modules behind a router.
fn routed(text: Vec<Module>, image: Vec<Module>) -> Folder {
    let mut folder = Folder::default();
    let (mut types, mut structure) = (json!({}), json!({}));
    for (route, modules) in [("text", text), ("image", image)] {
        let mut names = Vec::new();
        for (i, module) in modules.into_iter().enumerate() {
            let name = format!("{route}_{i}_{}", module.kind());
            types[&name] = module.class.into();
            folder.add(&name, module.folder);
            names.push(name);
        }
        structure[route] = names.into();
    }
    let routes = json!({"(None, 'text')": "text", "(None, 'image')": "image"});
    let parameters =
        json!({"default_route": "text", "allow_empty_key": true, "route_mappings": routes});
    let config = json!({"types": types, "structure": structure, "parameters": parameters});
    folder.json("router_config.json", &config);
    let router = json!([{"idx": 0, "name": "0", "path": "", "type": ROUTER}]);
    folder.json("modules.json", &router);
    folder
}

/// A pair that transformers knows as one model with a method per modality.
fn one_model(model: &Model) -> Result<Option<Vec<Module>>, ModelErrorKind> {
    let mut folder = match whole_origin(model, FolderLayout::Transformers) {
        Some(origin) => {
            let config = origin.files.get("config.json").map_or("{}", String::as_str);
            let kind = &parsed("config.json", config)?["model_type"];
            if kind != "clip" {
                return Err(not_expressible("a pair in one model", kind.to_string()));
            }
            from_origin(model, origin)?
        }
        None => match clip::folder(model) {
            Ok((folder, _)) => folder,
            Err(_) => return Ok(None),
        },
    };
    let method = |name: &str| json!({"method": name, "method_output_name": "pooler_output"});
    let mut settings = json!({
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": method("get_text_features"),
            "image": method("get_image_features"),
        },
        "module_output_name": "sentence_embedding",
        "processor_kwargs": {"backend": "pil"},
    });
    limit(&mut settings, model);
    folder.json(LIMITS, &settings);
    Ok(Some(vec![Module::new(TRANSFORMER, folder), normalize()]))
}

const LIMITS: &str = "sentence_bert_config.json";

/// States the most tokens of a text.
fn limit(settings: &mut Value, model: &Model) {
    if let Some(contract) = &model.spec().contract.text {
        settings["max_seq_length"] = contract.max_tokens.into();
    }
}

fn text(model: &Model) -> Result<Vec<Module>, ModelErrorKind> {
    let Some(tower) = hf::text(model)? else {
        return Err(not_expressible("`text`", "no text tower"));
    };
    let mut modules = match &tower.origin {
        Some(origin) if origin.layout == FolderLayout::SentenceTransformers => {
            of_origin(model, origin)?
        }
        Some(_) | None => of_transformers(model, tower.folder)?,
    };
    finish(&mut modules, &tower.head)?;
    Ok(modules)
}

fn image(model: &Model) -> Result<Vec<Module>, ModelErrorKind> {
    let Some(tower) = hf::image(model)? else {
        return Err(not_expressible("`image`", "no image tower"));
    };
    let mut folder = tower.folder;
    let settings = json!({
        "transformer_task": "feature-extraction",
        "modality_config": {"image": {"method": "forward", "method_output_name": "pooler_output"}},
        "module_output_name": "sentence_embedding",
        // Ours are Pillow's pixels; torchvision's differ.
        "processor_kwargs": {"backend": "pil"},
    });
    folder.json(LIMITS, &settings);
    let mut modules = vec![Module::new(TRANSFORMER, folder)];
    finish(&mut modules, &tower.head)?;
    Ok(modules)
}

/// Adds the layers of the head that the modules lack, and the scaling to unit length.
fn finish(modules: &mut Vec<Module>, head: &[HeadStep]) -> Result<(), ModelErrorKind> {
    while modules.last().is_some_and(|module| module.kind() == "Normalize") {
        modules.pop();
    }
    for step in head {
        modules.push(dense(step)?);
    }
    modules.push(normalize());
    Ok(())
}

fn normalize() -> Module {
    Module::new(NORMALIZE, Folder::default())
}

fn dense(step: &HeadStep) -> Result<Module, ModelErrorKind> {
    let HeadLayer::Dense { width, bias, activation } = step.layer else {
        return Err(not_expressible(&format!("`{}`", step.name), "a norm behind the pooling"));
    };
    let function = match activation {
        Activation::Identity => "torch.nn.modules.linear.Identity",
        Activation::Relu => "torch.nn.modules.activation.ReLU",
        Activation::Relu6 => "torch.nn.modules.activation.ReLU6",
        Activation::Tanh => "torch.nn.modules.activation.Tanh",
        Activation::Silu => "torch.nn.modules.activation.SiLU",
        Activation::Gelu => "torch.nn.modules.activation.GELU",
        Activation::GeluTanh | Activation::QuickGelu => {
            let what = format!("the activation of `{}`", step.name);
            return Err(not_expressible(&what, format!("{activation:?}")));
        }
    };
    let mut folder = Folder::default();
    let config = json!({
        "in_features": step.inputs,
        "out_features": width,
        "bias": bias,
        "activation_function": function,
    });
    folder.json("config.json", &config);
    folder.tensors(WEIGHTS, step.tensors()?.tensors());
    Ok(Module::new(DENSE, folder))
}

/// A text encoder of transformers with the pooling behind it.
fn of_transformers(model: &Model, mut folder: Folder) -> Result<Vec<Module>, ModelErrorKind> {
    let Some(spec) = &model.spec().text else {
        return Err(not_expressible("`text`", "no text tower"));
    };
    let mode = match spec.pooling {
        Pooling::Mean => "pooling_mode_mean_tokens",
        Pooling::First => "pooling_mode_cls_token",
        Pooling::Last => "pooling_mode_lasttoken",
        other @ (Pooling::Patches
        | Pooling::FirstId(_)
        | Pooling::LargestId
        | Pooling::Probe { .. }) => {
            return Err(not_expressible("`text.pooling`", format!("{other:?}")));
        }
    };
    let mut settings = json!({"do_lower_case": false});
    limit(&mut settings, model);
    folder.json(LIMITS, &settings);
    let modes = ["pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_lasttoken"];
    let mut pooling = json!({"word_embedding_dimension": spec.width});
    for name in modes {
        pooling[name] = (name == mode).into();
    }
    let mut pool = Folder::default();
    pool.json("config.json", &pooling);
    Ok(vec![Module::new(TRANSFORMER, folder), Module::new(POOLING, pool)])
}

/// The encoder's own settings; older releases named the file after the architecture.
fn encoder_settings(origin: &Origin, path: &str) -> Result<Value, ModelErrorKind> {
    let found = origin.files.iter().find(|(name, _)| {
        let (folder, base) = name.rsplit_once('/').unwrap_or(("", name));
        (folder == path || (folder.is_empty() && path == "."))
            && base.starts_with("sentence_")
            && base.ends_with("_config.json")
    });
    found.map_or(Ok(json!({})), |(name, text)| parsed(name, text))
}

#[derive(Deserialize)]
struct Listed {
    path: String,
    #[serde(rename = "type")]
    class: String,
}

/// The modules of a folder as they were, with the numbers of today.
fn of_origin(model: &Model, origin: &Origin) -> Result<Vec<Module>, ModelErrorKind> {
    let file = "modules.json";
    let text = origin.files.get(file).map_or("[]", String::as_str);
    let json = |source| ModelErrorKind::Json { file: file.to_owned(), source };
    let listed: Vec<Listed> = serde_json::from_str(text).map_err(json)?;
    let mut modules = Vec::new();
    for (i, Listed { path, class }) in listed.into_iter().enumerate() {
        let mut folder = Folder::default();
        if i == 0 {
            folder = hf::transformers_part(model, origin, &path)?;
            let mut settings = encoder_settings(origin, &path)?;
            limit(&mut settings, model);
            folder.json(LIMITS, &settings);
        } else {
            let inside = format!("{path}/");
            for (name, text) in &origin.files {
                if let Some(name) = name.strip_prefix(&inside) {
                    folder.put(name, text.as_bytes());
                }
            }
            let tensors = origin.tensors.iter().filter_map(|tensor| {
                let name = tensor.name.strip_prefix(&inside)?.to_owned();
                Some(ForeignTensor { name, ..tensor.clone() })
            });
            let tensors: Vec<_> = tensors.collect();
            if !tensors.is_empty() {
                folder.tensors(WEIGHTS, tensors);
            }
        }
        modules.push(Module { class, folder });
    }
    Ok(modules)
}
