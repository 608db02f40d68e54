//! The header that LMCache writes before or beside a chunk.
//!
//! `length, format, (dtype, shape0, shape1, shape2, shape3) x groups`, each a native-order `i32`: little-endian on
//! every machine in use. A header of one group has 28 bytes. It does not contain the number of groups: the reader must
//! know it.
//!
//! Source: `RemoteMetadata` in `lmcache/v1/protocol.py` of LMCache 0.5.6; vectors in `remote_metadata.json`.

use super::{ChunkLayout, Dtype, Group, Groups, MemoryFormat, Shape};
use crate::{Error, ErrorKind, Result};

/// The largest number of groups in a header. LMCache has no limit, and models have a handful.
pub const MAX_HEADER_GROUPS: usize = 64;

/// The bytes of a chunk header. Up to four groups need no allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkHeader {
    bytes: [u8; Self::INLINE],
    more: Vec<u8>,
    len: usize,
}

impl ChunkHeader {
    const INLINE: usize = Self::len_for(4);

    /// The dtypes with a [code](Dtype::code), which a header can name.
    pub const DTYPES: &[Dtype] = &[
        Dtype::Float16,
        Dtype::Bfloat16,
        Dtype::Float32,
        Dtype::Float64,
        Dtype::Uint8,
        Dtype::Float8E4m3fn,
        Dtype::Float8E5m2,
    ];

    /// The length in bytes of a header of `groups` groups: `4 * (2 + 5 * groups)`.
    pub const fn len_for(groups: usize) -> usize {
        4 * (2 + 5 * groups)
    }

    /// The number of groups in a header of `len` bytes; `None` if no header has that length.
    pub const fn groups_for(len: usize) -> Option<usize> {
        match len.checked_sub(8) {
            Some(rest) if rest >= 20 && rest.is_multiple_of(20) && rest / 20 <= MAX_HEADER_GROUPS => Some(rest / 20),
            _ => None,
        }
    }

    /// The header of a chunk.
    ///
    /// # Errors
    /// `Unsupported` if a dtype has no code (int8, int16, int32, int64, bool and the fnuz types) or there are more than
    /// [`MAX_HEADER_GROUPS`] groups. `InvalidInput` if a dimension or the length exceeds 2^31 - 1.
    pub fn new(layout: &ChunkLayout) -> Result<Self> {
        if layout.groups.len() > MAX_HEADER_GROUPS {
            let n = layout.groups.len();
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("a chunk header has at most {MAX_HEADER_GROUPS} groups, not {n}"),
            ));
        }
        let len = Self::len_for(layout.groups.len());
        let mut header = Self { bytes: [0; Self::INLINE], more: Vec::new(), len };
        if len > Self::INLINE {
            header.more = vec![0; len];
        }
        let out = if len > Self::INLINE { &mut header.more[..] } else { &mut header.bytes[..len] };
        let mut words = out.chunks_exact_mut(4);
        let mut push = |word: i32| {
            if let Some(place) = words.next() {
                place.copy_from_slice(&word.to_le_bytes());
            }
        };
        push(to_i32(layout.len, "length")?);
        push(layout.format.code());
        for group in layout.groups.iter() {
            push(dtype_code(group.dtype)?);
            for dim in group.shape.padded() {
                push(to_i32(dim, "a dimension")?);
            }
        }
        Ok(header)
    }

    /// The header of a chunk, for a store that keeps only the header. Refuses a layout that would be read back changed.
    ///
    /// # Errors
    /// As [`new`](Self::new). Also `InvalidInput` for a layout that is not [consistent](ChunkLayout::is_consistent),
    /// and `Unsupported` for a layout that the header would change.
    pub fn faithful(layout: &ChunkLayout) -> Result<Self> {
        let header = Self::new(layout)?;
        let back = Self::read(header.as_bytes())?;
        if !layout.is_consistent() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("`{layout}` is not consistent: its shapes and dtypes give another length"),
            ));
        }
        if back != *layout {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the chunk header would change `{layout}` into `{back}`"),
            )
            .with_hint("a binary chunk has the shape [bytes, 0, 0, 0]; other shapes do not end with a 0"));
        }
        Ok(header)
    }

    /// The header's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        if self.len > Self::INLINE { &self.more } else { &self.bytes[..self.len] }
    }

    /// Reads a header. `bytes` is the whole header and nothing more.
    ///
    /// # Errors
    /// `Corrupt` for a length that headers do not have, an unknown dtype or format, or a negative number.
    pub fn read(bytes: &[u8]) -> Result<ChunkLayout> {
        let groups = Self::groups_for(bytes.len()).ok_or_else(|| {
            corrupt(format!("a chunk header has 8 + 20 bytes for each group, not {} bytes", bytes.len()))
        })?;
        let word = |i: usize| i32::from_le_bytes([bytes[i * 4], bytes[i * 4 + 1], bytes[i * 4 + 2], bytes[i * 4 + 3]]);
        let len = to_usize(word(0), "length")?;
        let format = MemoryFormat::from_code(word(1))
            .ok_or_else(|| corrupt(format!("the chunk header names the unknown format {}", word(1))))?;
        let group = |i: usize| -> Result<Group> {
            let at = 2 + i * 5;
            let dtype = match word(at) {
                0 => None,
                code => Some(
                    Dtype::from_code(code)
                        .ok_or_else(|| corrupt(format!("the chunk header names the unknown dtype {code}")))?,
                ),
            };
            let mut dims = [0; Shape::MAX_RANK];
            for (d, dim) in dims.iter_mut().enumerate() {
                *dim = to_usize(word(at + 1 + d), "dimension")?;
            }
            let shape = Shape::new(&dims)?;
            Ok(Group { shape: if format.is_binary() { shape } else { shape.stripped() }, dtype })
        };
        let groups = if groups == 1 {
            Groups::from(group(0)?)
        } else {
            Groups::new(&(0..groups).map(group).collect::<Result<Vec<_>>>()?)?
        };
        Ok(ChunkLayout { format, groups, len })
    }
}

