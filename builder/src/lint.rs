//! What a build file alone does not tell of what is probably not meant: it takes the context, too.
//! [`crate::kubefile::lint`] has the rest.

use std::collections::{BTreeMap, BTreeSet};

use kfs_fs::layer::{Kind, Timestamp};
use kfs_fs::oci::manifest::ImageConfig;

use crate::config::StageConfig;
use crate::context::Context;
use crate::copy::{self, Place};
use crate::kubefile::{Copy, Instruction, Kubefile, Rule, Warning};
use crate::plan::{Options, Plan};

/// The COPYs that the two rules do differently, as far as it can be told without the base image:
/// of that only what the COPYs before have made is known. A COPY that would fail is left to the
/// build, as is a file that cannot be planned with these options.
pub fn copy_rules(file: Kubefile, options: Options, context: &Context) -> Vec<Warning> {
    let Ok(plan) = Plan::new(file, options) else { return Vec::new() };
    (0..plan.stages().len()).flat_map(|number| in_stage(&plan, number, context)).collect()
}

fn in_stage(plan: &Plan, number: usize, context: &Context) -> Vec<Warning> {
    let base = ImageConfig::default();
    let Ok(expanded) = plan.expand(number, &base, None) else { return Vec::new() };
    let mut config = StageConfig::new(base, plan.dialect());
    let mut directories = BTreeSet::from([Vec::new()]);
    let mut warnings = Vec::new();
    for step in &expanded.steps {
        if let Instruction::Copy(files) = &step.instruction
            && files.from.is_none()
            && let Some(resolved) = resolve(plan, files, &config, context, &directories)
        {
            let items = resolved.items.into_iter().map(|item| item.entry);
            let made = items.filter(|entry| entry.kind == Kind::Directory);
            directories.extend(made.map(|entry| entry.path));
            warnings.extend(resolved.difference.map(|difference| Warning {
                rule: Rule::CopyRulesDiffer,
                location: Some(step.location.clone()),
                message: difference.to_string(),
            }));
        }
        // `expand` has applied it already, so that it cannot fail here.
        drop(config.apply(&step.instruction));
    }
    warnings
}

fn resolve(
    plan: &Plan,
    files: &Copy,
    config: &StageConfig,
    context: &Context,
    directories: &BTreeSet<Vec<u8>>,
) -> Option<copy::Resolved> {
    let request = copy::Request {
        sources: &files.sources,
        dest: &files.dest,
        working_dir: config.working_dir(),
        rule: plan.copy_rule(),
        context,
        fetched: &BTreeMap::new(),
        unpack: None,
        parents: files.parents,
        exclude: &files.exclude,
        owner: None,
        mode: None,
        made_at: Timestamp { seconds: 0, nanos: 0 },
    };
    let mut look = |path: &[u8]| {
        Ok(match directories.contains(path) {
            true => Place::Directory(path.to_owned()),
            false => Place::Absent(path.to_owned()),
        })
    };
    copy::resolve(&request, &mut look).ok()
}

#[cfg(test)]
mod tests {
    use kfs_fs::oci::manifest::Platform;

    use super::*;
    use crate::kubefile::Dialect;

    fn differ(dialect: Dialect, text: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for path in ["apollo/Chart.yaml", "charts/a", "imageList", "a.yaml", "b.yaml"] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let target = Platform {
            architecture: "amd64".into(),
            os: "linux".into(),
            variant: None,
            extra: Default::default(),
        };
        let options = Options {
            build_args: Vec::new(),
            copy_rule: None,
            build: target.clone(),
            target,
            stage: None,
            contexts: Vec::new(),
            images: Default::default(),
        };
        let file = Kubefile::parse("f", text.as_bytes(), dialect).unwrap();
        let warnings = copy_rules(file, options, &Context::open(dir.path()).unwrap());
        warnings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_the_rules_do_differently_is_told() {
        let text = "FROM scratch\nARG D=charts\nCOPY apollo $D\nCOPY charts charts\n\
                    COPY a.yaml b.yaml manifests/\nCOPY imageList manifests\nCOPY nowhere x\n\
                    WORKDIR /etc\nCOPY imageList list";
        let kubefile = differ(Dialect::Kubefile, text);
        assert_eq!(
            kubefile,
            [
                "f:3: by the kubefile rule apollo lands at charts/apollo; by the docker rule the \
                 contents of apollo land at charts; \"# copy=docker\" at the head of the file \
                 chooses that [copy-rules-differ]",
                "f:9: by the kubefile rule imageList lands at etc/list/imageList; by the docker \
                 rule imageList lands at etc/list; \"# copy=docker\" at the head of the file \
                 chooses that [copy-rules-differ]",
            ]
        );
        let docker = differ(Dialect::Dockerfile, text);
        assert!(docker[0].starts_with("f:3: by the docker rule the contents"), "{docker:?}");
        assert_eq!(docker.len(), 2);
        let broken = differ(Dialect::Kubefile, "ARG B\nFROM $B\nCOPY apollo charts");
        assert_eq!(broken, [""; 0]);
    }
}
