//! The model card: what a person should know of a model before using it.
//!
//! In:  the model, the manifest, recipe and report of its training where they are there. Out: a `README.md` with
//!      the hub's front matter. Every fact is read from what a run left; what is not known is said to be so.

use std::{fmt::Write, path::Path};

use anyhow::Result;
use conjoin_core::{Embedder, Manifest};
use conjoin_eval::{Comparison, Report};
use conjoin_model::{Export, Model};

use crate::pipeline;

/// The recipe inside a checkpoint.
pub(crate) const RECIPE_FILE: &str = "recipe.toml";
/// The card inside a checkpoint and an export.
pub(crate) const CARD_FILE: &str = "README.md";
/// What the manifest of a checkpoint tells of the data it was trained on.
pub(crate) const DATA_FACT: &str = "data";
/// The manifest's fact with what was measured after training, by name.
pub(crate) const FIGURES_FACT: &str = "figures";

/// What is known of a model's making.
#[derive(Debug, Default)]
pub(crate) struct Making {
    pub manifest: Option<Manifest>,
    pub recipe: Option<String>,
    pub figures: Option<Comparison>,
}

impl Making {
    /// Reads what training left in and beside a checkpoint. A report beside it counts if it is about
    /// this model; one that is named must be.
    pub(crate) fn read(folder: &Path, model: &Model, report: Option<&Path>) -> Result<Self> {
        let manifest = folder.join(conjoin_core::MANIFEST_FILE);
        let manifest = if manifest.exists() {
            Some(serde_json::from_slice(&fs_err::read(manifest)?)?)
        } else {
            None
        };
        let recipe = folder.join(RECIPE_FILE);
        let recipe = recipe.exists().then(|| fs_err::read_to_string(recipe)).transpose()?;
        let is_this = |report: &Report| report.parts().after.fingerprint == model.fingerprint();
        let report = match report {
            Some(named) => {
                let read = Report::read(named)?;
                if !is_this(&read) {
                    anyhow::bail!("the report `{}` is about another model", named.display());
                }
                Some(read)
            }
            None => {
                let beside = folder.parent().unwrap_or(Path::new(".")).join("report");
                Report::read(&beside).ok().filter(is_this)
            }
        };
        let figures = report.map(|report| report.parts().comparison.clone());
        Ok(Self { manifest, recipe, figures })
    }
}

/// The card of a model, and of its export if it is one.
pub(crate) fn card(model: &Model, making: &Making, export: Option<&Export>) -> Result<String> {
    let mut text = front_matter(model, export)?;
    let spec = model.spec();
    let title = if spec.card.name.is_empty() { "model" } else { &spec.card.name };
    writeln!(text, "# {title}\n")?;
    let from = match spec.card.sources.as_slice() {
        [] => String::new(),
        sources => format!(", made from {}", sources.join(" and ")),
    };
    let kinds: Vec<&str> = model.modalities().iter().map(|m| m.name()).collect();
    writeln!(
        text,
        "Embeds {} into vectors of {} numbers of unit length{from}. Compare them by their dot product.\n",
        kinds.join("s and ") + "s",
        model.width(),
    )?;
    licence(&mut text, model)?;
    inputs(&mut text, model)?;
    training(&mut text, making)?;
    usage(&mut text, export)?;
    Ok(text)
}

fn front_matter(model: &Model, export: Option<&Export>) -> Result<String> {
    let card = &model.spec().card;
    let mut text = String::from("---\n");
    match card.licence.as_deref() {
        Some(licence) => writeln!(text, "license: {}", licence.to_lowercase())?,
        None => writeln!(text, "license: unknown")?,
    }
    let library = export.map_or("conjoin", |export| export.target().library());
    writeln!(text, "library_name: {library}")?;
    writeln!(text, "tags:\n- conjoin\n- feature-extraction\n- sentence-similarity")?;
    let models: Vec<&String> = card.sources.iter().filter(|s| s.contains('/')).collect();
    if !models.is_empty() {
        writeln!(text, "base_model:")?;
        for name in models {
            writeln!(text, "- {}", name.trim_start_matches("hf:"))?;
        }
    }
    text.push_str("---\n\n");
    Ok(text)
}

