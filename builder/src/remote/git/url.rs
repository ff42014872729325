//! The text of a git source, taken apart: `REPOSITORY[#[REF][:DIRECTORY]]` (Dockerfile reference,
//! "Adding files from a Git repository").

/// A commit of a repository, or a directory of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GitUrl {
    /// As git takes it.
    pub(super) repository: String,
    /// A branch, a tag, a full name below `refs/`, or a commit; none for what `HEAD` is there.
    pub(super) reference: Option<String>,
    /// Below the root of the repository; empty for all of it.
    pub(super) directory: String,
}

impl GitUrl {
    /// Reads a text that [`super::super::RemoteKind`] has found to be one; the error says what is
    /// wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (repository, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        if repository.contains('?') {
            return Err(format!("{text} has a query: write REPOSITORY#REF:DIRECTORY"));
        }
        if repository.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(format!("{repository:?} is no address of a git repository"));
        }
        if !reference.is_empty() && !is_reference(reference) {
            return Err(format!("{reference:?} cannot be a branch, tag or commit of git"));
        }
        let parts: Vec<_> =
            directory.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.contains(&"..") || directory.contains(char::is_control) {
            return Err(format!("the directory {directory:?} is not one in the repository"));
        }
        Ok(Self {
            repository: repository.to_owned(),
            reference: Some(reference.to_owned()).filter(|reference| !reference.is_empty()),
            directory: parts.join("/"),
        })
    }

    /// The repository without a password; of a web server, without what stands for one in the place
    /// of a user, too.
    pub(super) fn shown(&self) -> String {
        let Some((scheme, rest)) = self.repository.split_once("://") else {
            return self.repository.clone();
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let path = &rest[authority.len()..];
        match authority.rsplit_once('@') {
            Some((_, host)) if matches!(scheme, "http" | "https") => {
                format!("{scheme}://{host}{path}")
            }
            Some((user, host)) if user.contains(':') => {
                let user = user.split(':').next().unwrap_or_default();
                format!("{scheme}://{user}:***@{host}{path}")
            }
            _ => self.repository.clone(),
        }
    }
}

/// Whether a text is the whole name of a commit.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && is_commit_prefix(text)
}

/// Whether a text is a commit, or enough of its first digits.
pub(crate) fn is_commit_prefix(text: &str) -> bool {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (7..=64).contains(&text.len()) && text.bytes().all(is_hex)
}

/// Whether a text can name a branch or tag (git-check-ref-format(1)), which also keeps it from
/// being taken for an option or a pattern.
fn is_reference(text: &str) -> bool {
    let is_bad = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    let bad_part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    !(text.contains(is_bad)
        || text.starts_with('-')
        || text.contains("..")
        || text.contains("@{")
        || text.ends_with('.')
        || text.split('/').any(bad_part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        for (text, repository, reference, directory) in [
            ("https://x/y.git", "https://x/y.git", None, ""),
            ("https://x/y.git#v1", "https://x/y.git", Some("v1"), ""),
            ("https://x/y.git#:sub", "https://x/y.git", None, "sub"),
            ("git@x:y.git#feature/a:/sub/./dir/", "git@x:y.git", Some("feature/a"), "sub/dir"),
            ("git://x/y#refs/pull/1/head", "git://x/y", Some("refs/pull/1/head"), ""),
        ] {
            let url = GitUrl::parse(text).unwrap();
            let parts = (&url.repository[..], url.reference.as_deref(), &url.directory[..]);
            assert_eq!(parts, (repository, reference, directory), "{text}");
        }
    }

    #[test]
    fn what_git_could_misread_is_refused() {
        for text in [
            "https://x/y.git#--upload-pack=evil",
            "https://x/y.git#a..b",
            "https://x/y.git#a b",
            "https://x/y.git#v*",
            "https://x/y.git#.hidden",
            "https://x/y.git#main:../..",
            "https://x/y.git#main:a/../../b",
            "https://x/y.git?ref=main",
            "git@x:y\u{1b}.git",
        ] {
            assert!(GitUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        let shown = |text: &str| GitUrl::parse(text).unwrap().shown();
        assert_eq!(shown("https://me:secret@x/y.git#z"), "https://x/y.git");
        assert_eq!(shown("https://token@x:81/y.git"), "https://x:81/y.git");
        assert_eq!(shown("ssh://me:secret@x/y.git"), "ssh://me:***@x/y.git");
        assert_eq!(shown("ssh://git@x/y.git"), "ssh://git@x/y.git");
        assert_eq!(shown("git@x:y.git"), "git@x:y.git");
    }
}
