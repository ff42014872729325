//! Calls of functions out of templates.

use std::rc::Rc;

use super::{Run, run_template, without_no_value};
use crate::functions::{Args, Body, Function};
use crate::template::tree::Operand;
use crate::template::{Fault, Set};
use crate::value::Value;

/// A call of a function, and what it is made with.
pub(super) struct Call<'c> {
    pub(super) line: u32,
    pub(super) name: &'c str,
    pub(super) function: Function,
    pub(super) operands: &'c [Operand],
    pub(super) dot: &'c Value,
    /// What the command before in the pipeline gave.
    pub(super) last: Option<Value>,
}

impl Run<'_> {
    pub(super) fn call(&mut self, call: Call<'_>) -> Result<Value, Fault> {
        let Call { line, name, function, operands, dot, last } = call;
        let count = operands.len() + usize::from(last.is_some());
        if let Err(want) = function.takes(count) {
            let message = format!("wrong number of args for {name}: want {want} got {count}");
            return Err(self.fault(line, message));
        }
        match function.body {
            Body::And => self.shortcut((line, operands, dot), last, false),
            Body::Or => self.shortcut((line, operands, dot), last, true),
            Body::Plain(call) => {
                let arguments = self.arguments(line, operands, dot, last)?;
                self.step(line)?;
                let reach = arguments.iter().map(Value::reach).sum();
                self.host
                    .reads(reach)
                    .and_then(|()| call(self.host, Args(&arguments)))
                    .and_then(|value| self.host.charge(size(&value)).map(|()| value))
                    .map_err(|message| self.fault(line, format!("error calling {name}: {message}")))
            }
            Body::Include => {
                let arguments = self.arguments(line, operands, dot, last)?;
                let template = self.text_argument(line, name, &arguments[0])?;
                let bytes = self.template(line, &template, arguments[1].clone())?;
                Ok(Value::string(bytes))
            }
            Body::Tpl => {
                let arguments = self.arguments(line, operands, dot, last)?;
                let text = self.text_argument(line, name, &arguments[0])?;
                self.tpl(line, text, arguments[1].clone())
            }
        }
    }

    /// `or` (for which true ends it) and `and`: the first that decides, else the last.
    fn shortcut(
        &mut self,
        (line, operands, dot): (u32, &[Operand], &Value),
        last: Option<Value>,
        ends: bool,
    ) -> Result<Value, Fault> {
        let mut value = Value::Nil;
        for operand in operands {
            value = self.operand(line, operand, dot)?;
            if value.is_true() == ends {
                return Ok(value);
            }
        }
        Ok(last.unwrap_or(value))
    }

    fn text_argument(&self, line: u32, name: &str, value: &Value) -> Result<Rc<str>, Fault> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            other => {
                let type_name = other.type_name();
                let message =
                    format!("wrong type for value of {name}; expected string; got {type_name}");
                Err(self.fault(line, message))
            }
        }
    }

    /// Runs a text as a template; what it defines is known only within it.
    fn tpl(&mut self, line: u32, text: Rc<str>, data: Value) -> Result<Value, Fault> {
        let fault = |message| self.fault(line, message);
        self.host.reads(text.len()).map_err(fault)?;
        if !text.contains("{{") {
            self.host.charge(text.len()).map_err(fault)?;
            return Ok(Value::string(without_no_value(text.as_bytes().to_vec())));
        }
        let name = format!("{} (tpl)", self.file);
        self.within(line, |run| {
            let inner = Rc::new(Set::within(run.set));
            let template = inner.parse(&name, &text)?;
            run_template(run.host, &inner, &template, data)
        })
        .map(|bytes| Value::string(without_no_value(bytes)))
    }
}

/// About how much memory a value that a function made takes, without what it shares.
fn size(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::Raw(bytes) | Value::Bytes(bytes) => bytes.len(),
        Value::List(list) => size_of_val(list.items()),
        Value::Map(_) | Value::Object(_) => 64,
        Value::Nil | Value::Bool(_) | Value::Int(..) | Value::Float(_) => 0,
    }
}
