//! `conjoin train`: a model from a recipe.

use anyhow::Result;
use conjoin_core::Stop;

use crate::{
    Outcome,
    args::Train,
    batches,
    console::{Console, print},
    pipeline::{self, OtherRun},
    recipe::Recipe,
};

pub(crate) fn run(args: &Train, console: &Console, stop: &Stop) -> Result<Outcome> {
    let mut recipe = Recipe::read(&args.recipe, &args.set)?;
    if let Some(out) = &args.out {
        recipe.out.clone_from(out);
    }
    if args.check {
        print(recipe.to_toml()?.trim_end())?;
        return Ok(Outcome::Done);
    }
    recipe.start = recipe.start.found(console, stop)?;
    if let Some(n_steps) = args.export_batches {
        batches::export(&recipe, n_steps, &recipe.out)?;
        console.say(&format!("train: start and batches are in `{}`", recipe.out.display()));
        return Ok(Outcome::Done);
    }
    let model = recipe.out.join("model");
    let run = recipe.out.join("train");
    pipeline::train(&recipe, &run, &model, OtherRun::Refuse, (console, stop))?;
    console.say(&format!("train: the model is `{}`", model.display()));
    Ok(Outcome::Done)
}
