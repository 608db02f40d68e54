//! Writes a chunk: both values in one atomic step.

use connector_core::{ChunkHeader, Error, ErrorKind, Result};

use super::layout::{KV_BYTES, METADATA};
use crate::resp_wire::{Arg, Connection, Exchange, Reply, Request, ok, server_error};

/// `MSET`, or a transaction of two `SET .. EX`.
pub(super) struct Put<'a> {
    pub(super) key: &'a [u8],
    pub(super) header: ChunkHeader,
    pub(super) chunk: &'a [u8],
    /// Seconds until the server drops it.
    pub(super) ttl_sec: Option<u64>,
}

impl Exchange for Put<'_> {
    type Answer = ();

    /// The chunk last: the server reads a large argument up to its end and then answers, but would have to wait for the
    /// socket once more for anything behind it (measured: a sixth of the throughput).
    fn request<'a>(&'a self, request: &mut Request<'a>) {
        let bytes = [Arg::Joined(self.key, KV_BYTES.as_bytes()), Arg::Payload(self.chunk)];
        let header = [Arg::Joined(self.key, METADATA.as_bytes()), self.header.as_bytes().into()];
        let Some(secs) = self.ttl_sec else {
            request.command(&["MSET".into(), header[0], header[1], bytes[0], bytes[1]]);
            return;
        };
        request.command(&["MULTI".into()]);
        for [name, value] in [header, bytes] {
            request.command(&["SET".into(), name, value, "EX".into(), secs.into()]);
        }
        request.command(&["EXEC".into()]);
    }

    fn expected_len(&self) -> usize {
        self.chunk.len()
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<()>> {
        if self.ttl_sec.is_none() {
            return Ok(ok(connection.reply().await?));
        }
        // The first error says why; those behind it only that there was one.
        let mut said = Ok(());
        for step in 0..3 {
            let word = if step == 0 { "OK" } else { "QUEUED" };
            said = said.and(crate::resp_wire::said(connection.reply().await?, word));
        }
        Ok(said.and(executed(connection.reply().await?)))
    }
}

/// What `EXEC` answered.
fn executed(reply: Reply) -> Result<()> {
    match reply {
        Reply::Array(answers) => answers.into_iter().try_for_each(ok),
        Reply::Error(said) => Err(server_error(&said)),
        other => Err(Error::new(ErrorKind::Corrupt, format!("the server answers {other:?} to a transaction"))),
    }
}
