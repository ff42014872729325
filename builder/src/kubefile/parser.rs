//! Logical lines to typed statements.

use std::sync::Arc;

use super::error::nearest;
use super::lexer::{self, Body, Lexed, Logical};
use super::words::{self, Flag};
use super::{
    Arg, Cmd, Command, Copy, Dialect, Entrypoint, Env, Expose, From, Instruction, Keyword,
    Kubefile, KubefileError, Label, Location, MAX_FILE, Maintainer, Pair, Problem, Run, Shell,
    Source, Statement, StopSignal, User, Volume, Warning, Workdir,
};

/// Parses a whole file.
pub(super) fn parse(name: &str, bytes: &[u8], dialect: Dialect) -> Result<Kubefile, KubefileError> {
    let name: Arc<str> = name.into();
    let text = decode(&name, bytes)?;
    let Lexed { escape, copy_rule, lines } = lexer::lex(&name, text)?;
    let mut warnings = Vec::new();
    let mut statements = Vec::new();
    for line in lines {
        let mut parser = Parser { line: &line, escape, warnings: &mut warnings };
        statements.push(parser.statement()?);
    }
    check_from(&name, &statements)?;
    Ok(Kubefile { name, dialect, escape, copy_rule, statements, warnings })
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
    warnings: &'a mut Vec<Warning>,
}

type Parsed<T> = Result<T, KubefileError>;

impl<'a> Parser<'a> {
    fn statement(&mut self) -> Parsed<Statement> {
        let line = self.line;
        let (word, rest) = line.text.split_once(char::is_whitespace).unwrap_or((&line.text, ""));
        let rest = rest.trim_start();
        let Some(keyword) = Keyword::of(word) else {
            let error = self.error(Problem::UnknownInstruction(shorten(word)));
            return Err(match nearest(word) {
                Some(keyword) => error.suggest(format!("did you mean {keyword}?")),
                None => error,
            });
        };
        let instruction = self.instruction(keyword, rest)?;
        let text = format!("{keyword} {rest}").trim_end().to_owned();
        Ok(Statement { location: line.location.clone(), text, instruction })
    }

    fn instruction(&mut self, keyword: Keyword, rest: &'a str) -> Parsed<Instruction> {
        match keyword {
            Keyword::Add
            | Keyword::App
            | Keyword::Appcmds
            | Keyword::Appenv
            | Keyword::Cmds
            | Keyword::Cni
            | Keyword::Csi
            | Keyword::Healthcheck
            | Keyword::Kubeversion
            | Keyword::Launch
            | Keyword::Onbuild => {
                let error = self.unsupported(keyword.as_str());
                Err(if keyword == Keyword::Add { error.suggest("use COPY") } else { error })
            }
            Keyword::Arg => self.arg(rest).map(Instruction::Arg),
            Keyword::Cmd => {
                let command = self.command(keyword, rest)?;
                Ok(Instruction::Cmd(Cmd { command }))
            }
            Keyword::Copy => self.copy(rest).map(Instruction::Copy),
            Keyword::Entrypoint => {
                let command = self.command(keyword, rest)?;
                Ok(Instruction::Entrypoint(Entrypoint { command }))
            }
            Keyword::Env => Ok(Instruction::Env(Env { pairs: self.pairs(keyword, rest)? })),
            Keyword::Expose => {
                let ports = words::split(self.text(keyword, rest)?, self.escape);
                Ok(Instruction::Expose(Expose { ports }))
            }
            Keyword::From => self.from(rest).map(Instruction::From),
            Keyword::Label => Ok(Instruction::Label(Label { pairs: self.pairs(keyword, rest)? })),
            Keyword::Maintainer => {
                let name = self.text(keyword, rest)?.to_owned();
                Ok(Instruction::Maintainer(Maintainer { name }))
            }
            Keyword::Run => self.run(rest).map(Instruction::Run),
            Keyword::Shell => self.shell(rest).map(Instruction::Shell),
            Keyword::Stopsignal => {
                let signal = self.text(keyword, rest)?.to_owned();
                Ok(Instruction::StopSignal(StopSignal { signal }))
            }
            Keyword::User => {
                let user = self.text(keyword, rest)?.to_owned();
                Ok(Instruction::User(User { user }))
            }
            Keyword::Volume => self.volume(rest).map(Instruction::Volume),
            Keyword::Workdir => {
                let path = self.text(keyword, rest)?.to_owned();
                Ok(Instruction::Workdir(Workdir { path }))
            }
        }
    }

