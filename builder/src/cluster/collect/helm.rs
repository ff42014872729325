//! Charts rendered by a `helm` of this machine, for those who trust no other.
//!
//! What was read of a chart is laid out in a directory that goes away afterwards, so that charts in
//! images and archives in whatever place are rendered alike. The text that `helm template` prints
//! is cut into what each template gave; nothing else of helm is used.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use kfs_charts::Options;
use kfs_fs::error::{AtPath as _, PathError};
use tempfile::TempDir;

use super::charts::Unrendered;
use crate::cluster::files::FilesError;
use crate::interrupt::Interrupts;

/// No chart prints more, in bytes.
const MAX_OUTPUT: u64 = 64 << 20;
/// So much of what helm complains of is told, in bytes.
const MAX_COMPLAINT: u64 = 4 << 10;
/// Between looks at whether it has ended.
const PAUSE: Duration = Duration::from_millis(10);

/// A run of helm that is being prepared.
pub(super) struct Run<'a> {
    program: &'a Path,
    interrupts: &'a Interrupts,
    work: TempDir,
}

impl<'a> Run<'a> {
    /// The chart will lie in a directory of `place`, by default of that for temporary files.
    pub(super) fn new(
        program: &'a Path,
        place: Option<&Path>,
        interrupts: &'a Interrupts,
    ) -> Result<Self, PathError> {
        let place = place.map_or_else(std::env::temp_dir, Path::to_owned);
        let work = tempfile::Builder::new().prefix("kfs-helm-").tempdir_in(&place);
        Ok(Self { program, interrupts, work: work.at("create a directory in", &place)? })
    }

    /// Puts a file of the chart where helm will find it.
    pub(super) fn put(&self, name: &str, data: &[u8]) -> Result<(), FilesError> {
        let path = self.work.path().join("chart").join(name);
        let parent = path.parent().expect("it is below the work directory");
        fs::create_dir_all(parent).at("create", parent)?;
        Ok(fs::write(&path, data).at("write", &path)?)
    }

    /// What the templates give, each with its source, as helm tells it. `archive` is the name that
    /// the chart was put by, empty for a directory.
    pub(super) fn documents(
        &self,
        archive: &str,
        options: &Options,
    ) -> Result<Vec<(String, String)>, Unrendered> {
        let chart = self.work.path().join("chart").join(archive);
        let values = self.work.path().join("values.json");
        fs::write(&values, options.values.to_string()).at("write", &values)?;
        let mut helm = Command::new(self.program);
        helm.args(["template", &options.release_name]).arg(chart).arg("--include-crds");
        helm.args(["--namespace", &options.namespace]).arg("--values").arg(values);
        if let Some(version) = &options.kube_version {
            helm.args(["--kube-version", version]);
        }
        let (printed, said) = (self.file("printed")?, self.file("said")?);
        helm.stdin(Stdio::null());
        helm.stdout(printed.try_clone().at("open", self.work.path())?);
        helm.stderr(said);
        let child = helm.spawn().at("run", self.program)?;
        if !self.wait(child, &printed)?.success() {
            return Err(Unrendered::Helm(self.complaint()?));
        }
        Ok(by_source(&self.text("printed", MAX_OUTPUT)?))
    }

    fn file(&self, name: &str) -> Result<File, PathError> {
        let path = self.work.path().join(name);
        File::create(&path).at("create", &path)
    }

