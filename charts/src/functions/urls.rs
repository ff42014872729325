//! URLs taken apart and put together.

use super::{Args, Function, Host, Outcome, fixed};
use crate::value::{Map, Value};

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "urlParse" => fixed(1, parse),
        "urlJoin" => fixed(1, join),
        "getHostByName" => fixed(1, |_, args| args.text(0).map(|_| "".into())),
        _ => return None,
    })
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~')
}

fn escape(text: &str, keeps: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if is_unreserved(byte) || keeps.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// `url.QueryEscape`.
pub(super) fn query_escape(text: &str) -> String {
    escape(text, b" ").replace(' ', "+")
}

fn unescape(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| format!("invalid URL escape in {text:?}"))?);
        rest = &after[2..];
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn parse(_: &Host, args: Args<'_>) -> Outcome {
    let text = args.text(0)?;
    let fault = |message: &str| format!("unable to parse url: parse {text:?}: {message}");
    if text.chars().any(|c| c.is_ascii_control()) {
        return Err(fault("net/url: invalid control character in URL"));
    }
    let (rest, fragment) = text.split_once('#').unwrap_or((&text, ""));
    let scheme_end = rest.find([':', '/', '?']).filter(|at| rest[*at..].starts_with(':'));
    let (scheme, rest) = match scheme_end {
        Some(0) => return Err(fault("missing protocol scheme")),
        Some(at) if is_scheme(&rest[..at]) => (rest[..at].to_ascii_lowercase(), &rest[at + 1..]),
        Some(_) => return Err(fault("first path segment in URL cannot contain colon")),
        None => (String::new(), rest),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (mut opaque, mut authority, mut path) = ("", "", rest);
    if !scheme.is_empty() && !rest.starts_with('/') {
        (opaque, path) = (rest, "");
    } else if let Some(after) = rest.strip_prefix("//") {
        let end = after.find('/').unwrap_or(after.len());
        (authority, path) = after.split_at(end);
    }
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let hostname = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((name, _)) => name,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    if host.starts_with('[') && !host.contains(']') {
        return Err(fault("missing ']' in host"));
    }
    let map = Map::new();
    let path = unescape(path).map_err(|message| fault(&message))?;
    let fragment = unescape(fragment).map_err(|message| fault(&message))?;
    let parts = [
        ("scheme", scheme.as_str()),
        ("host", host),
        ("hostname", hostname),
        ("path", &path),
        ("query", query),
        ("opaque", opaque),
        ("fragment", &fragment),
        ("userinfo", user),
    ];
    for (key, value) in parts {
        map.set(key, value.into());
    }
    Ok(Value::Map(map))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

fn join(_: &Host, args: Args<'_>) -> Outcome {
    let map = args.map(0)?;
    let part = |key: &str| match map.get(key) {
        None => Ok(String::new()),
        Some(Value::Text(text)) => Ok(text.to_string()),
        Some(other) => {
            let kind = other.kind_name();
            Err(format!("unable to parse {key} key, must be of type string, but {kind} found"))
        }
    };
    let (scheme, host, path) = (part("scheme")?, part("host")?, part("path")?);
    let (user, opaque) = (part("userinfo")?, part("opaque")?);
    let mut url = String::new();
    if !scheme.is_empty() {
        url.push_str(&scheme);
        url.push(':');
    }
    if !opaque.is_empty() {
        url.push_str(&opaque);
    } else {
        if !scheme.is_empty() && (!host.is_empty() || !path.is_empty() || !user.is_empty())
            || !host.is_empty()
            || !user.is_empty()
        {
            if !host.is_empty() || !user.is_empty() || path.starts_with('/') {
                url.push_str("//");
            }
            if !user.is_empty() {
                url.push_str(&user);
                url.push('@');
            }
            url.push_str(&host);
        }
        if !path.is_empty() && !path.starts_with('/') && !host.is_empty() {
            url.push('/');
        }
        url.push_str(&escape(&path, b"/$&+,:;=@!*'()"));
    }
    for (mark, text) in
        [('?', part("query")?), ('#', escape(&part("fragment")?, b"/$&+,:;=@!?*'()"))]
    {
        if !text.is_empty() {
            url.push(mark);
            url.push_str(&text);
        }
    }
    Ok(url.into())
}
