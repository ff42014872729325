//! Gzip streams as gzip(1) reads them: of several members, with zeros behind each of them.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// The content of all members.
#[derive(Debug)]
pub(crate) struct Gunzip<R> {
    /// None at the end.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Gunzip<R> {
    /// A reader at the start of the first member.
    pub(crate) fn new(reader: R) -> Self {
        Self { member: Some(GzDecoder::new(reader)) }
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let n = member.read(buf)?;
            if n > 0 || buf.is_empty() {
                return Ok(n);
            }
            // An error at what comes next shall come again, and not look like the end.
            skip_zeros(member.get_mut())?;
            let mut rest = self.member.take().expect("it was read from").into_inner();
            if !rest.fill_buf()?.is_empty() {
                self.member = Some(GzDecoder::new(rest));
            }
        }
        Ok(0)
    }
}

fn skip_zeros(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let piece = reader.fill_buf()?;
        let zeros = piece.iter().take_while(|byte| **byte == 0).count();
        let is_over = zeros < piece.len() || piece.is_empty();
        reader.consume(zeros);
        if is_over {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn member(content: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(content).unwrap();
        gzip.finish().unwrap()
    }

    fn read(stream: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        // Pieces of a byte: each place may be the end of one.
        Gunzip::new(io::BufReader::with_capacity(1, stream)).read_to_end(&mut content)?;
        Ok(content)
    }

    #[test]
    fn members_and_padding() {
        let (one, two) = (member(b"one"), member(b"two"));
        assert_eq!(read(&one).unwrap(), b"one");
        assert_eq!(read(&[&one[..], &two].concat()).unwrap(), b"onetwo");
        assert_eq!(read(&[&one[..], &[0; 600], &two, &[0; 3]].concat()).unwrap(), b"onetwo");
        assert!(read(&[&one[..], b"x"].concat()).is_err());
        assert!(read(&one[..one.len() - 1]).is_err());
        assert!(read(b"").is_err());
    }
}
