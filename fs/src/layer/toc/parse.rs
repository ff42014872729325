//! Reads a table of contents entry by entry: it may be larger than memory should be.

use std::fmt;
use std::io::{BufReader, Read};

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::TocError;
use super::{TocEntry, VERSION};

/// A table of contents may not be larger, in bytes of JSON: a million files with chunks of their
/// own have about 400 bytes each. containers/storage takes 150 MB.
pub(in crate::layer) const MAX_TOC: u64 = 256 << 20;

/// A table up to this many bytes is parsed where it lies in memory, which takes a third of the time
/// of parsing it as it comes.
pub(in crate::layer) const IN_MEMORY: u64 = 16 << 20;

/// Reads a whole table and passes its entries on. `len` is how long it is said to be, in bytes.
pub(in crate::layer) fn parse(
    mut json: impl Read,
    len: u64,
    each: &mut dyn FnMut(TocEntry) -> Result<(), TocError>,
) -> Result<(), TocError> {
    // One more, as only a read of nothing shows the end.
    let expected = usize::try_from(len.min(IN_MEMORY)).unwrap_or(0) + 1;
    let mut start = Vec::with_capacity(expected);
    json.by_ref().take(IN_MEMORY).read_to_end(&mut start).map_err(TocError::from_io)?;
    if start.len() as u64 == IN_MEMORY {
        // The parser takes single bytes.
        let json = BufReader::with_capacity(64 << 10, start.as_slice().chain(json));
        return parse_with(serde_json::Deserializer::from_reader(json), each);
    }
    parse_slice(&start, each)
}

/// As [`parse`], of a table that lies in memory.
pub(in crate::layer) fn parse_slice(
    json: &[u8],
    each: &mut dyn FnMut(TocEntry) -> Result<(), TocError>,
) -> Result<(), TocError> {
    parse_with(serde_json::Deserializer::from_slice(json), each)
}

fn parse_with<'de>(
    mut parser: serde_json::Deserializer<impl serde_json::de::Read<'de>>,
    each: &mut dyn FnMut(TocEntry) -> Result<(), TocError>,
) -> Result<(), TocError> {
    let mut table = Table { each, failure: None, version: None, has_entries: false };
    let parsed = parser.deserialize_map(&mut table).and_then(|()| parser.end());
    if let Some(failure) = table.failure {
        return Err(failure);
    }
    match parsed {
        Err(error) if error.is_io() => Err(TocError::from_io(error.into())),
        Err(error) => Err(TocError::Json(error)),
        Ok(()) => match table.version {
            Some(VERSION) => Ok(()),
            other => Err(TocError::Version(other.unwrap_or_default())),
        },
    }
}

struct Table<'a> {
    each: &'a mut dyn FnMut(TocEntry) -> Result<(), TocError>,
    /// What `each` said; the parser only learns that it shall stop.
    failure: Option<TocError>,
    version: Option<u32>,
    has_entries: bool,
}

impl<'de> Visitor<'de> for &mut Table<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of contents")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match &key[..] {
                "version" => self.version = Some(map.next_value()?),
                "entries" if self.has_entries => return Err(A::Error::duplicate_field("entries")),
                "entries" => {
                    self.has_entries = true;
                    map.next_value_seed(Entries(&mut *self))?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct Entries<'a, 'b>(&'a mut Table<'b>);

impl<'de> DeserializeSeed<'de> for Entries<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // Go writes a list without elements as `null`.
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(entry) = entries.next_element()? {
            if let Err(failure) = (self.0.each)(entry) {
                self.0.failure = Some(failure);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(json: &str) -> Result<Vec<String>, TocError> {
        let mut names = Vec::new();
        let mut each = |entry: TocEntry| {
            if entry.name == "bad" {
                return Err(TocError::Both);
            }
            names.push(entry.name);
            Ok(())
        };
        parse(json.as_bytes(), json.len() as u64, &mut each)?;
        Ok(names)
    }

    #[test]
    fn tables_and_what_is_none() {
        let good = r#"{"x":{"y":[1]},"entries":[{"name":"a"},{"name":"b"}],"version":1,"z":null}"#;
        assert_eq!(names(good).unwrap(), ["a", "b"]);
        assert!(names(r#"{"version":1,"entries":null}"#).unwrap().is_empty());
        assert!(names(r#"{"version":1}"#).unwrap().is_empty());
        assert!(matches!(names(r#"{"version":2,"entries":[]}"#), Err(TocError::Version(2))));
        assert!(matches!(names(r#"{"entries":[]}"#), Err(TocError::Version(0))));
        let refused = r#"{"version":1,"entries":[{"name":"a"},{"name":"bad"},{"name":"#;
        assert!(matches!(names(refused), Err(TocError::Both)));
        for malformed in [
            "",
            "[]",
            "null",
            r#"{"version":1,"entries":[{"name":"a"}"#,
            r#"{"version":1,"entries":[],"entries":[]}"#,
            r#"{"version":1,"entries":{}}"#,
            r#"{"version":1,"entries":[{"name":3}]}"#,
            r#"{"version":1,"entries":[]} x"#,
        ] {
            assert!(matches!(names(malformed), Err(TocError::Json(_))), "{malformed}");
        }
    }
}
