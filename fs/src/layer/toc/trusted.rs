//! What a manifest says of a layer's table of contents. The manifest was verified, so what it
//! says is trusted as much as the digest of the layer.

use super::error::TocError;
use super::footer::Position;
use super::{
    ESTARGZ_TOC_DIGEST, MANIFEST_CHECKSUM, MANIFEST_POSITION, OLD_ZSTD_CHUNKED_PREFIX,
    ZSTD_CHUNKED_PREFIX,
};
use crate::digest::Digest;
use crate::layer::zstd_chunked::Trusted;
use crate::oci::manifest::Descriptor;

/// The table that a manifest means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::layer) enum TrustedToc {
    /// Of eStargz.
    Estargz {
        /// sha256 of the table, uncompressed.
        digest: Digest,
    },
    /// Of zstd:chunked.
    ZstdChunked(Trusted),
}

impl TrustedToc {
    /// Reads a layer's annotations; `None` if they name no table.
    pub(in crate::layer) fn of(layer: &Descriptor) -> Result<Option<Self>, TocError> {
        let estargz = digest(layer, ESTARGZ_TOC_DIGEST)?;
        let key = |prefix: &str, name: &str| format!("{prefix}{name}");
        for prefix in [ZSTD_CHUNKED_PREFIX, OLD_ZSTD_CHUNKED_PREFIX] {
            let Some(digest) = digest(layer, &key(prefix, MANIFEST_CHECKSUM))? else { continue };
            // stargz-snapshotter's own zstd:chunked has both, but with the old prefix.
            if estargz.is_some() && prefix == ZSTD_CHUNKED_PREFIX {
                return Err(TocError::Both);
            }
            let position = position(layer, &key(prefix, MANIFEST_POSITION))?;
            return Ok(Some(Self::ZstdChunked(Trusted { digest, position, stargz: estargz })));
        }
        Ok(estargz.map(|digest| Self::Estargz { digest }))
    }

    /// Whether the layer has entries that are not part of the image, and times in whole seconds:
    /// stargz-snapshotter's library wrote it, or something in its stead.
    pub(in crate::layer) fn is_stargz(self) -> bool {
        match self {
            Self::Estargz { .. } => true,
            Self::ZstdChunked(trusted) => trusted.stargz.is_some(),
        }
    }

    /// The digest that an index made from the table is known by.
    pub(in crate::layer) fn digest(self) -> Digest {
        match self {
            Self::Estargz { digest } | Self::ZstdChunked(Trusted { digest, .. }) => digest,
        }
    }
}

/// Whether a layer's annotations name a table of contents, or try to.
pub(crate) fn names_table(layer: &Descriptor) -> bool {
    !matches!(TrustedToc::of(layer), Ok(None))
}

fn digest(layer: &Descriptor, key: &str) -> Result<Option<Digest>, TocError> {
    let Some(value) = layer.annotations.get(key) else { return Ok(None) };
    let digest = value.parse();
    digest.map(Some).map_err(|_| TocError::Annotation { key: key.to_owned(), value: value.clone() })
}

fn position(layer: &Descriptor, key: &str) -> Result<Option<Position>, TocError> {
    let Some(value) = layer.annotations.get(key) else { return Ok(None) };
    let malformed = || TocError::Annotation { key: key.to_owned(), value: value.clone() };
    Position::parse(value).map(Some).ok_or_else(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::manifest::LAYER_ZSTD;

    fn of(annotations: &[(&str, &str)]) -> Result<Option<TrustedToc>, TocError> {
        let mut layer = Descriptor::of(LAYER_ZSTD, b"");
        for (key, value) in annotations {
            layer.annotations.insert((*key).to_owned(), (*value).to_owned());
        }
        TrustedToc::of(&layer)
    }

    const NEW: &str = "io.github.containers.zstd-chunked.manifest-checksum";
    const OLD: &str = "io.containers.zstd-chunked.manifest-checksum";
    const OLD_POSITION: &str = "io.containers.zstd-chunked.manifest-position";

    #[test]
    fn annotations_of_all_writers() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let (a, b) = (&one.to_string()[..], &two.to_string()[..]);
        assert_eq!(of(&[("other", "x")]).unwrap(), None);
        let estargz = TrustedToc::Estargz { digest: one };
        assert_eq!(of(&[(ESTARGZ_TOC_DIGEST, a)]).unwrap(), Some(estargz));
        let plain = TrustedToc::ZstdChunked(Trusted { digest: one, position: None, stargz: None });
        assert_eq!(of(&[(NEW, a)]).unwrap(), Some(plain));
        let position = Some(Position { offset: 1, len: 2, uncompressed_len: 3 });
        let dialect = TrustedToc::ZstdChunked(Trusted { digest: one, position, stargz: Some(two) });
        let found = of(&[(OLD, a), (OLD_POSITION, "1:2:3:1"), (ESTARGZ_TOC_DIGEST, b)]);
        assert_eq!(found.unwrap(), Some(dialect));
        assert!(matches!(of(&[(NEW, a), (ESTARGZ_TOC_DIGEST, b)]), Err(TocError::Both)));
    }

    #[test]
    fn annotations_that_make_no_sense() {
        let digest = &Digest::of(b"1").to_string()[..];
        for annotations in [
            &[(ESTARGZ_TOC_DIGEST, "sha256:12")][..],
            &[(NEW, "")],
            &[(OLD, digest), (OLD_POSITION, "1:2")],
        ] {
            let error = of(annotations).unwrap_err();
            assert!(matches!(error, TocError::Annotation { .. }), "{error}");
        }
    }
}
