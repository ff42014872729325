//! As much of FlatBuffers as a ztoc needs: tables, their fields, vectors. Every place is checked
//! against the buffer; nothing is followed deeper than the caller asks.
//!
//! ```text
//! buffer  u32: place of the root table, from 0
//! table   i32: back to its vtable; then its fields
//! vtable  u16: its length, u16: length of the table, u16 a field: place in the table, or 0
//! string, vector  u32: from the field on, to a u32 of length and the elements
//! ```
//!
//! Source: the FlatBuffers documentation, "FlatBuffer Internals".

/// A table in a buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    buffer: &'a [u8],
    at: usize,
}

/// A vector of tables or strings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offsets<'a> {
    buffer: &'a [u8],
    at: usize,
    len: usize,
}

impl<'a> Table<'a> {
    /// The root of a buffer.
    pub(super) fn root(buffer: &'a [u8]) -> Option<Self> {
        Some(Self { buffer, at: follow(buffer, 0)? })
    }

    /// Where the field with this number is; `Some(None)` where it has its default.
    fn field(&self, number: usize) -> Option<Option<usize>> {
        let back = i32::from_le_bytes(bytes(self.buffer, self.at)?);
        let vtable = i64::try_from(self.at).ok()?.checked_sub(i64::from(back))?;
        let vtable = usize::try_from(vtable).ok()?;
        let len = u16::from_le_bytes(bytes(self.buffer, vtable)?);
        let slot = 4 + 2 * number;
        if slot + 2 > usize::from(len) {
            return Some(None);
        }
        let place = u16::from_le_bytes(bytes(self.buffer, vtable.checked_add(slot)?)?);
        Some((place > 0).then(|| self.at + usize::from(place)))
    }

    /// A number of one byte.
    pub(super) fn u8(&self, number: usize, default: u8) -> Option<u8> {
        self.scalar(number).map(|found| found.map_or(default, u8::from_le_bytes))
    }

    pub(super) fn u32(&self, number: usize) -> Option<u32> {
        self.scalar(number).map(|found| found.map_or(0, u32::from_le_bytes))
    }

    pub(super) fn i64(&self, number: usize) -> Option<i64> {
        self.scalar(number).map(|found| found.map_or(0, i64::from_le_bytes))
    }

    fn scalar<const N: usize>(&self, number: usize) -> Option<Option<[u8; N]>> {
        match self.field(number)? {
            None => Some(None),
            Some(at) => bytes(self.buffer, at).map(Some),
        }
    }

    /// A string or vector of bytes; empty where there is none.
    pub(super) fn bytes(&self, number: usize) -> Option<&'a [u8]> {
        match self.field(number)? {
            None => Some(&[]),
            Some(at) => string(self.buffer, at),
        }
    }

    /// A table; `Some(None)` where there is none.
    pub(super) fn table(&self, number: usize) -> Option<Option<Self>> {
        let Some(at) = self.field(number)? else { return Some(None) };
        Some(Some(Self { buffer: self.buffer, at: follow(self.buffer, at)? }))
    }

    /// A vector of tables or strings; empty where there is none.
    pub(super) fn offsets(&self, number: usize) -> Option<Offsets<'a>> {
        let buffer = self.buffer;
        let Some(at) = self.field(number)? else { return Some(Offsets { buffer, at: 0, len: 0 }) };
        let start = follow(buffer, at)?;
        let len = u32::from_le_bytes(bytes(buffer, start)?) as usize;
        let at = start.checked_add(4)?;
        buffer.get(at..at.checked_add(len.checked_mul(4)?)?)?;
        Some(Offsets { buffer, at, len })
    }
}

impl<'a> Offsets<'a> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The elements as tables; `None` for one that lies outside.
    pub(super) fn tables(self) -> impl Iterator<Item = Option<Table<'a>>> {
        let buffer = self.buffer;
        self.places().map(move |at| Some(Table { buffer, at: follow(buffer, at)? }))
    }

    /// The elements as strings; `None` for one that lies outside.
    pub(super) fn strings(self) -> impl Iterator<Item = Option<&'a [u8]>> {
        let buffer = self.buffer;
        self.places().map(move |at| string(buffer, at))
    }

    fn places(self) -> impl Iterator<Item = usize> {
        (0..self.len).map(move |number| self.at + 4 * number)
    }
}

fn bytes<const N: usize>(buffer: &[u8], at: usize) -> Option<[u8; N]> {
    buffer.get(at..)?.first_chunk().copied()
}

/// Where the offset at a place points to.
fn follow(buffer: &[u8], at: usize) -> Option<usize> {
    at.checked_add(u32::from_le_bytes(bytes(buffer, at)?) as usize)
}

fn string(buffer: &[u8], at: usize) -> Option<&[u8]> {
    let start = follow(buffer, at)?;
    let len = u32::from_le_bytes(bytes(buffer, start)?) as usize;
    buffer.get(start.checked_add(4)?..)?.get(..len)
}