/// Words in the names of licences that forbid earning money.
const NON_COMMERCIAL: [&str; 4] = ["-nc", "noncommercial", "non-commercial", "research"];

fn licence(text: &mut String, model: &Model) -> Result<()> {
    text.push_str("## Licence\n\n");
    match model.spec().card.licence.as_deref() {
        None => writeln!(
            text,
            "**Not known.** A model this one was made from does not state a licence; ask its makers before you \
             use or share the weights."
        )?,
        Some(name) => {
            let lower = name.to_lowercase();
            writeln!(text, "The weights are under {name}.")?;
            if NON_COMMERCIAL.iter().any(|word| lower.contains(word)) {
                writeln!(
                    text,
                    "\n**Not for commercial use**, by the licence of what it was made from."
                )?;
            }
        }
    }
    text.push('\n');
    Ok(())
}

fn inputs(text: &mut String, model: &Model) -> Result<()> {
    let contract = &model.spec().contract;
    text.push_str("## Inputs\n\n");
    if let Some(rules) = &contract.text {
        writeln!(text, "- Texts: up to {} tokens; longer ones are cut.", rules.max_tokens)?;
        for (task, prompt) in rules.prompts.iter().filter(|(_, prompt)| !prompt.is_empty()) {
            writeln!(text, "- Before a text for `{task}` comes `{prompt}`.")?;
        }
    }
    if let Some(rules) = &contract.image {
        writeln!(text, "- Pictures: resized to {0} x {0} pixels.", rules.size)?;
    }
    text.push('\n');
    Ok(())
}

fn training(text: &mut String, making: &Making) -> Result<()> {
    text.push_str("## Training\n\n");
    let data = making.manifest.as_ref().and_then(|manifest| {
        let facts = manifest.facts.get(DATA_FACT)?.as_object()?;
        Some((facts, manifest.inputs.get("data")?))
    });
    match data {
        Some((facts, hash)) => {
            text.push_str("| data | |\n|---|---|\n");
            for (name, value) in facts {
                writeln!(text, "| {name} | {} |", value.as_str().unwrap_or_default())?;
            }
            writeln!(text, "| SHA-256 of the dataset's manifest | `{hash}` |\n")?;
        }
        None => text.push_str("No training by conjoin is recorded.\n\n"),
    }
    if let Some(recipe) = &making.recipe {
        writeln!(text, "The recipe:\n\n```toml\n{}\n```\n", recipe.trim_end())?;
    }
    let measured = making.manifest.as_ref().and_then(|manifest| manifest.facts.get(FIGURES_FACT));
    if let Some(figures) =
        measured.and_then(|figures| figures.as_object()).filter(|f| !f.is_empty())
    {
        text.push_str("Measured after training, on data it was not trained on:\n\n| figure | % |\n|---|---|\n");
        for (name, value) in figures {
            writeln!(text, "| {name} | {:.2} |", 100.0 * value.as_f64().unwrap_or_default())?;
        }
        text.push('\n');
    }
    if let Some(figures) = &making.figures {
        let table = pipeline::table(figures);
        writeln!(
            text,
            "Measured on items it was not trained on, before -> after:\n\n```text\n{table}\n```\n"
        )?;
    }
    Ok(())
}

fn usage(text: &mut String, export: Option<&Export>) -> Result<()> {
    text.push_str("## Use\n\n");
    if let Some(export) = export {
        let python = export.python().replace("FOLDER", "path/to/this/folder");
        writeln!(text, "```python\n{python}\n```\n")?;
        for note in export.notes() {
            writeln!(text, "{note}\n")?;
        }
    } else {
        text.push_str("```sh\nconjoin embed queries.txt photo.jpg --model path/to/this/folder --out vectors\n```\n");
    }
    Ok(())
}
