//! Base64 and base32 with padding, and hexadecimal.

use std::fmt::Write as _;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Groups of `bits`, written in `alphabet` and padded to blocks of `block` characters.
fn encode(bytes: &[u8], alphabet: &[u8], bits: u32, block: usize) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    let (mut held, mut count) = (0_u32, 0_u32);
    let mask = (1 << bits) - 1;
    let digit = |number: u32| char::from(alphabet[(number & mask) as usize]);
    for byte in bytes {
        held = (held << 8 | u32::from(*byte)) & 0xffff;
        count += 8;
        while count >= bits {
            count -= bits;
            text.push(digit(held >> count));
        }
    }
    if count > 0 {
        text.push(digit(held << (bits - count)));
    }
    while !text.len().is_multiple_of(block) {
        text.push('=');
    }
    text
}

/// The reverse; `Err` holds where the text is wrong. Line ends are left out.
fn decode(text: &[u8], alphabet: &[u8], bits: u32, block: usize) -> Result<Vec<u8>, usize> {
    let mut bytes = Vec::with_capacity(text.len());
    let (mut held, mut count, mut digits, mut padding) = (0_u32, 0_u32, 0_usize, 0_usize);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'\r' | b'\n' => continue,
            b'=' => {
                padding += 1;
                continue;
            }
            _ => (),
        }
        let digit = alphabet.iter().position(|known| known == byte);
        let digit = digit.filter(|_| padding == 0).ok_or(at)?;
        held = (held << bits | u32::try_from(digit).unwrap_or(0)) & 0xffff;
        count += bits;
        digits += 1;
        if count >= 8 {
            count -= 8;
            bytes.push((held >> count & 0xff) as u8);
        }
    }
    let complete = (digits + padding).is_multiple_of(block) && padding < block && count < bits;
    // Told is where the block starts that is not complete.
    if complete { Ok(bytes) } else { Err(digits - digits % block) }
}

pub(crate) fn base64_encode(bytes: &[u8]) -> String {
    encode(bytes, BASE64, 6, 4)
}

pub(crate) fn base64_decode(text: &[u8]) -> Result<Vec<u8>, usize> {
    decode(text, BASE64, 6, 4)
}

pub(crate) fn base32_encode(bytes: &[u8]) -> String {
    encode(bytes, BASE32, 5, 8)
}

pub(crate) fn base32_decode(text: &[u8]) -> Result<Vec<u8>, usize> {
    decode(text, BASE32, 5, 8)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes all");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        let cases = [
            ("", "", ""),
            ("f", "Zg==", "MY======"),
            ("fo", "Zm8=", "MZXQ===="),
            ("foo", "Zm9v", "MZXW6==="),
            ("foobar", "Zm9vYmFy", "MZXW6YTBOI======"),
        ];
        for (text, in_64, in_32) in cases {
            assert_eq!(base64_encode(text.as_bytes()), in_64);
            assert_eq!(base32_encode(text.as_bytes()), in_32);
            assert_eq!(base64_decode(in_64.as_bytes()).as_deref(), Ok(text.as_bytes()));
            assert_eq!(base32_decode(in_32.as_bytes()).as_deref(), Ok(text.as_bytes()));
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(base64_decode(base64_encode(&all).as_bytes()), Ok(all.clone()));
        assert_eq!(base32_decode(base32_encode(&all).as_bytes()), Ok(all));
        for bad in ["Zg", "Zg=", "Z===", "Zm9v!", "Zg==Zg=="] {
            assert!(base64_decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
