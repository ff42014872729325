//! What kfs says of itself, and what it says when something is wrong, word for word.
//!
//! After a change that is meant, `INSTA_UPDATE=always cargo test --test cli` writes the snapshots
//! anew; read their difference.

mod skip;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use skip::skip;
use tempfile::TempDir;

/// A directory of a user with nothing in his environment.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A command as it is typed, and all that comes of it.
    fn typed(&self, line: &str) -> String {
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        assert_eq!(words.next(), Some("kfs"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfs"));
        command.args(words).env_clear().current_dir(&self.0).stdin(Stdio::null());
        command
            .env("KFS_ROOT", self.0.path().join("store"))
            .env("KFS_PULL", "never")
            .env("PATH", "/usr/bin:/bin");
        let output = command.output().unwrap();
        let mut text = format!("$ {line}\n");
        text += &String::from_utf8(output.stdout).unwrap();
        text += &String::from_utf8(output.stderr).unwrap();
        match output.status.code() {
            Some(0) => {}
            Some(code) => writeln!(text, "# exit code {code}").unwrap(),
            None => writeln!(text, "# {}", output.status).unwrap(),
        }
        self.without_path(&text)
    }

    fn without_path(&self, text: &str) -> String {
        let here: &Path = self.0.path();
        text.replace(here.to_str().unwrap(), "/home")
    }

    fn transcript(&self, lines: &[&str]) -> String {
        lines.iter().map(|line| self.typed(line)).collect::<Vec<_>>().join("\n")
    }

    /// An image `small:1`: /etc/motd, /etc/hostname, /bin/sh as a link.
    fn image(&self) {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content) in [("etc/motd", "welcome\n"), ("etc/hostname", "here\n")] {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        self.write("small.tar", tar.into_inner().unwrap());
        self.typed("kfs import small.tar small:1");
    }
}

#[test]
fn help() {
    let home = Home::new();
    let top = home.typed("kfs --help");
    let commands = top.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<_> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty())
        })
        .collect();
    assert!(commands.contains(&"mount") && commands.contains(&"build"), "{commands:?}");
    insta::assert_snapshot!("help", top);
    for command in commands {
        let help = home.typed(&format!("kfs {command} --help"));
        insta::assert_snapshot!(format!("help-{command}"), help);
    }
}

#[test]
fn usage() {
    let home = Home::new();
    insta::assert_snapshot!(home.transcript(&[
        "kfs",
        "kfs --no-such-option",
        "kfs moutn small:1 mnt",
        "kfs mount",
        "kfs mount small:1",
        "kfs ls Small:1",
        "kfs ls oci:",
        "kfs inspect --format yaml small:1",
        "kfs umount",
        "kfs completions tcsh",
    ]));
}

#[test]
fn completions_offer_what_is_for_people_and_need_no_home() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfs"));
        let output = command.args(["completions", shell]).env_clear().output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("passthrough"), "{shell}");
        for hidden in ["__supervise", "timings"] {
            assert!(!script.contains(hidden), "{shell}: {hidden}");
        }
    }
}

#[test]
fn images() {
    let home = Home::new();
    home.image();
    home.write("text", "just some text");
    home.write("dir/file", "");
    insta::assert_snapshot!(home.transcript(&[
        "kfs inspect smal:1",
        "kfs inspect small",
        "kfs inspect oci:dir",
        "kfs inspect oci:nowhere:1",
        "kfs inspect oci-archive:text",
        "kfs inspect docker-archive:nowhere",
        "kfs history other/small:1",
        "kfs rmi other",
        "kfs tag small:1 Capital",
        "kfs load text",
        "kfs load nowhere",
        "kfs import text text:1",
        "kfs import nowhere text:1",
        "kfs save -o dir small:1",
    ]));
}

#[test]
fn paths() {
    let home = Home::new();
    home.image();
    home.write("there", "");
    insta::assert_snapshot!(home.transcript(&[
        "kfs ls small:1 /etc/motd /etc/no/such/file",
        "kfs ls small:1 /etc/motd/below",
        "kfs cat small:1 /etc",
        "kfs cat small:1 /etc/motd /etc/mot",
        "kfs stat small:1 /nothing",
        "kfs tree small:1 /nothing",
        "kfs cp small:1 /etc/motd there/below",
        "kfs cp small:1 /etc there",
        "kfs diff small:1 small:2",
    ]));
}

