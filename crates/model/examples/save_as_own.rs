//! Writes a model of any known layout as a checkpoint of our own.
//!
//!     cargo run --release -p conjoin-model --example save_as_own -- MODEL CHECKPOINT

use std::{error::Error, path::PathBuf};

use conjoin_core::Manifest;
use conjoin_model::{CHECKPOINT_FORMAT, CHECKPOINT_VERSION, Model};

fn main() -> Result<(), Box<dyn Error>> {
    let mut folders = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(model), Some(checkpoint)) = (folders.next(), folders.next()) else {
        return Err("expected a model's folder and a folder to write".into());
    };
    let manifest = Manifest::new(CHECKPOINT_FORMAT, CHECKPOINT_VERSION);
    Model::open(&model)?.save(&checkpoint, manifest)?;
    Ok(())
}
