//! `kvconn.tiered` `TieredConnector`: a small and fast store (`front`) before a large and slow one (`back`).
//!
//! **What it stores.** The back has every chunk. The front also has chunks that were put or read recently, and evicts
//! others. With write-back, this process holds chunks until the back has them.
//!
//! **How it connects.** `tiered://?front=URL&back=URL` with both URLs percent-encoded:
//! `tiered://?front=memory%3A%2F%2F%3Fcapacity%3D1000000000&back=fs%3A%2F%2F%2Fmnt%2Fkv`. Also
//! `plugin://tiered[.instance]`,
//! `external://localhost:0/kvconn.tiered/?connector_name=TieredConnector&front=..&back=..`, or the options in
//! `extra_config`.
//!
//! **A read** asks the front, and then the back, and puts a chunk of the back into the front. Concurrent reads of one
//! key share one read of the back, which continues as long as one of them waits. A failure of the front is logged, and
//! the read uses the back. A failure of the back is an error, never a miss. A batch asks each store once.
//!
//! **A put with `mode=write_through`** removes the key from the front, puts the chunk into the back, and then into the
//! front. It gives the back's answer. If it fails or is dropped, the front does not have the key, and the back has the
//! old chunk or none. The back may also get the new chunk later. So reads do not fill the front with the key until its
//! next put or remove.
//!
//! **A put with `mode=write_back`** ends when the front and a buffer of this process have the chunk. Background tasks
//! write the buffer to the back, four keys at a time, and the newest chunk of a key last. If the back fails, they log
//! it and retry after 100 ms, and then after up to 30 s. Reads find a chunk in the buffer until the back has it. If the
//! buffer is full, a put waits, or fails if the back fails. `close` writes all chunks of the buffer. If the back still
//! fails, its error says how many chunks the back lacks, and `close` may be called again. If the back can never take a
//! chunk, kvconn drops the chunk from the buffer and removes its key from the back. `close` then says how many chunks
//! the back refused. Without `close`, the tasks go on until the back has every chunk. If the process or its runtime
//! ends before, the chunks that are left are lost, and kvconn logs how many.
//!
//! **A remove** removes the key from the buffer, the front and the back. If the front fails to remove a key, reads do
//! not ask it for that key, and a background task retries the removal.
//!
//! **Options.** [`TieredOptions`].
//!
//! **Limits.** The front must support `remove`. If another process changes a chunk in the back, reads give the old
//! chunk as long as the front has it. Puts and removes of one key run one after another.

mod buffer;
mod connector;
mod keys;
mod options;
mod read;
mod repair;
mod tiers;
mod write;
mod writer;

pub use connector::TieredConnector;
pub use options::{TieredOptions, WriteMode};
