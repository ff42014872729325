//! As much of HTTP/1.1 as a registry and its clients speak: heads, and bodies with a length or in
//! chunks.

use std::io::{self, BufRead, Read, Write};

/// A head larger than this is none, in bytes.
const MAX_HEAD: u64 = 64 << 10;
/// Bytes of a body that are passed on at once.
const PIECE: usize = 16 << 10;

/// The head of a request or of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// Request or status line.
    pub(crate) first: String,
    fields: Vec<(String, String)>,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Length(u64),
    Chunked,
    /// With the connection.
    Rest,
}

impl Head {
    pub(crate) fn new(first: String, fields: &[(&str, &str)]) -> Self {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self { first, fields: fields.collect() }
    }

    /// Reads a head; none at the end of the connection, or if it speaks something else (TLS).
    pub(crate) fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        if !from.fill_buf()?.first().is_some_and(u8::is_ascii_uppercase) {
            return Ok(None);
        }
        let mut from = from.take(MAX_HEAD);
        let mut line = || -> io::Result<String> {
            let mut line = String::new();
            from.read_line(&mut line)?;
            line.strip_suffix("\r\n")
                .map(str::to_owned)
                .ok_or_else(|| io::Error::other("a head that ends early"))
        };
        let first = line()?;
        let mut fields = Vec::new();
        loop {
            let field = line()?;
            if field.is_empty() {
                return Ok(Some(Self { first, fields }));
            }
            let (name, value) =
                field.split_once(':').ok_or_else(|| io::Error::other("no field"))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        field.map(|(_, value)| value.as_str())
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.fields.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }

    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in &self.fields {
            text += &format!("{name}: {value}\r\n");
        }
        to.write_all((text + "\r\n").as_bytes())
    }

    /// The word of the first line at this place: 1 is a request's target and an answer's status.
    pub(crate) fn word(&self, at: usize) -> &str {
        self.first.split(' ').nth(at).unwrap_or_default()
    }

    /// The body of a request.
    pub(crate) fn request_body(&self) -> Body {
        self.length().unwrap_or(Body::Length(0))
    }

    /// The body of an answer to a request with this method.
    pub(crate) fn answer_body(&self, method: &str) -> Body {
        let status = self.word(1);
        if method == "HEAD" || status.starts_with('1') || matches!(status, "204" | "304") {
            return Body::Length(0);
        }
        self.length().unwrap_or(Body::Rest)
    }

    fn length(&self) -> Option<Body> {
        if self.get("Transfer-Encoding").is_some() {
            return Some(Body::Chunked);
        }
        Some(Body::Length(self.get("Content-Length")?.parse().ok()?))
    }
}

/// Passes a body on, piece by piece, the frames of its chunks with it.
pub(crate) fn pass(
    from: &mut impl BufRead,
    body: Body,
    to: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    match body {
        Body::Length(length) => pass_bytes(from, length, to),
        Body::Rest => loop {
            let n = from.fill_buf()?.len();
            if n == 0 {
                return Ok(());
            }
            pass_bytes(from, n as u64, to)?;
        },
        Body::Chunked => loop {
            let mut line = String::new();
            from.take(MAX_HEAD).read_line(&mut line)?;
            let size = line.trim_end().split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
            to(line.as_bytes())?;
            pass_bytes(from, size + 2, to)?;
            if size == 0 {
                return Ok(());
            }
        },
    }
}

fn pass_bytes(
    from: &mut impl BufRead,
    length: u64,
    to: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        let piece = from.fill_buf()?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let n = piece.len().min(PIECE).min(usize::try_from(left).unwrap_or(PIECE));
        to(&piece[..n])?;
        from.consume(n);
        left -= n as u64;
    }
    Ok(())
}
