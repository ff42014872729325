//! `.helmignore`: which files of a directory are not part of the chart.

use regex::Regex;

use super::pattern;

/// Rules in the order of the file; the first that matches decides.
#[derive(Debug)]
pub(super) struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    pattern: Regex,
    /// What does not match is left out.
    negates: bool,
    only_directories: bool,
    /// Only the last part of the path is looked at.
    by_name: bool,
}

impl Rules {
    /// The rules of a text, and Helm's own: dot files in `templates/` do not count.
    ///
    /// An error says which line is none.
    pub(super) fn parse(text: &str) -> Result<Rules, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for line in text.lines().map(str::trim).chain(["templates/.?*"]) {
            if !line.is_empty() && !line.starts_with('#') {
                rules.push(rule(line)?);
            }
        }
        Ok(Rules(rules))
    }

    /// Whether a file is left out, by itself or with a directory that it is in.
    pub(super) fn ignores_file(&self, path: &str) -> bool {
        let mut directories = path.match_indices('/').map(|(at, _)| &path[..at]);
        directories.any(|directory| self.ignores(directory, true)) || self.ignores(path, false)
    }

    pub(super) fn ignores(&self, path: &str, is_directory: bool) -> bool {
        for rule in &self.0 {
            let wrong_kind = rule.only_directories && !is_directory;
            let name = path.rsplit('/').next().unwrap_or(path);
            let matches = || rule.pattern.is_match(if rule.by_name { name } else { path });
            if rule.negates {
                if wrong_kind || !matches() {
                    return true;
                }
            } else if !wrong_kind && matches() {
                return true;
            }
        }
        false
    }
}

fn rule(line: &str) -> Result<Rule, String> {
    if line.contains("**") {
        return Err(format!("{line}: double-star (**) syntax is not supported"));
    }
    let (negates, rest) = match line.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let (only_directories, rest) = match rest.strip_suffix('/') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let (rooted, rest) = match rest.strip_prefix('/') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let pattern = pattern::path(rest).ok_or_else(|| format!("{line}: syntax error in pattern"))?;
    Ok(Rule { pattern, negates, only_directories, by_name: !rooted && !rest.contains('/') })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_helm_reads_them() {
        let rules = Rules::parse("# note\n*.md\n/rooted\ndir/\nd/x.*\n").unwrap();
        let cases = [
            ("a.md", false, true),
            ("d/a.md", false, true),
            ("rooted", false, true),
            ("d/rooted", false, false),
            ("dir", true, true),
            ("dir", false, false),
            ("d/x.txt", false, true),
            ("e/d/x.txt", false, false),
            ("templates/.hidden", false, true),
            (".hidden", false, false),
        ];
        for (path, is_directory, expected) in cases {
            assert_eq!(rules.ignores(path, is_directory), expected, "{path}");
        }
        let rules = Rules::parse("!*.yaml").unwrap();
        assert!(rules.ignores("a.txt", false));
        assert!(!rules.ignores("a.yaml", false));
        assert!(Rules::parse("a/**").is_err());
        assert!(Rules::parse("[").is_err());
    }
}
