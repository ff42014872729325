//! The submodules of a commit: which repositories, which commits of them, and where they lie
//! (gitmodules(5), gitsubmodules(7)). They are files of the source, as for BuildKit.

use std::collections::BTreeMap;

use super::super::RemoteError;
use super::program::Git;
use super::url::GitUrl;

/// What a commit says of its submodules.
#[derive(Debug, Default)]
pub(super) struct Submodules {
    /// Where each lies below the directory that is wanted, and what it is.
    pub(super) found: Vec<(String, GitUrl)>,
    /// Those that no server of a known kind has.
    pub(super) left_out: Vec<String>,
}

impl Submodules {
    /// Those of a commit that lie in `tree`, which is that of the URL's directory.
    pub(super) fn of(
        git: &Git<'_>,
        url: &GitUrl,
        commit: &str,
        tree: &str,
    ) -> Result<Self, RemoteError> {
        let list = format!("{commit}:.gitmodules");
        match git.run(&["cat-file", "-e", &list]) {
            Ok(_) => {}
            Err(RemoteError::Git { .. }) => return Ok(Self::default()),
            Err(error) => return Err(error),
        }
        let pattern = r"^submodule\..*\.(path|url)$";
        let listed = git.run(&["config", "--blob", &list, "-z", "--get-regexp", pattern]);
        let urls = match &listed {
            Ok(listed) => urls_by_path(listed, &url.directory),
            // There is nothing of that kind in it.
            Err(RemoteError::Git { .. }) => BTreeMap::new(),
            Err(_) => return listed.map(|_| Self::default()),
        };
        if urls.is_empty() {
            return Ok(Self::default());
        }
        let mut args = vec!["ls-tree", "-z", tree, "--"];
        args.extend(urls.keys().map(String::as_str));
        let mut all = Self::default();
        for (path, commit) in links(&git.run(&args)?) {
            let Some(given) = urls.get(&path) else { continue };
            let url = absolute(given, &url.repository);
            match url.and_then(|url| GitUrl::parse(&format!("{url}#{commit}")).ok()) {
                Some(url) => all.found.push((path, url)),
                None => all.left_out.push(path),
            }
        }
        Ok(all)
    }
}

/// The URLs in the answer of `git config -z`, by the paths below a directory.
fn urls_by_path(listed: &[u8], directory: &str) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(listed);
    let mut modules = BTreeMap::<&str, (Option<&str>, Option<&str>)>::new();
    for (key, value) in text.split('\0').filter_map(|line| line.split_once('\n')) {
        // `submodule.NAME.path`, where the name may have dots.
        let Some((name, what)) = key.rsplit_once('.') else { continue };
        let module = modules.entry(name).or_default();
        match what {
            "path" => module.0 = Some(value),
            _ => module.1 = Some(value),
        }
    }
    let below = |path: &str| {
        let rest = match directory {
            "" => Some(path),
            _ => path.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/')),
        };
        rest.filter(|rest| is_plain(rest)).map(str::to_owned)
    };
    let modules = modules.into_values();
    modules.filter_map(|(path, url)| Some((below(path?)?, url?.to_owned()))).collect()
}

/// Whether a path leads downwards by names alone, none of which means something to git.
fn is_plain(path: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.eq_ignore_ascii_case(".git");
    path.split('/').all(plain) && !path.contains(char::is_control)
}

/// Paths and commits of the submodules in the answer of `git ls-tree -z`.
fn links(listed: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(listed);
    let link = |line: &str| {
        let (what, path) = line.split_once('\t')?;
        let commit = what.strip_prefix("160000 commit ")?;
        super::url::is_commit(commit).then(|| (path.to_owned(), commit.to_owned()))
    };
    text.split('\0').filter_map(link).collect()
}

/// The URL of a submodule, of a kind that kfs speaks; `./` and `../` go from that of the repository
/// (git-submodule(1), `add`).
fn absolute(url: &str, repository: &str) -> Option<String> {
    let url = match url.starts_with("./") || url.starts_with("../") {
        true => beside(url, repository)?,
        false => url.to_owned(),
    };
    let known = ["https://", "http://", "ssh://", "git://", "git@"];
    (known.iter().any(|kind| url.starts_with(kind)) && !url.contains('#')).then_some(url)
}

fn beside(mut url: &str, repository: &str) -> Option<String> {
    let mut base = repository.trim_end_matches('/');
    loop {
        if let Some(rest) = url.strip_prefix("./") {
            url = rest;
        } else if let Some(rest) = url.strip_prefix("../") {
            url = rest;
            base = &base[..base.rfind(['/', ':'])?];
            // Not the slashes before a server.
            if base.ends_with([':', '/']) {
                return None;
            }
        } else {
            return Some(format!("{base}/{url}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_that_git_would_take() {
        for (url, repository, expected) in [
            ("https://h/a/b", "https://x/y.git", Some("https://h/a/b")),
            ("../b.git", "https://x/o/y.git", Some("https://x/o/b.git")),
            ("../../p/b.git", "https://x/o/y.git/", Some("https://x/p/b.git")),
            ("./b", "git://x/y", Some("git://x/y/b")),
            ("../b.git", "git@x:o/y.git", Some("git@x:o/b.git")),
            ("../../../b", "https://x/o/y.git", None),
            ("ext::sh -c x", "https://x/y.git", None),
            ("/etc", "https://x/y.git", None),
            ("file:///etc", "https://x/y.git", None),
            ("https://x/y#z", "https://x/y.git", None),
        ] {
            assert_eq!(absolute(url, repository).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn lists_are_read_as_git_writes_them() {
        let listed = b"submodule.a.b.path\nlib/a\0submodule.a.b.url\nhttps://x/a\0\
            submodule.up.path\nlib/../../a\0submodule.up.url\nhttps://x/a\0\
            submodule.git.path\nlib/.GIT/hooks\0submodule.git.url\nhttps://x/a\0\
            submodule.other.path\nelse\0submodule.other.url\nhttps://x/o\0";
        let urls = urls_by_path(listed, "lib");
        assert_eq!(urls.into_iter().collect::<Vec<_>>(), [("a".into(), "https://x/a".into())]);
        let commit = "1".repeat(40);
        let tree = format!("100644 blob {commit}\tfile\0160000 commit {commit}\tlib/a\0");
        assert_eq!(links(tree.as_bytes()), [("lib/a".to_owned(), commit)]);
    }
}
