//! What training starts from: two towers with heads into one space.
//!
//! In:  the bundled MobileNet, a new vision transformer or a checkpoint for pictures; a new small
//!      transformer, a sentence-transformers folder or a checkpoint for texts. Out: a [`Model`].

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use conjoin_core::{Seed, Stop, Tower};
use conjoin_hub::ModelName;
use conjoin_input::{ImageContract, InputContract, TextContract, Tokenizer};
use conjoin_model::{
    Card, EncoderInput, EncoderSpec, ImageSpec, ImageTower, Matryoshka, MobileNetSpec, Model,
    ModelParts, ModelSpec, NameMap, Origin, Pooling, TextTower, Weights, families::mobilenet,
};
use serde::{Deserialize, Serialize};

use crate::{assets, console::Console, models};

/// Where training starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Start {
    /// A model with both towers: a folder or `hf:OWNER/NAME`.
    Checkpoint(ModelName),
    /// Two towers that have not met, with new heads into a common space.
    Towers(Towers),
}

/// Two towers that have not met.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Towers {
    /// The text tower.
    pub text: TextStart,
    /// The image tower.
    #[serde(default, skip_serializing_if = "ImageStart::is_bundled")]
    pub image: ImageStart,
    /// Side of the pictures in pixels.
    pub image_size: usize,
    /// Width `e` of the common space.
    pub width: usize,
    /// The most tokens a text is read to.
    pub max_tokens: usize,
}

/// What the text tower starts from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum TextStart {
    /// A new transformer over BERT's uncased vocabulary.
    New {
        /// Model width.
        width: usize,
        /// Number of layers.
        layers: usize,
        /// Number of attention heads.
        heads: usize,
    },
    /// A model with a text tower: a folder or `hf:OWNER/NAME`.
    SentenceTransformer(ModelName),
}

/// What the image tower starts from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ImageStart {
    /// The bundled MobileNet v1 0.75, trained on ImageNet.
    #[default]
    MobileNet,
    /// A new vision transformer, the mean of its patches being a picture's vector.
    New {
        /// Side of a patch in pixels, a divisor of the pictures'.
        patch: usize,
        /// Model width.
        width: usize,
        /// Number of layers.
        layers: usize,
        /// Number of attention heads.
        heads: usize,
    },
    /// A model with an image tower: a folder or `hf:OWNER/NAME`.
    Model(ModelName),
}

impl ImageStart {
    fn is_bundled(&self) -> bool {
        *self == Self::MobileNet
    }
}

impl TextStart {
    /// The small tower of the demo.
    pub(crate) fn small() -> Self {
        Self::New { width: 256, layers: 3, heads: 4 }
    }
}

impl Start {
    /// The same start with its models on this machine, pinned to what they are now: a run that is
    /// resumed begins from the same one.
    pub(crate) fn found(mut self, console: &Console, stop: &Stop) -> Result<Self> {
        let pin = |name: &mut ModelName| -> Result<()> {
            *name = models::find(name, console, stop)?.name;
            Ok(())
        };
        match &mut self {
            Self::Checkpoint(name) => pin(name)?,
            Self::Towers(Towers { text, image, .. }) => {
                if let TextStart::SentenceTransformer(name) = text {
                    pin(name)?;
                }
                if let ImageStart::Model(name) = image {
                    pin(name)?;
                }
            }
        }
        Ok(self)
    }

    /// Makes the model, of models that were [`found`](Self::found).
    pub(crate) fn build(&self, seed: Seed) -> Result<Model> {
        match self {
            Self::Towers(towers) => towers.build(seed.stream("start")),
            Self::Checkpoint(name) => {
                let model = models::open_found(name)?;
                if model.parts().text.is_none() || model.parts().image.is_none() {
                    bail!("`{name}` has not both towers; name it as `text_model`");
                }
                Ok(model)
            }
        }
    }
}

/// What a text tower brings: itself, its tokeniser, its contract, its name, its origins.
type TextSide = (TextTower, Tokenizer, TextContract, String, Vec<Origin>);

/// What an image tower brings.
struct ImageSide {
    tower: ImageTower,
    contract: ImageContract,
    source: String,
    licence: Option<String>,
}

impl Towers {
    fn build(&self, seed: Seed) -> Result<Model> {
        let (text, tokenizer, contract, text_source, origins) =
            self.text_tower(seed.stream("text"))?;
        let ImageSide { tower: image, contract: image_contract, source, licence } =
            self.image_side(seed.stream("image"))?;
        // A text model of the user's own brings a licence that its folder does not tell.
        let licence = match &self.text {
            TextStart::New { .. } => licence,
            TextStart::SentenceTransformer(_) => None,
        };
        // A model that reads its padding has the one length it was trained with.
        let max_tokens = match contract.padded {
            true => contract.max_tokens,
            false => self.max_tokens.min(contract.max_tokens),
        };
        let text_contract = TextContract { max_tokens, ..contract };
        let spec = ModelSpec {
            text: Some(text.spec().clone()),
            image: Some(image.spec()),
            contract: InputContract { text: Some(text_contract), image: Some(image_contract) },
            log_scale: (1.0_f32 / 0.07).ln(),
            score_bias: 0.0,
            matryoshka: Matryoshka::default(),
            card: Card { name: "start".to_owned(), licence, sources: vec![source, text_source] },
        };
        let parts = ModelParts {
            text: Some(text),
            image: Some(image),
            tokenizer: Some(tokenizer),
            origins,
        };
        Model::from_parts(spec, parts).context("the two towers do not fit")
    }

