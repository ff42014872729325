//! Walks a template's tree.

mod call;

use std::rc::Rc;

use call::Call;

use super::tree::{Block, Branch, Command, Node, Operand, Pipe};
use super::{Fault, Place, Set, Template};
use crate::functions::Host;
use crate::value::{ENTRY, Map, Value, format};

/// What a missing value prints as; Helm takes it out of what it prints.
const NO_VALUE: &str = "<no value>";

/// To pass so many variables when one is looked for takes as long as a step.
const VARIABLES_A_STEP: usize = 64;

/// Runs the template `name` of `set` with `data` as its dot.
pub(crate) fn run(host: &Host, set: &Rc<Set>, name: &str, data: Value) -> Result<Vec<u8>, Fault> {
    let Some(template) = set.get(name) else {
        let place = Place { file: Rc::from(name), line: 1 };
        return Err(Fault::at(place, format!("no template {name:?}")));
    };
    run_template(host, set, &template, data)
}

fn run_template(
    host: &Host,
    set: &Rc<Set>,
    template: &Template,
    data: Value,
) -> Result<Vec<u8>, Fault> {
    let mut run = Run {
        host,
        set,
        file: template.file.clone(),
        variables: vec![(Rc::from(""), data.clone())],
        out: Vec::new(),
    };
    run.block(&template.body, &data)?;
    Ok(run.out)
}

/// Without what missing values printed.
fn without_no_value(bytes: Vec<u8>) -> Vec<u8> {
    let mark = NO_VALUE.as_bytes();
    if !bytes.windows(mark.len()).any(|window| window == mark) {
        return bytes;
    }
    let mut kept = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(mark) {
            at += mark.len();
        } else {
            kept.push(bytes[at]);
            at += 1;
        }
    }
    kept
}

/// As `run`, with Helm's rule for missing values: they print as nothing.
pub(crate) fn render(
    host: &Host,
    set: &Rc<Set>,
    name: &str,
    data: Value,
) -> Result<Vec<u8>, Fault> {
    run(host, set, name, data).map(without_no_value)
}

/// How a block ended.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Run<'r> {
    host: &'r Host,
    set: &'r Rc<Set>,
    file: Rc<str>,
    /// The innermost last; the first is `$`.
    variables: Vec<(Rc<str>, Value)>,
    out: Vec<u8>,
}

