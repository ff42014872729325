//! `.dockerignore`: which files of a context are hidden, by the rules of Docker's `patternmatcher`
//! (which are not those of `.gitignore`).
//!
//! One pattern a line; blanks around it do not count, nor do empty lines and lines that start with
//! `#`. Every pattern starts at the context's root, with or without a `/`. It hides what it
//! matches, and all that is below that. `!` before a pattern shows again what it matches. The last
//! pattern that says anything of a path holds.
//!
//! | in a pattern | matches |
//! |---|---|
//! | `*`, `?` | any characters, one character, but no `/` |
//! | `[a-z]`, `[^a-z]` | one character of a class |
//! | `**` | any number of directories; at the end all that is below |
//! | `\x` | the character x |

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kfs_fs::error::AtPath;

use super::ContextError;
use crate::copy::{BadPattern, Class};

/// The names under which a context may have its ignore file, the first that exists counts
/// (containerignore(5)).
const NAMES: [&str; 2] = [".containerignore", ".dockerignore"];

/// The rules of an ignore file.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    /// As it is named to the user.
    file: PathBuf,
    rules: Vec<Rule>,
    /// What [`hits`](Self::hits) found of the directory that was asked for last.
    last: Arc<Mutex<Option<Hits>>>,
}

/// A directory, and which rules match it.
type Hits = (PathBuf, Arc<[bool]>);

#[derive(Clone, Debug)]
struct Rule {
    /// From 1.
    line: usize,
    /// `!`: it shows what it matches.
    shows: bool,
    glob: Glob,
}

impl Ignore {
    /// Reads the ignore file of a build file and a context, if there is one.
    pub(super) fn find(root: &Path, build_file: &Path) -> Result<Self, ContextError> {
        let mut own = build_file.as_os_str().to_owned();
        own.push(".dockerignore");
        for path in [PathBuf::from(own)].into_iter().chain(NAMES.map(|name| root.join(name))) {
            match fs::read(&path) {
                Ok(text) => return Self::parse(path, &text),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).at("read", &path).map_err(Into::into),
            }
        }
        Ok(Self::default())
    }

    /// Reads the lines of an ignore file; `file` is its name, for messages.
    ///
    /// Fails with the line that is no pattern.
    pub fn parse(file: PathBuf, text: &[u8]) -> Result<Self, ContextError> {
        let text = String::from_utf8_lossy(text);
        let mut rules = Vec::new();
        for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').split('\n')) {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let (shows, pattern) = match line.trim().strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line.trim()),
            };
            let (file, problem) = (file.clone(), BadPattern::new(pattern));
            if pattern.is_empty() {
                return Err(ContextError::Nothing { file, line: number });
            }
            let bad = ContextError::Pattern { file, line: number, problem };
            let glob = Glob::new(&clean(pattern)).ok_or(bad)?;
            rules.push(Rule { line: number, shows, glob });
        }
        Ok(Self { file, rules, last: Arc::default() })
    }

    /// Whether nothing is hidden.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The line, from 1, that hides a path (relative to the context), if one does.
    pub fn line(&self, path: &Path) -> Option<usize> {
        if self.is_empty() || path.as_os_str().is_empty() {
            return None;
        }
        let mut line = None;
        for (rule, hit) in self.rules.iter().zip(self.hits(path).iter()) {
            // A rule that says what holds already says nothing.
            if *hit && rule.shows == line.is_some() {
                line = (!rule.shows).then_some(rule.line);
            }
        }
        line
    }

    /// A line, for messages.
    pub(super) fn shown(&self, line: usize) -> String {
        format!("{}:{line}", self.file.display())
    }

    /// Whether anything below a hidden directory can be shown.
    pub(super) fn may_show_below(&self, directory: &Path) -> bool {
        self.rules.iter().any(|rule| rule.shows && rule.glob.may_match_below(directory))
    }

    /// Which rules match a path or a directory that it is in.
    fn hits(&self, path: &Path) -> Arc<[bool]> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let above = if parent.as_os_str().is_empty() {
            None
        } else {
            let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let known = last().clone().filter(|(directory, _)| directory == parent);
            let hits = known.map_or_else(|| self.hits(parent), |(_, hits)| hits);
            *last() = Some((parent.to_owned(), hits.clone()));
            Some(hits)
        };
        let text = String::from_utf8_lossy(path.as_os_str().as_bytes());
        let is_above = |i: usize| above.as_ref().is_some_and(|hits| hits[i]);
        let rules = self.rules.iter().enumerate();
        rules.map(|(i, rule)| is_above(i) || rule.glob.matches(&text)).collect()
    }
}

/// Go's `filepath.Clean`, without the leading slash.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// `*`
    Any,
    /// `?`
    One,
    /// `**` before something: directories, or nothing.
    Directories,
    /// `**` at the end.
    Rest,
    Plain(char),
    Class(Class),
}

