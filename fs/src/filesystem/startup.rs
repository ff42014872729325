//! What a program reads as it starts, where no earlier run tells.
//!
//! Nearly every program of an image is dynamic, and the first thing that happens in it is that the
//! loader maps the C library: a dozen page faults, one after the other, each a round trip. What
//! that reads is the same whatever the program is, so it can come before it is asked for.

use super::{ImageFs, ReadError, Resolved};
use crate::oci::manifest::ContainerConfig;
use crate::trace::TraceEntry;

/// Loaders of dynamic programs, by the names that the programs have in them: glibc's and musl's,
/// of each architecture (the ABI supplements of System V; musl, `ldso`).
const LOADERS: [&str; 14] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-linux-armhf.so.3",
    "/lib/ld-linux-riscv64-lp64d.so.1",
    "/lib64/ld-linux-loongarch-lp64d.so.1",
    "/lib64/ld64.so.2",
    "/lib/ld64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
    "/lib/ld-musl-armhf.so.1",
    "/lib/ld-musl-riscv64.so.1",
    "/lib/ld-musl-loongarch64.so.1",
    "/lib/ld-musl-powerpc64le.so.1",
    "/lib/ld-musl-s390x.so.1",
];

/// Where glibc's loader looks up which library is where.
const LOADER_CACHE: &str = "/etc/ld.so.cache";

/// glibc's C library, which lies beside its loader. musl's is its loader.
const LIBC: &str = "libc.so.6";

/// Of one file so much is read at most, in bytes: C libraries have about two million.
const MOST: u64 = 4 << 20;

/// Of a program that is larger, most is not read when it starts.
const HEAD: u64 = 256 << 10;

/// Where a program is looked for whose image does not say it (execvp(3)).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// In so many directories it is looked for.
const MOST_DIRECTORIES: usize = 64;

impl ImageFs {
    /// What is read first, in all likelihood, as far as the image has it: by the program that a
    /// container of the image starts with, and by any other.
    pub fn likely_first_reads(
        &self,
        config: &ContainerConfig,
    ) -> Result<Vec<TraceEntry>, ReadError> {
        let mut reads = Vec::new();
        for loader in LOADERS {
            let Some(path) = self.add_read(&mut reads, loader, MOST)? else { continue };
            if let Some((directory, _)) = path.rsplit_once('/') {
                self.add_read(&mut reads, LOADER_CACHE, MOST)?;
                self.add_read(&mut reads, &format!("{directory}/{LIBC}"), MOST)?;
            }
        }
        for program in candidates(config) {
            if self.add_read(&mut reads, &program, HEAD)?.is_some() {
                break;
            }
        }
        Ok(reads)
    }

    /// Adds the first `most` bytes of a file; returns its path without symlinks if there is one.
    fn add_read(
        &self,
        reads: &mut Vec<TraceEntry>,
        path: &str,
        most: u64,
    ) -> Result<Option<String>, ReadError> {
        let Resolved::Found(ino, path) = self.resolve(path.as_bytes(), true)? else {
            return Ok(None);
        };
        let attr = self.attr(ino)?;
        let (Ok(path), 0o100_000) = (String::from_utf8(path), attr.mode & 0o170_000) else {
            return Ok(None);
        };
        if reads.iter().all(|read| read.path != path) {
            reads.push(TraceEntry { path: path.clone(), offset: 0, size: attr.size.min(most) });
        }
        Ok(Some(path))
    }
}

/// Where the program of a container may lie, in the order in which it is looked for.
fn candidates(config: &ContainerConfig) -> Vec<String> {
    let words = config.entrypoint.iter().chain(&config.cmd).flatten();
    let Some(program) = words.map(String::as_str).next() else { return Vec::new() };
    if program.starts_with('/') {
        return vec![program.to_owned()];
    }
    if program.contains('/') {
        return vec![format!("{}/{program}", config.working_dir)];
    }
    let path = config.env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or(PATH);
    let directories = path.split(':').take(MOST_DIRECTORIES);
    directories.map(|directory| format!("{directory}/{program}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Tar, open};
    use super::*;

    fn config(json: &str) -> ContainerConfig {
        serde_json::from_str(json).unwrap()
    }

    fn paths(fs: &ImageFs, config: &ContainerConfig) -> Vec<(String, u64)> {
        let reads = fs.likely_first_reads(config).unwrap();
        assert!(reads.iter().all(|read| read.offset == 0));
        reads.into_iter().map(|read| (read.path, read.size)).collect()
    }

    #[test]
    fn a_glibc_image_starts_with_its_loader_and_library() {
        let dir = tempfile::tempdir().unwrap();
        let large = vec![7; 300 << 10];
        let tar = Tar::default()
            .symlink("lib64", "usr/lib64")
            .symlink("usr/lib64/ld-linux-x86-64.so.2", "../lib/x/ld-linux-x86-64.so.2")
            .file("usr/lib/x/ld-linux-x86-64.so.2", b"loader")
            .file("usr/lib/x/libc.so.6", b"library")
            .file("etc/ld.so.cache", b"cache")
            .file("usr/bin/tool", &large)
            .dir("usr/local/bin/tool");
        let fs = open(dir.path(), &[tar.done()]);
        let always = [
            ("/usr/lib/x/ld-linux-x86-64.so.2".to_owned(), 6),
            ("/etc/ld.so.cache".to_owned(), 5),
            ("/usr/lib/x/libc.so.6".to_owned(), 7),
        ];
        assert_eq!(paths(&fs, &config("{}")), always);
        let with_tool = [&always[..], &[("/usr/bin/tool".to_owned(), HEAD)]].concat();
        for json in [
            r#"{"Cmd":["tool"]}"#,
            r#"{"Entrypoint":["/usr/bin/tool"],"Cmd":["x"]}"#,
            r#"{"Entrypoint":["bin/tool"],"WorkingDir":"/usr"}"#,
            r#"{"Env":["PATH=/bin:/usr/bin"],"Cmd":["tool"]}"#,
        ] {
            assert_eq!(paths(&fs, &config(json)), with_tool, "{json}");
        }
        for json in [r#"{"Cmd":["none"]}"#, r#"{"Cmd":[""]}"#, r#"{"Cmd":[]}"#] {
            assert_eq!(paths(&fs, &config(json)), always, "{json}");
        }
    }

    #[test]
    fn an_image_without_them_starts_with_its_program_alone() {
        let dir = tempfile::tempdir().unwrap();
        let tar = Tar::default()
            .symlink("lib/ld-musl-x86_64.so.1", "/lib/ld-musl-x86_64.so.1")
            .dir("lib64/ld-linux-x86-64.so.2")
            .file("app", b"static");
        let fs = open(dir.path(), &[tar.done()]);
        assert_eq!(paths(&fs, &config(r#"{"Cmd":["/app"]}"#)), [("/app".to_owned(), 6)]);
        let many = format!(r#"{{"Env":["PATH={}/"],"Cmd":["app"]}}"#, "/x:".repeat(100_000));
        assert_eq!(paths(&fs, &config(&many)), [], "it is not looked for without end");
    }
}
