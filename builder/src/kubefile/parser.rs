//! Logical lines to typed statements.

mod cluster;
mod command;
mod files;

use std::sync::Arc;

use super::error::did_you_mean;
use super::lexer::{self, Lexed, Logical};
use super::words::{self, Flag, Json};
use super::{
    Arg, Cmd, Command, Dialect, Entrypoint, Env, Expose, From, Heredoc, Instruction, Keyword,
    Kubefile, KubefileError, Label, Location, MAX_FILE, Maintainer, Onbuild, Pair, Problem, Rule,
    Shell, Statement, StopSignal, User, Volume, Warning, Workdir, lint,
};

/// Parses a whole file.
pub(super) fn parse(name: &str, bytes: &[u8], dialect: Dialect) -> Result<Kubefile, KubefileError> {
    let name: Arc<str> = name.into();
    let text = decode(&name, bytes)?;
    let Lexed { escape, copy_rule, checks, lines, mut warnings } = lexer::lex(&name, text)?;
    let mut statements = Vec::new();
    for line in lines {
        let mut parser = Parser { line: &line, escape, dialect, warnings: &mut warnings };
        statements.push(parser.statement()?);
    }
    check_from(&name, &statements)?;
    cluster::check_exclusive(&statements)?;
    let mut file = Kubefile { name, dialect, escape, copy_rule, checks, statements, warnings };
    lint::check(&mut file);
    Ok(file)
}

/// Parses an ONBUILD trigger as a base image keeps it.
pub(super) fn parse_trigger(
    name: &str,
    text: &str,
    dialect: Dialect,
) -> Result<Statement, KubefileError> {
    let name: Arc<str> = name.into();
    let text = decode(&name, text.as_bytes())?;
    let Lexed { escape, lines, .. } = lexer::lex(&name, text)?;
    let [line] = &lines[..] else {
        let location = Location { file: name, first: 1, last: 1, lines: Arc::new([]) };
        let message = format!("an ONBUILD trigger is one instruction, not {}", lines.len());
        return Err(KubefileError::new(&location, Problem::File(message)));
    };
    let mut parser = Parser { line, escape, dialect, warnings: &mut Vec::new() };
    let statement = parser.statement()?;
    parser.check_trigger(&statement.instruction)?;
    Ok(statement)
}

/// The bytes as text, if they can be a build file.
fn decode<'a>(name: &Arc<str>, bytes: &'a [u8]) -> Result<&'a str, KubefileError> {
    let fail = |line: usize, message: String| {
        let location =
            Location { file: Arc::clone(name), first: line, last: line, lines: Arc::new([]) };
        KubefileError::new(&location, Problem::File(message))
    };
    let line_of = |at: usize| 1 + bytes[..at].iter().filter(|b| **b == b'\n').count();
    if bytes.len() > MAX_FILE {
        return Err(fail(1, format!("the file is larger than {MAX_FILE} bytes")));
    }
    if let Some(at) = bytes.iter().position(|b| *b == 0) {
        return Err(fail(line_of(at), "the line holds a NUL byte".to_owned()));
    }
    std::str::from_utf8(bytes)
        .map_err(|error| fail(line_of(error.valid_up_to()), "the line is not UTF-8".to_owned()))
}

/// A file needs a FROM, and before it may stand only ARGs.
fn check_from(name: &Arc<str>, statements: &[Statement]) -> Result<(), KubefileError> {
    match statements.iter().find(|s| !matches!(s.instruction, Instruction::Arg(_))) {
        Some(Statement { instruction: Instruction::From(_), .. }) => Ok(()),
        Some(other) => {
            let text = format!("{} stands before FROM", other.instruction.keyword());
            Err(KubefileError::new(&other.location, Problem::Syntax(text))
                .suggest("begin with FROM IMAGE or FROM scratch; only ARG may stand before it"))
        }
        None => {
            let location =
                Location { file: Arc::clone(name), first: 1, last: 1, lines: Arc::new([]) };
            Err(KubefileError::new(&location, Problem::File("the file has no FROM".to_owned()))
                .suggest("begin with FROM IMAGE or FROM scratch"))
        }
    }
}

struct Parser<'a> {
    line: &'a Logical,
    escape: char,
    dialect: Dialect,
    warnings: &'a mut Vec<Warning>,
}

type Parsed<T> = Result<T, KubefileError>;

