//! `kvconn.fs` `FSConnector`: one file a chunk, byte for byte as LMCache, vLLM or SGLang writes it.
//!
//! **What it stores.** Under each base path, files named after the key ([`layout`]). An in-process key's file holds the
//! chunk header and the bytes, or only the bytes (`save_chunk_meta=false`). A multiprocess key's file holds only the bytes. A
//! file is written under a temporary name and renamed when it is complete, so a killed writer never leaves a torn chunk.
//!
//! **Other engines' files.** With `layout=vllm` or `layout=sglang` ([`Layout`]) the store has the files of vLLM's `fs`
//! tier or of SGLang's `HiCacheFile`. They hold only the bytes. Object keys are their only keys. A file of another
//! length than the memory of a `get_into` is a miss. Any file of the right length is a hit, because the files say
//! nothing about their layout.
//!
//! **How it connects.** `fs:///path[,path..]`, `fs://host:port/path[,path..]` as LMCache writes it (host and port mean
//! nothing), `plugin://fs[.instance]`, or `external://localhost:0/kvconn.fs/?connector_name=FSConnector&base_path=/path`.
//! The first put makes missing directories. Nothing in the path is decoded.
//!
//! **Options.** [`FsOptions`].
//!
//! **Namespaces.** `namespace=team-a` puts all of a handle's files into the directory `team-a` of each base path:
//! chunks, temporary files and the quota's ledger. A handle lists, removes, evicts and scrubs only within its own
//! directory. A handle without a namespace uses the base path itself, and does not look into directories.
//!
//! **Sharing.** Any number of processes may use a store at once, LMCache among them. With `capacity` they share a
//! sum, in the file `.kvconn-quota`, under a lock. A scan finds the files of writers without the option. Two scans are
//! a minute apart, or 20 times as long as a scan takes if that is longer.
//!
//! **Leftovers.** A writer that is killed leaves its temporary file. [`scrub`] finds those, and torn files.
//!
//! **Limits.** A file name has at most 255 bytes, or fewer on some file systems. `.data` needs 5 of them, and each
//! `/` of a key 5. In LMCache's layout `a/b` and `a-SEP-b` have one file name, which is read back as `a/b`. So the
//! store refuses `a-SEP-b`, and every other key whose file name is not read back as that key, with `InvalidKey`. The
//! format has no checksum: a changed byte of the content is not detected.
//!
//! **Files.** `connector` holds the operations, `batch` the batches, and `exists` the lookups; `threads` bounds their
//! blocking threads. `files` puts and removes chunks in the store's directories, which `dirs` makes. `read` and `write`
//! handle one file each, and `folder` names files so that no symlink is followed. `walk` visits all files. `direct`
//! implements `use_odirect`, and `quota` implements `capacity`. `diagnose` examines directories and file systems.

mod batch;
mod cancel;
mod connector;
mod diagnose;
mod direct;
mod dirs;
mod exists;
mod files;
mod folder;
pub mod layout;
mod listing;
mod options;
mod put;
mod quota;
mod read;
mod scrub;
mod threads;
mod walk;
mod write;

pub use connector::FSConnector;
pub use options::{FsOptions, Fsync, Layout};
pub use scrub::{Finding, FindingKind, ScrubOptions, ScrubReport, scrub, scrub_with};
