//! Documents that name what exists, and what does not.

use super::super::check_faults;
use super::*;

const CLI: (&str, &str) = (
    "crates/cli/src/main.rs",
    "//! Cli.\nuse clap::{Parser, Subcommand, ValueEnum};\n#[derive(Debug, Subcommand)]\npub(crate) enum Command {\n    /// Doc.\n    Adapt(AdaptArgs),\n    \
     #[command(hide = true)]\n    DryRun {\n        Option: u8,\n    },\n}\n",
);

#[test]
fn a_path_that_is_gone_is_a_fault() {
    check_faults(
        paths,
        &[
            CLI,
            (
                "README.md",
                "See `crates/cli/src/main.rs`, `crates/cli`, `crates/gone/src`, `docs/NAME.md`, `crates/*`.\n\
                 ```sh\nconjoin adapt assets/gone.csv\n```\n`NEWS.md` [cli](crates/cli) [out](https://example.org) [x](docs/x.md#y)\n\
                 ```rust\nlet x = \"crates/nothing\";\n```\n",
            ),
            ("docs/a.md", "[up](../README.md) [beside](b.md)"),
        ],
        &[
            "README.md:1: `crates/gone/src` does not exist",
            "README.md:3: `assets/gone.csv` does not exist",
            "README.md:5: `NEWS.md` does not exist",
            "README.md:5: link to `docs/x.md`, which does not exist",
            "docs/a.md:1: link to `b.md`, which does not exist",
        ],
    );
}

#[test]
fn a_command_that_is_gone_is_a_fault() {
    check_faults(
        commands,
        &[
            CLI,
            ("crates/cli/Cargo.toml", "[package]\n"),
            (
                "README.md",
                "Run `cargo xtask tidy`, `cargo xtask bless`, `cargo test --workspace`, `cargo frobnicate`.\n\
                 ```sh\n$ RUST_LOG=debug conjoin adapt x.csv\nconjoin dry-run | conjoin run # conjoin nothing\n\
                 cargo run --release -- adapt\ncargo run -- adopt\ncargo test -p conjoin-cli\ncargo test -p conjoin-gone\n\
                 ./target/release/conjoin serv\nconjoin COMMAND\nconjoin --help\n```\n",
            ),
        ],
        &[
            "README.md:1: no such command: `cargo frobnicate`",
            "README.md:1: no such command: `cargo xtask bless`",
            "README.md:4: no such command: `conjoin run`",
            "README.md:6: no such command: `conjoin adopt`",
            "README.md:8: no such command: `-p conjoin-gone`",
            "README.md:9: no such command: `conjoin serv`",
        ],
    );
}

#[test]
fn an_item_that_is_gone_is_a_fault() {
    check_faults(
        items,
        &[
            ("crates/a/src/lib.rs", "//! A.\npub trait Tower { fn embed(); }\n"),
            (
                "ARCHITECTURE.md",
                "`Tower`, `Tower::embed`, `Tower::paint`, `Reader`, `embed()`, `plain words`, `f32`, `gone()`",
            ),
        ],
        &[
            "ARCHITECTURE.md:1: no `Reader` in the sources",
            "ARCHITECTURE.md:1: no `gone` in the sources",
            "ARCHITECTURE.md:1: no `paint` in the sources",
        ],
    );
}

#[test]
fn a_header_that_names_a_missing_reference_is_a_fault() {
    check_faults(
        header_paths,
        &[
            (
                "crates/a/src/lib.rs",
                "//! A.\n//! Parity: `testdata/parity/a`, `testdata/parity/b`.\n\n// `testdata/c`\n",
            ),
            ("testdata/parity/a/make.py", "\"\"\"A.\"\"\"\n"),
        ],
        &["crates/a/src/lib.rs:2: `testdata/parity/b` does not exist"],
    );
}
