//! The syntax tree of a template.

use std::rc::Rc;

use crate::functions::Function;
use crate::value::Value;

#[derive(Debug, Default)]
pub(crate) struct Block(pub(crate) Vec<Node>);

impl Block {
    /// Nothing but white space.
    pub(crate) fn is_blank(&self) -> bool {
        self.0.iter().all(|node| matches!(node, Node::Text(text) if text.trim().is_empty()))
    }
}

#[derive(Debug)]
pub(crate) enum Node {
    Text(Rc<str>),
    Print(Pipe),
    If(Branch),
    With(Branch),
    Range(Branch),
    Template { name: Rc<str>, data: Option<Pipe>, line: u32 },
    Break,
    Continue,
}

#[derive(Debug)]
pub(crate) struct Branch {
    pub(crate) pipe: Pipe,
    pub(crate) then: Block,
    pub(crate) otherwise: Block,
}

/// `$a, $b := command | command`.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) line: u32,
    /// Names without `$`.
    pub(crate) variables: Vec<Rc<str>>,
    /// The variables are there already.
    pub(crate) assigns: bool,
    pub(crate) commands: Vec<Command>,
}

#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) line: u32,
    pub(crate) operand: Operand,
    pub(crate) arguments: Vec<Operand>,
}

#[derive(Debug)]
pub(crate) enum Operand {
    Dot,
    Nil,
    Constant(Value),
    Function {
        name: Rc<str>,
        function: Function,
    },
    /// `.a.b`
    Field(Vec<Rc<str>>),
    /// `$x.a.b`
    Variable {
        name: Rc<str>,
        fields: Vec<Rc<str>>,
    },
    Pipe(Box<Pipe>),
    /// `(pipe).a.b` and the like.
    Chain {
        of: Box<Operand>,
        fields: Vec<Rc<str>>,
    },
}
