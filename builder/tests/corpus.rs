//! Real build files: each parses, or asks for something that this version names as unsupported.

#[path = "../../tests/build_files/mod.rs"]
mod build_files;
#[path = "../../tests/shared_inputs/mod.rs"]
mod shared_inputs;
#[path = "../../tests/skip/mod.rs"]
mod skip;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use build_files::build_files;
use kfs_builder::cluster::app::Application;
use kfs_builder::cluster::collect::{self, ChartSettings, ImageName, Scope};
use kfs_builder::cluster::files::Files;
use kfs_builder::kubefile::{Dialect, Instruction, Kubefile, Statement};
use kfs_builder::plan::{Options, Plan};
use kfs_fs::oci::manifest::{ImageConfig, Platform};
use shared_inputs::shared;

/// What comes of a file: "ok", or the first line of an error that says what is unsupported.
fn outcome(name: &str, bytes: &[u8]) -> Result<String, String> {
    let platform = Platform {
        architecture: "amd64".into(),
        os: "linux".into(),
        variant: None,
        extra: Default::default(),
    };
    let options = Options {
        build_args: Vec::new(),
        copy_rule: None,
        target: platform.clone(),
        build: platform,
        stage: None,
        contexts: Vec::new(),
        images: Default::default(),
    };
    let result = Kubefile::parse(name, bytes, Dialect::of_file_name(name))
        .and_then(|file| Plan::new(file, options))
        .and_then(|plan| {
            // Each on a base of its own: what the others hold does not matter here.
            let base = ImageConfig::default();
            (0..plan.stages().len()).try_for_each(|n| plan.expand(n, &base, None).map(|_| ()))
        });
    match result {
        Ok(()) => Ok("ok".to_owned()),
        Err(error) if error.is_unsupported() => Ok(error.problem.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn real_kubefiles_parse_or_say_what_is_missing() {
    let Some(root) = shared("corpus/kubefiles") else { return };
    let files = build_files(&root);
    let mut counts = BTreeMap::<String, usize>::new();
    let mut refused = Vec::new();
    for path in &files {
        let name = path.file_name().unwrap().to_string_lossy();
        match outcome(&name, &fs::read(path).unwrap()) {
            Ok(text) => *counts.entry(text).or_default() += 1,
            Err(error) => refused.push(format!("{}\n{error}", path.display())),
        }
    }
    println!("{} files: {counts:#?}", files.len());
    assert!(refused.is_empty(), "{}", refused.join("\n\n"));
    assert!(counts["ok"] * 10 > files.len() * 9, "{counts:?}");
}

#[test]
fn kubefiles_say_what_sealer_read_in_them() {
    let Some(root) = shared("corpus/kubefiles") else { return };
    let text = fs::read_to_string(root.join("oracle-sealer-v0.11.0.jsonl")).unwrap();
    let mut compared = 0;
    for line in text.lines() {
        let oracle: serde_json::Value = serde_json::from_str(line).unwrap();
        let path = oracle["path"].as_str().unwrap();
        let (Some(dockerfile), Ok(bytes)) =
            (oracle["dockerfile"].as_str(), fs::read(root.join(path)))
        else {
            continue;
        };
        let file = Kubefile::parse(path, &bytes, Dialect::Kubefile).unwrap();
        let froms = |file: &Kubefile| -> Vec<String> {
            let from = |s: &Statement| match &s.instruction {
                Instruction::From(from) => Some(from.image.clone()),
                _ => None,
            };
            file.statements.iter().filter_map(from).collect()
        };
        let rewritten = Kubefile::parse("o", dockerfile.as_bytes(), Dialect::Kubefile).unwrap();
        assert_eq!(froms(&file), froms(&rewritten), "{path}");
        assert_eq!(launched(&file), names(&oracle["launch"]), "{path}");
        assert_eq!(apps(&file), oracle["apps"].as_object().map_or(0, |apps| apps.len()), "{path}");
        for (name, app) in oracle["apps"].as_object().into_iter().flatten() {
            let application: Application = serde_json::from_value(app["app"].clone()).unwrap();
            let command = app["launchCmd"].as_str();
            assert_eq!(application.command().as_deref(), command, "{path}: {name}");
        }
        compared += 1;
    }
    println!("{compared} files say what sealer read in them");
    assert!(compared > 100, "{compared}");
}

fn names(list: &serde_json::Value) -> Vec<String> {
    let list = list.as_array().cloned().unwrap_or_default();
    list.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

fn launched(file: &Kubefile) -> Vec<String> {
    let launch = |s: &Statement| match &s.instruction {
        Instruction::Launch(launch) => Some(launch.apps.clone()),
        _ => None,
    };
    file.statements.iter().find_map(launch).unwrap_or_default()
}

/// How many applications a file defines.
fn apps(file: &Kubefile) -> usize {
    let name = |s: &Statement| match &s.instruction {
        Instruction::App(app) | Instruction::Cni(app) | Instruction::Csi(app) => {
            Some(app.name.clone())
        }
        _ => None,
    };
    let names: std::collections::BTreeSet<String> =
        file.statements.iter().filter_map(name).collect();
    names.len()
}

#[test]
fn conformance_dockerfiles_parse_or_say_what_is_missing() {
    let Some(root) = shared("corpus/dockerfiles") else { return };
    let text = fs::read_to_string(root.join("conformance-cases.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let mut counts = BTreeMap::<String, usize>::new();
    let mut refused = Vec::new();
    for case in &cases {
        // Some cases are there to fail.
        if case["shouldFailAt"].as_u64() != Some(0) {
            continue;
        }
        let Some(text) = case["dockerfileContents"].as_str() else { continue };
        match outcome("Dockerfile", text.as_bytes()) {
            Ok(text) => *counts.entry(text).or_default() += 1,
            Err(error) => refused.push(format!("{}\n{error}", case["name"])),
        }
    }
    println!("{counts:#?}");
    assert!(refused.is_empty(), "{}", refused.join("\n\n"));
}

/// What one of the original programs found in each context.
fn oracle(root: &Path, name: &str) -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(root.join(name)).unwrap();
    let row = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let images = row["images"].as_array().map(Vec::as_slice).unwrap_or_default();
        let images = images.iter().map(|image| image.as_str().unwrap().to_owned()).collect();
        (row["context"].as_str().unwrap().to_owned(), images)
    };
    text.lines().map(row).collect()
}

#[test]
fn all_images_that_the_originals_find_are_found() {
    let Some(root) = shared("corpus/kubefiles") else { return };
    let mut missing = Vec::new();
    let settings = ChartSettings::default();
    let (mut expected, mut more) = (0, 0);
    for name in ["oracle-images-sealer-v0.11.0.jsonl", "oracle-images-sreg-v0.1.6.jsonl"] {
        for (context, images) in oracle(&root, name) {
            let directory = root.join(&context);
            let found =
                collect::collect(&Files::Directory(&directory), Scope::ALL, &settings).unwrap();
            let is_found = |text: &str| match text.parse::<ImageName>() {
                Ok(image) => found.images.contains_key(&image),
                // Sealos does not read what it lists: such a line is told of here.
                Err(_) => found.skipped.iter().any(|skipped| skipped.text == text),
            };
            expected += images.len();
            more += found.images.len().saturating_sub(images.len());
            let other = |image: &str| {
                // Sealer's Kubernetes is 1.20, and it takes charts that a condition turns off.
                [
                    "k8s.gcr.io/kube-scheduler:v1.20.0",
                    "ghcr.io/prometheus-community/windows-exporter:0.22.0",
                ]
                .contains(&image)
            };
            let lacks = images.iter().filter(|image| !is_found(image) && !other(image));
            missing.extend(lacks.map(|image| format!("{name}: {context}: {image}")));
        }
    }
    println!("{expected} expected, {more} more found");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(expected > 100, "{expected}");
}
