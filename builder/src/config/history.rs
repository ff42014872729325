//! What a step is called in the image's history, in the words of Docker's builder and buildah.
//!
//! | step | text |
//! |---|---|
//! | changes the config only | `/bin/sh -c #(nop) ENV A=b` |
//! | RUN of a shell form | `|1 ARG=value /bin/sh -c command` |
//! | RUN of a JSON form | `|1 ARG=value command argument` |
//! | COPY | `/bin/sh -c #(nop) COPY dir:<digest> in /dest ` |

use std::fmt::Write as _;

use kfs_fs::digest::Digest;

use crate::copy::SourceKind;
use crate::kubefile::Command;

/// A step that makes no layer; `text` is [`crate::kubefile::Statement::text`].
pub fn config_only(text: &str) -> String {
    format!("/bin/sh -c #(nop) {text}")
}

/// A RUN: with the values of the build arguments that it saw, as they make it another step.
pub fn run(command: &Command, shell: &[String], build_args: &[(String, String)]) -> String {
    let mut text = String::new();
    if !build_args.is_empty() {
        let mut args: Vec<String> = build_args.iter().map(|(k, v)| format!("{k}={v}")).collect();
        args.sort();
        write!(text, "|{} {} ", args.len(), args.join(" ")).expect("a string takes all");
    }
    match command {
        Command::Shell(line) => text.push_str(&format!("{} {line}", shell.join(" "))),
        Command::Exec(arguments) => text.push_str(&arguments.join(" ")),
    }
    text
}

/// A COPY or ADD, as `word` says; `digest` is of what was copied.
pub fn copy(word: &str, kind: SourceKind, digest: &Digest, dest: &str) -> String {
    // Docker's text ends in a blank.
    format!("/bin/sh -c #(nop) {word} {kind}:{} in {dest} ", digest.hex())
}
