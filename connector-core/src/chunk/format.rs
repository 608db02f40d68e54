//! Memory formats: the arrangement of a chunk's bytes.

use std::fmt;
use std::str::FromStr;

use crate::{Error, ErrorKind, Result};

/// LMCache's `MemoryFormat`. Source: `lmcache/v1/memory_management.py` of LMCache 0.5.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
#[repr(i32)]
pub enum MemoryFormat {
    /// Unknown.
    #[default]
    Undefined = 0,
    /// `[2, num_layers, num_tokens, hidden_dim]`
    Kv2ltd = 1,
    /// `[num_tokens, 2, hidden_dim]`
    KvT2d = 2,
    /// `[2, num_tokens, hidden_dim]`
    Kv2td = 3,
    /// Bytes; the shape is `[bytes, 0, 0, 0]`.
    Binary = 4,
    /// Bytes in a buffer; the shape is `[bytes, 0, 0, 0]`.
    BinaryBuffer = 5,
    /// `[1, num_layers, num_tokens, head_size]`, multi-head latent attention.
    KvMlaFmt = 6,
    /// `[num_tokens, hidden_dim]`, encoder cache.
    EcTd = 7,
    /// `[num_tokens, hidden_dim]`, hidden states.
    HsTd = 8,
}

impl MemoryFormat {
    /// All formats, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Undefined,
        Self::Kv2ltd,
        Self::KvT2d,
        Self::Kv2td,
        Self::Binary,
        Self::BinaryBuffer,
        Self::KvMlaFmt,
        Self::EcTd,
        Self::HsTd,
    ];

    /// The number in a chunk header.
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The format with this number in chunk headers.
    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.code() == code)
    }

    /// LMCache's name, for example `KV_2LTD`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Undefined => "UNDEFINED",
            Self::Kv2ltd => "KV_2LTD",
            Self::KvT2d => "KV_T2D",
            Self::Kv2td => "KV_2TD",
            Self::Binary => "BINARY",
            Self::BinaryBuffer => "BINARY_BUFFER",
            Self::KvMlaFmt => "KV_MLA_FMT",
            Self::EcTd => "EC_TD",
            Self::HsTd => "HS_TD",
        }
    }

    /// Whether the shape is `[bytes, 0, 0, 0]`, where the zeros are part of the shape.
    pub const fn is_binary(self) -> bool {
        matches!(self, Self::Binary | Self::BinaryBuffer)
    }
}

impl fmt::Display for MemoryFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for MemoryFormat {
    type Err = Error;

    /// Parses LMCache's name, in upper or lower case.
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|f| f.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("`{text}` is not a memory format"))
                .with_hint(format!("write one of {}", Self::ALL.map(Self::name).join(" ")))
        })
    }
}
