//! `kvconn.fs` `FSConnector`: one file a chunk, byte for byte as LMCache writes it.
//!
//! **What it stores.** Under each base path, files named after the key ([`layout`]). An in-process key's file holds the
//! chunk header and the bytes, or the bytes alone (`save_chunk_meta=false`); a multiprocess key's file holds the bytes
//! alone. A file is written without a name, or under one of its own, and gets the chunk's when it is whole, so a writer that
//! is killed never leaves a torn chunk to read.
//!
//! **How it connects.** `fs:///path[,path..]`, `fs://host:port/path[,path..]` as LMCache writes it (host and port mean
//! nothing), `plugin://fs[.instance]`, or `external://localhost:0/kvconn.fs/?connector_name=FSConnector&base_path=/path`.
//! The first put makes the directories if they are missing. The path is taken as it stands: nothing in it is decoded.
//!
//! **Options.** [`FsOptions`].
//!
//! **Who shares it.** Any number of processes, LMCache among them. With `capacity` they keep one sum, in a file
//! `.kvconn-quota` that they lock; what has no such option is seen by a look at all files, at most a minute late.
//!
//! **What is left behind.** A writer that is killed leaves its temporary file, if that had a name. [`scrub`] finds those, and
//! torn files.
//!
//! **Limits.** A file name has at most 255 bytes, or what the file system says: `.data` takes 5 of them, each `/` of a key
//! 5. LMCache's layout writes `a/b` and `a-SEP-b` to one file; this store marks the file of the key with `/` (sticky bit), records
//! any other one in the file's extended attribute `user.kvconn.key`, and a file of the other key is a miss. Files that LMCache
//! wrote carry neither. Nothing in the format is a checksum: a changed byte of the content is not seen.

mod batch;
mod cached;
mod commit;
mod connector;
mod direct;
mod file;
mod found;
pub mod layout;
mod listing;
mod options;
mod quota;
mod record;
mod scrub;
mod writing;

pub use connector::FSConnector;
pub use options::{FsOptions, Fsync};
pub use scrub::{Finding, FindingKind, ScrubOptions, ScrubReport, scrub};
