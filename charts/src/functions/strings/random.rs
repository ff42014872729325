//! Strings by chance.

use crate::functions::arguments::limited;
use crate::functions::{Args, Function, Host, Outcome, fixed};
use crate::value::Value;

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "randAlphaNum" => fixed(1, |host, args| {
            random(host, args, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
        }),
        "randAlpha" => fixed(1, |host, args| {
            random(host, args, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
        }),
        "randNumeric" => fixed(1, |host, args| random(host, args, b"0123456789")),
        "randAscii" => fixed(1, |host, args| {
            let printable: Vec<u8> = (b' '..=b'~').collect();
            random(host, args, &printable)
        }),
        "shuffle" => fixed(1, shuffle),
        _ => return None,
    })
}

fn random(host: &Host, args: Args<'_>, alphabet: &[u8]) -> Outcome {
    let count = args.count(0)?;
    limited(count.checked_mul(8), host.limits.text)?;
    let size = u64::try_from(alphabet.len()).map_err(|error| error.to_string())?;
    let pick = |_| {
        let at = usize::try_from(host.random_below(size)).unwrap_or(0);
        alphabet[at]
    };
    Ok(Value::string((0..count).map(pick).collect()))
}

fn shuffle(host: &Host, args: Args<'_>) -> Outcome {
    let mut chars: Vec<char> = args.text(0)?.chars().collect();
    for last in (1..chars.len()).rev() {
        let limit = u64::try_from(last).map_err(|error| error.to_string())? + 1;
        let other = usize::try_from(host.random_below(limit)).unwrap_or(0);
        chars.swap(last, other);
    }
    Ok(chars.into_iter().collect::<String>().into())
}
