//! Names that a mistyped one may have meant.

use super::reference::Name;
use crate::printable;

/// How many names are worth showing.
const SHOWN: usize = 3;
/// A name so many edits away is another one, not a misspelt one.
const MAX_EDITS: usize = 3;

/// Those of `names` that look like `query`, the nearest first: of the same repository, with the
/// same last component, or a few edits away.
pub(crate) fn names<'a>(query: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let (wanted_path, wanted_last) = parts(query);
    let mut near: Vec<(usize, &str)> = names
        .filter_map(|name| {
            let (path, last) = parts(name);
            let distance = if path == wanted_path {
                0
            } else if last == wanted_last {
                1
            } else {
                1 + edits(&last, &wanted_last)?
            };
            Some((distance, name))
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(SHOWN).map(|(_, name)| printable::text(name)).collect()
}

/// The repository, and its last component.
fn parts(text: &str) -> (String, String) {
    let path = text.parse::<Name>().map_or_else(|_| text.to_owned(), |name| name.repository());
    let last = path.rsplit('/').next().unwrap_or(&path).to_owned();
    (path, last)
}

/// The Levenshtein distance, if it is small for the length.
fn edits(a: &str, b: &str) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > MAX_EDITS {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    let distance = row[b.len()];
    (distance <= MAX_EDITS && distance * 2 <= a.len().max(b.len())).then_some(distance)
}

#[cfg(test)]
mod tests {
    #[test]
    fn near_names_come_first() {
        let all = ["debian:12", "localhost/debian:1", "busybox:latest", "x:1"];
        let near = |query| super::names(query, all.into_iter());
        assert_eq!(near("debian:13"), ["debian:12", "localhost/debian:1"]);
        assert_eq!(near("debain:12"), ["debian:12", "localhost/debian:1"]);
        assert_eq!(near("busybux"), ["busybox:latest"]);
        assert_eq!(near("alpine"), [""; 0]);
    }
}
