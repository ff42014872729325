//! Lexer, parser, lint and plan on any bytes.

#![no_main]

use kfs_builder::kubefile::{Dialect, Kubefile, KubefileError, Location};
use kfs_builder::plan::{Options, Plan};
use kfs_fs::oci::manifest::{ImageConfig, Platform};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for dialect in [Dialect::Kubefile, Dialect::Dockerfile] {
        match Kubefile::parse("f", bytes, dialect) {
            Ok(file) => look(file, bytes),
            Err(error) => check_error(&error, bytes),
        }
    }
});

fn look(file: Kubefile, bytes: &[u8]) {
    for statement in &file.statements {
        check(&statement.location, bytes);
        assert!(statement.text.starts_with(statement.instruction.keyword().as_str()));
    }
    for warning in &file.warnings {
        check(warning.location.as_ref().expect("the command line says nothing"), bytes);
        assert!(warning.to_string().starts_with("f:"));
    }
    let target = Platform {
        architecture: "amd64".into(),
        os: "linux".into(),
        variant: None,
        extra: Default::default(),
    };
    let options = Options {
        build_args: vec![("A".into(), "value".into())],
        copy_rule: None,
        build: target.clone(),
        target,
        stage: None,
        contexts: Vec::new(),
        images: Default::default(),
    };
    let plan = match Plan::new(file, options) {
        Ok(plan) => plan,
        Err(error) => return check_error(&error, bytes),
    };
    for number in 0..plan.stages().len() {
        if let Err(error) = plan.expand(number, &ImageConfig::default(), None) {
            check_error(&error, bytes);
        }
    }
}

fn check_error(error: &KubefileError, bytes: &[u8]) {
    assert!(error.to_string().starts_with("f:"));
    if let Some(mark) = &error.mark {
        assert!(error.location.lines[mark.line].get(mark.range.clone()).is_some());
    }
    check(&error.location, bytes);
}

fn check(location: &Location, bytes: &[u8]) {
    let lines = 1 + bytes.iter().filter(|byte| **byte == b'\n').count();
    assert!(1 <= location.first && location.first <= location.last && location.last <= lines);
    if !location.lines.is_empty() {
        assert_eq!(location.lines.len(), location.last - location.first + 1);
    }
}
