//! Which container images a cluster image is to carry, by the flags.

use std::path::{Path, PathBuf};

use kfs_builder::build::Collecting;
use kfs_builder::cluster::collect::{Scope, auth};
use kfs_builder::kubefile::Dialect;
use kfs_fs::error::AtPath as _;
use kfs_fs::oci::find::Wanted;

use crate::commands::collect::ChartArgs;
use crate::report::{Failure, USAGE};

/// Options of the container images that a cluster image carries.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Container images of a cluster image")]
pub(super) struct CarryArgs {
    /// Where the container images are named that go into registry/ [default: all in a Kubefile,
    /// none in a Dockerfile]
    #[arg(long, value_enum, value_name = "WHERE", value_delimiter = ',')]
    collect: Vec<Where>,

    /// More images: a list, one a line
    #[arg(long, value_name = "FILE")]
    image_list: Vec<PathBuf>,

    /// More images, with credentials: a YAML list of registry, username, password and images
    #[arg(long, value_name = "FILE")]
    image_list_with_auth: Vec<PathBuf>,

    /// Leave out the images of this list, one a line
    #[arg(long, value_name = "FILE")]
    ignored_image_list: Vec<PathBuf>,

    /// Platforms of the images [default: the one that is built for]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    collect_platform: Vec<Wanted>,

    #[command(flatten)]
    charts: ChartArgs,
}

/// Where images are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Where {
    /// In all of these
    All,
    /// Nowhere
    None,
    /// In manifests/ and the manifests of applications
    Manifests,
    /// In Helm charts
    Charts,
    /// In manifests/imageList, images/shim and imageListWithAuth.yaml
    Lists,
}

impl CarryArgs {
    /// What is collected; none if nothing is.
    pub(super) fn collecting(&self, dialect: Dialect) -> Result<Option<Collecting>, Failure> {
        let scope = self.scope(dialect)?;
        let lists = texts(&self.image_list)?;
        let lists_with_auth = texts(&self.image_list_with_auth)?.into_iter().map(|(name, text)| {
            let list = auth::parse(&name, &text).map_err(|e| Failure::new(e.to_string()))?;
            Ok::<_, Failure>((name, list))
        });
        let lists_with_auth = lists_with_auth.collect::<Result<Vec<_>, _>>()?;
        if scope == Scope::NONE && lists.is_empty() && lists_with_auth.is_empty() {
            return Ok(None);
        }
        Ok(Some(Collecting {
            scope,
            charts: self.charts.settings()?,
            lists,
            lists_with_auth,
            ignored: texts(&self.ignored_image_list)?,
            platforms: self.collect_platform.clone(),
        }))
    }

    fn scope(&self, dialect: Dialect) -> Result<Scope, Failure> {
        let has = |one| self.collect.contains(&one);
        if has(Where::None) && self.collect.len() > 1 {
            let message = "--collect=none cannot stand beside another --collect";
            return Err(Failure::new(message).code(USAGE));
        }
        Ok(match dialect {
            Dialect::Kubefile if self.collect.is_empty() => Scope::ALL,
            _ if has(Where::All) => Scope::ALL,
            _ => Scope {
                lists: has(Where::Lists),
                manifests: has(Where::Manifests),
                charts: has(Where::Charts),
            },
        })
    }
}

/// Files with what they are called.
fn texts(paths: &[PathBuf]) -> Result<Vec<(String, String)>, Failure> {
    let read =
        |path: &PathBuf| -> Result<_, Failure> { Ok((path.display().to_string(), read(path)?)) };
    paths.iter().map(read).collect()
}

fn read(path: &Path) -> Result<String, Failure> {
    let bytes = std::fs::read(path).at("read", path)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
