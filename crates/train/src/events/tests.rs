//! Event files against TensorBoard's own, byte by byte.

use std::time::Duration;

use super::*;

const FIRST: &[u8] = include_bytes!("../../../../testdata/parity/tensorboard/first.tfevents");
const SECOND: &[u8] = include_bytes!("../../../../testdata/parity/tensorboard/second.tfevents");

fn time(seconds: f64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs_f64(seconds)
}

fn names(folder: &Path) -> Vec<String> {
    let names =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// The run of the reference: three steps and a crash, of which a state had one.
#[test]
fn parity_files_equal_those_of_tensorboard() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = EventWriter::open(folder.path(), 0, time(1_700_000_000.25)).unwrap();
    for (step, loss) in [(1, 2.5), (2, f32::INFINITY), (300, -0.125)] {
        let scalars = [("train/loss", loss), ("train/größe", step as f32)];
        first.write(step, time(1_700_000_001.5 + step as f64), &scalars).unwrap();
    }
    first.write(0, UNIX_EPOCH, &[("zero", 0.0)]).unwrap();
    assert_eq!(fs::read(first.path()).unwrap(), FIRST);
    let mut second = EventWriter::open(folder.path(), 1, time(1_700_000_400.75)).unwrap();
    second.write(2, time(1_700_000_401.0), &[("train/loss", 2.0)]).unwrap();
    assert_eq!(fs::read(second.path()).unwrap(), SECOND);
}

#[test]
fn later_files_have_later_names_whatever_the_clock_says() {
    let folder = tempfile::tempdir().unwrap();
    for now in [2e9, 2e9, 1e9] {
        EventWriter::open(folder.path(), 3, time(now)).unwrap();
    }
    let process = std::process::id();
    let expect = [2_000_000_000_u64, 2_000_000_001, 2_000_000_002]
        .map(|second| format!("events.out.tfevents.{second}.conjoin.{process}.0"));
    assert_eq!(names(folder.path()), expect);
}

/// A run that lost its folder of states begins anew in the same folder of curves.
#[test]
fn a_run_that_begins_anew_voids_all_earlier_steps() {
    let folder = tempfile::tempdir().unwrap();
    let length = |writer: EventWriter| fs::metadata(writer.path()).unwrap().len();
    let alone = length(EventWriter::open(folder.path(), 0, time(5.0)).unwrap());
    let again = length(EventWriter::open(folder.path(), 0, time(5.0)).unwrap());
    let start = framed(Event::start(5.0, 1).bytes()).len() as u64;
    // Two bytes more: the first record names step 1 as well.
    assert_eq!(again, alone + start + 2);
}

#[test]
fn tells_which_folder_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = EventWriter::open(&file, 0, time(1.0)).unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");
}