impl<'a> Parser<'a> {
    fn statement(&mut self) -> Parsed<Statement> {
        let line = self.line;
        let (word, rest) = words::first(&line.text);
        let keyword = self.keyword(word)?;
        let instruction = self.instruction(keyword, rest)?;
        if let Some(blank) = line.blank {
            self.warn(Rule::BlankContinuation, format!(
                "line {blank} is blank inside this instruction, which Docker will refuse one day"
            ));
        }
        let text = format!("{keyword} {rest}").trim_end().to_owned();
        Ok(Statement { location: line.location.clone(), text, instruction })
    }

    fn keyword(&self, word: &str) -> Parsed<Keyword> {
        let Some(keyword) = Keyword::of(word) else {
            let error = self.at(word, Problem::UnknownInstruction(shorten(word)));
            let known = Keyword::ALL.iter().filter(|keyword| self.knows(**keyword));
            return Err(match did_you_mean(word, known.map(|keyword| keyword.as_str())) {
                Some(keyword) => error.suggest(format!("did you mean {keyword}?")),
                None => error,
            });
        };
        if !self.knows(keyword) {
            let error = self.at(word, Problem::UnknownInstruction(keyword.to_string()));
            return Err(error.suggest(format!(
                "{keyword} is a word of Kubefiles: give the file a name with Kubefile in it"
            )));
        }
        Ok(keyword)
    }

    fn knows(&self, keyword: Keyword) -> bool {
        self.dialect == Dialect::Kubefile || !keyword.is_of_kubefiles()
    }

    fn instruction(&mut self, keyword: Keyword, rest: &'a str) -> Parsed<Instruction> {
        let (flags, rest) = words::flags(rest);
        self.known_flags(keyword, &flags)?;
        Ok(match keyword {
            Keyword::Add => Instruction::Add(self.add(flags, rest)?),
            Keyword::App => Instruction::App(self.app(keyword, flags, rest)?),
            Keyword::Appcmds => Instruction::AppCmds(self.app_cmds(rest)?),
            Keyword::Appenv => Instruction::AppEnv(self.app_env(rest)?),
            Keyword::Arg => Instruction::Arg(self.arg(rest)?),
            Keyword::Cmd => Instruction::Cmd(Cmd { command: self.command(keyword, rest)? }),
            Keyword::Cmds => Instruction::Cmds(self.cmds(rest)?),
            Keyword::Cni => Instruction::Cni(self.app(keyword, flags, rest)?),
            Keyword::Copy => Instruction::Copy(self.copy(flags, rest)?),
            Keyword::Csi => Instruction::Csi(self.app(keyword, flags, rest)?),
            Keyword::Entrypoint => {
                Instruction::Entrypoint(Entrypoint { command: self.command(keyword, rest)? })
            }
            Keyword::Env => Instruction::Env(Env { pairs: self.pairs(keyword, rest)? }),
            Keyword::Expose => {
                let ports = words::split(self.text(keyword, rest)?, self.escape);
                Instruction::Expose(Expose { ports: owned(ports) })
            }
            Keyword::From => Instruction::From(self.from(flags, rest)?),
            Keyword::Healthcheck => Instruction::Healthcheck(self.healthcheck(flags, rest)?),
            Keyword::Kubeversion => Instruction::KubeVersion(self.kube_version(rest)?),
            Keyword::Label => Instruction::Label(Label { pairs: self.pairs(keyword, rest)? }),
            Keyword::Launch => Instruction::Launch(self.launch(rest)?),
            Keyword::Maintainer => {
                Instruction::Maintainer(Maintainer { name: self.text(keyword, rest)?.to_owned() })
            }
            Keyword::Onbuild => Instruction::Onbuild(self.onbuild(rest)?),
            Keyword::Run => Instruction::Run(self.run(flags, rest)?),
            Keyword::Shell => Instruction::Shell(self.shell(rest)?),
            Keyword::Stopsignal => {
                Instruction::StopSignal(StopSignal { signal: self.text(keyword, rest)?.to_owned() })
            }
            Keyword::User => Instruction::User(User { user: self.text(keyword, rest)?.to_owned() }),
            Keyword::Volume => Instruction::Volume(self.volume(rest)?),
            Keyword::Workdir => {
                Instruction::Workdir(Workdir { path: self.text(keyword, rest)?.to_owned() })
            }
        })
    }

    fn error(&self, problem: Problem) -> KubefileError {
        KubefileError::new(&self.line.location, problem)
    }

    fn syntax(&self, message: impl Into<String>) -> KubefileError {
        self.error(Problem::Syntax(message.into()))
    }

