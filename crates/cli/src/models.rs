//! Models as people name them: a folder, or a repository of the hub, fetched into the cache.
//!
//! In:  a [`ModelName`] of the command line, a recipe or an index. Out: the folder, and the name with
//!      its revision pinned to a commit, so that a result can say what it was made with.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use conjoin_core::Stop;
use conjoin_hub::{Hub, HubConfig, ModelName};
use conjoin_model::{Model, families::Options};

use crate::{args::VectorChoice, console::Console};

/// A model that is on this machine.
pub(crate) struct Found {
    /// Its folder.
    pub folder: PathBuf,
    /// What it is, wherever the branch it was named by moves.
    pub name: ModelName,
}

/// Finds a model, fetching it if it is the hub's.
pub(crate) fn find(name: &ModelName, console: &Console, stop: &Stop) -> Result<Found> {
    match name {
        ModelName::Folder(folder) => Ok(Found { folder: folder.clone(), name: name.clone() }),
        ModelName::Hub(repo) => {
            let fetched = hub()?.fetch(repo, console, stop)?;
            let name = ModelName::Hub(repo.at(&fetched.commit));
            Ok(Found { folder: fetched.folder, name })
        }
    }
}

/// Finds and opens a model.
pub(crate) fn open(name: &ModelName, console: &Console, stop: &Stop) -> Result<Model> {
    Ok(Model::open(&find(name, console, stop)?.folder)?)
}

/// Opens a model that is on this machine, with the user's choices.
pub(crate) fn open_as(folder: &Path, choice: &VectorChoice) -> Result<Model> {
    let model = Model::open_with(folder, &Options { adapter: choice.adapter.clone() })?;
    Ok(match choice.dimensions {
        Some(width) => model.cut_to(width).context("`--dimensions`")?,
        None => model,
    })
}

/// Opens a model that [`find`] has found before.
pub(crate) fn open_found(name: &ModelName) -> Result<Model> {
    let folder = match name {
        ModelName::Folder(folder) => folder.clone(),
        ModelName::Hub(repo) => hub()?.cached(repo)?.folder,
    };
    Ok(Model::open(&folder)?)
}

fn hub() -> Result<Hub> {
    Ok(Hub::new(HubConfig::from_env().context("the settings of the hub")?))
}
