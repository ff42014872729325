//! Secrets in the output of a RUN, which ends up in logs: shown as `***`.

/// What is not shown. A secret of a few letters would be found everywhere, so it is left alone.
const MIN_LEN: usize = 4;

/// The lines of the secrets that a RUN sees.
pub(super) struct Hidden(Vec<Vec<u8>>);

impl Hidden {
    pub(super) fn new(secrets: &[Vec<u8>]) -> Self {
        let lines = secrets.iter().flat_map(|secret| secret.split(|byte| *byte == b'\n'));
        let lines = lines.map(|line| line.trim_ascii().to_vec());
        let mut lines: Vec<_> = lines.filter(|line| line.len() >= MIN_LEN).collect();
        // One that holds another goes first.
        lines.sort_by_key(|line| std::cmp::Reverse(line.len()));
        Self(lines)
    }

    /// A line without them.
    pub(super) fn in_line(&self, line: &[u8]) -> Vec<u8> {
        let mut shown = line.to_vec();
        for secret in &self.0 {
            let mut from = 0;
            while let Some(at) = find(&shown[from..], secret) {
                let at = from + at;
                shown.splice(at..at + secret.len(), *b"***");
                from = at + 3;
            }
        }
        shown
    }

    /// The same of text.
    pub(super) fn in_text(&self, line: &str) -> String {
        String::from_utf8_lossy(&self.in_line(line.as_bytes())).into_owned()
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let hidden = Hidden::new(&[b"s3cret\nsecond line\n".to_vec(), b"ab".to_vec()]);
        assert_eq!(hidden.in_text("a s3crets3cret, second line ab"), "a ******, *** ab");
        assert_eq!(hidden.in_line(b"\xffs3cret"), b"\xff***");
        assert_eq!(hidden.in_text(""), "");
    }
}