/// A pattern for whole paths.
#[derive(Clone, Debug)]
struct Glob {
    tokens: Vec<Token>,
    /// What every match begins with.
    prefix: String,
    /// What every match ends with.
    suffix: String,
    /// Whether it matches nothing but `prefix`.
    is_plain: bool,
}

impl Glob {
    /// None if it is malformed.
    fn new(text: &str) -> Option<Self> {
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' if chars.next_if_eq(&'*').is_some() => {
                    let slash = chars.next_if_eq(&'/').is_some();
                    // Docker takes `**x` for all that ends in x.
                    let ends = tokens.is_empty() && !slash && is_plain(chars.clone());
                    if ends || chars.peek().is_none() { Token::Rest } else { Token::Directories }
                }
                '*' => Token::Any,
                '?' => Token::One,
                '\\' => Token::Plain(chars.next()?),
                '[' => Token::Class(Class::after_bracket(&mut chars)?),
                c => Token::Plain(c),
            });
        }
        let plain = |token: &Token| match token {
            Token::Plain(c) => Some(*c),
            _ => None,
        };
        let prefix = tokens.iter().map_while(plain).collect();
        let suffix: Vec<char> = tokens.iter().rev().map_while(plain).collect();
        let is_plain = suffix.len() == tokens.len();
        Some(Self { prefix, suffix: suffix.into_iter().rev().collect(), is_plain, tokens })
    }

    /// Whether the whole path matches.
    fn matches(&self, path: &str) -> bool {
        if self.is_plain {
            return path == self.prefix;
        }
        if !path.starts_with(&self.prefix) || !path.ends_with(&self.suffix) {
            return false;
        }
        let path: Vec<char> = path.chars().collect();
        // after[at]: whether the tokens after this one match the path from `at` on. One row of a
        // table a token, so the cost is at most pattern times path.
        let mut after = vec![false; path.len() + 1];
        after[path.len()] = true;
        for token in self.tokens.iter().rev() {
            after = token.row(&path, &after);
        }
        after[0]
    }

    /// Whether a path below a directory might match; a yes may be wrong.
    fn may_match_below(&self, directory: &Path) -> bool {
        let directory =
            String::from_utf8_lossy(directory.as_os_str().as_bytes()).into_owned() + "/";
        self.prefix.starts_with(&directory) || directory.starts_with(&self.prefix)
    }
}

impl Token {
    fn row(&self, path: &[char], after: &[bool]) -> Vec<bool> {
        let mut row = vec![false; path.len() + 1];
        // Whether a `/` further on is followed by a match.
        let mut slash = false;
        for at in (0..=path.len()).rev() {
            let next = path.get(at);
            let one =
                |accepts: &dyn Fn(char) -> bool| next.is_some_and(|c| accepts(*c)) && after[at + 1];
            slash |= one(&|c| c == '/');
            row[at] = match self {
                Self::Plain(plain) => one(&|c| c == *plain),
                Self::One => one(&|c| c != '/'),
                Self::Class(class) => one(&|c| class.accepts(c)),
                Self::Any => after[at] || (next.is_some_and(|c| *c != '/') && row[at + 1]),
                Self::Rest => after[at] || (next.is_some() && row[at + 1]),
                Self::Directories => after[at] || slash,
            };
        }
        row
    }
}

