//! `conjoin index`: a searchable index of a dataset.

use anyhow::Result;
use conjoin_core::Stop;
use conjoin_data::Dataset;

use crate::{
    Outcome,
    args::Index,
    console::Console,
    models,
    pipeline::{self, Origin},
};

pub(crate) fn run(args: &Index, console: &Console, stop: &Stop) -> Result<Outcome> {
    let found = models::find(&args.model, console, stop)?;
    let model = args.reading.apply(models::open_as(&found.folder, &args.choice)?)?;
    let model = args.precision.apply(model)?;
    let dataset = Dataset::open(&args.data)?;
    let origin = Origin { place: found.name, adapter: args.choice.adapter.clone() };
    pipeline::build_index(&model, &origin, &dataset, &args.out, console, stop)?;
    Ok(Outcome::Done)
}
