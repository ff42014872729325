//! What is allowed, but probably not meant.
//!
//! `check` runs when a file is parsed and looks at nothing but the file. Two rules need more and
//! are applied by who has it: [`Rule::CopyRulesDiffer`] the context, [`Rule::UnusedBuildArg`] the
//! command line.

mod checks;
mod stages;
mod style;
mod variables;

use std::fmt;

pub use checks::Checks;

use super::{Kubefile, Location, Statement, Warning};

/// A file gets no more findings than this, so that a hostile one costs little.
const MAX_FINDINGS: usize = 200;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Good to know.
    Note,
    /// Likely wrong.
    Warning,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
        })
    }
}

/// Declares [`Rule`] with its codes and sentences.
macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident, $code:literal, $sentence:literal;)*) => {
        /// What a finding is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Rule {
            $(#[doc = $sentence] $name,)*
        }

        impl Rule {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// A stable name for programs.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What it demands.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)* }
            }
        }
    };
}

rules! {
    ArgWithoutDefault, "arg-without-default",
        "An ARG in FROM has a default, so that the file builds without --build-arg.";
    BlankContinuation, "blank-continuation",
        "No blank line stands inside an instruction; Docker will refuse it one day.";
    ConstantPlatform, "constant-platform",
        "FROM --platform is a variable, so that the file builds for other platforms.";
    CopyRulesDiffer, "copy-rules-differ",
        "COPY does the same by the rule of Docker and by that of Kubefiles.";
    DuplicateStage, "duplicate-stage",
        "No two stages have the same name.";
    FromAsCase, "from-as-case",
        "AS is written in the letter case of FROM.";
    IgnoredSyntax, "ignored-syntax",
        "kfs reads the language itself: # syntax has no effect.";
    JsonLook, "json-look",
        "Text that looks like a JSON array is one.";
    JsonRecommended, "json-recommended",
        "CMD and ENTRYPOINT are JSON arrays, so that signals reach the program and not a shell.";
    KeywordCase, "keyword-case",
        "All keywords of a file are in upper case, or all in lower case.";
    LegacyPair, "legacy-pair",
        "ENV and LABEL are written with =.";
    Maintainer, "maintainer",
        "MAINTAINER is deprecated: the author is LABEL org.opencontainers.image.authors.";
    NoShell, "no-shell",
        "A RUN finds the shell that it needs in the image.";
    Overridden, "overridden",
        "An instruction of which only the last one counts stands in a stage once.";
    PublishedPort, "published-port",
        "EXPOSE names ports of the container alone: those of the host are given when it runs.";
    RedundantPlatform, "redundant-platform",
        "FROM --platform is not $TARGETPLATFORM, which it is anyway.";
    RelativeWorkdir, "relative-workdir",
        "The first WORKDIR of a stage is absolute, as the base's may change.";
    ReservedStage, "reserved-stage",
        "No stage is called scratch or context.";
    SecretName, "secret-name",
        "Secrets are no ARG and no ENV, which the image keeps: RUN --mount=type=secret keeps none.";
    StageNameCase, "stage-name-case",
        "Names of stages are in lower case.";
    UndefinedVariable, "undefined-variable",
        "Variables are declared before they are used.";
    UnknownApp, "unknown-app",
        "LAUNCH, APPCMDS and APPENV name applications that the file or its base defines.";
    UnknownStage, "unknown-stage",
        "COPY --from names a stage as the stage is written.";
    UnusedArg, "unused-arg",
        "An ARG is used.";
    UnusedBuildArg, "unused-build-arg",
        "Each --build-arg is taken by an ARG.";
}

impl Rule {
    /// How much it matters.
    pub const fn level(self) -> Level {
        match self {
            Self::IgnoredSyntax => Level::Note,
            _ => Level::Warning,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Adds to the warnings of a parsed file what its lines alone tell, and sorts all by line.
pub(super) fn check(file: &mut Kubefile) {
    let mut findings = Findings { found: Vec::new() };
    style::check(file, &mut findings);
    stages::check(file, &mut findings);
    variables::check(file, &mut findings);
    file.warnings.append(&mut findings.found);
    file.warnings.retain(|warning| !file.checks.skips(warning.rule));
    file.warnings.sort_by_key(|warning| warning.location.as_ref().map(|at| at.first));
}

struct Findings {
    found: Vec<Warning>,
}

impl Findings {
    fn add(&mut self, rule: Rule, statement: &Statement, message: impl Into<String>) {
        self.add_at(rule, &statement.location, message);
    }

    fn add_at(&mut self, rule: Rule, location: &Location, message: impl Into<String>) {
        if self.found.len() < MAX_FINDINGS {
            let (location, message) = (Some(location.clone()), message.into());
            self.found.push(Warning { rule, location, message });
        }
    }

    /// Whether there is room for more.
    fn is_full(&self) -> bool {
        self.found.len() >= MAX_FINDINGS
    }
}

#[cfg(test)]
mod tests;
