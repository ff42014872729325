//! The templates of a cluster image: files that are filled in when it is launched.
//!
//! Files `*.tmpl` in `etc/`, `charts/`, `manifests/` and `scripts/`, with the variables of the
//! launch, and in `application/apps/<name>/`, with those of the application. What comes out of one
//! gets its name without `.tmpl`. The language is Go's, with Sprig's functions and Helm's; a
//! variable that is not set prints as `<no value>`, as Go has it. In the `templates/` of a chart,
//! `.tmpl` is a name that Helm gives a meaning: nothing is filled in there.

use std::collections::BTreeMap;

use kfs_charts::Limits;
use serde_json::Value;

use super::app::APPS;
use super::files::{Files, FilesError};
use super::launch::Variables;

/// The directories with templates, beside those of applications (both originals).
const PLACES: [&str; 4] = ["charts", "etc", "manifests", "scripts"];
const ENDING: &str = ".tmpl";
/// What all templates of an image may give together, in bytes.
const MAX_TOTAL: usize = 256 << 20;

/// What a template gave.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The template, relative to the root of the image.
    pub template: String,
    /// What it gave.
    pub content: Vec<u8>,
    /// Permission bits: those of the template.
    pub mode: u32,
}

/// Contents may hold secrets.
impl std::fmt::Debug for Rendered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rendered({} -> {} bytes)", self.template, self.content.len())
    }
}

/// Why templates cannot be filled in.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// One cannot be read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// One is wrong, or takes more than it may; the error names file and line.
    #[error("template {0}")]
    Template(kfs_charts::Error),
    /// All together give too much.
    #[error("the templates give more than {MAX_TOTAL} bytes; {0} is one too many")]
    TooMuch(String),
}

impl Rendered {
    /// Where what it gave belongs, relative to the root of the image.
    pub fn path(&self) -> &str {
        self.template.strip_suffix(ENDING).unwrap_or(&self.template)
    }
}

/// Fills in all templates of an image, those of a directory in the order of their names; of the
/// applications, those in `apps`.
pub fn render(
    files: &Files<'_>,
    env: &Variables,
    apps: &BTreeMap<String, Variables>,
) -> Result<Vec<Rendered>, TemplateError> {
    let mut all = Vec::new();
    let mut total = 0;
    let apps = apps.iter().map(|(name, env)| (format!("{APPS}/{name}"), env));
    let places = PLACES.iter().map(|place| ((*place).to_owned(), env)).chain(apps);
    for (place, env) in places {
        let data = data(env);
        for template in templates(files, &place)? {
            let rendered = fill_in(files, template, &data)?;
            total += rendered.content.len();
            if total > MAX_TOTAL {
                return Err(TemplateError::TooMuch(rendered.template));
            }
            all.push(rendered);
        }
    }
    Ok(all)
}

fn data(env: &Variables) -> Value {
    Value::Object(env.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect())
}

fn fill_in(files: &Files<'_>, template: String, data: &Value) -> Result<Rendered, TemplateError> {
    let text = files.text(&template)?.unwrap_or_default();
    let content = kfs_charts::render_text(&template, &text, data, &Limits::default())
        .map_err(TemplateError::Template)?;
    let mode = files.permissions(&template)?;
    Ok(Rendered { template, content, mode })
}

/// The templates below a directory, but for those that are Helm's.
fn templates(files: &Files<'_>, place: &str) -> Result<Vec<String>, FilesError> {
    let all = files.below(place)?;
    let is_helms = |file: &str| {
        let directories = file.match_indices("/templates/");
        directories.into_iter().any(|(at, _)| all.contains(&format!("{}/Chart.yaml", &file[..at])))
    };
    let is_template =
        |file: &&String| file.len() > ENDING.len() && file.ends_with(ENDING) && !is_helms(file);
    Ok(all.iter().filter(is_template).cloned().collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn rendered(root: &Path) -> Result<Vec<Rendered>, TemplateError> {
        let env = variables(&[("NAME", "web"), ("BOTH", "image")]);
        let apps = [("a".to_owned(), variables(&[("BOTH", "app")]))].into();
        render(&Files::Directory(root), &env, &apps)
    }

    #[test]
    fn templates_are_filled_in_where_they_have_their_places() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(
            root,
            "etc/deep/x.yml.tmpl",
            "{{ .NAME | upper }} {{ .NONE }} {{ default \"d\" .NONE }}",
        );
        write(root, "manifests/x.yaml", "{{ .NAME }}");
        write(root, "other/x.tmpl", "{{ .NAME }}");
        write(root, "scripts/x.sh.tmpl", "echo {{ .BOTH }}");
        fs::set_permissions(root.join("scripts/x.sh.tmpl"), fs::Permissions::from_mode(0o750))
            .unwrap();
        write(root, "application/apps/a/x.yaml.tmpl", "{{ .BOTH }}");
        write(root, "application/apps/b/x.yaml.tmpl", "{{ fail \"not launched\" }}");
        write(root, "charts/c/Chart.yaml", "name: c");
        write(root, "charts/c/values.yaml.tmpl", "name: {{ .NAME }}");
        write(root, "charts/c/templates/_x.tmpl", "{{ .Values.x }}");
        write(root, "charts/templates/x.tmpl", "{{ .NAME }}");
        let all = rendered(root).unwrap();
        let all: Vec<_> =
            all.iter().map(|r| (r.path(), std::str::from_utf8(&r.content).unwrap())).collect();
        let expected = [
            ("charts/c/values.yaml", "name: web"),
            ("charts/templates/x", "web"),
            ("etc/deep/x.yml", "WEB <no value> d"),
            ("scripts/x.sh", "echo image"),
            ("application/apps/a/x.yaml", "app"),
        ];
        assert_eq!(all, expected);
        let script = rendered(root).unwrap().remove(3);
        assert_eq!(script.mode, 0o750);
    }

    #[test]
    fn a_template_that_is_wrong_or_takes_too_much_is_told_with_its_line() {
        for (text, expected) in [
            ("a\n{{ .NAME", "etc/x.tmpl:2"),
            ("{{ env \"HOME\" }}", "\"env\""),
            ("{{ expandenv \"$HOME\" }}", "\"expandenv\""),
            ("{{ .NAME.x }}", "etc/x.tmpl:1"),
            (
                "{{ define \"a\" }}{{ template \"a\" }}{{ end }}{{ template \"a\" }}",
                "within one another",
            ),
            ("{{ $l := until 9999 }}{{ range $l }}{{ range $l }}{{ end }}{{ end }}", "steps"),
            ("{{ repeat 2000000000 .NAME }}", "text is too long"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), "etc/x.tmpl", text);
            let error = rendered(dir.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn links_lead_neither_out_nor_around() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        write(dir.path(), "outside/secret.tmpl", "secret");
        write(&root, "etc/x.tmpl", "x");
        for name in ["a", "b", "c"] {
            std::os::unix::fs::symlink(".", root.join("etc").join(name)).unwrap();
        }
        std::os::unix::fs::symlink("../../outside", root.join("etc/out")).unwrap();
        let all = rendered(&root).unwrap();
        assert_eq!(all.iter().map(Rendered::path).collect::<Vec<_>>(), ["etc/x"]);
    }
}
