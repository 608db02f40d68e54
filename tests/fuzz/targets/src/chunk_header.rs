//! The header of a chunk.

use connector_core::chunk::MAX_HEADER_GROUPS;
use connector_core::{ChunkHeader, ChunkLayout, Dtype};

/// Reads a chunk's header.
///
/// # Panics
/// If the second parser gives another result, or the parsed header is not written to the same bytes.
pub fn chunk_header(data: &[u8]) {
    let (layout, expected) = match (ChunkHeader::read(data), second_reading(data)) {
        (Ok(layout), Some(expected)) => (layout, expected),
        (Err(_), None) => return,
        (read, expected) => panic!("{data:?} is {read:?} instead of {expected:?}"),
    };
    assert_eq!(parts(&layout), expected);

    let written = ChunkHeader::new(&layout).expect("a parsed header can be written");
    // 1 is an old number for float16, which LMCache writes as 2.
    let canonical = |(i, word): (usize, &[u8])| match word {
        [1, 0, 0, 0] if i >= 2 && (i - 2).is_multiple_of(5) => [2, 0, 0, 0],
        word => *word.first_chunk().expect("the length is a multiple of 4"),
    };
    let same: Vec<u8> = data.chunks(4).enumerate().flat_map(canonical).collect();
    assert_eq!(written.as_bytes(), same);
    assert_eq!(ChunkHeader::read(&same).expect("a written header can be read"), layout);
}

/// Length, format, and each group's dtype and shape.
type Parts = (usize, i32, Vec<(Option<&'static str>, Vec<usize>)>);

fn parts(layout: &ChunkLayout) -> Parts {
    let groups = layout.groups.iter().map(|g| (g.dtype.map(Dtype::torch_name), g.shape.to_vec()));
    (layout.len, layout.format.code(), groups.collect())
}

/// `length, format, (dtype, shape0..3) x groups`, little-endian i32 each.
fn second_reading(data: &[u8]) -> Option<Parts> {
    const DTYPES: [Option<&str>; 9] = [
        None,
        Some("float16"),
        Some("float16"),
        Some("bfloat16"),
        Some("float32"),
        Some("float64"),
        Some("uint8"),
        Some("float8_e4m3fn"),
        Some("float8_e5m2"),
    ];
    let (words, []) = data.as_chunks::<4>() else { return None };
    let words: Vec<usize> = words.iter().map(|w| i32::from_le_bytes(*w).try_into().ok()).collect::<Option<_>>()?;
    let [len, format, groups @ ..] = &words[..] else { return None };
    let (groups, []) = groups.as_chunks::<5>() else { return None };
    if groups.is_empty() || groups.len() > MAX_HEADER_GROUPS || *format > 8 {
        return None;
    }
    let is_binary = *format == 4 || *format == 5;
    let group = |[dtype, shape @ ..]: &[usize; 5]| {
        let zeros = if is_binary { 0 } else { shape.iter().rev().take_while(|d| **d == 0).count() };
        // A shape of only zeros keeps one zero.
        Some((*DTYPES.get(*dtype)?, shape[..(4 - zeros).max(1)].to_vec()))
    };
    Some((*len, i32::try_from(*format).ok()?, groups.iter().map(group).collect::<Option<_>>()?))
}
