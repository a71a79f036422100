//! Streams: every sample once an epoch, within the buffer's bounds, from any place, whatever the shards hold.

use std::collections::BTreeSet;

use conjoin_core::Silent;
use proptest::prelude::*;

use super::*;
use crate::testing::{tar, write};

/// Writes shards of these numbers of samples, each with a picture of 100 bytes and its own caption.
fn shards(folder: &Path, counts: &[usize]) -> ShardsConfig {
    for (shard, n) in counts.iter().enumerate() {
        let names: Vec<String> = (0..*n).map(|i| format!("{i:03}")).collect();
        let files: Vec<(String, Vec<u8>)> = names
            .iter()
            .flat_map(|name| {
                let text = format!("caption {shard} {name}");
                [(format!("{name}.jpg"), vec![7; 100]), (format!("{name}.txt"), text.into_bytes())]
            })
            .collect();
        let entries: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (&**n, &**b)).collect();
        write(folder, &format!("s-{shard}.tar"), tar(&entries));
    }
    let path = folder.join("s-*.tar").display().to_string();
    ShardsConfig { shuffle_buffer: 16, interleave: 3, ..ShardsConfig::new(&path) }
}

fn open_with(config: &ShardsConfig, limits: &Limits) -> Result<Shards, ShardsError> {
    Shards::open(config, limits, (&Silent, &Stop::default()))
}

fn open(config: &ShardsConfig) -> Shards {
    open_with(config, &Limits::default()).unwrap()
}

/// The ids at places of an epoch's order, or what is wrong with them.
fn drawn(shards: &Shards, order: Seed, places: &[usize]) -> Vec<String> {
    let samples = shards.draw(order, places).unwrap();
    let told = |sample: ShardSample| match sample.content {
        Ok(content) => {
            let caption = shards.captions(&content).unwrap().remove(0);
            let (shard, key) = (&sample.id[2..3], &sample.id[8..]);
            assert_eq!(caption, format!("caption {shard} {key}"), "each with its own caption");
            sample.id
        }
        Err(reason) => format!("{}! {}", sample.id, reason.sentence()),
    };
    samples.into_iter().map(told).collect()
}

fn epoch(shards: &Shards, order: Seed) -> Vec<String> {
    let places: Vec<usize> = (0..shards.len()).collect();
    places.chunks(5).flat_map(|places| drawn(shards, order, places)).collect()
}

#[test]
fn an_epoch_has_every_sample_once_and_every_epoch_another_order() {
    let dir = tempfile::tempdir().unwrap();
    let shards = open(&shards(dir.path(), &[30, 1, 25, 0, 40, 7]));
    assert_eq!(shards.len(), 103);
    let (first, second) = (epoch(&shards, Seed(1)), epoch(&shards, Seed(2)));
    let all: BTreeSet<&String> = first.iter().collect();
    assert_eq!(all.len(), 103);
    assert_eq!(all, second.iter().collect());
    assert_ne!(first, second);
    assert_eq!(epoch(&shards, Seed(1)), first, "the seed's own order");
    // A window of 16 has samples of all shards that are read in turns.
    let window: BTreeSet<&str> = first[..16].iter().map(|id| &id[..3]).collect();
    assert!(window.len() >= 2, "{window:?}");
}

#[test]
fn going_on_anywhere_gives_what_an_unbroken_reading_gives() {
    let dir = tempfile::tempdir().unwrap();
    let config = shards(dir.path(), &[30, 25, 40, 7]);
    let whole = epoch(&open(&config), Seed(5));
    for place in [0, 1, 15, 16, 17, 50, 95, 96, 101] {
        let places: Vec<usize> = (place..102).collect();
        assert_eq!(drawn(&open(&config), Seed(5), &places), whole[place..], "from {place}");
    }
    // Backwards and with gaps, too: where it was read before changes nothing.
    let shards = open(&config);
    for places in [&[90, 91][..], &[3], &[4, 60], &[59]] {
        let expected: Vec<String> = places.iter().map(|place| whole[*place].clone()).collect();
        assert_eq!(drawn(&shards, Seed(5), places), expected);
    }
}

