//! Go's `text/template` language: text to syntax tree to output.
//!
//! `lexer` cuts the text, `parser` makes the tree, `run` walks it. The invariant: whatever the
//! template says, a run ends, within the steps, bytes and depth that its `Limits` allow. What the
//! functions do is not known here, only how they are called.

pub(crate) mod lexer;
pub(crate) mod parser;
pub(crate) mod run;
pub(crate) mod tree;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use tree::Block;

/// A named template.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) name: Rc<str>,
    /// The file that it stands in.
    pub(crate) file: Rc<str>,
    pub(crate) body: Block,
}

/// Templates by name. A set made within another sees that one's, and may hide them.
#[derive(Debug, Default)]
pub(crate) struct Set {
    outer: Option<Rc<Set>>,
    templates: RefCell<HashMap<Rc<str>, Rc<Template>>>,
}

impl Set {
    pub(crate) fn within(outer: &Rc<Set>) -> Set {
        Set { outer: Some(outer.clone()), templates: RefCell::default() }
    }

    pub(crate) fn get(&self, name: &str) -> Option<Rc<Template>> {
        let own = self.templates.borrow().get(name).cloned();
        own.or_else(|| self.outer.as_ref()?.get(name))
    }

    /// Takes all templates of `text`, which itself becomes the one named `name`.
    ///
    /// A later definition replaces an earlier one, unless it is blank.
    pub(crate) fn parse(&self, name: &str, text: &str) -> Result<Rc<Template>, Fault> {
        let mut main = None;
        for template in parser::parse(name, text)? {
            let template = Rc::new(template);
            if *template.name == *name {
                main = Some(template.clone());
            }
            if !template.body.is_blank() || self.get(&template.name).is_none() {
                self.templates.borrow_mut().insert(template.name.clone(), template);
            }
        }
        Ok(main.expect("the text itself is one of its templates"))
    }
}

/// Where something stands in a template's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: Rc<str>,
    pub(crate) line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Functions that read this much take as long as a step.
pub(crate) const BYTES_A_STEP: usize = 256;

/// What a run may use before it is stopped.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Nodes of templates that are walked, each time counted, and what functions do in that time.
    pub steps: u64,
    /// Bytes of strings, lists and maps made by functions and templates, in all.
    pub bytes: usize,
    /// Bytes of one string.
    pub text: usize,
    /// Templates that are within one another.
    pub depth: usize,
}

impl Default for Limits {
    /// At least four times of what any of a hundred real charts needs; depth as Helm has it.
    fn default() -> Limits {
        Limits { steps: 50_000_000, bytes: 256 << 20, text: 32 << 20, depth: 1000 }
    }
}

/// Whether what a run does is not wanted any more. The default is never.
#[derive(Clone, Default)]
pub struct Stop(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl Stop {
    /// As this says, which is asked often, from another thread.
    pub fn when(is_wanted: impl Fn() -> bool + Send + Sync + 'static) -> Stop {
        Stop(Some(Arc::new(is_wanted)))
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.0.as_ref().is_some_and(|is_wanted| is_wanted())
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop").finish_non_exhaustive()
    }
}

/// Why a template could not be read or run: what, where, and from where that was called.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) message: String,
    /// Innermost first.
    pub(crate) places: Vec<Place>,
}

impl Fault {
    pub(crate) fn at(place: Place, message: impl Into<String>) -> Fault {
        Fault { message: message.into(), places: vec![place] }
    }

    /// Notes what called the template that failed; a long recursion is not told in full.
    pub(crate) fn called_from(mut self, place: Place) -> Fault {
        if self.places.len() < 20 && self.places.last() != Some(&place) {
            self.places.push(place);
        }
        self
    }
}
