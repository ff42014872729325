//! What a merged image launches.

use std::collections::BTreeSet;

use kfs_fs::oci::Image;
use kfs_fs::oci::manifest::ContainerConfig;

use super::MergeError;
use crate::cluster::app::{Application, quoted};
use crate::cluster::extension::Extension;
use crate::cluster::launch::without_shell;

/// What an image launches.
enum Launched<'a> {
    Nothing,
    /// LAUNCH.
    Apps(&'a Extension),
    /// CMDS and CMD.
    Lines(&'a Extension),
    /// ENTRYPOINT and CMD.
    Sealos,
}

impl<'a> Launched<'a> {
    fn of(image: &Image, extension: Option<&'a Extension>) -> Self {
        let config = &image.config.config;
        match extension {
            Some(extension) if !extension.launch.apps.is_empty() => Self::Apps(extension),
            Some(extension) if !extension.launch.cmds.is_empty() => Self::Lines(extension),
            _ if lines(&config.entrypoint).is_empty() && lines(&config.cmd).is_empty() => {
                Self::Nothing
            }
            _ => Self::Sealos,
        }
    }
}

/// Puts what all images launch into a new config and extension.
pub(super) fn merge(
    all: &[Image],
    extensions: &[Option<Extension>],
    config: &mut ContainerConfig,
    extension: &mut Extension,
) -> Result<(), MergeError> {
    let launched: Vec<(&Image, Launched<'_>)> = all
        .iter()
        .zip(extensions)
        .map(|(image, extension)| (image, Launched::of(image, extension.as_ref())))
        .collect();
    let every = |fits: fn(&Launched<'_>) -> bool| {
        launched.iter().all(|(_, one)| matches!(one, Launched::Nothing) || fits(one))
    };
    if every(|one| matches!(one, Launched::Apps(_))) {
        let names = launched.iter().filter_map(|(_, one)| match one {
            Launched::Apps(extension) => Some(&extension.launch.apps),
            Launched::Lines(_) | Launched::Sealos | Launched::Nothing => None,
        });
        let mut known = BTreeSet::new();
        let apps = names.flatten().filter(|name| known.insert(name.as_str()));
        extension.launch.apps = apps.cloned().collect();
        return Ok(());
    }
    if every(|one| matches!(one, Launched::Sealos)) {
        let entrypoint = all.iter().flat_map(|image| lines(&image.config.config.entrypoint));
        let entrypoint: Vec<String> = entrypoint.collect();
        config.entrypoint = Some(entrypoint).filter(|lines| !lines.is_empty());
        config.cmd = Some(all.iter().flat_map(|image| lines(&image.config.config.cmd)).collect());
        return Ok(());
    }
    let mut of_config = Vec::new();
    for (image, launched) in &launched {
        let own = &image.config.config;
        match launched {
            Launched::Nothing => {}
            Launched::Apps(of) => extension.launch.cmds.extend(commands(image, of)?),
            Launched::Lines(of) => {
                extension.launch.cmds.extend(of.launch.cmds.iter().cloned());
                of_config.extend(lines(&own.cmd));
            }
            Launched::Sealos => {
                let own: Vec<String> =
                    lines(&own.entrypoint).into_iter().chain(lines(&own.cmd)).collect();
                extension.launch.cmds.extend(own.iter().cloned());
                of_config.extend(own);
            }
        }
    }
    // What stands there as well has the variables of Sealos (see `launch`).
    config.cmd = Some(of_config).filter(|lines| !lines.is_empty());
    Ok(())
}

/// The lines that start the applications of an image.
fn commands(image: &Image, extension: &Extension) -> Result<Vec<String>, MergeError> {
    let failed = |source| MergeError::Launch { image: image.name.clone(), source };
    let apps = extension.launched(&[]).map_err(failed)?;
    let command =
        |app: &Application| Ok(with_env(app, Extension::command_of(app).map_err(failed)?));
    apps.into_iter().map(command).collect()
}

/// A line with the variables of its application: each line has a shell of its own.
fn with_env(app: &Application, command: String) -> String {
    let exports = app.env.iter().map(|(name, value)| format!("export {name}={}; ", quoted(value)));
    format!("{}{command}", exports.collect::<String>())
}

fn lines(lines: &Option<Vec<String>>) -> Vec<String> {
    without_shell(lines.as_deref().unwrap_or(&[]))
}