    fn error(&self, problem: Problem) -> KubefileError {
        KubefileError::new(&self.line.location, problem)
    }

    fn syntax(&self, message: impl Into<String>) -> KubefileError {
        self.error(Problem::Syntax(message.into()))
    }

    fn unsupported(&self, what: impl Into<String>) -> KubefileError {
        self.error(Problem::Unsupported(what.into()))
    }

    fn warn(&mut self, message: impl Into<String>) {
        let location = Some(self.line.location.clone());
        self.warnings.push(Warning { location, message: message.into() });
    }

    /// The text after a keyword that needs some.
    fn text<'t>(&self, keyword: Keyword, rest: &'t str) -> Parsed<&'t str> {
        if rest.is_empty() {
            return Err(self.syntax(format!("{keyword} needs an argument")));
        }
        Ok(rest)
    }

    fn arg(&self, rest: &str) -> Parsed<Arg> {
        let words = words::split(self.text(Keyword::Arg, rest)?, self.escape);
        let args = words.iter().map(|word| match word.split_once('=') {
            Some(("", _)) => Err(self.syntax(format!("ARG {word} has no name"))),
            Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
            None => Ok((word.clone(), None)),
        });
        Ok(Arg { args: args.collect::<Parsed<_>>()? })
    }

    /// A JSON array, or text for the shell.
    fn command(&mut self, keyword: Keyword, rest: &str) -> Parsed<Command> {
        let rest = self.text(keyword, rest)?;
        if let Some(elements) = words::json_list(rest) {
            return Ok(Command::Exec(elements));
        }
        if rest.starts_with('[') && rest.ends_with(']') && !rest.starts_with("[ ") {
            self.warn(format!(
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
        let pair = |key: &str, value: &str| {
            if key.is_empty() {
                return Err(self.syntax(format!("{keyword} ={value} has no name")));
            }
            Ok(Pair { key: key.to_owned(), value: value.to_owned() })
        };
        if words.first().is_some_and(|word| !word.contains('=')) {
            let (key, value) = rest.split_once(char::is_whitespace).ok_or_else(|| {
                let error = self.syntax(format!("{keyword} {rest} has no value"));
                error.suggest(format!("write {keyword} {rest}=VALUE"))
            })?;
            return Ok(vec![pair(key, value.trim_start())?]);
        }
        let split = |word: &String| match word.split_once('=') {
            Some((key, value)) => pair(key, value),
            None => Err(self
                .syntax(format!("{keyword} needs NAME=VALUE, but {word} has no ="))
                .suggest("put values with blanks between quotes: NAME=\"a b\"")),
        };
        words.iter().map(split).collect()
    }

    fn from(&self, rest: &str) -> Parsed<From> {
        let (flags, rest) = words::flags(rest, self.escape);
        let mut platform = None;
        for flag in flags {
            match flag.name.as_str() {
                "platform" => platform = Some(self.flag_value(Keyword::From, flag)?),
                _ => return Err(self.unknown_flag(Keyword::From, &flag, "--platform")),
            }
        }
        let words: Vec<&str> = rest.split_whitespace().collect();
        let (image, name) = match words[..] {
            [image] => (image, None),
            [image, as_, name] if as_.eq_ignore_ascii_case("as") => (image, Some(name)),
            [] => return Err(self.syntax("FROM needs an image").suggest("FROM IMAGE [AS NAME]")),
            _ => {
                return Err(self.syntax("FROM has too many words").suggest("FROM IMAGE [AS NAME]"));
            }
        };
        let name = name.map(str::to_ascii_lowercase);
        if let Some(name) = &name {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(plain) {
                return Err(self.syntax(format!("{name} cannot be the name of a stage")).suggest(
                    "names begin with a letter and hold letters, digits, '-', '_' and '.'",
                ));
            }
        }
        Ok(From { platform, image: image.to_owned(), name })
    }

    fn copy(&self, rest: &str) -> Parsed<Copy> {
        let (flags, rest) = words::flags(rest, self.escape);
        let (mut chown, mut chmod) = (None, None);
        for flag in flags {
            match flag.name.as_str() {
                "chown" => chown = Some(self.flag_value(Keyword::Copy, flag)?),
                "chmod" => chmod = Some(self.flag_value(Keyword::Copy, flag)?),
                "from" | "link" | "parents" | "exclude" => {
                    return Err(self.unsupported(format!("COPY --{}", flag.name)));
                }
                _ => return Err(self.unknown_flag(Keyword::Copy, &flag, "--chown, --chmod")),
            }
        }
        let mut words = match words::json_list(rest) {
            Some(words) => words,
            None => rest.split_whitespace().map(str::to_owned).collect(),
        };
        let dest = words.pop().unwrap_or_default();
        if words.is_empty() || dest.is_empty() || words.iter().any(String::is_empty) {
            return Err(self
                .syntax("COPY needs at least one source and a destination")
                .suggest("COPY SOURCE... DEST"));
        }
        if words::heredoc_start(&dest, self.escape).is_some() {
            return Err(self.syntax("the destination of COPY cannot be a heredoc"));
        }
        let mut bodies = self.line.heredocs.iter();
        let source = |word: String| match words::heredoc_start(&word, self.escape) {
            Some(_) => match bodies.next() {
                Some(body) => Source::Inline(body.heredoc.clone()),
                None => Source::Path(word),
            },
            None => Source::Path(word),
        };
        Ok(Copy { chown, chmod, sources: words.into_iter().map(source).collect(), dest })
    }

    fn run(&mut self, rest: &str) -> Parsed<Run> {
        let (flags, rest) = words::flags(rest, self.escape);
        if let Some(flag) = flags.first() {
            return Err(match flag.name.as_str() {
                "mount" | "network" | "security" | "device" => {
                    self.unsupported(format!("RUN --{}", flag.name))
                }
                _ => self.unknown_flag(Keyword::Run, flag, "none"),
            });
        }
        match &self.line.heredocs[..] {
            [] => match self.command(Keyword::Run, rest)? {
                Command::Exec(arguments) if arguments.is_empty() => {
                    Err(self.syntax("RUN needs a command, and [] is none"))
                }
                command => Ok(Run { command }),
            },
            [body] if words::heredoc_start(rest, self.escape).is_some() => self.script(body),
            bodies => {
                // The shell reads its own heredocs.
                let mut text = format!("{rest}\n");
                bodies.iter().for_each(|body| text.push_str(&body.raw));
                Ok(Run { command: Command::Shell(text) })
            }
        }
    }

    /// A RUN that is nothing but a heredoc.
    fn script(&self, body: &Body) -> Parsed<Run> {
        let content = &body.heredoc.content;
        if content.starts_with("#!") {
            return Err(self
                .unsupported("a RUN heredoc that begins with #!")
                .suggest("name the interpreter: RUN INTERPRETER <<NAME"));
        }
        if content.trim().is_empty() {
            return Err(self.syntax(format!("the heredoc {} is empty", body.heredoc.name)));
        }
        Ok(Run { command: Command::Shell(content.clone()) })
    }

    fn shell(&self, rest: &str) -> Parsed<Shell> {
        match words::json_list(rest) {
            Some(arguments) if !arguments.is_empty() => Ok(Shell { arguments }),
            _ => Err(self
                .syntax("SHELL needs a JSON array")
                .suggest("write it like SHELL [\"/bin/bash\", \"-c\"]")),
        }
    }

    fn volume(&self, rest: &str) -> Parsed<Volume> {
        let rest = self.text(Keyword::Volume, rest)?;
        let paths = match words::json_list(rest) {
            Some(paths) => paths,
            None => rest.split_whitespace().map(str::to_owned).collect(),
        };
        if paths.is_empty() || paths.iter().any(|path| path.trim().is_empty()) {
            return Err(self.syntax("VOLUME needs paths that are not empty"));
        }
        Ok(Volume { paths })
    }

    fn flag_value(&self, keyword: Keyword, flag: Flag) -> Parsed<String> {
        let Flag { name, value } = flag;
        value.filter(|value| !value.is_empty()).ok_or_else(|| {
            self.syntax(format!("{keyword} --{name} needs a value"))
                .suggest(format!("write --{name}=VALUE"))
        })
    }

    fn unknown_flag(&self, keyword: Keyword, flag: &Flag, known: &str) -> KubefileError {
        self.syntax(format!("{keyword} has no flag --{}", shorten(&flag.name)))
            .suggest(format!("flags of {keyword}: {known}"))
    }
}

/// A word for a message.
fn shorten(word: &str) -> String {
    let short: String = word.chars().take(40).collect();
    if short.len() < word.len() { format!("{short}...") } else { short }
}
