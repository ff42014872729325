//! Values to text and back: YAML, JSON, TOML, base64 and base32.

use super::{Args, Function, Host, Outcome, fixed, toml};
use crate::json::{self, Style};
use crate::value::{Map, Value};
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
        "fromYaml" => fixed(1, |host, args| Ok(a_map(read(host, args, yaml::read)?, IN_YAML))),
        "fromYamlArray" => {
            fixed(1, |host, args| Ok(a_list(read(host, args, yaml::read)?, IN_YAML)))
        }
        "fromJson" => fixed(1, |host, args| Ok(a_map(read(host, args, json::read)?, ""))),
        "fromJsonArray" => fixed(1, |host, args| Ok(a_list(read(host, args, json::read)?, ""))),
        "mustFromJson" => fixed(1, |host, args| read(host, args, json::read)?),
        "toJson" => fixed(1, |host, args| to_json(host, args, Style::Html)),
        "toPrettyJson" => fixed(1, |host, args| to_json(host, args, Style::Pretty)),
        "toRawJson" | "mustToRawJson" => fixed(1, |host, args| as_json(host, args, Style::Raw)),
        "mustToJson" => fixed(1, |host, args| as_json(host, args, Style::Html)),
        "mustToPrettyJson" => fixed(1, |host, args| as_json(host, args, Style::Pretty)),
        "toToml" | "mustToToml" => fixed(1, |host, args| {
            if args.any(0).is_nil() {
                return Err("nil cannot be written as TOML".into());
            }
            // What cannot be written is told in the text.
            let text = toml::write(args.any(0), host.limits.text);
            Ok(text.unwrap_or_else(|message| message).into())
        }),
        "fromToml" => fixed(1, |host, args| Ok(a_map(read(host, args, toml::read)?, ""))),
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

/// What a text says, which is charged with all that is in it.
fn read(host: &Host, args: Args<'_>, read: fn(&str) -> Outcome) -> Result<Outcome, String> {
    let value = read(&args.text(0)?);
    host.charge(value.as_ref().map_or(0, Value::weight))?;
    Ok(value)
}

/// Numbers that JSON does not have make it empty; what is too big is an error all the same.
fn to_yaml(host: &Host, args: Args<'_>, style: yaml::Style) -> Result<String, String> {
    match yaml::write(args.any(0), style, host.limits.text) {
        Ok(mut text) => {
            text.truncate(text.strip_suffix('\n').unwrap_or(&text).len());
            Ok(text)
        }
        Err(yaml::Unwritable::Number) => unwritable(host),
        Err(yaml::Unwritable::TooBig) => Err("the YAML text is too long".into()),
    }
}

/// What cannot be written makes it empty.
fn to_json(host: &Host, args: Args<'_>, style: Style) -> Outcome {
    match json::write(args.any(0), style, host.limits.text) {
        Some(text) => Ok(text.into()),
        None => unwritable(host).map(Value::from),
    }
}

/// Nothing; as much may have been written of it as fits, and that took its time.
fn unwritable(host: &Host) -> Result<String, String> {
    host.reads(host.limits.text)?;
    Ok(String::new())
}

fn as_json(host: &Host, args: Args<'_>, style: Style) -> Outcome {
    let text = json::write(args.any(0), style, host.limits.text);
    text.map(Value::from).ok_or_else(|| "the value cannot be written as JSON".into())
}

/// How Helm's errors start where YAML was read as JSON.
const IN_YAML: &str = "error unmarshaling JSON: while decoding JSON: ";

/// Errors are told within the map.
fn a_map(read: Result<Value, String>, place: &str) -> Value {
    let message = match read {
        Ok(map @ Value::Map(_)) => return map,
        Ok(Value::Nil) => return Value::Map(Map::new()),
        Ok(other) => wrong_kind(&other, place, "map[string]interface {}"),
        Err(message) => unread(&message, place),
    };
    let map = Map::new();
    map.set("Error", message.into());
    Value::Map(map)
}

fn a_list(read: Result<Value, String>, place: &str) -> Value {
    match read {
        Ok(list @ Value::List(_)) => list,
        Ok(Value::Nil) => Value::list(Vec::new()),
        Ok(other) => Value::list(vec![wrong_kind(&other, place, "[]interface {}").into()]),
        Err(message) => Value::list(vec![unread(&message, place).into()]),
    }
}

fn wrong_kind(value: &Value, place: &str, wanted: &str) -> String {
    let kind = json_kind(value);
    format!("{place}json: cannot unmarshal {kind} into Go value of type {wanted}")
}

fn unread(message: &str, place: &str) -> String {
    let place = if place.is_empty() { "" } else { "error converting YAML to JSON: " };
    format!("{place}{message}")
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