fn corrupt(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

fn to_usize(word: i32, what: &str) -> Result<usize> {
    usize::try_from(word).map_err(|_| corrupt(format!("the chunk header has the negative {what} {word}")))
}

fn to_i32(value: usize, what: &str) -> Result<i32> {
    i32::try_from(value).map_err(|_| {
        Error::new(
            ErrorKind::InvalidInput,
            format!("{what} of {value} does not fit into a chunk header (at most {})", i32::MAX),
        )
    })
}

fn dtype_code(dtype: Option<Dtype>) -> Result<i32> {
    let Some(dtype) = dtype else { return Ok(0) };
    dtype.code().ok_or_else(|| {
        let known: Vec<_> = ChunkHeader::DTYPES.iter().map(|d| d.torch_name()).collect();
        Error::new(ErrorKind::Unsupported, format!("LMCache's chunk header has no code for {dtype}"))
            .with_hint(format!("it can name {}; a raw store (`save_chunk_meta: false`) keeps any", known.join(" ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_groups_round_trip() {
        let group = |n| Group { shape: Shape::new(&[2, n]).unwrap(), dtype: Some(Dtype::Bfloat16) };
        let groups: Vec<_> = (1..=9).map(group).collect();
        let layout = ChunkLayout::from_groups(MemoryFormat::Kv2ltd, &groups).unwrap();
        let header = ChunkHeader::new(&layout).unwrap();
        assert_eq!(header.as_bytes().len(), ChunkHeader::len_for(9));
        assert_eq!(ChunkHeader::read(header.as_bytes()).unwrap(), layout);
    }

    #[test]
    fn the_error_of_a_damaged_header_names_the_damage() {
        let good = ChunkHeader::new(&ChunkLayout::binary(7)).unwrap();
        for (at, value, why) in
            [(0, -1, "negative length"), (4, 9, "format 9"), (8, 99, "dtype 99"), (12, -5, "negative dimension")]
        {
            let mut bytes = good.as_bytes().to_vec();
            bytes[at..at + 4].copy_from_slice(&i32::to_le_bytes(value));
            let e = ChunkHeader::read(&bytes).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Corrupt);
            assert!(e.to_string().contains(why), "{e}");
        }
        for len in [0, 8, 27, 29, 8 + 20 * (MAX_HEADER_GROUPS + 1)] {
            assert_eq!(ChunkHeader::read(&vec![0; len]).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn the_list_of_dtypes_has_exactly_those_with_a_code() {
        let coded: Vec<Dtype> = Dtype::ALL.into_iter().filter(|d| d.code().is_some()).collect();
        assert_eq!(ChunkHeader::DTYPES, coded);
    }

    #[test]
    fn a_layout_that_would_be_read_back_changed_is_refused() {
        let group = |dims: &[usize]| Group { shape: Shape::new(dims).unwrap(), dtype: Some(Dtype::Uint8) };
        let layout =
            |dims: &[usize], len| ChunkLayout { format: MemoryFormat::Kv2ltd, groups: group(dims).into(), len };
        assert!(ChunkHeader::faithful(&layout(&[2, 3], 6)).is_ok());
        for (wrong, kind) in
            [(layout(&[2, 3], 7), ErrorKind::InvalidInput), (layout(&[2, 0], 0), ErrorKind::Unsupported)]
        {
            assert_eq!(ChunkHeader::faithful(&wrong).unwrap_err().kind(), kind, "{wrong}");
        }
    }

    #[test]
    fn dtypes_without_a_code_are_refused() {
        let layout = ChunkLayout::new(MemoryFormat::Kv2ltd, Shape::new(&[4]).unwrap(), Dtype::Int8).unwrap();
        assert_eq!(ChunkHeader::new(&layout).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
