//! Writes FlatBuffers: the tables of a ztoc, for tests.

/// A field of a table that is written.
pub(crate) enum Field {
    None,
    Number(Vec<u8>),
    Bytes(Vec<u8>),
    Table(Vec<Field>),
    Tables(Vec<Vec<Field>>),
    /// A vector of the same table, many times over.
    Repeated(Vec<Field>, usize),
    Strings(Vec<String>),
}

/// Writes tables front to back, each with its own vtable before it.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn buffer(root: Vec<Field>) -> Vec<u8> {
        let mut writer = Self(vec![0; 4]);
        let at = writer.table(root);
        writer.point(0, at);
        writer.0
    }

    /// Lets the offset at one place point to another, behind it.
    fn point(&mut self, from: usize, to: usize) {
        let offset = u32::try_from(to - from).unwrap();
        self.0[from..from + 4].copy_from_slice(&offset.to_le_bytes());
    }

    fn table(&mut self, fields: Vec<Field>) -> usize {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        let vtable = self.0.len();
        let number = |n: usize| u16::try_from(n).unwrap().to_le_bytes();
        // Room for a number of eight bytes each.
        let (vtable_len, table_len) = (4 + 2 * fields.len(), 8 + 8 * fields.len());
        self.0.extend(number(vtable_len));
        self.0.extend(number(table_len));
        for (place, field) in fields.iter().enumerate() {
            let place = if matches!(field, Field::None) { 0 } else { 8 + 8 * place };
            self.0.extend(number(place));
        }
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        let at = self.0.len();
        self.0.extend(i32::try_from(at - vtable).unwrap().to_le_bytes());
        self.0.resize(at + table_len, 0);
        for (place, field) in fields.into_iter().enumerate() {
            let place = at + 8 + 8 * place;
            let to = match field {
                Field::None => continue,
                Field::Number(bytes) => {
                    self.0[place..place + bytes.len()].copy_from_slice(&bytes);
                    continue;
                }
                Field::Bytes(bytes) => self.bytes(&bytes),
                Field::Table(fields) => self.table(fields),
                Field::Tables(tables) => self.vector(tables, Self::table),
                Field::Repeated(fields, times) => self.repeated(fields, times),
                Field::Strings(texts) => self.vector(texts, |w, text| w.bytes(text.as_bytes())),
            };
            self.point(place, to);
        }
        at
    }

    fn bytes(&mut self, bytes: &[u8]) -> usize {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        let at = self.0.len();
        self.0.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        self.0.extend(bytes);
        self.0.push(0);
        at
    }

    fn vector<T>(&mut self, items: Vec<T>, add: impl Fn(&mut Self, T) -> usize) -> usize {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        let at = self.0.len();
        self.0.extend(u32::try_from(items.len()).unwrap().to_le_bytes());
        let places = self.0.len();
        self.0.resize(places + 4 * items.len(), 0);
        for (number, item) in items.into_iter().enumerate() {
            let to = add(self, item);
            self.point(places + 4 * number, to);
        }
        at
    }
}

impl Writer {
    fn repeated(&mut self, fields: Vec<Field>, times: usize) -> usize {
        let at = self.vector(vec![(); times], |writer, ()| writer.0.len());
        let table = self.table(fields);
        (0..times).for_each(|number| self.point(at + 4 + 4 * number, table));
        at
    }
}

pub(crate) fn text(text: &str) -> Field {
    Field::Bytes(text.as_bytes().to_vec())
}

pub(crate) fn number(n: i64) -> Field {
    Field::Number(n.to_le_bytes().to_vec())
}
