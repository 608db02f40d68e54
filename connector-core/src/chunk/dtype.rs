//! Element types.

use std::fmt;
use std::str::FromStr;

use crate::{Error, ErrorKind, Result};

macro_rules! dtypes {
    ($($variant:ident, $key:literal, $torch:literal, $bytes:literal, $code:expr;)*) => {
        /// The element type of a chunk: one of the 14 that LMCache names in keys.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Dtype { $(#[doc = concat!("`torch.", $torch, "`")] $variant,)* }

        impl Dtype {
            /// All types, in the order of LMCache's table.
            pub const ALL: [Self; 14] = [$(Self::$variant),*];

            /// The name in a key, for example `half`. Source: `TORCH_DTYPE_TO_STR_DTYPE` of LMCache.
            pub const fn key_name(self) -> &'static str {
                match self { $(Self::$variant => $key,)* }
            }

            /// The name in torch, for example `float16`.
            pub const fn torch_name(self) -> &'static str {
                match self { $(Self::$variant => $torch,)* }
            }

            /// Bytes of one element.
            pub const fn size(self) -> usize {
                match self { $(Self::$variant => $bytes,)* }
            }

            /// The number in a chunk header; `None` if a header cannot name this type. Source: `DTYPE_TO_INT` of
            /// LMCache.
            pub const fn code(self) -> Option<i32> {
                match self { $(Self::$variant => $code,)* }
            }
        }
    };
}

dtypes! {
    Float16, "half", "float16", 2, Some(2);
    Bfloat16, "bfloat16", "bfloat16", 2, Some(3);
    Float32, "float", "float32", 4, Some(4);
    Float64, "double", "float64", 8, Some(5);
    Int8, "int8", "int8", 1, None;
    Uint8, "uint8", "uint8", 1, Some(6);
    Int16, "int16", "int16", 2, None;
    Int32, "int32", "int32", 4, None;
    Int64, "int64", "int64", 8, None;
    Bool, "bool", "bool", 1, None;
    Float8E4m3fn, "fp8_e4m3fn", "float8_e4m3fn", 1, Some(7);
    Float8E4m3fnuz, "fp8_e4m3fnuz", "float8_e4m3fnuz", 1, None;
    Float8E5m2, "fp8_e5m2", "float8_e5m2", 1, Some(8);
    Float8E5m2fnuz, "fp8_e5m2fnuz", "float8_e5m2fnuz", 1, None;
}

impl Dtype {
    /// The type with this name in keys.
    pub fn from_key_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.key_name() == name)
    }

    /// The type with this number in chunk headers. 1 is an old number of float16.
    pub fn from_code(code: i32) -> Option<Self> {
        if code == 1 { Some(Self::Float16) } else { Self::ALL.into_iter().find(|d| d.code() == Some(code)) }
    }
}

impl fmt::Display for Dtype {
    /// The name in torch.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.torch_name())
    }
}

impl FromStr for Dtype {
    type Err = Error;

    /// Parses the name in keys or the name in torch, with or without `torch.`.
    fn from_str(text: &str) -> Result<Self> {
        let name = text.strip_prefix("torch.").unwrap_or(text);
        Self::ALL.into_iter().find(|d| d.torch_name() == name || d.key_name() == name).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("`{text}` is not a dtype"))
                .with_hint(format!("write one of {}", Self::ALL.map(Self::torch_name).join(" ")))
        })
    }
}
