//! RUN and HEALTHCHECK.

use std::time::Duration;

use super::{Command, Flag, Heredoc, Keyword, Parsed, Parser, did_you_mean, shorten, words};
use crate::kubefile::{
    HealthCommand, Healthcheck, MountError, MountOptions, Network, Run, Security,
};

impl Parser<'_> {
    pub(super) fn run(&mut self, flags: Vec<Flag<'_>>, rest: &str) -> Parsed<Run> {
        let mut mounts = Vec::new();
        let (mut network, mut security) = (Network::Default, Security::Sandbox);
        for flag in flags {
            let choose = |words: &[&str]| self.choice(&flag, words);
            match flag.name.as_str() {
                "mount" => mounts.push(self.mount(flag)?),
                "network" => {
                    let all = [Network::Default, Network::None, Network::Host];
                    network = all[choose(&["default", "none", "host"])?];
                }
                "security" => {
                    security =
                        [Security::Sandbox, Security::Insecure][choose(&["sandbox", "insecure"])?];
                }
                other => unreachable!("RUN --{other} is among the known flags"),
            }
        }
        let (command, script) = self.run_command(rest)?;
        Ok(Run { command, script, mounts, network, security })
    }

    fn run_command(&mut self, rest: &str) -> Parsed<(Command, Option<Heredoc>)> {
        match &self.line.heredocs[..] {
            [] => match self.command(Keyword::Run, rest)? {
                Command::Exec(arguments) if arguments.is_empty() => {
                    Err(self.syntax_at(rest, "RUN needs a command, and [] is none"))
                }
                command => Ok((command, None)),
            },
            [body] if words::heredoc_start(rest, self.escape).is_some() => {
                self.script(&body.heredoc)
            }
            bodies => {
                // The shell reads its own heredocs.
                let mut text = format!("{rest}\n");
                bodies.iter().for_each(|body| text.push_str(&body.raw));
                Ok((Command::Shell(text), None))
            }
        }
    }

    /// A RUN that is nothing but a heredoc.
    fn script(&self, heredoc: &Heredoc) -> Parsed<(Command, Option<Heredoc>)> {
        let Heredoc { name, content, .. } = heredoc;
        if content.trim().is_empty() {
            return Err(self.syntax(format!("the heredoc {} is empty", shorten(name))));
        }
        if !content.starts_with("#!") {
            return Ok((Command::Shell(content.clone()), None));
        }
        if name.contains('/') || name == "." || name == ".." {
            return Err(self
                .syntax(format!("the heredoc {} cannot be the name of a file", shorten(name)))
                .suggest("a heredoc that begins with #! is run as a file of its name"));
        }
        let path = format!("/dev/pipes/{name}");
        Ok((Command::Exec(vec![path]), Some(heredoc.clone())))
    }

    /// Which of the words a flag's value is.
    fn choice(&self, flag: &Flag<'_>, words: &[&str]) -> Parsed<usize> {
        let value = flag.value.as_deref().unwrap_or_default();
        words.iter().position(|word| *word == value).ok_or_else(|| {
            let message = format!("RUN --{} cannot be {:?}", flag.name, shorten(value));
            let error = self.syntax_at(flag.source, message);
            match did_you_mean(value, words.iter().copied()) {
                Some(word) => error.suggest(format!("did you mean {word}?")),
                None => error.suggest(format!("write one of {}", words.join(", "))),
            }
        })
    }

    fn mount(&self, flag: Flag<'_>) -> Parsed<MountOptions> {
        let source = flag.source;
        let value = self.flag_value(Keyword::Run, flag)?;
        let options = MountOptions::parse(&value).map_err(|e| self.mount_error(source, &e))?;
        if !options.has_variables() {
            options.mount().map_err(|e| self.mount_error(source, &e))?;
        }
        Ok(options)
    }

    fn mount_error(&self, source: &str, error: &MountError) -> super::KubefileError {
        let word = error.word().and_then(|word| {
            let at = source.to_ascii_lowercase().find(word)?;
            source.get(at..at + word.len())
        });
        let result = self.syntax_at(word.unwrap_or(source), error.to_string());
        match error.did_you_mean() {
            Some(word) => result.suggest(format!("did you mean {word}?")),
            None => result,
        }
    }

    pub(super) fn healthcheck(&mut self, flags: Vec<Flag<'_>>, rest: &str) -> Parsed<Healthcheck> {
        let keyword = Keyword::Healthcheck;
        let (kind, command) = words::first(self.text(keyword, rest)?);
        if kind.eq_ignore_ascii_case("none") {
            if let Some(flag) = flags.first() {
                return Err(self.syntax_at(flag.source, "HEALTHCHECK NONE has no flags"));
            }
            if !command.is_empty() {
                return Err(self.syntax_at(command, "HEALTHCHECK NONE has no arguments"));
            }
            return Ok(Healthcheck::None);
        }
        if !kind.eq_ignore_ascii_case("cmd") {
            let message = format!("HEALTHCHECK {} is neither CMD nor NONE", shorten(kind));
            let error = self.syntax_at(kind, message);
            return Err(error.suggest("write HEALTHCHECK CMD COMMAND or HEALTHCHECK NONE"));
        }
        if command.is_empty() {
            return Err(self.syntax_at(kind, "HEALTHCHECK CMD needs a command"));
        }
        let command = self.command(keyword, command)?;
        if command == Command::Exec(Vec::new()) {
            return Err(self.syntax("HEALTHCHECK CMD needs a command, and [] is none"));
        }
        self.health_flags(flags, command).map(Healthcheck::Check)
    }

    fn health_flags(&self, flags: Vec<Flag<'_>>, command: Command) -> Parsed<HealthCommand> {
        let mut check = HealthCommand {
            command,
            interval: None,
            timeout: None,
            start_period: None,
            start_interval: None,
            retries: None,
        };
        for flag in flags {
            let name = flag.name.clone();
            if name == "retries" {
                check.retries = self.retries(flag)?;
                continue;
            }
            let duration = self.duration(flag)?;
            match name.as_str() {
                "interval" => check.interval = duration,
                "timeout" => check.timeout = duration,
                "start-period" => check.start_period = duration,
                "start-interval" => check.start_interval = duration,
                other => unreachable!("HEALTHCHECK --{other} is among the known flags"),
            }
        }
        Ok(check)
    }

    fn retries(&self, flag: Flag<'_>) -> Parsed<Option<u32>> {
        let source = flag.source;
        let text = self.flag_value(Keyword::Healthcheck, flag)?;
        match text.parse::<u32>() {
            Ok(retries) => Ok((retries > 0).then_some(retries)),
            Err(_) => Err(self.syntax_at(source, "HEALTHCHECK --retries needs a number")),
        }
    }

    /// Zero means none, as for Docker, which refuses what is shorter than a millisecond.
    fn duration(&self, flag: Flag<'_>) -> Parsed<Option<Duration>> {
        let (name, source) = (flag.name.clone(), flag.source);
        let text = self.flag_value(Keyword::Healthcheck, flag)?;
        match go_duration(&text) {
            Some(Duration::ZERO) => Ok(None),
            Some(duration) if duration >= Duration::from_millis(1) => Ok(Some(duration)),
            Some(_) => {
                let message = format!("HEALTHCHECK --{name} is shorter than a millisecond");
                Err(self.syntax_at(source, message))
            }
            None => Err(self
                .syntax_at(source, format!("HEALTHCHECK --{name} needs a duration"))
                .suggest("write it like 30s, 1m30s or 500ms")),
        }
    }
}

/// A duration as Go's `time.ParseDuration` reads it, if it is not negative.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit: u64 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        nanos = nanos.checked_add(scaled(number, unit)?)?;
        rest = after;
    }
    // Go counts in an i64.
    (nanos <= i64::MAX.unsigned_abs()).then(|| Duration::from_nanos(nanos))
}

/// A decimal number times a unit, what is left of the last place cut off.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.chars() {
        place /= 10;
        nanos = nanos.checked_add(u64::from(digit.to_digit(10)?) * place)?;
    }
    Some(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, nanos) in [
            ("0", 0),
            ("30s", 30_000_000_000),
            ("1h2m3s", 3_723_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5m", 30_000_000_000),
            ("1.s", 1_000_000_000),
            ("200ms", 200_000_000),
            ("3us4ns", 3_004),
        ] {
            assert_eq!(go_duration(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        let long = format!("{}h", "9".repeat(40));
        for text in ["", "1", "s", ".s", "1d", "-1s", "1s ", "1.2.3s", "9999999h", &long] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }
}
