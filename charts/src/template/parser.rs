//! Makes syntax trees of tokens.
//!
//! Unknown functions and variables are found here, not when the template runs.

mod constant;

use std::rc::Rc;

use super::lexer::{self, Kind, Token};
use super::tree::{Block, Branch, Command, Node, Operand, Pipe};
use super::{Fault, Place, Template};
use crate::functions;

/// Parentheses and blocks within one another.
const MAX_DEPTH: usize = 300;

/// The templates of a text: what it defines, and the rest as the template `name`, which is last.
pub(super) fn parse(name: &str, text: &str) -> Result<Vec<Template>, Fault> {
    let file: Rc<str> = Rc::from(name);
    let tokens = lexer::tokens(&file, text)?;
    let mut parser = Parser {
        file: file.clone(),
        tokens: &tokens,
        at: 0,
        defined: Vec::new(),
        variables: vec![Rc::from("")],
        depth: 0,
        loops: 0,
    };
    let (body, end) = parser.block(true)?;
    if let End::Word(word, line) = end {
        return Err(parser.fault(line, format!("unexpected {{{{{word}}}}}")));
    }
    let mut templates = parser.defined;
    templates.push(Template { name: file.clone(), file, body });
    Ok(templates)
}

struct Parser<'p, 't> {
    file: Rc<str>,
    tokens: &'p [Token<'t>],
    at: usize,
    defined: Vec<Template>,
    /// Those in scope, without `$`; the first is `$` itself.
    variables: Vec<Rc<str>>,
    depth: usize,
    loops: usize,
}

/// What ends a block.
enum End {
    Text,
    /// `end` or `else`, whose action is open.
    Word(&'static str, u32),
}

impl<'t> Parser<'_, 't> {
    fn fault(&self, line: u32, message: impl Into<String>) -> Fault {
        Fault::at(Place { file: self.file.clone(), line }, message)
    }