#[test]
fn the_buffer_holds_no_more_samples_and_bytes_than_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let config = shards(dir.path(), &[200, 150, 180]);
    let expected = epoch(&open(&config), Seed(1));
    for shuffle_bytes in [0, 600, 1 << 30] {
        let shards = open(&ShardsConfig { shuffle_bytes, ..config.clone() });
        let mut most = (0, 0);
        for (place, expected) in expected.iter().enumerate() {
            assert_eq!(&drawn(&shards, Seed(1), &[place])[0], expected, "{shuffle_bytes}");
            let stream = shards.stream.lock().unwrap();
            let (n, n_bytes) = stream.as_ref().unwrap().held();
            assert!(n < 16 && n_bytes <= shuffle_bytes, "{n} samples, {n_bytes} bytes");
            most = (most.0.max(n), most.1.max(n_bytes));
        }
        assert_eq!(most.0, 15, "one of 16 was just drawn");
        assert_eq!(most.1 > 0, shuffle_bytes > 0);
    }
}

#[test]
fn a_bad_sample_costs_itself() {
    let dir = tempfile::tempdir().unwrap();
    let long = [b"dir/".to_vec(), vec![b'n'; 120], b".jpg".to_vec()].concat();
    let long = String::from_utf8(long).unwrap();
    let entries: [(&str, &[u8]); 12] = [
        ("a.jpg", b"a"),
        ("a.json", br#"{"url": "x"}"#),
        ("a.txt", b"caption of a"),
        ("no-caption.png", b"x"),
        ("no-picture.txt", b"x"),
        ("large.jpg", &[0; 2000]),
        ("large.txt", b"x"),
        (".hidden", b"x"),
        ("readme", b"x"),
        (&long, b"x"),
        (&long.replace(".jpg", ".txt"), b"caption of b"),
        ("both.v1.cls", b"other files make no picture"),
    ];
    let config =
        ShardsConfig::new(&write(dir.path(), "s.tar", tar(&entries)).display().to_string());
    let limits = Limits { entry_bytes: 1000, ..Limits::default() };
    let shards = open_with(&config, &limits).unwrap();
    let mut told: Vec<String> = shards
        .draw(Seed(1), &(0..6).collect::<Vec<_>>())
        .unwrap()
        .into_iter()
        .map(|sample| match sample.content {
            Ok(content) => shards.captions(&content).unwrap().remove(0),
            Err(reason) => format!("{}! {}", sample.id, reason.sentence()),
        })
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            "caption of a",
            "caption of b",
            "s.tar:both! no image",
            "s.tar:large! entry `large.jpg` has 2000 bytes, the limit is 1000",
            "s.tar:no-caption! field `txt` is blank",
            "s.tar:no-picture! no image",
        ]
    );
    assert_eq!(shards.len(), 6);
}

/// What is wrong with the samples of one shard of these bytes, in an epoch.
fn faults(bytes: &[u8], sizes: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "s-0.tar", bytes);
    if !sizes.is_empty() {
        write(dir.path(), "sizes.json", sizes);
    }
    let shards = open(&ShardsConfig::new(&path.display().to_string()));
    let mut faults = epoch(&shards, Seed(1));
    faults.retain(|told| told.contains('!'));
    faults.sort();
    faults
}

