//! What `kfs run --dry-run` prints: a script that a shell in the root of the image would take, or
//! the same as JSON.

use std::fmt::Write as _;

use kfs_builder::cluster::launch::{Launch, Step, Variables};
use kfs_builder::cluster::run::Options;
use kfs_builder::cluster::template::Rendered;
use kfs_fs::oci::reference::Source;
use serde::Serialize;

use super::super::{print, print_json};
use crate::report::Failure;

/// How it is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// A shell script
    #[default]
    Text,
    /// One JSON document
    Json,
}

#[derive(Serialize)]
struct Shown<'a> {
    image: String,
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

/// Prints what would be run.
pub(super) fn show(
    format: Format,
    image: &Source,
    launch: &Launch,
    rendered: &[Rendered],
    options: &Options,
) -> Result<(), Failure> {
    let kubeconfig = options.kubeconfig.iter().map(|file| file.display().to_string()).collect();
    let templates = rendered.iter().map(|one| Template {
        template: &one.template,
        file: one.path(),
        size: one.content.len(),
    });
    let shown = Shown {
        image: image.to_string(),
        kubeconfig,
        env: &launch.env,
        templates: templates.collect(),
        commands: &launch.steps,
    };
    match format {
        Format::Json => print_json(&shown),
        Format::Text => print(&script(&shown)),
    }
}

fn script(shown: &Shown<'_>) -> String {
    let mut text =
        format!("# {}, in the root of its file system\nset -e\n", one_line(&shown.image));
    for Template { template, file, .. } in &shown.templates {
        line(&mut text, &format!("# {} is made of {}", one_line(file), one_line(template)));
    }
    if !shown.kubeconfig.is_empty() {
        line(&mut text, &format!("export KUBECONFIG={}", quoted(&shown.kubeconfig.join(":"))));
    }
    for (name, value) in shown.env {
        line(&mut text, &format!("export {name}={}", quoted(value)));
    }
    for step in shown.commands {
        if let Some(app) = &step.application {
            line(&mut text, &format!("# application {}", one_line(app)));
        }
        let exports =
            step.env.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value)));
        match step.env.is_empty() && leaves_shell_alone(&step.command) {
            true => line(&mut text, &step.command),
            false => {
                line(&mut text, &format!("(\n{}{}\n)", exports.collect::<String>(), step.command))
            }
        }
    }
    text
}

/// Whether a command may stand in a script as it is: each one gets a shell of its own.
fn leaves_shell_alone(command: &str) -> bool {
    let changes = ["cd", "exec", "exit", "export", "set"];
    let mut words = command.split([' ', '\t', ';', '&', '|', '(', ')']);
    !command.contains(['#', '\n']) && !words.any(|word| changes.contains(&word))
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
