//! Checksums, passwords and what is random.

mod derive;

use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

use super::{Args, Function, Host, Outcome, fixed};
use crate::encoding::{base64_encode, hex};

/// As Go's `bcrypt.DefaultCost`.
const BCRYPT_COST: u32 = 10;

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "sha1sum" => fixed(1, |_, args| Ok(hex(&Sha1::digest(args.bytes(0)?)).into())),
        "sha256sum" => fixed(1, |_, args| Ok(hex(&Sha256::digest(args.bytes(0)?)).into())),
        "sha512sum" => fixed(1, |_, args| Ok(hex(&Sha512::digest(args.bytes(0)?)).into())),
        "adler32sum" => fixed(1, |_, args| Ok(adler32(args.bytes(0)?).to_string().into())),
        "bcrypt" => fixed(1, |host, args| bcrypted(host, args.bytes(0)?).map(Into::into)),
        "htpasswd" => fixed(2, htpasswd),
        "derivePassword" => fixed(5, derive::password),
        "randBytes" => fixed(1, |host, args| {
            let count = args.count(0)?;
            super::arguments::limited(count.checked_mul(8), host.limits.text)?;
            Ok(base64_encode(&host.random_bytes(count)).into())
        }),
        "uuidv4" => fixed(0, |host, _| Ok(uuid(host).into())),
        _ => return None,
    })
}

fn adler32(bytes: &[u8]) -> u32 {
    let (mut low, mut high) = (1_u32, 0_u32);
    for byte in bytes {
        low = (low + u32::from(*byte)) % 65521;
        high = (high + low) % 65521;
    }
    high << 16 | low
}

fn bcrypted(host: &Host, password: &[u8]) -> Result<String, String> {
    if password.len() > 72 {
        let message = "bcrypt: password length exceeds 72 bytes";
        return Ok(format!("failed to encrypt string with bcrypt: {message}"));
    }
    // A hash costs as much as many steps.
    for _ in 0..10_000 {
        host.step()?;
    }
    let salt = host.random_bytes(16).try_into().map_err(|_| "no salt")?;
    let hash = bcrypt::hash_with_salt(password, BCRYPT_COST, salt);
    Ok(hash.map_err(|error| error.to_string())?.format_for_version(bcrypt::Version::TwoA))
}

fn htpasswd(host: &Host, args: Args<'_>) -> Outcome {
    let (user, password) = (args.text(0)?, args.bytes(1)?);
    if user.contains(':') {
        return Ok(format!("invalid username: {user}").into());
    }
    Ok(format!("{user}:{}", bcrypted(host, password)?).into())
}

fn uuid(host: &Host) -> String {
    let mut bytes = host.random_bytes(16);
    // Version 4, variant 1.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex(&bytes);
    let parts = [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]];
    parts.join("-")
}
