//! What templates can call: Go's own functions, Sprig's, and Helm's.
//!
//! Each module knows a part of them by name. The invariant: a function makes nothing that is
//! bigger than the host's limits, and reads neither files nor the environment nor the network.

mod arguments;
mod certificates;
mod dates;
mod defaults;
mod dicts;
mod digests;
mod encoders;
mod go;
mod helm;
mod host;
mod lists;
mod maths;
mod names;
mod paths;
mod regexes;
pub(crate) mod semver;
mod strings;
mod time;
mod toml;
mod urls;

pub(crate) use arguments::{Args, Outcome};
pub(crate) use host::Host;
pub(crate) use paths::{base as base_name, clean as clean_path};
pub(crate) use regexes::compile as regex;
pub(crate) use time::Time;

/// How a function is run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body {
    Plain(fn(&Host, Args<'_>) -> Outcome),
    And,
    Or,
    Include,
    Tpl,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Function {
    pub(crate) body: Body,
    least: usize,
    /// `None`: any number.
    most: Option<usize>,
}

/// A function of so many arguments.
const fn fixed(count: usize, call: fn(&Host, Args<'_>) -> Outcome) -> Function {
    Function { body: Body::Plain(call), least: count, most: Some(count) }
}

/// A function of so many arguments or more.
const fn variadic(least: usize, call: fn(&Host, Args<'_>) -> Outcome) -> Function {
    Function { body: Body::Plain(call), least, most: None }
}

impl Function {
    /// `Err` says how many arguments it takes.
    pub(crate) fn takes(&self, count: usize) -> Result<(), String> {
        if count >= self.least && self.most.is_none_or(|most| count <= most) {
            return Ok(());
        }
        Err(match self.most {
            Some(most) if most == self.least => self.least.to_string(),
            Some(most) => format!("{} to {most}", self.least),
            None => format!("at least {}", self.least),
        })
    }
}

/// The function of that name; later libraries hide earlier ones, as in Helm.
pub(crate) fn find(name: &str) -> Option<Function> {
    let special = |body, least, most| Some(Function { body, least, most });
    match name {
        "and" => return special(Body::And, 1, None),
        "or" => return special(Body::Or, 1, None),
        "include" => return special(Body::Include, 2, Some(2)),
        "tpl" => return special(Body::Tpl, 2, Some(2)),
        _ => (),
    }
    helm::find(name)
        .or_else(|| strings::find(name))
        .or_else(|| names::find(name))
        .or_else(|| defaults::find(name))
        .or_else(|| lists::find(name))
        .or_else(|| dicts::find(name))
        .or_else(|| maths::find(name))
        .or_else(|| encoders::find(name))
        .or_else(|| digests::find(name))
        .or_else(|| certificates::find(name))
        .or_else(|| dates::find(name))
        .or_else(|| regexes::find(name))
        .or_else(|| semver::find(name))
        .or_else(|| paths::find(name))
        .or_else(|| urls::find(name))
        .or_else(|| go::find(name))
}