    fn text(&self, name: &str, limit: u64) -> Result<String, PathError> {
        let path = self.work.path().join(name);
        let mut text = Vec::new();
        let file = File::open(&path).at("open", &path)?;
        file.take(limit).read_to_end(&mut text).at("read", &path)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// What helm says before it fails, in one line.
    fn complaint(&self) -> Result<String, PathError> {
        let said = self.text("said", MAX_COMPLAINT)?;
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        Ok(if lines.is_empty() { "it fails without a word".to_owned() } else { lines.join("; ") })
    }

    /// Waits until helm has ended, or has printed too much, or a signal has come.
    fn wait(&self, mut child: Child, printed: &File) -> Result<ExitStatus, Unrendered> {
        loop {
            let ended = child.try_wait().at("wait for", self.program)?;
            let size = printed.metadata().at("stat", self.work.path())?.len();
            let stop = match self.interrupts.check() {
                Err(interrupted) => Some(FilesError::from(interrupted).into()),
                Ok(()) if size > MAX_OUTPUT => {
                    Some(Unrendered::Helm(format!("it prints more than {MAX_OUTPUT} bytes")))
                }
                Ok(()) => None,
            };
            if let Some(error) = stop {
                // It fails if it has ended meanwhile.
                child.kill().ok();
                child.wait().at("wait for", self.program)?;
                return Err(error);
            }
            if let Some(status) = ended {
                return Ok(status);
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Cuts the text of `helm template` into what each source gave, in order.
fn by_source(text: &str) -> Vec<(String, String)> {
    let mut documents: Vec<(String, String)> = Vec::new();
    let mut starts = true;
    for line in text.lines() {
        let source = line.strip_prefix("# Source: ").filter(|_| starts);
        starts = line == "---";
        match (source, documents.last_mut()) {
            (Some(source), _) => documents.push((source.to_owned(), String::new())),
            (None, Some((_, document))) => {
                document.push_str(line);
                document.push('\n');
            }
            (None, None) if line.trim().is_empty() || starts => {}
            // It always says a source.
            (None, None) => documents.push(("helm template".to_owned(), format!("{line}\n"))),
        }
    }
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helm_prints_is_cut_by_its_sources() {
        let text = "---\n# Source: c/crds/x.yaml\na: 1\n---\n# not the Source\nb: 2\n---\n\
            # Source: c/templates/y.yaml\nc: |\n  # Source: no\n# Source: neither\n";
        let expected = [
            ("c/crds/x.yaml", "a: 1\n---\n# not the Source\nb: 2\n---\n"),
            ("c/templates/y.yaml", "c: |\n  # Source: no\n# Source: neither\n"),
        ];
        let owned = |(source, text): (&str, &str)| (source.to_owned(), text.to_owned());
        assert_eq!(by_source(text), expected.map(owned));
        assert!(by_source("\n---\n").is_empty());
        assert_eq!(by_source("---\na: 1\nb: 2\n"), [owned(("helm template", "a: 1\nb: 2\n"))]);
    }

    /// A program of this text, called as helm; another process writes it, as no text that is open
    /// for writing can be run, and every process that starts meanwhile has it open.
    fn fake_helm(place: &Path, text: &str) -> std::path::PathBuf {
        let helm = place.join("helm");
        let write = r#"printf '#!/bin/sh\n%s' "$2" > "$1"; chmod 755 "$1""#;
        let mut command = Command::new("sh");
        command.args(["-c", write, "sh"]).arg(&helm).arg(text);
        assert!(command.status().unwrap().success());
        helm
    }

    #[test]
    fn what_is_printed_at_once_is_not_cut() {
        let dir = tempfile::tempdir().unwrap();
        let interrupts = Interrupts::default();
        let helm = fake_helm(dir.path(), "truncate -s 64M /dev/stdout; printf x >> /dev/stdout\n");
        let run = Run::new(&helm, None, &interrupts).unwrap();
        let error = run.documents("", &Options::default()).unwrap_err().to_string();
        assert_eq!(error, "helm template: it prints more than 67108864 bytes");
    }

    #[test]
    fn a_helm_that_is_interrupted_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (work, interrupts) = (dir.path().join("work"), Interrupts::default());
        fs::create_dir(&work).unwrap();
        let helm = fake_helm(dir.path(), "echo $$ > \"${0%/*}/pid\"; exec sleep 600\n");
        let pid = dir.path().join("pid");
        let run = Run::new(&helm, Some(&work), &interrupts).unwrap();
        run.put("Chart.yaml", b"name: x").unwrap();
        assert_eq!(fs::read_dir(&work).unwrap().count(), 1);
        let error = thread::scope(|scope| {
            scope.spawn(|| {
                while fs::read_to_string(&pid).map_or(0, |text| text.len()) == 0 {
                    thread::sleep(PAUSE);
                }
                interrupts.cancel();
            });
            run.documents("", &Options::default()).unwrap_err()
        });
        assert!(matches!(error, Unrendered::Files(FilesError::Interrupted(_))), "{error}");
        drop(run);
        assert_eq!(fs::read_dir(&work).unwrap().count(), 0);
        let process = format!("/proc/{}", fs::read_to_string(&pid).unwrap().trim());
        assert!(!Path::new(&process).exists(), "{process} runs on");
    }
}
