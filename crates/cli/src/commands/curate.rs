//! `conjoin curate`: a raw catalogue to a dataset.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use conjoin_core::{Seed, Stop};
use conjoin_data::{Columns, CurateConfig, CurateSummary, Limits, columns_of, curate};

use crate::{
    Outcome,
    args::{ColumnArgs, Curate},
    console::{Console, print},
};

pub(crate) fn run(args: &Curate, console: &Console, stop: &Stop) -> Result<Outcome> {
    let config = config(args.inputs.clone(), &args.out, &args.columns, args.seed)?;
    let summary = curate(&config, console, stop)?;
    tell(&summary, &args.out, console);
    if args.json {
        print(&serde_json::to_string(&summary)?)?;
    }
    Ok(Outcome::Done)
}

/// The curation of `inputs` with the columns asked for, or guessed where none are named.
pub(crate) fn config(
    inputs: Vec<PathBuf>,
    out: &Path,
    asked: &ColumnArgs,
    seed: u64,
) -> Result<CurateConfig> {
    let mut columns = Columns {
        text: asked.text.clone(),
        image: asked.image.clone(),
        id: asked.id.clone(),
        group: asked.group.clone(),
        split: asked.split.clone(),
    };
    let Some(first) = inputs.first() else { bail!("no catalogue is given") };
    let found = columns_of(first, &Limits::default())?;
    let guess = Columns::guess(&found);
    if columns.text.is_empty() {
        columns.text = guess.text;
    }
    columns.image = columns.image.or(guess.image);
    columns.id = columns.id.or(guess.id);
    columns.split = columns.split.or(guess.split);
    if columns.text.is_empty() && columns.image.is_none() {
        bail!(
            "no column of `{}` is known to be a text or a picture; name them with --text and --image (found: {})",
            first.display(),
            found.join(", ")
        );
    }
    let mut config = CurateConfig::new(inputs, out.to_owned(), columns);
    config.image_root.clone_from(&asked.image_root);
    config.val_fraction = asked.val_fraction;
    config.seed = Seed(seed);
    Ok(config)
}

/// What a curation did, for people.
pub(crate) fn tell(summary: &CurateSummary, out: &Path, console: &Console) {
    console.say(&format!(
        "curate: {} to learn from, {} held out, {} with a picture, {} groups",
        summary.n_train, summary.n_val, summary.n_images, summary.n_groups
    ));
    if summary.n_rejected + summary.n_warned > 0 {
        let reasons: Vec<String> =
            summary.reasons.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        console.say(&format!(
            "curate: {} rows rejected, {} kept with a remark ({}); see `{}`",
            summary.n_rejected,
            summary.n_warned,
            reasons.join(", "),
            out.join("rejects.jsonl").display()
        ));
    }
}
