//! `conjoin train`: a model from a recipe.

use anyhow::{Result, bail};
use conjoin_core::{Progress as _, Stop};

use crate::{
    Outcome,
    args::Train,
    batches,
    console::{Console, print},
    recipe::Recipe,
    training::{self, Folders, OtherRun},
};

pub(crate) fn run(args: &Train, console: &Console, stop: &Stop) -> Result<Outcome> {
    let mut recipe = Recipe::read(&args.recipe, &args.set, args.smoke)?;
    if let Some(out) = &args.out {
        recipe.out.clone_from(out);
    }
    skip(&mut recipe, &args.skip)?;
    if args.check {
        print(recipe.to_toml()?.trim_end())?;
        let missing = recipe.missing_data();
        missing.iter().for_each(|what| console.warn(what));
        return Ok(if missing.is_empty() { Outcome::Done } else { Outcome::Refused });
    }
    recipe.find_models(console, stop)?;
    if let Some(n_steps) = args.export_batches {
        batches::export(&recipe, n_steps, &recipe.out, (console, stop))?;
        console.say(&format!("train: start and batches are in `{}`", recipe.out.display()));
        return Ok(Outcome::Done);
    }
    let (model, run) = (recipe.out.join("model"), recipe.out.join("train"));
    if let Some(stage) = &args.again {
        training::remove_run(&training::run_of(&recipe, &run, stage)?)?;
        if model.exists() {
            fs_err::remove_dir_all(&model)?;
        }
    }
    let folders = Folders { run: &run, model: &model };
    training::train(&recipe, folders, OtherRun::Refuse, (console, stop))?;
    console.say(&format!("train: the model is `{}`", model.display()));
    Ok(Outcome::Done)
}

/// Leaves stages out.
fn skip(recipe: &mut Recipe, skipped: &[String]) -> Result<()> {
    for name in skipped {
        let before = recipe.stages.len();
        recipe.stages.retain(|stage| stage.name != *name);
        if recipe.stages.len() == before {
            bail!("`--skip {name}`: the recipe has no such stage");
        }
    }
    recipe.check()
}
