//! Keys and certificates: placeholders that nothing can mistake for real ones.
//!
//! Helm makes new ones with each rendering. Here no key is made: the PEM blocks hold a sentence
//! that says so, and random bytes, so that each differs. Documents have the right form, and none
//! of these values works as a secret.

use std::rc::Rc;

use super::{Args, Function, Host, Outcome, fixed};
use crate::encoding::{base64_decode, base64_encode};
use crate::value::{Entries, Map, Object, Value};

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "genPrivateKey" => fixed(1, |host, args| {
            Ok(match &*args.text(0)? {
                "" | "rsa" => pem(host, "RSA PRIVATE KEY", "key").into(),
                "dsa" => pem(host, "DSA PRIVATE KEY", "key").into(),
                "ecdsa" => pem(host, "EC PRIVATE KEY", "key").into(),
                "ed25519" => pem(host, "PRIVATE KEY", "key").into(),
                other => format!("Unknown type {other}").into(),
            })
        }),
        "genCA" => fixed(2, |host, args| certificate(host, args, None)),
        "genCAWithKey" => fixed(3, |host, args| certificate(host, args, Some(2))),
        "genSelfSignedCert" => fixed(4, |host, args| certificate(host, args, None)),
        "genSelfSignedCertWithKey" => fixed(5, |host, args| certificate(host, args, Some(4))),
        "genSignedCert" => fixed(5, |host, args| certificate(host, args, None)),
        "genSignedCertWithKey" => fixed(6, |host, args| certificate(host, args, Some(5))),
        "buildCustomCert" => fixed(2, custom),
        "encryptAES" | "decryptAES" => fixed(2, |_, _| {
            Err("encryption within templates is not supported: pass the value in".into())
        }),
        _ => return None,
    })
}

#[derive(Debug)]
struct Certificate {
    cert: Value,
    key: Value,
}

impl Object for Certificate {
    fn type_name(&self) -> &'static str {
        "sprig.certificate"
    }

    fn field(&self, name: &str) -> Option<Value> {
        match name {
            "Cert" => Some(self.cert.clone()),
            "Key" => Some(self.key.clone()),
            _ => None,
        }
    }

    fn call(&self, _: &str, _: &[Value]) -> Option<Result<Value, String>> {
        None
    }

    fn plain(&self) -> Value {
        let entries = [("Cert".into(), self.cert.clone()), ("Key".into(), self.key.clone())];
        Value::Map(Map::from(Entries::from(entries)))
    }
}

fn pem(host: &Host, label: &str, what: &str) -> String {
    let mut body = format!("This is no {what}: it was rendered without making one. ").into_bytes();
    body.extend(host.random_bytes(32));
    let text = base64_encode(&body);
    let lines: Vec<&str> =
        (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// `key`: where among the arguments the key is, if it is given.
fn certificate(host: &Host, args: Args<'_>, key: Option<usize>) -> Outcome {
    let name = args.text(0)?;
    let cert = pem(host, "CERTIFICATE", &format!("certificate of {name}")).into();
    let key = match key {
        Some(at) => Value::Text(args.text(at)?),
        None => pem(host, "RSA PRIVATE KEY", "key").into(),
    };
    Ok(Value::Object(Rc::new(Certificate { cert, key })))
}

/// Takes a certificate and a key that were given; only their form is looked at.
fn custom(_: &Host, args: Args<'_>) -> Outcome {
    let decoded = |at: usize, what: &str| -> Result<Value, String> {
        let bytes = base64_decode(args.bytes(at)?);
        let bytes = bytes.map_err(|_| format!("unable to decode base64 {what}"))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if text.contains("-----BEGIN ") {
            Ok(text.into())
        } else {
            Err(format!("unable to decode {what}"))
        }
    };
    let cert = decoded(0, "certificate")?;
    let key = decoded(1, "private key")?;
    Ok(Value::Object(Rc::new(Certificate { cert, key })))
}
