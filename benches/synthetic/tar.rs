//! Writes the tar of a layer with many small files to standard output, for `scripts/bench.sh`:
//! `synthetic-tar FILES`.

use std::io::{self, BufWriter, Write as _};

#[path = "mod.rs"]
#[allow(dead_code, reason = "the other half is for the benches of the library")]
mod synthetic;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = std::env::args().nth(1).ok_or("usage: synthetic-tar FILES")?.parse()?;
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    synthetic::write_tree(&mut out, files, 1_500_000_000)?;
    Ok(out.flush()?)
}
