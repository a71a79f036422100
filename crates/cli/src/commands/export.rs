//! `conjoin export`: a model in the layout of a Python library.

use anyhow::{Context, Result};
use conjoin_core::{Embedder, Manifest, Stop};
use conjoin_model::{Export, Model};

use crate::{
    Outcome, args,
    card::{self, Making},
    console::{Console, print},
    models,
};

pub(crate) fn run(args: &args::Export, console: &Console, stop: &Stop) -> Result<Outcome> {
    let found = models::find(&args.model, console, stop)?;
    let model = Model::open(&found.folder)?;
    let export = Export::of(&model, args.to.into())
        .with_context(|| format!("cannot export `{}`", args.model))?;
    let making = Making::read(&found.folder, &model, args.report.as_deref())?;
    let text = card::card(&model, &making, Some(&export))?;
    let mut manifest = Manifest::new("", 0);
    manifest.inputs.insert("model".to_owned(), model.fingerprint().to_owned());
    export.write(&model, &text, &args.out, manifest)?;
    for file in export.files() {
        console.say(&format!("  {file}"));
    }
    for note in export.notes() {
        console.say(&format!("note: {note}"));
    }
    console.say(&format!("export: the model is `{}`; open it with", args.out.display()));
    print(&export.python().replace("FOLDER", &args.out.display().to_string()))?;
    Ok(Outcome::Done)
}
