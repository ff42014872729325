//! What `kfs run --dry-run` prints: a script that a shell in the root of the image would take, or
//! the same as JSON.

use std::fmt::Write as _;
use std::path::PathBuf;

use kfs_builder::cluster::launch::{Launch, Step, Variables, is_name};
use kfs_builder::cluster::run::{Options, values_path};
use kfs_builder::cluster::template::Rendered;
use kfs_fs::oci::reference::Source;
use serde::Serialize;

use super::super::{print, print_json};
use crate::report::Failure;

/// How kubectl is told where clusters are.
const KUBECONFIG: &str = "KUBECONFIG";

/// Which programs are found first, if both have them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tools {
    /// Those in `bin` of the image.
    RootfsFirst,
    /// Those of this machine.
    MachineFirst,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// A shell script
    #[default]
    Text,
    /// One JSON document
    Json,
}

/// What is to be shown beside the launch, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct How<'a> {
    pub(super) format: Format,
    pub(super) tools: Tools,
    /// Files with values for charts, as they were given: `APP=FILE`.
    pub(super) values: &'a [String],
}

#[derive(Serialize)]
struct Shown<'a> {
    image: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    values: Vec<Values<'a>>,
    kubeconfig: Vec<String>,
    env: &'a Variables,
    templates: Vec<Template<'a>>,
    commands: &'a [Step],
}

#[derive(Serialize)]
struct Template<'a> {
    template: &'a str,
    file: &'a str,
    size: usize,
}

#[derive(Serialize)]
struct Values<'a> {
    file: String,
    from: &'a str,
}

/// Prints what would be run.
pub(super) fn show(
    how: How<'_>,
    image: &Source,
    launch: &Launch,
    rendered: &[Rendered],
    options: &Options,
) -> Result<(), Failure> {
    // The script runs in another directory.
    let absolute = |file: &PathBuf| std::path::absolute(file).unwrap_or_else(|_| file.clone());
    let kubeconfig = options.kubeconfig.iter().map(|file| absolute(file).display().to_string());
    let kubeconfig = kubeconfig.collect();
    let templates = rendered.iter().map(|one| Template {
        template: &one.template,
        file: one.path(),
        size: one.content.len(),
    });
    let given = how.values.iter().filter_map(|text| text.split_once('='));
    let values = (1..).zip(given).map(|(n, (_, from))| Values { file: values_path(n), from });
    let shown = Shown {
        image: image.to_string(),
        values: values.collect(),
        kubeconfig,
        env: &launch.env,
        templates: templates.collect(),
        commands: &launch.steps,
    };
    match how.format {
        Format::Json => print_json(&shown),
        Format::Text => print(&script(&shown, how.tools)),
    }
}

/// Each command has a shell of its own and no input, as when it is run, and the first one that
/// fails ends the script.
fn script(shown: &Shown<'_>, tools: Tools) -> String {
    let mut text = format!("# {}, in the root of its file system\n", one_line(&shown.image));
    for Values { file, from } in &shown.values {
        line(&mut text, &format!("# {file} is {}", one_line(from)));
    }
    for Template { template, file, .. } in &shown.templates {
        line(&mut text, &format!("# {} is made of {}", one_line(file), one_line(template)));
    }
    line(
        &mut text,
        match tools {
            Tools::RootfsFirst => r#"export PATH="$PWD/bin:$PATH""#,
            Tools::MachineFirst => r#"export PATH="$PATH:$PWD/bin""#,
        },
    );
    // What the run sets holds before what the image has.
    let is_free = |name: &str| is_name(name) && (shown.kubeconfig.is_empty() || name != KUBECONFIG);
    let assignments = |env: &Variables| -> Vec<String> {
        let free = env.iter().filter(|(name, _)| is_free(name));
        free.map(|(name, value)| format!("{name}={}", quoted(value))).collect()
    };
    for assignment in assignments(shown.env) {
        line(&mut text, &format!("export {assignment}"));
    }
    if !shown.kubeconfig.is_empty() {
        line(&mut text, &format!("export {KUBECONFIG}={}", quoted(&shown.kubeconfig.join(":"))));
    }
    for step in shown.commands {
        if let Some(app) = &step.application {
            line(&mut text, &format!("# application {}", one_line(app)));
        }
        let env: String = assignments(&step.env).iter().map(|one| format!("{one} ")).collect();
        let command = quoted(&step.command);
        line(&mut text, &format!("{env}/bin/sh -c {command} </dev/null || exit"));
    }
    text
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("writing to a string does not fail");
}

/// A name in a comment must not end it.
fn one_line(name: &str) -> String {
    kfs_fs::printable::text(name)
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}