    fn peek(&self) -> Option<Token<'t>> {
        self.tokens.get(self.at).copied()
    }

    fn next(&mut self) -> Option<Token<'t>> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn take(&mut self, kind: Kind<'_>) -> bool {
        let found = self.peek().is_some_and(|token| token.kind == kind);
        self.at += usize::from(found);
        found
    }

    /// The line of the next token, or of the last.
    fn line(&self) -> u32 {
        let token = self.tokens.get(self.at).or(self.tokens.last());
        token.map_or(1, |token| token.line)
    }

    fn deeper(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fault(self.line(), format!("more than {MAX_DEPTH} levels deep")));
        }
        Ok(())
    }

    fn close(&mut self, context: &str) -> Result<(), Fault> {
        if self.take(Kind::Close) {
            return Ok(());
        }
        let what = self.peek().map_or("end of text".into(), |token| describe(token.kind));
        Err(self.fault(self.line(), format!("unexpected {what} in {context}")))
    }

    /// Nodes up to an `end` or `else`; definitions may stand only at the top.
    fn block(&mut self, top: bool) -> Result<(Block, End), Fault> {
        self.deeper()?;
        let mut nodes = Vec::new();
        while let Some(token) = self.next() {
            match token.kind {
                Kind::Text(text) => nodes.push(Node::Text(Rc::from(text))),
                Kind::Open => {
                    let word = match self.peek() {
                        Some(Token { kind: Kind::Word(word), .. }) => word,
                        _ => "",
                    };
                    match word {
                        "end" | "else" => {
                            self.at += 1;
                            self.depth -= 1;
                            let word = if word == "end" { "end" } else { "else" };
                            return Ok((Block(nodes), End::Word(word, token.line)));
                        }
                        "define" if top => {
                            self.at += 1;
                            self.define(token.line)?;
                        }
                        "define" => {
                            return Err(self.fault(token.line, "unexpected {{define}}"));
                        }
                        _ => nodes.push(self.action(word, token.line)?),
                    }
                }
                kind => {
                    let what = describe(kind);
                    return Err(self.fault(token.line, format!("unexpected {what} in input")));
                }
            }
        }
        self.depth -= 1;
        Ok((Block(nodes), End::Text))
    }

    fn action(&mut self, word: &str, line: u32) -> Result<Node, Fault> {
        if !matches!(word, "if" | "with" | "range" | "template" | "block" | "break" | "continue") {
            // Variables that it declares stay until the block ends.
            return self.pipe("command", true).map(Node::Print);
        }
        self.at += 1;
        match word {
            "if" => self.branch("if").map(Node::If),
            "with" => self.branch("with").map(Node::With),
            "range" => self.branch("range").map(Node::Range),
            "template" => self.template(line),
            "block" => self.block_definition(line),
            _ => {
                self.close(&format!("{{{{{word}}}}}"))?;
                if self.loops == 0 {
                    return Err(self.fault(line, format!("{{{{{word}}}}} outside {{{{range}}}}")));
                }
                Ok(if word == "break" { Node::Break } else { Node::Continue })
            }
        }
    }

    /// From behind the word to behind its `end`.
    fn branch(&mut self, word: &'static str) -> Result<Branch, Fault> {
        let scope = self.variables.len();
        let pipe = self.pipe(word, true)?;
        if pipe.variables.len() > if word == "range" { 2 } else { 1 } {
            return Err(self.fault(pipe.line, format!("too many declarations in {word}")));
        }
        self.loops += usize::from(word == "range");
        // What is declared in here is known in the `else` too, though it has no value there.
        let (then, mut end) = self.block(false)?;
        self.loops -= usize::from(word == "range");
        let mut otherwise = Block::default();
        if let End::Word("else", line) = end {
            let next = self.peek().map(|token| token.kind);
            if let Some(Kind::Word(again @ ("if" | "with"))) = next
                && word == again
            {
                self.at += 1;
                self.deeper()?;
                let node = match again {
                    "if" => Node::If(self.branch("if")?),
                    _ => Node::With(self.branch("with")?),
                };
                self.depth -= 1;
                self.variables.truncate(scope);
                return Ok(Branch { pipe, then, otherwise: Block(vec![node]) });
            }
            self.close("else")?;
            (otherwise, end) = self.block(false)?;
            if let End::Word("else", _) = end {
                return Err(self.fault(line, "expected end; found {{else}}"));
            }
        }
        self.variables.truncate(scope);
        self.ended(end, word, pipe.line)?;
        Ok(Branch { pipe, then, otherwise })
    }

    fn ended(&mut self, end: End, what: &str, line: u32) -> Result<(), Fault> {
        match end {
            End::Word("end", _) => self.close("end"),
            End::Word(word, line) => Err(self.fault(line, format!("unexpected {{{{{word}}}}}"))),
            End::Text => {
                Err(self.fault(line, format!("unexpected EOF: {{{{{what}}}}} has no {{{{end}}}}")))
            }
        }
    }

    fn name(&mut self, context: &str) -> Result<Rc<str>, Fault> {
        let line = self.line();
        match self.next().map(|token| token.kind) {
            Some(Kind::Quoted(text)) => {
                let bytes = constant::unquote(text).map_err(|message| self.fault(line, message))?;
                Ok(String::from_utf8_lossy(&bytes).into())
            }
            Some(Kind::Raw(text)) => Ok(Rc::from(text)),
            other => {
                let what = other.map_or("end of text".into(), describe);
                Err(self.fault(line, format!("unexpected {what} in {context}")))
            }
        }
    }

    fn define(&mut self, line: u32) -> Result<(), Fault> {
        let name = self.name("define clause")?;
        self.close("define clause")?;
        self.definition(name, "define", line)
    }

    /// The body of a template of its own, with its own variables, to behind its `end`.
    fn definition(&mut self, name: Rc<str>, word: &str, line: u32) -> Result<(), Fault> {
        let outer = std::mem::replace(&mut self.variables, vec![Rc::from("")]);
        let loops = std::mem::take(&mut self.loops);
        let (body, end) = self.block(false)?;
        self.ended(end, word, line)?;
        self.variables = outer;
        self.loops = loops;
        let template = Template { name, file: self.file.clone(), body };
        match self.defined.iter().position(|other| other.name == template.name) {
            None => self.defined.push(template),
            Some(at) if self.defined[at].body.is_blank() => self.defined[at] = template,
            Some(_) if template.body.is_blank() => (),
            Some(_) => {
                let message = format!("multiple definition of template {:?}", template.name);
                return Err(self.fault(line, message));
            }
        }
        Ok(())
    }

    fn template(&mut self, line: u32) -> Result<Node, Fault> {
        let name = self.name("template clause")?;
        let data = self.data("template clause")?;
        Ok(Node::Template { name, data, line })
    }

    fn block_definition(&mut self, line: u32) -> Result<Node, Fault> {
        let name = self.name("block clause")?;
        let data = Some(self.pipe("block clause", false)?);
        self.definition(name.clone(), "block", line)?;
        Ok(Node::Template { name, data, line })
    }

    fn data(&mut self, context: &str) -> Result<Option<Pipe>, Fault> {
        if self.take(Kind::Close) {
            return Ok(None);
        }
        self.pipe(context, false).map(Some)
    }

    /// A pipeline and the closing delimiter behind it.
    fn pipe(&mut self, context: &str, declares: bool) -> Result<Pipe, Fault> {
        let pipe = self.pipeline(context, declares)?;
        self.close(context)?;
        // Not before: `$x := $x` is the one from outside.
        if !pipe.assigns {
            self.variables.extend(pipe.variables.iter().cloned());
        }
        Ok(pipe)
    }

    /// A pipeline up to a closing delimiter or parenthesis.
    fn pipeline(&mut self, context: &str, declares: bool) -> Result<Pipe, Fault> {
        self.deeper()?;
        let line = self.line();
        let (variables, assigns) =
            if declares { self.declaration(context)? } else { (Vec::new(), false) };
        let mut commands = Vec::new();
        loop {
            let command = self.command(context)?;
            if !commands.is_empty() && !is_callable(&command.operand) {
                let stage = commands.len() + 1;
                let message = format!("non executable command in pipeline stage {stage}");
                return Err(self.fault(command.line, message));
            }
            commands.push(command);
            if !self.take(Kind::Pipe) {
                self.depth -= 1;
                return Ok(Pipe { line, variables, assigns, commands });
            }
        }
    }

    /// `$a :=`, `$a =`, and for a range `$a, $b :=`.
    fn declaration(&mut self, context: &str) -> Result<(Vec<Rc<str>>, bool), Fault> {
        let start = self.at;
        let mut names = Vec::new();
        while let Some(Token { kind: Kind::Variable(name), .. }) = self.peek() {
            self.at += 1;
            names.push(Rc::from(name));
            let more = self.take(Kind::Comma) && context == "range";
            if more {
                continue;
            }
            if self.take(Kind::Declare) {
                return Ok((names, false));
            }
            if self.take(Kind::Assign) {
                for name in &names {
                    self.known(name)?;
                }
                return Ok((names, true));
            }
            break;
        }
        self.at = start;
        Ok((Vec::new(), false))
    }

    fn known(&self, name: &str) -> Result<(), Fault> {
        if self.variables.iter().any(|known| **known == *name) {
            return Ok(());
        }
        Err(self.fault(self.line(), format!("undefined variable \"${name}\"")))
    }

    fn command(&mut self, context: &str) -> Result<Command, Fault> {
        let line = self.line();
        let mut operands = Vec::new();
        while let Some(operand) = self.operand()? {
            operands.push(operand);
            match self.peek() {
                Some(Token { kind: Kind::Close | Kind::RightParen | Kind::Pipe, .. }) | None => {
                    break;
                }
                Some(token) if !token.spaced => {
                    let what = describe(token.kind);
                    return Err(self.fault(token.line, format!("unexpected {what} in operand")));
                }
                Some(_) => (),
            }
        }
        if operands.is_empty() {
            return Err(match self.peek().map(|token| token.kind) {
                Some(Kind::Close | Kind::RightParen | Kind::Pipe) => {
                    self.fault(line, format!("missing value for {context}"))
                }
                other => {
                    let what = other.map_or("end of text".into(), describe);
                    self.fault(line, format!("unexpected {what} in {context}"))
                }
            });
        }
        let operand = operands.remove(0);
        Ok(Command { line, operand, arguments: operands })
    }

    /// A term with the fields that follow it without a space; `None` where none starts.
    fn operand(&mut self) -> Result<Option<Operand>, Fault> {
        let Some(term) = self.term()? else {
            return Ok(None);
        };
        let mut fields = Vec::new();
        while let Some(Token { kind: Kind::Field(name), spaced: false, .. }) = self.peek() {
            self.at += 1;
            fields.push(Rc::from(name));
        }
        if fields.is_empty() {
            return Ok(Some(term));
        }
        Ok(Some(match term {
            Operand::Field(mut names) => {
                names.extend(fields);
                Operand::Field(names)
            }
            Operand::Variable { name, fields: mut names } => {
                names.extend(fields);
                Operand::Variable { name, fields: names }
            }
            Operand::Dot | Operand::Nil | Operand::Constant(_) => {
                let message = format!("unexpected .{} after term", fields[0]);
                return Err(self.fault(self.line(), message));
            }
            of @ (Operand::Function { .. } | Operand::Pipe(_) | Operand::Chain { .. }) => {
                Operand::Chain { of: Box::new(of), fields }
            }
        }))
    }

    fn term(&mut self) -> Result<Option<Operand>, Fault> {
        let Some(token) = self.peek() else {
            return Ok(None);
        };
        let line = token.line;
        let operand = match token.kind {
            Kind::Dot => Operand::Dot,
            Kind::Word("nil") => Operand::Nil,
            Kind::Word("true") => Operand::Constant(true.into()),
            Kind::Word("false") => Operand::Constant(false.into()),
            Kind::Word(name) => {
                let Some(function) = functions::find(name) else {
                    return Err(self.fault(line, format!("function {name:?} not defined")));
                };
                Operand::Function { name: Rc::from(name), function }
            }
            Kind::Field(name) => Operand::Field(vec![Rc::from(name)]),
            Kind::Variable(name) => {
                self.known(name)?;
                Operand::Variable { name: Rc::from(name), fields: Vec::new() }
            }
            Kind::Number(_) | Kind::Char(_) | Kind::Quoted(_) | Kind::Raw(_) => {
                let value = constant::constant(token.kind);
                Operand::Constant(value.map_err(|message| self.fault(line, message))?)
            }
            Kind::LeftParen => {
                self.at += 1;
                let pipe = self.pipeline("parenthesized pipeline", false)?;
                if !self.take(Kind::RightParen) {
                    return Err(self.fault(self.line(), "unclosed left paren"));
                }
                return Ok(Some(Operand::Pipe(Box::new(pipe))));
            }
            Kind::Text(_)
            | Kind::Open
            | Kind::Close
            | Kind::RightParen
            | Kind::Pipe
            | Kind::Comma
            | Kind::Assign
            | Kind::Declare => return Ok(None),
        };
        self.at += 1;
        Ok(Some(operand))
    }
}

fn is_callable(operand: &Operand) -> bool {
    !matches!(operand, Operand::Dot | Operand::Nil | Operand::Constant(_))
}

fn describe(kind: Kind<'_>) -> String {
    match kind {
        Kind::Text(_) => "text".into(),
        Kind::Open => "{{".into(),
        Kind::Close => "}}".into(),
        Kind::Word(word) => format!("<{word}>"),
        Kind::Field(name) => format!("<.{name}>"),
        Kind::Dot => "<.>".into(),
        Kind::Variable(name) => format!("<${name}>"),
        Kind::Number(text) | Kind::Char(text) | Kind::Quoted(text) => text.into(),
        Kind::Raw(text) => format!("`{text}`"),
        Kind::LeftParen => "\"(\"".into(),
        Kind::RightParen => "\")\"".into(),
        Kind::Pipe => "\"|\"".into(),
        Kind::Comma => "\",\"".into(),
        Kind::Assign => "\"=\"".into(),
        Kind::Declare => "\":=\"".into(),
    }
}