#[test]
fn build_files() {
    let home = Home::new();
    home.image();
    home.write("context/file", "");
    home.write("Dockerfile.good", "FROM scratch\n");
    let files = [
        ("unknown", "FROM scratch\nCPOY a b\n"),
        ("no-from", "# nothing\nRUN true\n"),
        ("no-base", "FROM small:2\n"),
        ("open", "FROM scratch\nENV A=\"open\n"),
        ("copy", "FROM scratch\nCOPY nowhere /\n"),
        ("outside", "FROM scratch\nCOPY ../small.tar /\n"),
        ("flag", "FROM scratch\nCOPY --from=other a /\n"),
        ("args", "FROM scratch\nWORKDIR\n"),
        ("empty", ""),
    ];
    let mut lines = vec![
        "kfs build nowhere".to_owned(),
        "kfs build context".to_owned(),
        "kfs build -f nowhere context".to_owned(),
        "kfs build -t Capital -f Dockerfile.good context".to_owned(),
    ];
    for (name, text) in files {
        home.write(&format!("Dockerfile.{name}"), text);
        lines.push(format!("kfs build -f Dockerfile.{name} -t new context"));
    }
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    insta::assert_snapshot!(home.transcript(&lines));
}

#[test]
fn lints() {
    let home = Home::new();
    let text = "# syntax=docker/dockerfile:1\nFROM scratch AS Base\nRUN a\nENV token x\ncmd foo\n";
    home.write("Dockerfile", text);
    home.write("clean/Kubefile", "FROM scratch\nCOPY . .\nCMD kubectl apply -f manifests\n");
    home.write("rules/Kubefile", "FROM scratch\nCOPY apollo charts\nCOPY list manifests\n");
    home.write("rules/apollo/Chart.yaml", "");
    home.write("rules/list", "");
    home.write("broken", "FROM scratch\nRUN --mount=type=cahce,target=/x a\n");
    home.write("empty/file", "");
    insta::assert_snapshot!(home.transcript(&[
        "kfs lint",
        "kfs lint --strict Dockerfile",
        "kfs lint --format json",
        "kfs lint --strict clean",
        "kfs lint rules",
        "kfs lint --context rules rules/Kubefile",
        "kfs lint --context nowhere rules/Kubefile",
        "kfs lint broken",
        "kfs lint empty",
        "kfs lint nowhere",
        "kfs lint --rules",
    ]));
}

#[test]
fn checks() {
    let home = Home::new();
    let text = "FROM scratch AS Base\nENV token x\nCMD foo\n";
    for (name, check) in [
        ("Dockerfile.some", "skip=StageNameCasing,legacy-pair,Unknown"),
        ("Dockerfile.all", "skip=all;error=true"),
        ("Dockerfile.error", "skip=secret-name;error=true"),
        ("Dockerfile.bad", "skip"),
    ] {
        home.write(name, format!("# check={check}\n{text}"));
    }
    insta::assert_snapshot!(home.transcript(&[
        "kfs lint Dockerfile.some",
        "kfs lint Dockerfile.all",
        "kfs lint Dockerfile.error",
        "kfs lint Dockerfile.bad",
        "kfs build -f Dockerfile.error .",
    ]));
}

#[test]
fn mount_points() {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        return skip("needs root and /dev/fuse");
    }
    let home = Home::new();
    home.image();
    home.write("full/file", "");
    home.write("file", "");
    fs::create_dir(home.0.path().join("mnt")).unwrap();
    insta::assert_snapshot!(home.transcript(&[
        "kfs mount small:2 mnt",
        "kfs mount small:1 nowhere",
        "kfs mount small:1 full",
        "kfs mount small:1 file",
        "kfs mount small:1 mnt",
        "kfs mount small:1 mnt",
        "kfs umount mnt",
        "kfs umount mnt",
        "kfs umount nowhere",
        "kfs umount --all",
    ]));
}

#[test]
fn a_failing_run() {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        return skip("needs root and /dev/fuse");
    }
    let home = Home::new();
    home.write("Kubefile", "FROM scratch\nRUN echo one; \\\n    echo two >&2; exit 3\n");
    home.write("Killed.Kubefile", "FROM scratch\nRUN kill -9 $$\n");
    insta::assert_snapshot!(home.transcript(&[
        "kfs build -t new .",
        "kfs build -f Killed.Kubefile -t new .",
        "kfs images",
    ]));
}