impl Run<'_> {
    fn place(&self, line: u32) -> Place {
        Place { file: self.file.clone(), line }
    }

    fn fault(&self, line: u32, message: impl Into<String>) -> Fault {
        Fault::at(self.place(line), message)
    }

    fn step(&self, line: u32) -> Result<(), Fault> {
        self.host.step().map_err(|message| self.fault(line, message))
    }

    /// Objects are made into plain values to be looked at.
    fn reads_object(&self, line: u32, value: &Value) -> Result<(), Fault> {
        let Value::Object(object) = value else { return Ok(()) };
        self.host.reads(object.weight()).map_err(|message| self.fault(line, message))
    }

    fn write(&mut self, line: u32, bytes: &[u8]) -> Result<(), Fault> {
        let charged = self.host.charge(bytes.len());
        charged.map_err(|message| self.fault(line, message))?;
        if self.out.len() + bytes.len() > self.host.limits.text {
            return Err(self.fault(line, "text is too long"));
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn block(&mut self, block: &Block, dot: &Value) -> Result<Flow, Fault> {
        self.host.nest().map_err(|message| self.fault(0, message))?;
        let scope = self.variables.len();
        let mut flow = Flow::On;
        for node in &block.0 {
            flow = self.node(node, dot)?;
            if flow != Flow::On {
                break;
            }
        }
        self.variables.truncate(scope);
        self.host.unnest();
        Ok(flow)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, Fault> {
        match node {
            Node::Text(text) => self.write(0, text.as_bytes())?,
            Node::Print(pipe) => {
                let value = self.pipe(pipe, dot)?;
                if pipe.variables.is_empty() {
                    self.print(pipe.line, &value)?;
                }
            }
            Node::If(branch) => return self.condition(branch, dot, false),
            Node::With(branch) => return self.condition(branch, dot, true),
            Node::Range(branch) => {
                let scope = self.variables.len();
                let flow = self.range(branch, dot);
                self.variables.truncate(scope);
                return flow;
            }
            Node::Template { name, data, line } => {
                let data = match data {
                    Some(pipe) => self.pipe(pipe, dot)?,
                    None => Value::Nil,
                };
                let bytes = self.template(*line, name, data)?;
                self.write(*line, &bytes)?;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn print(&mut self, line: u32, value: &Value) -> Result<(), Fault> {
        match value {
            Value::Nil => self.write(line, NO_VALUE.as_bytes()),
            Value::Text(text) => self.write(line, text.as_bytes()),
            Value::Raw(bytes) => self.write(line, bytes),
            value => {
                let bytes = format::value(value, self.host.limits.text);
                let bytes = bytes.map_err(|error| self.fault(line, String::from(error)))?;
                self.write(line, &bytes)
            }
        }
    }

    fn condition(&mut self, branch: &Branch, dot: &Value, moves: bool) -> Result<Flow, Fault> {
        let scope = self.variables.len();
        let value = self.pipe(&branch.pipe, dot)?;
        self.reads_object(branch.pipe.line, &value)?;
        let flow = if !value.is_true() {
            self.block(&branch.otherwise, dot)
        } else if moves {
            self.block(&branch.then, &value)
        } else {
            self.block(&branch.then, dot)
        };
        self.variables.truncate(scope);
        flow
    }

    fn range(&mut self, branch: &Branch, dot: &Value) -> Result<Flow, Fault> {
        let line = branch.pipe.line;
        let value = self.pipe(&branch.pipe, dot)?;
        self.reads_object(line, &value)?;
        let value = match value {
            Value::Object(object) => object.plain(),
            value => value,
        };
        let mut empty = true;
        match &value {
            Value::List(list) => {
                for (index, item) in list.items().iter().enumerate() {
                    empty = false;
                    if !self.turn(branch, Value::count(index), item.clone())? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                self.host.reads(map.len() * ENTRY).map_err(|message| self.fault(line, message))?;
                for (key, item) in map.snapshot() {
                    empty = false;
                    if !self.turn(branch, Value::Text(key), item)? {
                        break;
                    }
                }
            }
            Value::Bytes(bytes) => {
                for (index, byte) in bytes.iter().enumerate() {
                    empty = false;
                    if !self.turn(branch, Value::count(index), Value::int((*byte).into()))? {
                        break;
                    }
                }
            }
            Value::Int(count, kind) => {
                for number in 0..*count {
                    empty = false;
                    let number = Value::Int(number, *kind);
                    if !self.turn(branch, number.clone(), number)? {
                        break;
                    }
                }
            }
            Value::Nil => (),
            other => {
                let message = format!("range can't iterate over {}", self.shown(other));
                return Err(self.fault(line, message));
            }
        }
        if empty { self.block(&branch.otherwise, dot) } else { Ok(Flow::On) }
    }

    /// One turn of a loop; whether another may follow.
    fn turn(&mut self, branch: &Branch, key: Value, item: Value) -> Result<bool, Fault> {
        let line = branch.pipe.line;
        self.step(line)?;
        let names = &branch.pipe.variables;
        let scope = self.variables.len();
        // `pipe` declared them; the last is the item.
        match names.len() {
            0 => (),
            1 => self.assign(line, &names[0], item.clone())?,
            _ => {
                self.assign(line, &names[0], key)?;
                self.assign(line, &names[1], item.clone())?;
            }
        }
        let flow = self.block(&branch.then, &item)?;
        self.variables.truncate(scope);
        Ok(flow != Flow::Break)
    }

    fn assign(&mut self, line: u32, name: &str, value: Value) -> Result<(), Fault> {
        let at = self.declared(line, name)?;
        self.variables[at].1 = value;
        Ok(())
    }

    /// Where the innermost variable of that name is. One that another branch declared is nowhere.
    fn declared(&self, line: u32, name: &str) -> Result<usize, Fault> {
        let at = self.variables.iter().rposition(|(known, _)| **known == *name);
        let passed = self.variables.len() - at.unwrap_or(0);
        let counted = self.host.steps(passed / VARIABLES_A_STEP);
        counted.map_err(|message| self.fault(line, message))?;
        at.ok_or_else(|| self.fault(line, format!("undefined variable: ${name}")))
    }

    fn template(&mut self, line: u32, name: &str, data: Value) -> Result<Vec<u8>, Fault> {
        let Some(template) = self.set.get(name) else {
            return Err(self.fault(line, format!("template {name:?} not defined")));
        };
        self.within(line, |run| run_template(run.host, run.set, &template, data))
    }

    /// Goes one template deeper.
    fn within<T>(
        &mut self,
        line: u32,
        inner: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let entered = self.host.enter();
        entered.map_err(|message| self.fault(line, message))?;
        let result = inner(self);
        self.host.leave();
        result.map_err(|fault| fault.called_from(self.place(line)))
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, Fault> {
        self.host.nest().map_err(|message| self.fault(pipe.line, message))?;
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(command, dot, value)?);
        }
        self.host.unnest();
        let value = value.unwrap_or_default();
        for name in &pipe.variables {
            if pipe.assigns {
                self.assign(pipe.line, name, value.clone())?;
            } else {
                self.variables.push((name.clone(), value.clone()));
            }
        }
        Ok(value)
    }

    /// `last` is what the command before it in the pipeline gave: it becomes the last argument.
    fn command(
        &mut self,
        command: &Command,
        dot: &Value,
        last: Option<Value>,
    ) -> Result<Value, Fault> {
        self.step(command.line)?;
        let line = command.line;
        match &command.operand {
            Operand::Function { name, function } => {
                let (function, operands) = (*function, command.arguments.as_slice());
                self.call(Call { line, name, function, operands, dot, last })
            }
            Operand::Field(names) => {
                let arguments = self.arguments(line, &command.arguments, dot, last)?;
                self.fields(line, dot.clone(), names, &arguments)
            }
            Operand::Variable { name, fields } => {
                let arguments = self.arguments(line, &command.arguments, dot, last)?;
                let value = self.variable(line, name)?;
                self.fields(line, value, fields, &arguments)
            }
            Operand::Chain { of, fields } => {
                let arguments = self.arguments(line, &command.arguments, dot, last)?;
                let value = self.operand(line, of, dot)?;
                self.fields(line, value, fields, &arguments)
            }
            Operand::Dot | Operand::Nil | Operand::Constant(_) | Operand::Pipe(_) => {
                if !command.arguments.is_empty() || last.is_some() {
                    return Err(self.fault(line, "can't give argument to non-function"));
                }
                if matches!(command.operand, Operand::Nil) {
                    return Err(self.fault(line, "nil is not a command"));
                }
                self.operand(line, &command.operand, dot)
            }
        }
    }

    fn arguments(
        &mut self,
        line: u32,
        operands: &[Operand],
        dot: &Value,
        last: Option<Value>,
    ) -> Result<Vec<Value>, Fault> {
        let mut values = Vec::with_capacity(operands.len() + 1);
        for operand in operands {
            values.push(self.operand(line, operand, dot)?);
        }
        values.extend(last);
        Ok(values)
    }

    fn operand(&mut self, line: u32, operand: &Operand, dot: &Value) -> Result<Value, Fault> {
        match operand {
            Operand::Dot => Ok(dot.clone()),
            Operand::Nil => Ok(Value::Nil),
            Operand::Constant(value) => Ok(value.clone()),
            Operand::Function { name, function } => {
                self.call(Call { line, name, function: *function, operands: &[], dot, last: None })
            }
            Operand::Field(names) => self.fields(line, dot.clone(), names, &[]),
            Operand::Variable { name, fields } => {
                let value = self.variable(line, name)?;
                self.fields(line, value, fields, &[])
            }
            Operand::Pipe(pipe) => self.pipe(pipe, dot),
            Operand::Chain { of, fields } => {
                let value = self.operand(line, of, dot)?;
                self.fields(line, value, fields, &[])
            }
        }
    }

    fn variable(&self, line: u32, name: &str) -> Result<Value, Fault> {
        self.declared(line, name).map(|at| self.variables[at].1.clone())
    }

    /// Follows a chain of fields; arguments are for the last, which then must be a method.
    fn fields(
        &self,
        line: u32,
        start: Value,
        names: &[Rc<str>],
        arguments: &[Value],
    ) -> Result<Value, Fault> {
        if names.is_empty() && !arguments.is_empty() {
            return Err(self.fault(line, "can't give argument to non-function"));
        }
        // Fields of no value at all are no value; those of a nil that a map holds are a mistake.
        let nowhere = start.is_nil();
        let mut value = start;
        for (index, name) in names.iter().enumerate() {
            let arguments = if index + 1 == names.len() { arguments } else { &[] };
            if value.is_nil() {
                if nowhere {
                    return Ok(Value::Nil);
                }
                let message = format!("nil pointer evaluating interface {{}}.{name}");
                return Err(self.fault(line, message));
            }
            value = self.field(line, &value, name, arguments)?;
        }
        Ok(value)
    }

    fn field(
        &self,
        line: u32,
        value: &Value,
        name: &str,
        arguments: &[Value],
    ) -> Result<Value, Fault> {
        match value {
            Value::Object(object) => {
                self.reads_object(line, value)?;
                if let Some(result) = object.call(name, arguments) {
                    return result
                        .and_then(|value| self.host.charge(value.weight()).map(|()| value))
                        .map_err(|message| {
                            self.fault(line, format!("error calling {name}: {message}"))
                        });
                }
                if let Some(value) = object.field(name) {
                    return self.not_called(line, name, arguments).map(|()| value);
                }
            }
            Value::Map(map) => {
                self.not_called(line, name, arguments)?;
                return Ok(missing_is_zero(map, name));
            }
            _ => (),
        }
        let message = format!("can't evaluate field {name} in type {}", value.type_name());
        Err(self.fault(line, message))
    }

    fn not_called(&self, line: u32, name: &str, arguments: &[Value]) -> Result<(), Fault> {
        if arguments.is_empty() {
            return Ok(());
        }
        let message = format!("{name} has arguments but cannot be invoked as function");
        Err(self.fault(line, message))
    }

    fn shown(&self, value: &Value) -> String {
        let bytes = format::value(value, 200);
        bytes.map_or("...".into(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn missing_is_zero(map: &Map, name: &str) -> Value {
    match map.get(name) {
        Some(value) => value,
        None => map.kind().zero(),
    }
}