#[test]
fn a_damaged_shard_costs_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    shards(dir.path(), &[4]);
    let whole = fs_err::read(dir.path().join("s-0.tar")).unwrap();
    assert!(faults(&whole, "").is_empty());
    // A sample is 4 blocks: cut within the last one's picture, its header, and at its end.
    let cut = faults(&whole[..13 * 512 + 50], "");
    let expected = "s-0.tar:003! the file is damaged from here on: ";
    assert!(
        cut.len() == 1 && cut[0].starts_with(expected) && cut[0].ends_with("ends at byte 6706"),
        "{cut:?}"
    );
    let header = faults(&whole[..12 * 512 + 50], "");
    assert!(
        header.len() == 1 && header[0].starts_with("s-0.tar:002! the file is damaged"),
        "{header:?}"
    );
    assert!(faults(&whole[..16 * 512], "").is_empty(), "only the mark of the end is missing");
    let mut flipped = whole.clone();
    flipped[8 * 512 + 3] ^= 1;
    let expected = "s-0.tar:001! the file is damaged from here on: a header's checksum is wrong";
    assert_eq!(faults(&flipped, ""), [expected]);
    // Counts beside the shard are believed.
    let missing = "the shard ends before this sample, though it should have 6";
    let expected = [format!("s-0.tar:#4! {missing}"), format!("s-0.tar:#5! {missing}")];
    assert_eq!(faults(&whole, r#"{"s-0.tar": 6}"#), expected);
    assert!(faults(&whole, r#"{"s-0.tar": 3}"#).is_empty());
}

proptest! {
    #[test]
    fn prop_whatever_a_shard_holds_it_costs_its_own_samples_only(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..12),
        end: prop::sample::Index,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let config = shards(dir.path(), &[5, 6]);
        let path = dir.path().join("s-1.tar");
        let mut bytes = fs_err::read(&path).unwrap();
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        bytes.truncate(end.index(bytes.len()));
        fs_err::write(&path, bytes).unwrap();
        let shards = open(&config);
        let places: Vec<usize> = (0..shards.len()).collect();
        let samples = shards.draw(Seed(1), &places).unwrap();
        let whole = samples.iter().filter(|s| s.id.starts_with("s-0") && s.content.is_ok());
        prop_assert_eq!(whole.count(), 5);
    }
}

#[test]
fn samples_are_counted_by_what_lies_beside_the_shards() {
    let dir = tempfile::tempdir().unwrap();
    let config = shards(dir.path(), &[4, 5, 6]);
    assert_eq!(open(&config).len(), 15);
    let before = open(&config).fingerprint().to_owned();
    write(dir.path(), "s-1_stats.json", r#"{"count": 9, "successes": 3, "failed_to_download": 6}"#);
    assert_eq!(open(&config).len(), 13);
    write(dir.path(), "sizes.json", r#"{"s-0.tar": 2, "s-1.tar": 2, "other.tar": 9}"#);
    assert_eq!(open(&config).len(), 10);
    assert_ne!(open(&config).fingerprint(), before, "another order");
    write(dir.path(), "sizes.json", "[]");
    let error = open_with(&config, &Limits::default()).unwrap_err();
    assert!(
        error.kind.to_string().ends_with("sizes.json` does not say how many samples shards have")
    );
}

#[test]
fn what_cannot_be_streamed_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = shards(dir.path(), &[2, 2]);
    let fault =
        |config: &ShardsConfig| open_with(config, &Limits::default()).unwrap_err().kind.to_string();
    let at = |name: &str| ShardsConfig::new(&dir.path().join(name).display().to_string());
    let top = dir.path().display();
    assert_eq!(
        fault(&at("s-{0..3}.tar")),
        format!("2 of 4 shards are missing: `{top}/s-2.tar`, `{top}/s-3.tar`")
    );
    assert_eq!(fault(&at("t-*.tar")), "there is no shard");
    let zipped = write(dir.path(), "t.tar.gz", "x");
    let expected =
        format!("`{}` is compressed; shards are streamed as plain .tar", zipped.display());
    assert_eq!(fault(&at("t.tar.gz")), expected);
    let none = ShardsConfig { shuffle_buffer: 0, ..config.clone() };
    assert_eq!(fault(&none), "`shuffle_buffer` is 0, expected 1 or more, up to 2^32");
    let none = ShardsConfig { interleave: 0, ..config.clone() };
    assert_eq!(fault(&none), "`interleave` is 0, expected 1 or more, up to 2^32");
    write(dir.path(), "empty.tar", tar(&[]));
    assert_eq!(fault(&at("empty.tar")), "there is no sample in 1 shards");
    // A shard that goes away while it is streamed ends the run; it does not change what is learned.
    let shards = open(&config);
    fs_err::remove_file(dir.path().join("s-1.tar")).unwrap();
    let error = shards.draw(Seed(1), &[0, 1, 2, 3]).unwrap_err();
    assert!(error.to_string().ends_with("s-1.tar`"), "{error}");
}

#[test]
fn counting_is_told_and_stops_when_asked_to() {
    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);
    impl Progress for Told {
        fn update(&self, stage: &str, done: u64, total: Option<u64>, _note: &str) {
            self.0.lock().unwrap().push(format!("{stage} {done} of {}", total.unwrap()));
        }
        fn finish(&self, stage: &str, summary: &str) {
            self.0.lock().unwrap().push(format!("{stage}: {summary}"));
        }
        fn warn(&self, _message: &str) {}
    }
    let dir = tempfile::tempdir().unwrap();
    let config = shards(dir.path(), &[4, 5]);
    let (told, stop) = (Told::default(), Stop::default());
    write(dir.path(), "s-0_stats.json", r#"{"successes": 4}"#);
    Shards::open(&config, &Limits::default(), (&told, &stop)).unwrap();
    let lines = std::mem::take(&mut *told.0.lock().unwrap());
    assert_eq!(lines, ["shards 1 of 2", "shards: 9 samples in 2, 1 of them counted"]);
    stop.request();
    let error = Shards::open(&config, &Limits::default(), (&told, &stop)).unwrap_err();
    assert_eq!(error.kind.to_string(), "counting their samples was stopped");
    // Nothing is counted where all is told.
    write(dir.path(), "s-1_stats.json", r#"{"successes": 5}"#);
    Shards::open(&config, &Limits::default(), (&told, &stop)).unwrap();
    assert!(told.0.lock().unwrap().is_empty());
}
