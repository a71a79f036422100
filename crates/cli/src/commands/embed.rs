//! `conjoin embed`: vectors of a dataset or of files.
//!
//! Out: an artefact of format `vectors`: `text.npy` and `image.npy`, or `vectors.safetensors`, and
//!      `text.ids.txt`, `image.ids.txt`, and `text.tokens.tsv` (tokens read and tokens there were, a
//!      line per text); its manifest tells the model by fingerprint.

use std::{
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use conjoin_core::{
    ArtifactWriter, Embedder, Embeddings, MANIFEST_FILE, Manifest, Modality, Progress, Stop, Task,
    TokenUse,
};
use conjoin_data::{Dataset, Item};
use conjoin_model::{Model, SAMPLE_SIZE, Sample};
use safetensors::{Dtype, tensor::TensorView};

use crate::{
    Outcome,
    args::{Embed, VectorFormat},
    console::Console,
    models, precision, tasks,
};

/// The manifest's format of a folder of vectors, and its version.
const VECTORS_FORMAT: &str = "vectors";
const VECTORS_VERSION: u32 = 1;

/// Files of pictures that are read before they are embedded together.
const PICTURES_PER_BLOCK: usize = 128;

/// The vectors of one modality with the id of each.
#[derive(Default)]
struct Part {
    ids: Vec<String>,
    values: Vec<f32>,
    /// Of texts: how much of each was read.
    tokens: Vec<TokenUse>,
}

impl Part {
    fn push(&mut self, id: &str, vector: &[f32]) {
        self.ids.push(id.to_owned());
        self.values.extend_from_slice(vector);
    }

    fn push_text(&mut self, id: &str, vector: &[f32], tokens: TokenUse) {
        self.push(id, vector);
        self.tokens.push(tokens);
    }
}

pub(crate) fn run(args: &Embed, console: &Console, stop: &Stop) -> Result<Outcome> {
    let writer = ArtifactWriter::create(&args.out, VECTORS_FORMAT)?;
    let found = models::find(&args.model, console, stop)?;
    let model = args.reading.apply(models::open_as(&found.folder, &args.choice)?)?;
    let task = Task::named(&args.task);
    let model = args.precision.apply(model, || sample(&args.inputs, &task), (console, stop))?;
    let (mut text, mut image) = (Part::default(), Part::default());
    for group in args.inputs.chunk_by(|a, b| is_picture(a) && is_picture(b)) {
        let input = &group[0];
        if is_picture(input) {
            for files in group.chunks(PICTURES_PER_BLOCK) {
                embed_pictures(&model, files, &mut image, console)?;
                stop.check()?;
            }
        } else if input.join(MANIFEST_FILE).exists() {
            embed_dataset((&model, &task), input, (&mut text, &mut image), console, stop)?;
        } else if input.is_dir() {
            bail!(
                "`{}` is a folder but no dataset; make one with `conjoin curate`",
                input.display()
            );
        } else {
            embed_lines((&model, &task), input, &mut text, console)?;
        }
        stop.check()?;
    }
    let parts = [(Modality::Text, text), (Modality::Image, image)];
    let parts: Vec<_> = parts.into_iter().filter(|(_, part)| !part.ids.is_empty()).collect();
    if parts.is_empty() {
        bail!("nothing could be embedded");
    }
    for (modality, part) in &parts {
        let file = writer.file(&format!("{modality}.ids.txt"));
        let lines: String = part.ids.iter().map(|id| id.replace('\n', " ") + "\n").collect();
        fs_err::write(file, lines)?;
        if !part.tokens.is_empty() {
            let lines: String =
                part.tokens.iter().map(|t| format!("{}\t{}\n", t.used, t.total)).collect();
            fs_err::write(writer.file(&format!("{modality}.tokens.tsv")), lines)?;
        }
        console.say(&format!(
            "embed: {} {modality} vectors of width {}",
            part.ids.len(),
            model.width()
        ));
    }
    match args.format {
        VectorFormat::Npy => {
            for (modality, part) in parts {
                let matrix = Embeddings::new(model.width(), part.values)?;
                write_npy(&writer.file(&format!("{modality}.npy")), &matrix)?;
            }
        }
        VectorFormat::Safetensors => {
            write_safetensors(&writer.file("vectors.safetensors"), &parts, model.width())?;
        }
    }
    let mut manifest = Manifest::new(VECTORS_FORMAT, VECTORS_VERSION);
    manifest.fingerprint = Some(model.fingerprint().to_owned());
    manifest.facts.insert("width".to_owned(), model.width().into());
    manifest.facts.extend([precision::fact(&model)?]);
    writer.commit(manifest)?;
    Ok(Outcome::Done)
}

/// The first texts and pictures of the inputs.
fn sample(inputs: &[PathBuf], task: &Task) -> Result<Sample> {
    let mut sample = Sample { task: task.clone(), ..Sample::default() };
    for input in inputs {
        if is_picture(input) {
            if sample.images.len() < SAMPLE_SIZE {
                sample.images.push(fs_err::read(input)?);
            }
        } else if input.is_dir() {
            let more = precision::sample_of(&Dataset::open(input)?, task)?;
            sample.texts.extend(more.texts);
            sample.images.extend(more.images);
        } else {
            let content = fs_err::read_to_string(input)?;
            sample.texts.extend(content.lines().take(SAMPLE_SIZE).map(str::to_owned));
        }
    }
    Ok(sample)
}

fn embed_dataset(
    (model, task): (&Model, &Task),
    path: &Path,
    (text, image): (&mut Part, &mut Part),
    console: &Console,
    stop: &Stop,
) -> Result<()> {
    let dataset = Dataset::open(path)?;
    let items: Vec<&Item> = dataset.items().iter().collect();
    let vectors = tasks::embed_items(model, (&dataset, &items), task, console, stop)?;
    for (item, parts) in items.iter().zip(vectors) {
        if let Some((vector, tokens)) = parts.text.zip(parts.tokens) {
            text.push_text(&item.id, &vector, tokens);
        }
        if let Some(vector) = parts.image {
            image.push(&item.id, &vector);
        }
    }
    Ok(())
}

fn embed_lines(
    (model, task): (&Model, &Task),
    path: &Path,
    text: &mut Part,
    console: &Console,
) -> Result<()> {
    let content = fs_err::read_to_string(path)?;
    let lines: Vec<&str> = content.lines().collect();
    let found = model.embed_texts(&lines, task)?;
    if found.n_truncated() > 0 {
        console.warn(&format!(
            "{} of {} lines of `{}` have more than {} tokens and were cut there \
             (see --long-text)",
            found.n_truncated(),
            lines.len(),
            path.display(),
            model.max_tokens().unwrap_or_default(),
        ));
    }
    for (i, (vector, tokens)) in found.vectors.rows().zip(found.tokens).enumerate() {
        text.push_text(&format!("{}:{}", path.display(), i + 1), vector, tokens);
    }
    Ok(())
}

/// Whether an input is neither a folder nor a file of lines.
fn is_picture(input: &Path) -> bool {
    let is_text = input.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt"));
    !is_text && !input.is_dir()
}

fn embed_pictures(
    model: &Model,
    files: &[PathBuf],
    image: &mut Part,
    console: &Console,
) -> Result<()> {
    let pictures: Vec<Vec<u8>> = files.iter().map(fs_err::read).collect::<Result<_, _>>()?;
    let pictures: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
    for (file, vector) in files.iter().zip(model.embed_images(&pictures)?) {
        match vector {
            Ok(vector) => image.push(&file.display().to_string(), &vector),
            Err(error) => {
                let cause = std::error::Error::source(&error)
                    .map_or_else(String::new, |c| format!(": {c}"));
                console.warn(&format!("`{}`: {error}{cause}", file.display()));
            }
        }
    }
    Ok(())
}

/// NumPy's format 1.0: magic, header padded to 64 bytes, little-endian rows.
fn write_npy(path: &Path, matrix: &Embeddings) -> Result<()> {
    let (rows, cols) = (matrix.len(), matrix.width());
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    let used = 10 + header.len() + 1;
    header += &" ".repeat(used.next_multiple_of(64) - used);
    header.push('\n');
    let mut file = BufWriter::new(fs_err::File::create(path)?);
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&u16::try_from(header.len())?.to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for value in matrix.values() {
        file.write_all(&value.to_le_bytes())?;
    }
    Ok(file.flush()?)
}

fn write_safetensors(path: &Path, parts: &[(Modality, Part)], width: usize) -> Result<()> {
    let bytes: Vec<Vec<u8>> = parts
        .iter()
        .map(|(_, part)| part.values.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = parts
        .iter()
        .zip(&bytes)
        .map(|((modality, part), bytes)| {
            let shape = vec![part.ids.len(), width];
            Ok((modality.name(), TensorView::new(Dtype::F32, shape, bytes)?))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(safetensors::serialize_to_file(views, None, path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn npy_has_the_published_layout() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        write_npy(&path, &Embeddings::new(2, vec![1.0, 2.0, 3.0, 4.0]).unwrap()).unwrap();
        let bytes = fs_err::read(path).unwrap();
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
        let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((10 + header) % 64, 0);
        let text = std::str::from_utf8(&bytes[10..10 + header]).unwrap();
        assert!(text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }"));
        assert!(text.ends_with('\n'));
        assert_eq!(bytes[10 + header..][..4], 1.0_f32.to_le_bytes());
        assert_eq!(bytes.len(), 10 + header + 16);
    }
}
