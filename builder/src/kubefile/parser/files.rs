//! COPY and ADD.

use super::{Flag, Parsed, Parser, owned, words};
use crate::kubefile::{Add, Copy, Keyword, Source};

impl Parser<'_> {
    pub(super) fn add(&self, flags: Vec<Flag<'_>>, rest: &str) -> Parsed<Add> {
        let keyword = Keyword::Add;
        let (mut keep_git_dir, mut checksum, mut unpack) = (false, None, None);
        let mut common = Vec::new();
        for flag in flags {
            match flag.name.as_str() {
                "keep-git-dir" => keep_git_dir = self.switch(keyword, &flag)?,
                "checksum" => checksum = Some(self.flag_value(keyword, flag)?),
                "unpack" => unpack = Some(self.switch(keyword, &flag)?),
                _ => common.push(flag),
            }
        }
        Ok(Add { files: self.files(keyword, common, rest)?, keep_git_dir, checksum, unpack })
    }

    pub(super) fn copy(&self, flags: Vec<Flag<'_>>, rest: &str) -> Parsed<Copy> {
        self.files(Keyword::Copy, flags, rest)
    }

    /// What ADD and COPY have in common.
    fn files(&self, keyword: Keyword, flags: Vec<Flag<'_>>, rest: &str) -> Parsed<Copy> {
        let (sources, dest) = self.sources(keyword, rest)?;
        let mut copy = Copy {
            from: None,
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            sources,
            dest,
        };
        for flag in flags {
            match flag.name.as_str() {
                "from" => copy.from = Some(self.flag_value(keyword, flag)?),
                // Empty is as not given.
                "chown" | "chmod" if flag.value.as_deref() == Some("") => {}
                "chown" => copy.chown = Some(self.flag_value(keyword, flag)?),
                "chmod" => copy.chmod = Some(self.flag_value(keyword, flag)?),
                "link" => copy.link = self.switch(keyword, &flag)?,
                "parents" => copy.parents = self.switch(keyword, &flag)?,
                "exclude" => copy.exclude.push(self.flag_value(keyword, flag)?),
                other => unreachable!("{keyword} --{other} is among the known flags"),
            }
        }
        Ok(copy)
    }

    fn sources(&self, keyword: Keyword, rest: &str) -> Parsed<(Vec<Source>, String)> {
        let mut words = match self.json(keyword, rest)? {
            Some(words) => words,
            None => owned(rest.split_whitespace()),
        };
        let dest = words.pop().unwrap_or_default();
        if words.is_empty() {
            let part = if rest.is_empty() { &self.line.text } else { rest };
            return Err(self
                .syntax_at(part, format!("{keyword} needs at least one source and a destination"))
                .suggest(format!("the form is {keyword} SOURCE... DEST")));
        }
        let mut bodies = self.line.heredocs.iter();
        let mut heredoc = |word: &str| {
            words::heredoc_start(word, self.escape)?;
            bodies.next().map(|body| body.heredoc.clone())
        };
        let source = |word: String| match heredoc(&word) {
            Some(heredoc) => Source::Inline(heredoc),
            None => Source::Path(word),
        };
        let sources = words.into_iter().map(source).collect();
        if heredoc(&dest).is_some() {
            let message = format!("the destination of {keyword} cannot be a heredoc");
            return Err(self.syntax(message));
        }
        Ok((sources, dest))
    }
}
