//! Values to text and back: YAML, JSON, TOML, base64 and base32.

use super::{Args, Function, Host, Outcome, fixed, toml};
use crate::json::{self, Style};
use crate::value::{List, Map, Value};
use crate::{encoding, yaml};

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "toYaml" => fixed(1, |host, args| Ok(to_yaml(host, args, yaml::Style::Plain)?.into())),
        "toYamlPretty" => {
            fixed(1, |host, args| Ok(to_yaml(host, args, yaml::Style::Pretty)?.into()))
        }
        "mustToYaml" => fixed(1, |host, args| {
            let text = yaml::write(args.any(0), yaml::Style::Plain, host.limits.text);
            let text = text.map_err(|_| "the value cannot be written as YAML")?;
            Ok(text.strip_suffix('\n').unwrap_or(&text).into())
        }),
        "fromYaml" => fixed(1, |_, args| Ok(a_map(yaml::read(&args.text(0)?)))),
        "fromYamlArray" => fixed(1, |_, args| Ok(a_list(yaml::read(&args.text(0)?)))),
        "fromJson" => fixed(1, |_, args| Ok(a_map(json::read(&args.text(0)?)))),
        "fromJsonArray" => fixed(1, |_, args| Ok(a_list(json::read(&args.text(0)?)))),
        "mustFromJson" => fixed(1, |_, args| json::read(&args.text(0)?)),
        "toJson" => fixed(1, |host, args| {
            Ok(json::write(args.any(0), Style::Html, host.limits.text).unwrap_or_default().into())
        }),
        "toPrettyJson" => fixed(1, |host, args| {
            Ok(json::write(args.any(0), Style::Pretty, host.limits.text).unwrap_or_default().into())
        }),
        "toRawJson" | "mustToRawJson" => fixed(1, |host, args| as_json(host, args, Style::Raw)),
        "mustToJson" => fixed(1, |host, args| as_json(host, args, Style::Html)),
        "mustToPrettyJson" => fixed(1, |host, args| as_json(host, args, Style::Pretty)),
        "toToml" | "mustToToml" => {
            fixed(1, |host, args| match toml::write(args.any(0), host.limits.text) {
                Ok(text) => Ok(text.into()),
                Err(message) => Ok(message.into()),
            })
        }
        "fromToml" => fixed(1, |_, args| Ok(a_map(toml::read(&args.text(0)?)))),
        "b64enc" => fixed(1, |_, args| Ok(encoding::base64_encode(args.bytes(0)?).into())),
        "b32enc" => fixed(1, |_, args| Ok(encoding::base32_encode(args.bytes(0)?).into())),
        "b64dec" => fixed(1, |_, args| {
            Ok(match encoding::base64_decode(args.bytes(0)?) {
                Ok(bytes) => Value::string(bytes),
                Err(at) => format!("illegal base64 data at input byte {at}").into(),
            })
        }),
        "b32dec" => fixed(1, |_, args| {
            Ok(match encoding::base32_decode(args.bytes(0)?) {
                Ok(bytes) => Value::string(bytes),
                Err(at) => format!("illegal base32 data at input byte {at}").into(),
            })
        }),
        _ => return None,
    })
}

/// Numbers that JSON does not have make it empty; what is too big is an error all the same.
fn to_yaml(host: &Host, args: Args<'_>, style: yaml::Style) -> Result<String, String> {
    match yaml::write(args.any(0), style, host.limits.text) {
        Ok(mut text) => {
            text.truncate(text.strip_suffix('\n').unwrap_or(&text).len());
            Ok(text)
        }
        Err(yaml::Unwritable::Number) => Ok(String::new()),
        Err(yaml::Unwritable::TooBig) => Err("the YAML text is too long".into()),
    }
}

fn as_json(host: &Host, args: Args<'_>, style: Style) -> Outcome {
    let text = json::write(args.any(0), style, host.limits.text);
    text.map(Value::from).ok_or_else(|| "the value cannot be written as JSON".into())
}

/// Errors are told within the map.
fn a_map(read: Result<Value, String>) -> Value {
    let message = match read {
        Ok(map @ Value::Map(_)) => return map,
        Ok(Value::Nil) => return Value::Map(Map::new()),
        Ok(other) => {
            let kind = json_kind(&other);
            format!(
                "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
            )
        }
        Err(message) => format!("error converting YAML to JSON: {message}"),
    };
    let map = Map::new();
    map.set("Error", message.into());
    Value::Map(map)
}

fn a_list(read: Result<Value, String>) -> Value {
    match read {
        Ok(list @ Value::List(_)) => list,
        Ok(Value::Nil) => Value::List(List::unmade()),
        Ok(other) => {
            let kind = json_kind(&other);
            let message = format!(
                "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {kind} into Go value of type []interface {{}}"
            );
            Value::list(vec![message.into()])
        }
        Err(message) => {
            Value::list(vec![format!("error converting YAML to JSON: {message}").into()])
        }
    }
}

fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Map(_) => "object",
        Value::List(_) => "array",
        Value::Bool(_) => "bool",
        Value::Int(..) | Value::Float(_) => "number",
        _ => "string",
    }
}
