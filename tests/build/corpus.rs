//! Real build files: each whose sources are there builds, on a base that stands in for its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::build_files::build_files;
use crate::shared_inputs::shared;
use crate::workshop::Workshop;

/// The images that a build file begins with, without those that a variable names.
fn bases(text: &str) -> Vec<&str> {
    let image = |line| {
        let mut words = str::split_whitespace(line);
        (words.next() == Some("FROM")).then(|| words.find(|word| !word.starts_with("--"))).flatten()
    };
    let images = text.lines().filter_map(image);
    images.filter(|image| *image != "scratch" && !image.contains('$')).collect()
}

/// What became of a build: nothing to say if it worked.
fn outcome(shop: &Workshop, file: &Path, name: &str) -> Result<(), String> {
    let args = ["build", "--collect=none", "--network=none", "-t", name, "-f"];
    let context = file.parent().unwrap();
    let output = shop.kfs(&args).arg(file).arg(context).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(said.into_owned()) }
}

#[test]
fn build_files_with_all_their_sources_build() {
    let Some(root) = shared("corpus/kubefiles") else { return };
    let Some(shop) = Workshop::with_base() else { return };
    let files = build_files(&root);
    let texts: Vec<_> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    for base in texts.iter().flat_map(|text| bases(text)).collect::<BTreeSet<_>>() {
        shop.ok(&["tag", "base", base]);
    }
    let (next, built, lacking) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (shop, files, failed) = (&shop, &files, &failed);
            let (next, built, lacking) = (&next, &built, &lacking);
            scope.spawn(move || {
                while let Some(file) = files.get(next.fetch_add(1, Relaxed)) {
                    match outcome(shop, file, &format!("built-{worker}")) {
                        Ok(()) => built.fetch_add(1, Relaxed),
                        // The corpus has no archives and no binaries, and a RUN may want the
                        // internet or a program that the base lacks.
                        Err(said) if said.contains("is not in the context") => {
                            lacking.fetch_add(1, Relaxed)
                        }
                        Err(said) if said.contains(": RUN ") && said.contains("exit status") => {
                            lacking.fetch_add(1, Relaxed)
                        }
                        Err(said) => {
                            failed.lock().unwrap().push(format!("{}: {said}", file.display()));
                            0
                        }
                    };
                }
            });
        }
    });
    let (built, lacking) = (built.into_inner(), lacking.into_inner());
    let failed = failed.into_inner().unwrap();
    println!("{built} build, {lacking} lack something");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(built * 2 > files.len(), "{built} of {}", files.len());
}
