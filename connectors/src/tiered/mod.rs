//! `kvconn.tiered` `TieredConnector`: a bounded store near by in front of a store far away.
//!
//! **What it stores.** Nothing of its own but chunks on their way: every chunk is in the store behind (`back`), and those
//! that were put or read lately also in the store in front (`front`), which drops what it has no room for.
//!
//! **How it connects.** `tiered://?front=URL&back=URL` with both URLs percent-encoded:
//! `tiered://?front=memory%3A%2F%2F%3Fcapacity%3D1000000000&back=fs%3A%2F%2F%2Fmnt%2Fkv`. Also `plugin://tiered[.instance]`,
//! `external://localhost:0/kvconn.tiered/?connector_name=TieredConnector&front=..&back=..`, or the options in `extra_config`.
//!
//! **A read** is served from the front, or else from the back, and then kept in the front, too. All who miss one key at once
//! cause one read of the back, which goes on as long as one of them waits. A front that fails is logged and passed by; what it
//! failed to remove is removed in the background when it is back. A back that fails is an error, never a miss. A batch asks
//! each store once.
//!
//! **A put with `mode=write_through`** takes the key out of the front, writes to the back, then to the front. The answer is
//! the back's. Whenever it fails or is dropped, the front has nothing, and the back has the old chunk or none;
//! or the new one, if it ended late: until the next put or remove of the key, reads do not fill the front.
//!
//! **A put with `mode=write_back`** is answered when the front and a buffer of this process have the chunk; from there it
//! goes to the back in the background, newest chunk of a key last, four keys at a time. A back that fails is tried again,
//! from 100 ms on, then every 30 s at most, and logged. The chunk is read from the buffer until the back has it, also if the front
//! dropped it. With a full buffer a put waits, but is an error while the back fails. `close` writes the rest; if the back
//! still fails, it says how many chunks are missing there, and may be called again. Chunks that are in no back when the
//! process ends are lost. What the back refuses for good is given up, and the key removed from it.
//!
//! **A remove** cancels what waits for the back, and removes from both.
//!
//! **Options.** [`TieredOptions`].
//!
//! **Limits.** The front must be able to remove. What others write to the back is not seen while the front has the key's old
//! chunk. Puts and removes of one key follow one another.

mod buffer;
mod connector;
mod heal;
mod keys;
mod options;
mod read;
mod tiers;
mod write;
mod writer;

pub use connector::TieredConnector;
pub use options::{TieredOptions, WriteMode};
