//! `conjoin index`: a searchable index of a dataset.

use anyhow::Result;
use conjoin_core::Stop;
use conjoin_data::Dataset;
use conjoin_model::Model;

use crate::{Outcome, args::Index, console::Console, models, pipeline};

pub(crate) fn run(args: &Index, console: &Console, stop: &Stop) -> Result<Outcome> {
    let found = models::find(&args.model, console, stop)?;
    let model = args.reading.apply(Model::open(&found.folder)?)?;
    let dataset = Dataset::open(&args.data)?;
    pipeline::build_index(&model, &found.name, &dataset, &args.out, console, stop)?;
    Ok(Outcome::Done)
}
