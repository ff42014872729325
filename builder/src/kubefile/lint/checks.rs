//! `# check=skip=RULE,...;error=true`: which rules a file does not want to be held to (BuildKit's
//! check directive). Rules are called as `kfs lint --rules` has them, or as BuildKit calls them;
//! what is no rule of kfs is left alone, so that a file may name those of other builders.

use super::Rule;

/// What a file says of its checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    skip_all: bool,
    skip: Vec<Rule>,
    /// `error=true`: a warning is an error.
    pub error: bool,
}

/// BuildKit's names of rules (its documentation, "Build checks").
const BUILDKIT: [(&str, Rule); 17] = [
    ("ConsistentInstructionCasing", Rule::KeywordCase),
    ("DuplicateStageName", Rule::DuplicateStage),
    ("FromAsCasing", Rule::FromAsCase),
    ("FromPlatformFlagConstDisallowed", Rule::ConstantPlatform),
    ("InvalidDefaultArgInFrom", Rule::ArgWithoutDefault),
    ("JSONArgsRecommended", Rule::JsonRecommended),
    ("LegacyKeyValueFormat", Rule::LegacyPair),
    ("MaintainerDeprecated", Rule::Maintainer),
    ("MultipleInstructionsDisallowed", Rule::Overridden),
    ("NoEmptyContinuation", Rule::BlankContinuation),
    ("RedundantTargetPlatform", Rule::RedundantPlatform),
    ("ReservedStageName", Rule::ReservedStage),
    ("SecretsUsedInArgOrEnv", Rule::SecretName),
    ("StageNameCasing", Rule::StageNameCase),
    ("UndefinedArgInFrom", Rule::UndefinedVariable),
    ("UndefinedVar", Rule::UndefinedVariable),
    ("WorkdirRelativePath", Rule::RelativeWorkdir),
];

impl Checks {
    /// Reads the value of the directive; none if it is none.
    pub(in crate::kubefile) fn parse(value: &str) -> Option<Self> {
        let mut checks = Self::default();
        for field in value.split(';').map(str::trim).filter(|field| !field.is_empty()) {
            let (key, value) = field.split_once('=')?;
            match key.trim().to_ascii_lowercase().as_str() {
                "skip" => value.split(',').map(str::trim).for_each(|name| checks.skip(name)),
                "error" => checks.error = value.trim().parse().ok()?,
                // Of checks that kfs does not know.
                "experimental" => {}
                _ => return None,
            }
        }
        Some(checks)
    }

    fn skip(&mut self, name: &str) {
        self.skip_all |= name.eq_ignore_ascii_case("all");
        let own = Rule::ALL.iter().filter(|rule| rule.code().eq_ignore_ascii_case(name)).copied();
        let known = BUILDKIT.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        self.skip.extend(own.chain(known.map(|(_, rule)| *rule)));
    }

    /// Whether the file does not want to hear of it.
    pub fn skips(&self, rule: Rule) -> bool {
        self.skip_all || self.skip.contains(&rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_skipped_by_either_name() {
        let checks = Checks::parse("skip=JSONArgsRecommended, stage-name-case,Other;error=true");
        let checks = checks.unwrap();
        assert!(checks.error && checks.skips(Rule::JsonRecommended));
        assert!(checks.skips(Rule::StageNameCase) && !checks.skips(Rule::KeywordCase));
        assert!(Checks::parse("skip=all").unwrap().skips(Rule::SecretName));
        assert!(!Checks::parse("").unwrap().skips(Rule::SecretName));
        for bad in ["skip", "error=maybe", "other=x"] {
            assert_eq!(Checks::parse(bad), None, "{bad}");
        }
    }
}
