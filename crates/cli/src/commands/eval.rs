//! `conjoin eval`: one model measured, or two compared.

use anyhow::{Result, bail};
use conjoin_core::{Seed, Stop, Task};
use conjoin_data::Dataset;
use conjoin_eval::{Report, ReportParts};
use conjoin_model::Model;

use crate::{
    Outcome,
    args::Eval,
    console::{Console, print},
    machine, models, pipeline, precision,
    tasks::Bench,
};

/// Resampling and sampling of an evaluation that is not part of a run.
const SEED: u64 = 1;

pub(crate) fn run(args: &Eval, console: &Console, stop: &Stop) -> Result<Outcome> {
    if let Some(out) = &args.out {
        Report::check_place(out)?;
    }
    let data = Dataset::open(&args.data)?;
    let open = |name| {
        let sample = || precision::sample_of(&data, &Task::Passage);
        args.precision.apply(models::open(name, console, stop)?, sample, (console, stop))
    };
    let models: Vec<Model> = args.model.iter().map(open).collect::<Result<_>>()?;
    let (before, after) = match models.as_slice() {
        [after] => (None, after),
        [before, after] => (Some(before), after),
        _ => bail!("--model is given once, or twice: before, then after"),
    };
    let items = args.items.as_deref().map(Dataset::open).transpose()?;
    let bench = Bench { data: &data, items: items.as_ref() };
    let verdicts = pipeline::evaluate(before, after, &bench, Seed(SEED), console, stop)?;
    if args.json {
        let mut figures =
            serde_json::json!({"after": pipeline::figures(&verdicts.comparison, false)});
        if before.is_some() {
            figures["before"] = pipeline::figures(&verdicts.comparison, true);
        }
        print(&figures.to_string())?;
    } else {
        print(&pipeline::table(&verdicts.comparison))?;
    }
    if let Some(out) = &args.out {
        let name = |i: usize| args.model[i].to_string();
        let parts = ReportParts {
            title: "Evaluation".to_owned(),
            summary: format!("Measured on the held-out part of `{}`.", args.data.display()),
            before: before.map(|model| pipeline::model_facts(&name(0), model)),
            after: pipeline::model_facts(&name(args.model.len() - 1), after),
            data: pipeline::data_facts(&data),
            verdict: None,
            comparison: verdicts.comparison,
            curve: None,
            examples: verdicts.examples,
            distributions: verdicts.distributions,
            timings: Vec::new(),
            peak_memory_bytes: machine::peak_memory_bytes(),
            reproduction: pipeline::reproduction(String::new(), SEED, &data),
        };
        pipeline::write_report(parts, out, console)?;
    }
    Ok(Outcome::Done)
}
