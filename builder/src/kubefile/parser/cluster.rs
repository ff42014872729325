//! The words of Kubefiles that no Dockerfile has.

use super::{Flag, KubefileError, Parsed, Parser, Statement, owned, shorten, words};
use crate::kubefile::{
    App, AppCmds, AppEnv, AppSource, Cmds, Instruction, Keyword, KubeVersion, Launch, Problem,
};

impl Parser<'_> {
    /// APP, CNI or CSI.
    pub(super) fn app(&self, keyword: Keyword, flags: Vec<Flag<'_>>, rest: &str) -> Parsed<App> {
        let mut checksum = None;
        for flag in flags {
            checksum = Some(self.flag_value(keyword, flag)?);
        }
        let (name, rest) = self.app_name(keyword, rest)?;
        let words = words::split(rest, self.escape);
        if words.is_empty() {
            return Err(self
                .syntax(format!("{keyword} {name} has no sources"))
                .suggest(format!("the form is {keyword} NAME SOURCE...")));
        }
        let sources = words.into_iter().map(|word| self.app_source(word)).collect::<Parsed<_>>()?;
        Ok(App { name, sources, checksum })
    }

    fn app_source(&self, word: &str) -> Parsed<AppSource> {
        let (scheme, path) = word.split_once("://").unwrap_or(("", word));
        match scheme {
            "local" if !path.is_empty() => Ok(AppSource::Local(path.to_owned())),
            "http" | "https" if !path.is_empty() => Ok(AppSource::Remote(word.to_owned())),
            "oci" if !path.is_empty() => Ok(AppSource::Chart(path.to_owned())),
            _ => {
                let short = shorten(word);
                Err(self
                    .syntax_at(word, format!("{short} does not say where the files are"))
                    .suggest(
                        "write local://PATH for a path of the context, http://, https://, or \
                         oci://REGISTRY/CHART:VERSION for a chart of a registry",
                    ))
            }
        }
    }

    /// The name of an application, and what follows it.
    fn app_name<'t>(&self, keyword: Keyword, rest: &'t str) -> Parsed<(String, &'t str)> {
        let (name, rest) = words::first(self.text(keyword, rest)?);
        self.check_app_name(name, name)?;
        Ok((name.to_owned(), rest))
    }

    /// An application's name is that of a directory and stands in shell lines.
    fn check_app_name(&self, name: &str, at: &str) -> Parsed<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let right = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if right && name.chars().all(plain) {
            return Ok(());
        }
        let message = format!("{} cannot be the name of an application", shorten(name));
        Err(self.syntax_at(at, message).suggest(
            "names begin with a letter or digit and hold letters, digits, '-', '_' and '.'",
        ))
    }

    pub(super) fn app_cmds(&self, rest: &str) -> Parsed<AppCmds> {
        let keyword = Keyword::Appcmds;
        let (app, rest) = self.app_name(keyword, rest)?;
        match self.json(keyword, rest)? {
            Some(commands) if !commands.is_empty() => Ok(AppCmds { app, commands }),
            _ => Err(self
                .syntax_at(rest, "APPCMDS needs a JSON array of commands")
                .suggest(format!("write it like APPCMDS {app} [\"kubectl apply -f a.yaml\"]"))),
        }
    }

    pub(super) fn app_env(&self, rest: &str) -> Parsed<AppEnv> {
        let keyword = Keyword::Appenv;
        let (app, rest) = self.app_name(keyword, rest)?;
        let words = words::split(rest, self.escape);
        if words.is_empty() {
            let error = self.syntax(format!("APPENV {app} has no variables"));
            return Err(error.suggest("the form is APPENV NAME KEY=VALUE..."));
        }
        let pairs = words.into_iter().map(|word| self.pair(keyword, word));
        Ok(AppEnv { app, pairs: pairs.collect::<Parsed<_>>()? })
    }

    pub(super) fn cmds(&mut self, rest: &str) -> Parsed<Cmds> {
        let commands = match self.command(Keyword::Cmds, rest)? {
            super::Command::Exec(commands) => commands,
            super::Command::Shell(line) => vec![line],
        };
        Ok(Cmds { commands })
    }

    pub(super) fn launch(&self, rest: &str) -> Parsed<Launch> {
        let rest = self.text(Keyword::Launch, rest)?;
        let apps = match self.json(Keyword::Launch, rest)? {
            Some(apps) => apps,
            None => owned(rest.split_whitespace()),
        };
        if apps.is_empty() {
            return Err(self.syntax_at(rest, "LAUNCH needs at least one application"));
        }
        for app in &apps {
            let at = rest.find(app.as_str()).map_or(rest, |at| &rest[at..at + app.len()]);
            self.check_app_name(app, at)?;
        }
        Ok(Launch { apps })
    }

    pub(super) fn kube_version(&self, rest: &str) -> Parsed<KubeVersion> {
        Ok(KubeVersion { range: self.text(Keyword::Kubeversion, rest)?.to_owned() })
    }
}

/// One LAUNCH in a stage, and none beside what also says what a cluster starts with.
pub(super) fn check_exclusive(statements: &[Statement]) -> Result<(), KubefileError> {
    let is_from = |statement: &Statement| matches!(statement.instruction, Instruction::From(_));
    for stage in statements.chunk_by(|_, next| !is_from(next)) {
        let of = |keyword| move |s: &&Statement| s.instruction.keyword() == keyword;
        let Some(launch) = stage.iter().find(of(Keyword::Launch)) else { continue };
        let refuse = |second: &Statement, text: String, hint: &str| {
            Err(KubefileError::new(&second.location, Problem::Syntax(text)).suggest(hint))
        };
        if let Some(second) = stage.iter().filter(of(Keyword::Launch)).nth(1) {
            let text = format!("LAUNCH stands in line {} already", launch.location.first);
            return refuse(second, text, "name all applications in one LAUNCH");
        }
        for keyword in [Keyword::Cmds, Keyword::Cmd] {
            let Some(other) = stage.iter().find(of(keyword)) else { continue };
            let (first, second) = if other.location.first < launch.location.first {
                (other, launch)
            } else {
                (launch, other)
            };
            let (here, there) = (second.instruction.keyword(), first.instruction.keyword());
            let text = format!(
                "{here} cannot stand beside {there}, which is in line {}",
                first.location.first
            );
            return refuse(second, text, "start applications with LAUNCH or commands with CMDS");
        }
    }
    Ok(())
}
