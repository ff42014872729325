//! `derivePassword`: the Master Password algorithm, on scrypt (RFC 7914).

use sha2::{Digest as _, Sha256};

use super::super::{Args, Host, Outcome};

const SEED: &[u8] = b"com.lyndir.masterpassword";

fn patterns(kind: &str) -> Option<&'static [&'static str]> {
    Some(match kind {
        "maximum" => &["anoxxxxxxxxxxxxxxxxx", "axxxxxxxxxxxxxxxxxno"],
        "long" => &[
            "CvcvnoCvcvCvcv",
            "CvcvCvcvnoCvcv",
            "CvcvCvcvCvcvno",
            "CvccnoCvcvCvcv",
            "CvccCvcvnoCvcv",
            "CvccCvcvCvcvno",
            "CvcvnoCvccCvcv",
            "CvcvCvccnoCvcv",
            "CvcvCvccCvcvno",
            "CvcvnoCvcvCvcc",
            "CvcvCvcvnoCvcc",
            "CvcvCvcvCvccno",
            "CvccnoCvccCvcv",
            "CvccCvccnoCvcv",
            "CvccCvccCvcvno",
            "CvcvnoCvccCvcc",
            "CvcvCvccnoCvcc",
            "CvcvCvccCvccno",
            "CvccnoCvcvCvcc",
            "CvccCvcvnoCvcc",
            "CvccCvcvCvccno",
        ],
        "medium" => &["CvcnoCvc", "CvcCvcno"],
        "short" => &["Cvcn"],
        "basic" => &["aaanaaan", "aannaaan", "aaannaaa"],
        "pin" => &["nnnn"],
        _ => return None,
    })
}

fn alphabet(class: char) -> &'static [u8] {
    match class {
        'V' => b"AEIOU",
        'C' => b"BCDFGHJKLMNPQRSTVWXYZ",
        'v' => b"aeiou",
        'c' => b"bcdfghjklmnpqrstvwxyz",
        'a' => b"AEIOUaeiouBCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz",
        'n' => b"0123456789",
        'o' => b"@&%?,=[]_:-+*$#!'^~;()/.",
        _ => b"AEIOUaeiouBCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz0123456789!@#$%^&*()",
    }
}

/// Counter, kind, password, user, site.
pub(super) fn password(host: &Host, args: Args<'_>) -> Outcome {
    let counter = u32::try_from(args.int(0)?).map_err(|error| error.to_string())?;
    let (kind, password) = (args.text(1)?, args.bytes(2)?);
    let Some(patterns) = patterns(&kind) else {
        return Ok(format!("cannot find password template {kind}").into());
    };
    // It costs as much as many steps.
    for _ in 0..50_000 {
        host.step()?;
    }
    let sized = |bytes: &[u8]| -> Result<Vec<u8>, String> {
        let length = u32::try_from(bytes.len()).map_err(|error| error.to_string())?;
        Ok([SEED, &length.to_be_bytes(), bytes].concat())
    };
    let key = scrypt(password, &sized(args.bytes(3)?)?);
    let mut site = sized(args.bytes(4)?)?;
    site.extend_from_slice(&counter.to_be_bytes());
    let seed = hmac(&key, &site);
    let pattern = patterns[usize::from(seed[0]) % patterns.len()];
    let chars = pattern.chars().zip(&seed[1..]).map(|(class, byte)| {
        let alphabet = alphabet(class);
        char::from(alphabet[usize::from(*byte) % alphabet.len()])
    });
    Ok(chars.collect::<String>().into())
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message);
    let outer = Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c));
    outer.chain_update(inner.finalize()).finalize().into()
}

/// PBKDF2 with one round.
fn stretched(password: &[u8], salt: &[u8], length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 32);
    let mut block = 1_u32;
    while out.len() < length {
        out.extend_from_slice(&hmac(password, &[salt, &block.to_be_bytes()].concat()));
        block += 1;
    }
    out.truncate(length);
    out
}

/// Words in one of scrypt's blocks of 128 * 8 bytes.
const WORDS: usize = 256;
const ROUNDS: usize = 32768;

/// N = 32768, r = 8, p = 2, 64 bytes.
fn scrypt(password: &[u8], salt: &[u8]) -> Vec<u8> {
    let mut bytes = stretched(password, salt, 2 * 4 * WORDS);
    for part in bytes.chunks_mut(4 * WORDS) {
        let mut block = [0_u32; WORDS];
        for (word, bytes) in block.iter_mut().zip(part.chunks(4)) {
            *word = u32::from_le_bytes(bytes.try_into().expect("chunks of four"));
        }
        mix(&mut block);
        for (word, bytes) in block.iter().zip(part.chunks_mut(4)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }
    stretched(password, &bytes, 64)
}

fn mix(block: &mut [u32; WORDS]) {
    let mut seen = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        seen.push(*block);
        block_mix(block);
    }
    for _ in 0..ROUNDS {
        let at = block[WORDS - 16] as usize % ROUNDS;
        for (word, other) in block.iter_mut().zip(&seen[at]) {
            *word ^= other;
        }
        block_mix(block);
    }
}

fn block_mix(block: &mut [u32; WORDS]) {
    let mut last: [u32; 16] = block[WORDS - 16..].try_into().expect("sixteen words");
    let mut out = [0_u32; WORDS];
    for (index, part) in block.chunks(16).enumerate() {
        for (word, other) in last.iter_mut().zip(part) {
            *word ^= other;
        }
        salsa(&mut last);
        // Even ones first, then odd ones.
        let at = (index / 2 + if index % 2 == 0 { 0 } else { WORDS / 32 }) * 16;
        out[at..at + 16].copy_from_slice(&last);
    }
    *block = out;
}

fn salsa(words: &mut [u32; 16]) {
    const QUARTERS: [[usize; 4]; 8] = [
        [0, 4, 8, 12],
        [5, 9, 13, 1],
        [10, 14, 2, 6],
        [15, 3, 7, 11],
        [0, 1, 2, 3],
        [5, 6, 7, 4],
        [10, 11, 8, 9],
        [15, 12, 13, 14],
    ];
    let mut x = *words;
    for _ in 0..4 {
        for [a, b, c, d] in QUARTERS {
            x[b] ^= x[a].wrapping_add(x[d]).rotate_left(7);
            x[c] ^= x[b].wrapping_add(x[a]).rotate_left(9);
            x[d] ^= x[c].wrapping_add(x[b]).rotate_left(13);
            x[a] ^= x[d].wrapping_add(x[c]).rotate_left(18);
        }
    }
    for (word, added) in words.iter_mut().zip(x) {
        *word = word.wrapping_add(added);
    }
}