    fn image_side(&self, seed: Seed) -> Result<ImageSide> {
        match &self.image {
            ImageStart::MobileNet => {
                let contract = mobilenet::contract(self.image_size);
                let spec = MobileNetSpec::v1(0.75, self.image_size, Some(self.width));
                let file = Weights::from_bytes(assets::MOBILENET)?;
                let names = mobilenet::names(spec.blocks.len());
                let map = NameMap::read(&file, &names, &mobilenet::IGNORED)?;
                let spec = ImageSpec::MobileNet(spec);
                Ok(ImageSide {
                    tower: ImageTower::build(&spec, &contract, &map, seed)?,
                    contract,
                    source: "MobileNet v1 0.75 (ImageNet)".to_owned(),
                    licence: Some("Apache-2.0".to_owned()),
                })
            }
            ImageStart::New { patch, width, layers, heads } => {
                let contract = ImageContract::clip(self.image_size);
                let input = EncoderInput::Patches {
                    image_size: self.image_size,
                    patch_size: *patch,
                    bias: true,
                    class_token: false,
                };
                let spec = EncoderSpec::pre_norm(input, *width, *layers, *heads);
                let spec = EncoderSpec { pooling: Pooling::Mean, ..spec }.projected(self.width);
                let spec = ImageSpec::Transformer(spec);
                Ok(ImageSide {
                    tower: ImageTower::build(&spec, &contract, &NameMap::fresh(), seed)?,
                    contract,
                    source: "a new image tower".to_owned(),
                    licence: None,
                })
            }
            ImageStart::Model(name) => self.image_of_model(name, seed),
        }
    }

    fn image_of_model(&self, name: &ModelName, seed: Seed) -> Result<ImageSide> {
        let (spec, parts) = models::open_found(name)?.into_parts();
        let (Some(old), Some(contract)) = (parts.image, spec.contract.image) else {
            bail!("`{name}` has no image tower");
        };
        if contract.size != self.image_size {
            let size = contract.size;
            bail!("`image_size` is {}, the image tower of `{name}` takes {size}", self.image_size);
        }
        let with_head = match old.spec() {
            ImageSpec::Transformer(spec) => ImageSpec::Transformer(spec.projected(self.width)),
            ImageSpec::MobileNet(spec) => {
                ImageSpec::MobileNet(MobileNetSpec { projection: Some(self.width), ..spec })
            }
        };
        let map = NameMap::from_parameters(old.parameters());
        Ok(ImageSide {
            tower: ImageTower::build(&with_head, &contract, &map, seed)?,
            contract,
            source: spec.card.name,
            licence: spec.card.licence,
        })
    }

    /// The tower, its tokeniser, its contract, what it is, and where it comes from.
    fn text_tower(&self, seed: Seed) -> Result<TextSide> {
        match &self.text {
            TextStart::New { width, layers, heads } => {
                let tokenizer = Tokenizer::from_wordpiece(assets::VOCABULARY)?;
                let spec = self.new_text_spec(&tokenizer, *width, *layers, *heads);
                let tower = TextTower::build(&spec, &NameMap::fresh(), seed)?;
                let contract = TextContract {
                    max_tokens: self.max_tokens,
                    padded: false,
                    bare: None,
                    prompts: BTreeMap::new(),
                };
                Ok((tower, tokenizer, contract, "a new text tower".to_owned(), Vec::new()))
            }
            TextStart::SentenceTransformer(name) => {
                let (spec, parts) = models::open_found(name)?.into_parts();
                let (Some(old), Some(tokenizer)) = (parts.text, parts.tokenizer) else {
                    bail!("`{name}` has no text tower");
                };
                let with_head = old.spec().clone().projected(self.width);
                let map = NameMap::from_parameters(old.parameters());
                let tower = TextTower::build(&with_head, &map, seed)?;
                let contract = spec.contract.text.context("a text tower has a contract")?;
                // The image tower is another one than that of the folder, if that has one.
                let origins = parts.origins.into_iter().map(Origin::of_text).collect();
                Ok((tower, tokenizer, contract, spec.card.name, origins))
            }
        }
    }

    fn new_text_spec(
        &self,
        tokenizer: &Tokenizer,
        width: usize,
        layers: usize,
        heads: usize,
    ) -> EncoderSpec {
        let input = EncoderInput::Tokens {
            vocabulary: tokenizer.vocabulary_size(),
            max_tokens: self.max_tokens,
            positions: true,
            types: 0,
        };
        let spec = EncoderSpec::pre_norm(input, width, layers, heads);
        EncoderSpec { pooling: Pooling::Mean, ..spec }.projected(self.width)
    }
}
