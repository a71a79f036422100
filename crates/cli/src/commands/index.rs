//! `conjoin index`: a searchable index of a dataset.

use anyhow::Result;
use conjoin_core::{Stop, Task};
use conjoin_data::Dataset;

use crate::{
    Outcome,
    args::Index,
    console::Console,
    models,
    pipeline::{self, Origin},
    precision,
};

pub(crate) fn run(args: &Index, console: &Console, stop: &Stop) -> Result<Outcome> {
    let found = models::find(&args.model, console, stop)?;
    let model = args.reading.apply(models::open_as(&found.folder, &args.choice)?)?;
    let dataset = Dataset::open(&args.data)?;
    let sample = || precision::sample_of(&dataset, &Task::Passage);
    let model = args.precision.apply(model, sample, (console, stop))?;
    let origin = Origin { place: found.name, adapter: args.choice.adapter.clone() };
    pipeline::build_index(&model, &origin, &dataset, &args.out, console, stop)?;
    Ok(Outcome::Done)
}