    /// An error about a part of the line.
    fn at(&self, part: &str, problem: Problem) -> KubefileError {
        self.error(problem).mark(self.line.mark(part))
    }

    fn syntax_at(&self, part: &str, message: impl Into<String>) -> KubefileError {
        self.at(part, Problem::Syntax(message.into()))
    }

    fn warn(&mut self, rule: Rule, message: impl Into<String>) {
        let location = Some(self.line.location.clone());
        self.warnings.push(Warning { rule, location, message: message.into() });
    }

    /// The text after a keyword that needs some.
    fn text<'t>(&self, keyword: Keyword, rest: &'t str) -> Parsed<&'t str> {
        if rest.is_empty() {
            return Err(self.syntax(format!("{keyword} needs an argument")));
        }
        Ok(rest)
    }

    /// Refuses flags that an instruction does not have.
    fn known_flags(&self, keyword: Keyword, flags: &[Flag<'_>]) -> Parsed<()> {
        let Some(flag) = flags.iter().find(|flag| !keyword.flags().contains(&flag.name.as_str()))
        else {
            return Ok(());
        };
        if (keyword, flag.name.as_str()) == (Keyword::Run, "device") {
            let problem = Problem::Unsupported("RUN --device".to_owned());
            return Err(self.at(flag.source, problem));
        }
        let message = format!("{keyword} has no flag --{}", shorten(&flag.name));
        let error = self.syntax_at(flag.source, message);
        let all = keyword.flags();
        Err(match did_you_mean(&flag.name, all.iter().copied()) {
            Some(name) => error.suggest(format!("did you mean --{name}?")),
            None if all.is_empty() => error.suggest(format!("{keyword} has no flags at all")),
            None => error.suggest(format!("flags of {keyword}: --{}", all.join(", --"))),
        })
    }

    fn flag_value(&self, keyword: Keyword, flag: Flag<'_>) -> Parsed<String> {
        let Flag { name, value, source } = flag;
        value.filter(|value| !value.is_empty()).ok_or_else(|| {
            self.syntax_at(source, format!("{keyword} --{name} needs a value"))
                .suggest(format!("write --{name}=VALUE"))
        })
    }

    /// A flag that is true without a value.
    fn switch(&self, keyword: Keyword, flag: &Flag<'_>) -> Parsed<bool> {
        match flag.value.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => {
                let message = format!("{keyword} --{} is either true or false", flag.name);
                Err(self.syntax_at(flag.source, message))
            }
        }
    }

    /// A JSON array of strings, if the text is an array at all.
    fn json(&self, keyword: Keyword, rest: &str) -> Parsed<Option<Vec<String>>> {
        match words::json(rest) {
            Json::Strings(strings) => Ok(Some(strings)),
            Json::No => Ok(None),
            Json::NotStrings => {
                let message = format!("the JSON array of {keyword} may hold only strings");
                Err(self.syntax_at(rest, message).suggest("put its elements between double quotes"))
            }
        }
    }

    fn arg(&self, rest: &str) -> Parsed<Arg> {
        let words = words::split(self.text(Keyword::Arg, rest)?, self.escape);
        let args = words.iter().map(|word| match word.split_once('=') {
            Some(("", _)) => {
                Err(self.syntax_at(word, format!("ARG {} has no name", shorten(word))))
            }
            Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
            None => Ok(((*word).to_owned(), None)),
        });
        Ok(Arg { args: args.collect::<Parsed<_>>()? })
    }

    /// A JSON array, or text for the shell.
    fn command(&mut self, keyword: Keyword, rest: &str) -> Parsed<Command> {
        let rest = self.text(keyword, rest)?;
        if let Some(elements) = self.json(keyword, rest)? {
            return Ok(Command::Exec(elements));
        }
        if rest.starts_with('[') && rest.ends_with(']') && !rest.starts_with("[ ") {
            self.warn(Rule::JsonLook, format!(
                "{keyword} looks like a JSON array but is none, so it is taken as a shell line; \
                 strings of a JSON array stand between double quotes"
            ));
        }
        Ok(Command::Shell(rest.to_owned()))
    }

    /// `K=V...`, or the old form `K V` where all after the blanks is the value.
    fn pairs(&self, keyword: Keyword, rest: &str) -> Parsed<Vec<Pair>> {
        let rest = self.text(keyword, rest)?;
        let words = words::split(rest, self.escape);
        if words.first().is_some_and(|word| !word.contains('=')) {
            let (key, value) = words::first(rest);
            if value.is_empty() {
                let error = self.syntax(format!("{keyword} {} has no value", shorten(rest)));
                return Err(error.suggest(format!("write {keyword} {}=VALUE", shorten(rest))));
            }
            return Ok(vec![Pair { key: key.to_owned(), value: value.to_owned() }]);
        }
        words.into_iter().map(|word| self.pair(keyword, word)).collect()
    }

    fn pair(&self, keyword: Keyword, word: &str) -> Parsed<Pair> {
        match word.split_once('=') {
            Some(("", _)) => {
                Err(self.syntax_at(word, format!("{keyword} {} has no name", shorten(word))))
            }
            Some((key, value)) => Ok(Pair { key: key.to_owned(), value: value.to_owned() }),
            None => {
                let short = shorten(word);
                let message = format!("{keyword} needs NAME=VALUE, but {short} has no =");
                Err(self
                    .syntax_at(word, message)
                    .suggest("put values with blanks between quotes: NAME=\"a b\""))
            }
        }
    }

    fn from(&self, flags: Vec<Flag<'_>>, rest: &str) -> Parsed<From> {
        let mut platform = None;
        for flag in flags {
            platform = Some(self.flag_value(Keyword::From, flag)?);
        }
        let words: Vec<&str> = rest.split_whitespace().collect();
        let form = "the form is FROM IMAGE [AS NAME]";
        let (image, name) = match words[..] {
            [image] => (image, None),
            [image, as_, name] if as_.eq_ignore_ascii_case("as") => (image, Some(name)),
            [] => return Err(self.syntax("FROM needs an image").suggest(form)),
            [_, word, ..] => {
                return Err(self.syntax_at(word, "FROM has too many words").suggest(form));
            }
        };
        if let Some(name) = name {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(plain) {
                let message = format!("{} cannot be the name of a stage", shorten(name));
                return Err(self.syntax_at(name, message).suggest(
                    "names begin with a letter and hold letters, digits, '-', '_' and '.'",
                ));
            }
        }
        let name = name.map(str::to_ascii_lowercase);
        Ok(From { platform, image: image.to_owned(), name })
    }

    fn onbuild(&mut self, rest: &'a str) -> Parsed<Onbuild> {
        let (word, trigger) = words::first(self.text(Keyword::Onbuild, rest)?);
        let keyword = self.keyword(word)?;
        // Before it is parsed, so that ONBUILD ONBUILD ... does not nest.
        self.check_trigger_keyword(keyword)?;
        let instruction = Box::new(self.instruction(keyword, trigger)?);
        let mut text = rest.to_owned();
        for body in &self.line.heredocs {
            text.push('\n');
            text.push_str(body.raw.trim_end_matches(['\r', '\n']));
        }
        Ok(Onbuild { text, instruction })
    }

    fn check_trigger(&self, instruction: &Instruction) -> Parsed<()> {
        self.check_trigger_keyword(instruction.keyword())
    }

    fn check_trigger_keyword(&self, keyword: Keyword) -> Parsed<()> {
        let never = matches!(keyword, Keyword::From | Keyword::Maintainer | Keyword::Onbuild);
        if never || keyword.is_of_kubefiles() {
            return Err(self.syntax(format!("{keyword} cannot stand behind ONBUILD")));
        }
        Ok(())
    }

    fn shell(&self, rest: &str) -> Parsed<Shell> {
        match self.json(Keyword::Shell, rest)? {
            Some(arguments) if !arguments.is_empty() => Ok(Shell { arguments }),
            _ => Err(self
                .syntax("SHELL needs a JSON array")
                .suggest("write it like SHELL [\"/bin/bash\", \"-c\"]")),
        }
    }

    fn volume(&self, rest: &str) -> Parsed<Volume> {
        let rest = self.text(Keyword::Volume, rest)?;
        let paths = match self.json(Keyword::Volume, rest)? {
            Some(paths) => paths,
            None => owned(rest.split_whitespace()),
        };
        if paths.is_empty() || paths.iter().any(|path| path.trim().is_empty()) {
            return Err(self.syntax("VOLUME needs paths that are not empty"));
        }
        Ok(Volume { paths })
    }
}

fn owned<'t>(words: impl IntoIterator<Item = &'t str>) -> Vec<String> {
    words.into_iter().map(str::to_owned).collect()
}

/// A word for a message.
fn shorten(word: &str) -> String {
    let short: String = word.chars().take(40).collect();
    if short.len() < word.len() { format!("{short}...") } else { short }
}
