//! Shapes of up to four dimensions. They need no allocation.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use crate::{Error, ErrorKind, Result};

/// The dimensions of a chunk: one to four, as in all of LMCache's formats.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; Self::MAX_RANK],
    rank: u8,
}

impl Shape {
    /// The largest number of dimensions.
    pub(crate) const MAX_RANK: usize = 4;

    /// A shape with these dimensions.
    ///
    /// # Errors
    /// `InvalidInput` for no dimension or more than four.
    pub fn new(dims: &[usize]) -> Result<Self> {
        if !(1..=Self::MAX_RANK).contains(&dims.len()) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("a shape has 1 to {} dimensions, not {}: {dims:?}", Self::MAX_RANK, dims.len()),
            ));
        }
        let mut all = [0; Self::MAX_RANK];
        all[..dims.len()].copy_from_slice(dims);
        Ok(Self { dims: all, rank: dims.len() as u8 })
    }

    /// `[bytes, 0, 0, 0]`, the shape of binary formats.
    pub(crate) const fn binary(bytes: usize) -> Self {
        Self { dims: [bytes, 0, 0, 0], rank: 4 }
    }

    /// Four dimensions, where missing ones are 0, as in a chunk header.
    pub(crate) const fn padded(&self) -> [usize; Self::MAX_RANK] {
        self.dims
    }

    /// The shape without trailing zeros, but with at least one dimension. Readers of chunk headers use it.
    #[must_use]
    pub fn stripped(self) -> Self {
        let rank = self.iter().rposition(|&d| d != 0).map_or(1, |last| last + 1);
        Self { dims: self.dims, rank: rank as u8 }
    }

    /// The product of all dimensions; `None` on overflow.
    pub(crate) fn elements(&self) -> Option<usize> {
        self.iter().try_fold(1usize, |product, &d| product.checked_mul(d))
    }

    /// The same shape with another dimension `axis`.
    pub(crate) fn with_axis(mut self, axis: usize, dim: usize) -> Self {
        if let Some(d) = self.dims.get_mut(axis) {
            *d = dim;
        }
        self
    }
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.dims[..usize::from(self.rank)]
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for Shape {
    /// `[2, 12, 256, 768]`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &**self)
    }
}

impl FromStr for Shape {
    type Err = Error;

    /// Parses `2,12,256,768`, also with brackets and spaces, or with `x` for the commas.
    fn from_str(text: &str) -> Result<Self> {
        let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
        let dims: Result<Vec<usize>, _> = inner.split([',', 'x']).map(|d| d.trim().parse()).collect();
        let dims = dims.map_err(|_| {
            Error::new(ErrorKind::InvalidInput, format!("`{text}` is not a shape"))
                .with_hint("write it as `2,12,256,768`")
        })?;
        Self::new(&dims)
    }
}
