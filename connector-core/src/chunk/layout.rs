//! Layouts: the format, shapes, dtypes and length of a chunk.

use std::ops::Deref;
use std::sync::Arc;

use super::{Dtype, MemoryFormat, Shape};
use crate::{Error, ErrorKind, Result};

/// Layers of equal shape and dtype, stored as one tensor inside the chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Group {
    /// The tensor's shape.
    pub shape: Shape,
    /// The tensor's element type; `None` if LMCache wrote none.
    pub dtype: Option<Dtype>,
}

impl Group {
    /// The bytes that follow from shape and dtype; `None` on overflow or without a dtype.
    pub(crate) fn bytes(&self) -> Option<usize> {
        self.shape.elements()?.checked_mul(self.dtype?.size())
    }
}

/// One or more groups. Derefs to `[Group]`. A single group, the usual case, needs no allocation.
#[derive(Debug, Clone)]
pub struct Groups(Inner);

#[derive(Debug, Clone)]
enum Inner {
    One(Group),
    Many(Arc<[Group]>),
}

impl Groups {
    /// Copies `groups`.
    ///
    /// # Errors
    /// `InvalidInput` if `groups` is empty.
    pub fn new(groups: &[Group]) -> Result<Self> {
        match groups {
            [] => Err(Error::new(ErrorKind::InvalidInput, "a chunk has at least one group of layers")),
            [one] => Ok(Self(Inner::One(*one))),
            many => Ok(Self(Inner::Many(many.into()))),
        }
    }
}

impl From<Group> for Groups {
    fn from(group: Group) -> Self {
        Self(Inner::One(group))
    }
}

impl Deref for Groups {
    type Target = [Group];

    fn deref(&self) -> &[Group] {
        match &self.0 {
            Inner::One(group) => std::slice::from_ref(group),
            Inner::Many(groups) => groups,
        }
    }
}

impl PartialEq for Groups {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Groups {}

/// Format, groups and length of a chunk.
///
/// `len` is authoritative. It may differ from the product of shape and dtype: the product of the binary shape
/// `[n, 0, 0, 0]` is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkLayout {
    /// The arrangement of the bytes.
    pub format: MemoryFormat,
    /// Shape and dtype, one for each group of layers.
    pub groups: Groups,
    /// The chunk's length in bytes.
    pub len: usize,
}

impl ChunkLayout {
    /// A layout of one group. The length follows from shape and dtype.
    ///
    /// # Errors
    /// `InvalidInput` for a binary format with a shape that is not `[bytes, 0, 0, 0]`, and on overflow.
    pub fn new(format: MemoryFormat, shape: Shape, dtype: Dtype) -> Result<Self> {
        Self::from_groups(format, &[Group { shape, dtype: Some(dtype) }])
    }

    /// A layout of several groups. The length follows from their shapes and dtypes.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if `groups` is empty or a group has no dtype.
    pub fn from_groups(format: MemoryFormat, groups: &[Group]) -> Result<Self> {
        let bytes = |g: &Group| {
            if format.is_binary() { g.shape[0].checked_mul(g.dtype?.size()) } else { g.bytes() }
        };
        if let Some(g) = groups.iter().find(|g| format.is_binary() && g.shape != Shape::binary(g.shape[0])) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{format} has the shape [bytes, 0, 0, 0], not {}", g.shape),
            ));
        }
        let len = groups.iter().try_fold(0usize, |sum, g| sum.checked_add(bytes(g)?)).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "a group has no dtype, or the chunk's length overflows")
        })?;
        Ok(Self { format, groups: Groups::new(groups)?, len })
    }

    /// A layout of `len` plain bytes: BINARY, uint8, `[len, 0, 0, 0]`. LMCache gives a value without metadata this
    /// layout.
    pub fn binary(len: usize) -> Self {
        let group = Group { shape: Shape::binary(len), dtype: Some(Dtype::Uint8) };
        Self { format: MemoryFormat::Binary, groups: group.into(), len }
    }

    /// Whether shapes and dtypes give the same length. LMCache allocates memory by them.
    pub fn is_consistent(&self) -> bool {
        Self::from_groups(self.format, &self.groups).is_ok_and(|by_groups| by_groups.len == self.len)
    }

    /// The first group's shape.
    pub fn shape(&self) -> Shape {
        self.groups[0].shape
    }

    /// The first group's dtype.
    pub fn dtype(&self) -> Option<Dtype> {
        self.groups[0].dtype
    }
}

impl std::fmt::Display for ChunkLayout {
    /// `KV_2LTD float16 [2, 12, 256, 768], 9437184 bytes`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.format)?;
        for g in self.groups.iter() {
            match g.dtype {
                Some(dtype) => write!(f, " {dtype} {}", g.shape)?,
                None => write!(f, " no dtype {}", g.shape)?,
            }
        }
        write!(f, ", {} bytes", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_chunk_has_its_length_as_its_first_dimension() {
        let shape = |dims: &[usize]| Shape::new(dims).unwrap();
        let layout = ChunkLayout::new(MemoryFormat::Binary, Shape::binary(7), Dtype::Uint8).unwrap();
        assert_eq!(layout, ChunkLayout::binary(7));
        for wrong in [shape(&[7]), shape(&[2, 12, 256, 768])] {
            let e = ChunkLayout::new(MemoryFormat::BinaryBuffer, wrong, Dtype::Uint8).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_length_that_overflows_is_refused() {
        let huge = Shape::new(&[usize::MAX, 2]).unwrap();
        assert!(ChunkLayout::new(MemoryFormat::Kv2ltd, huge, Dtype::Uint8).is_err());
    }
}