fn is_plain(mut rest: impl Iterator<Item = char>) -> bool {
    rest.all(|c| !matches!(c, '*' | '?' | '[' | ']' | '\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignore(text: &str) -> Ignore {
        Ignore::parse("f".into(), text.as_bytes()).unwrap()
    }

    /// Cases of moby's patternmatcher: pattern, path, whether it or a parent matches.
    const MOBY: &[(&str, &str, bool)] = &[
        ("**", "file", true),
        ("**/", "file", true),
        ("**", "dir/file", true),
        ("**/", "dir/file", true),
        ("**/**", "dir/file", true),
        ("dir/**", "dir", false),
        ("dir/**", "dir/file", true),
        ("dir/**", "dir/dir2/file", true),
        ("**/dir", "dir", true),
        ("**/dir", "dir/file", true),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**/dir2/**", "dir/dir2/dir2/file", true),
        ("**file", "file", true),
        ("**file", "dir/file", true),
        ("**/file", "dir/file", true),
        ("**file", "dir/dir/file", true),
        ("**file", "dir/myfile", true),
        ("**/file", "dir/myfile", false),
        ("**/file*", "dir/dir/file", true),
        ("**/file*", "dir/dir/file.txt", true),
        ("**/file*txt", "dir/dir/file.txt", true),
        ("**/file*.txt*", "dir/dir/file.txt", true),
        ("**/**/*.txt", "dir/dir/file.txt", true),
        ("**/**/*.txt2", "dir/dir/file.txt", false),
        ("**/*.txt", "file.txt", true),
        ("a**/*.txt", "a/file.txt", true),
        ("a**/*.txt", "a/dir/file.txt", true),
        ("a**/*.txt", "a/dir/dir/file.txt", true),
        ("a/*.txt", "a/dir/file.txt", false),
        ("a/*.txt", "a/file.txt", true),
        ("a/*.txt**", "a/file.txt", true),
        ("a[b-d]e", "ae", false),
        ("a[b-d]e", "ace", true),
        ("a[b-d]e", "aae", false),
        ("a[^b-d]e", "aze", true),
        (".*", ".foo", true),
        (".*", "foo", false),
        ("abc.def", "abcdef", false),
        ("abc.def", "abc.def", true),
        ("abc.def", "abcZdef", false),
        ("abc?def", "abcZdef", true),
        ("abc?def", "abcdef", false),
        ("abc?def", "abc/def", false),
        ("a\\\\", "a\\", true),
        ("**/foo/bar", "foo/bar", true),
        ("**/foo/bar", "dir/foo/bar", true),
        ("**/foo/bar", "dir/dir2/foo/bar", true),
        ("abc/**", "abc", false),
        ("abc/**", "abc/def", true),
        ("abc/**", "abc/def/ghi", true),
        ("**/.foo", ".foo", true),
        ("**/.foo", "bar.foo", false),
        ("a(b)c/def", "a(b)c/def", true),
        ("a(b)c/def", "a(b)c/xyz", false),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
        ("dist/*.whl", "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", true),
        // Anchored at the root; blanks, slashes and dots do not count.
        ("file", "dir/file", false),
        ("/file", "file", true),
        ("./dir/", "dir/below", true),
        ("  dir/../file  ", "file", true),
        ("../file", "file", false),
        ("file\r", "file", true),
        (".", "file", false),
        ("/", "file", false),
        ("\u{feff}file", "file", true),
        ("#file", "#file", false),
        (" #file", "#file", true),
        ("\\#file", "#file", true),
        ("\\!file", "!file", true),
        ("*/b*", "\u{e9}/b\u{fffd}", true),
    ];

    #[test]
    fn patterns_match_as_mobys() {
        for (pattern, path, expected) in MOBY {
            let hidden = ignore(pattern).line(Path::new(path)).is_some();
            assert_eq!(hidden, *expected, "{pattern:?} {path:?}");
        }
    }

    #[test]
    fn the_last_pattern_that_says_anything_holds() {
        // Lines, path, the line that hides it.
        for (lines, path, expected) in [
            ("a\n!a", "a", None),
            ("!a\na", "a", Some(2)),
            ("a\n!a/b", "a/b", None),
            ("a\n!a/b", "a/b/c", None),
            ("a\n!a/b", "a/c", Some(1)),
            ("a\n!a/b\na/b/c", "a/b/c/d", Some(3)),
            ("a/b\n!a\n", "a/b", None),
            ("# a\n\n*\n!*.md\nREADME*.md", "x.md", None),
            ("# a\n\n*\n!*.md\nREADME*.md", "README-1.md", Some(5)),
            ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", None),
            ("**\n!util/docker/web", "util/docker/web/foo", None),
            ("**\n!util/docker/web\nutil/docker/web/foo", "util/docker/web/foo", Some(3)),
            ("**\n!dist/*.whl", "dist/x.whl", None),
            ("**\n! a", "a", None),
        ] {
            assert_eq!(ignore(lines).line(Path::new(path)), expected, "{lines:?} {path:?}");
        }
    }

    #[test]
    fn malformed_lines_are_named() {
        for (text, expected) in [
            ("a\n[", "f:2: \"[\" is no pattern"),
            ("[]a]", "f:1: \"[]a]\" is no pattern"),
            ("a\\", "f:1: \"a\\\\\" is no pattern"),
            ("!", "f:1: a pattern has to follow the !"),
        ] {
            let error = Ignore::parse("f".into(), text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn what_may_be_shown_below_is_not_overlooked() {
        for (pattern, directory, expected) in [
            ("!a/b/c", "a", true),
            ("!a/b/c", "a/b", true),
            ("!a/b/c", "x", false),
            ("!a/*/c", "a/q", true),
            ("!**/c", "x/y", true),
            ("!ab", "a", false),
            ("a/b", "a", false),
        ] {
            let may = ignore(pattern).may_show_below(Path::new(directory));
            assert_eq!(may, expected, "{pattern} {directory}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_time() {
        let ignore = ignore(&("**/*x".repeat(40) + "*b"));
        assert!(ignore.line(Path::new(&("a/".repeat(200) + "b"))).is_none());
    }
}
