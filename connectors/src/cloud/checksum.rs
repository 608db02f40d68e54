//! A checksum of a chunk's bytes, beside its object.
//!
//! It is kvconn's own. Amazon gives its checksums only to a request that asks for them, and OpenDAL does not ask.

use connector_core::{Error, ErrorKind, Result};
use crc_fast::CrcAlgorithm;
use opendal::Metadata;

use super::entries::entry;

/// The entry of an object's metadata with the CRC32C of its bytes, in eight hexadecimal digits.
pub(super) const ENTRY: &str = "kvconncrc32c";

/// The value of the entry.
pub(super) fn checksum(chunk: &[u8]) -> String {
    format!("{:08x}", crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, chunk))
}

/// Checks the bytes of an object that has a checksum.
///
/// # Errors
/// `Corrupt`, a temporary error, because the bytes may have changed on the way.
pub(super) fn check(metadata: &Metadata, chunk: &[u8]) -> Result<()> {
    let Some(recorded) = entry(metadata, ENTRY) else { return Ok(()) };
    let found = checksum(chunk);
    if recorded == found {
        return Ok(());
    }
    let why = format!("the object's bytes have the CRC32C {found}, and its metadata entry `{ENTRY}` says {recorded}");
    Err(Error::new(ErrorKind::Corrupt, why).temporary(true).with_hint("if it stays so, remove the chunk"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_the_crc32c_of_rfc_3720() {
        assert_eq!(checksum(&[0; 32]), "8a9136aa");
        assert_eq!(checksum(b"123456789"), "e3069283");
    }
}
