//! `conjoin index`: a searchable index of a dataset.

use anyhow::Result;
use conjoin_core::Stop;
use conjoin_data::Dataset;
use conjoin_model::Model;

use crate::{Outcome, args::Index, console::Console, pipeline};

pub(crate) fn run(args: &Index, console: &Console, stop: &Stop) -> Result<Outcome> {
    let model = Model::open(&args.model)?;
    let dataset = Dataset::open(&args.data)?;
    pipeline::build_index(&model, &args.model, &dataset, &args.out, console, stop)?;
    Ok(Outcome::Done)
}
