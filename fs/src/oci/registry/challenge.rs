//! `WWW-Authenticate` (RFC 9110, 11.6.1), as far as registries use it.

use std::collections::BTreeMap;

/// How a registry wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token (distribution spec, token authentication).
    Bearer {
        /// Where to get it.
        realm: String,
        /// For which service.
        service: Option<String>,
        /// What it shall allow, if the registry wants to say that itself.
        scope: Option<String>,
    },
}

/// The challenges of a header's value that are understood.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut rest = header.trim_start();
    while !rest.is_empty() {
        let end = rest.find([' ', ',']).unwrap_or(rest.len());
        let scheme = rest[..end].to_ascii_lowercase();
        let (parameters, after) = parameters(rest[end..].trim_start());
        let get = |name: &str| parameters.get(name).cloned();
        match (scheme.as_str(), get("realm")) {
            ("basic", _) => challenges.push(Challenge::Basic),
            ("bearer", Some(realm)) => {
                challenges.push(Challenge::Bearer {
                    realm,
                    service: get("service"),
                    scope: get("scope"),
                });
            }
            (_, _) => {}
        }
        rest = after.trim_start_matches([',', ' ']);
    }
    challenges
}

/// `name=value` pairs up to the next scheme, and what follows.
fn parameters(mut rest: &str) -> (BTreeMap<String, String>, &str) {
    let mut found = BTreeMap::new();
    loop {
        let trimmed = rest.trim_start_matches([',', ' ']);
        let Some(equals) = trimmed.find('=') else { return (found, "") };
        let name = trimmed[..equals].trim_end();
        // A blank inside: a scheme and its first parameter.
        if name.is_empty() || name.contains([' ', ',']) {
            return (found, trimmed);
        }
        let (value, after) = value(trimmed[equals + 1..].trim_start());
        found.insert(name.to_ascii_lowercase(), value);
        rest = after;
    }
}

/// A token or quoted string, and what follows.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, char)| char)),
            char => value.push(char),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        }
    }

    #[test]
    fn headers_of_real_registries() {
        let hub = "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",\
                   scope=\"repository:library/x:pull,push\"";
        let scope = Some("repository:library/x:pull,push");
        assert_eq!(
            parse(hub),
            [bearer("https://auth.docker.io/token", Some("registry.docker.io"), scope)]
        );
        assert_eq!(parse("Basic realm=\"Registry Realm\""), [Challenge::Basic]);
        assert_eq!(parse("basic"), [Challenge::Basic]);
        assert_eq!(
            parse("Negotiate, Bearer realm=https://a/t , Basic realm=\"a, b=\\\"c\""),
            [bearer("https://a/t", None, None), Challenge::Basic]
        );
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for text in
            ["", "Bearer", "Bearer x", ",,,", "=", "Bearer realm", "\"", "Bearer =x", "a=\""]
        {
            let found = parse(text);
            assert!(!found.contains(&Challenge::Basic), "{text}: {found:?}");
        }
    }
}
