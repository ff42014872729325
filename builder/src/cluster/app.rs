//! Applications of cluster images (APP, CNI, CSI): what kind one is, by its files, and the shell
//! line that starts it.
//!
//! The rules are those of Sealer's documents, not of its program (`Kubefile`, "APP instruction"):
//! a README beside YAML files does no harm, and a chart need not have values.yaml.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Where the applications of an image lie; each has a directory of its name there.
pub const APPS: &str = "application/apps";
/// The version that Sealer gives every application.
const VERSION: &str = "v1";

/// What starts an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppKind {
    /// A Helm chart: `helm install`.
    Helm,
    /// Documents for Kubernetes: `kubectl apply`.
    Kube,
    /// Shell scripts.
    Shell,
}

/// An application as the image's annotation tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Application {
    /// Its name.
    pub name: String,
    /// Its kind; none where only APPCMDS says how it starts.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<AppKind>,
    /// What the kind's command is given: files, for a chart the application's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Always `v1`.
    #[serde(default)]
    pub version: String,
    /// APPENV.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub env: std::collections::BTreeMap<String, String>,
    /// APPCMDS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmds: Vec<String>,
}

impl Application {
    /// The application of this name with these files, paths relative to its directory. In the order
    /// in which they are to be applied, which is that of their sources, then of their names.
    pub fn of_files(name: &str, files: &[String]) -> Self {
        let kind = kind(files);
        let files = match kind {
            Some(AppKind::Helm) => vec![name.to_owned()],
            Some(AppKind::Kube) => files.iter().filter(|file| is_yaml(file)).cloned().collect(),
            Some(AppKind::Shell) => files.iter().filter(|file| is_shell(file)).cloned().collect(),
            None => Vec::new(),
        };
        Self { name: name.to_owned(), kind, files, version: VERSION.to_owned(), ..Self::default() }
    }

    /// The shell line that starts it, for a shell in the root of the image's file system; `None` if
    /// nothing says how.
    pub fn command(&self) -> Option<String> {
        let directory = format!("{APPS}/{}/", self.name);
        if !self.cmds.is_empty() {
            return Some(format!("cd {} && {}", quoted(&directory), self.cmds.join(" && ")));
        }
        let lines = |program: &str| {
            let mut text = String::new();
            for file in &self.files {
                let and = if text.is_empty() { "" } else { " && " };
                let path = quoted(&format!("{directory}{}", file.trim_start_matches('/')));
                write!(text, "{and}{program} {path}").expect("writing to a string does not fail");
            }
            Some(text).filter(|text| !text.is_empty())
        };
        match self.kind? {
            AppKind::Helm => {
                Some(format!("helm install {} {}", quoted(&self.name), quoted(&directory)))
            }
            AppKind::Kube => lines("kubectl apply -f"),
            AppKind::Shell => lines("bash"),
        }
    }
}

/// What kind of application these files make.
fn kind(files: &[String]) -> Option<AppKind> {
    if files.iter().any(|file| file == "Chart.yaml") {
        return Some(AppKind::Helm);
    }
    let mut material = files.iter().filter(|file| !is_text(file)).peekable();
    material.peek()?;
    let material: Vec<&String> = material.collect();
    if material.iter().all(|file| is_yaml(file)) {
        return Some(AppKind::Kube);
    }
    material.iter().all(|file| is_shell(file)).then_some(AppKind::Shell)
}

fn is_yaml(file: &str) -> bool {
    file.ends_with(".yaml") || file.ends_with(".yml")
}

fn is_shell(file: &str) -> bool {
    file.ends_with(".sh")
}

/// Text for people, which says nothing of the kind.
fn is_text(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    let upper = name.to_ascii_uppercase();
    let known = ["README", "LICENSE", "LICENCE", "NOTICE", "CHANGELOG", "NOTES.TXT", "."];
    known.iter().any(|known| upper.starts_with(known)) || upper.ends_with(".MD")
}

/// A word for the shell: as it is where it has nothing special.
pub(super) fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%=,".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(files: &[&str]) -> Application {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        Application::of_files("a", &files)
    }

    #[test]
    fn the_files_say_how_an_application_starts() {
        let cases: [(&[&str], Option<&str>); 11] = [
            (&["one.yaml"], Some("kubectl apply -f application/apps/a/one.yaml")),
            (&["one.sh"], Some("bash application/apps/a/one.sh")),
            (&["Chart.yaml", "templates/x.yaml"], Some("helm install a application/apps/a/")),
            (
                &["Chart.yaml", "values.yaml", "templates/NOTES.txt"],
                Some("helm install a application/apps/a/"),
            ),
            (
                &["b.yml", "README.md", "c/d.yaml"],
                Some(
                    "kubectl apply -f application/apps/a/b.yml && kubectl apply -f application/apps/a/c/d.yaml",
                ),
            ),
            (&["x.sh", "y.yaml"], None),
            (&["README.md"], None),
            (&["x.tgz"], None),
            (&[], None),
            (&["it's.sh"], Some(r"bash 'application/apps/a/it'\''s.sh'")),
            (&["$(rm).yaml"], Some("kubectl apply -f 'application/apps/a/$(rm).yaml'")),
        ];
        for (files, expected) in cases {
            assert_eq!(app(files).command().as_deref(), expected, "{files:?}");
        }
    }

    #[test]
    fn what_was_said_holds_before_what_the_files_say() {
        let mut app = app(&["one.yaml"]);
        app.cmds = vec!["kubectl apply -f one.yaml -n x".to_owned(), "echo done".to_owned()];
        let expected = "cd application/apps/a/ && kubectl apply -f one.yaml -n x && echo done";
        assert_eq!(app.command().as_deref(), Some(expected));
    }

    #[test]
    fn the_json_is_sealers() {
        let json = serde_json::to_value(app(&["one.yaml"])).unwrap();
        let expected = serde_json::json!({
            "name": "a", "type": "kube", "files": ["one.yaml"], "version": "v1",
        });
        assert_eq!(json, expected);
        let read: Application = serde_json::from_value(expected).unwrap();
        assert_eq!(read, app(&["one.yaml"]));
    }
}
