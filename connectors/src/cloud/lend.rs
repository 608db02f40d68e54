//! A chunk as the body of a request, without a copy.

use bytes::Bytes;
use connector_core::MemoryObj;
use tokio::sync::oneshot;

/// Completes when the HTTP client has dropped the last clone of the lent bytes.
pub(super) struct Released(oneshot::Receiver<()>);

impl Released {
    /// Waits until nothing reads the chunk's memory any more.
    pub(super) async fn wait(self) {
        // The sender is only dropped, never used.
        let _ = self.0.await;
    }
}

struct Lent {
    chunk: MemoryObj,
    _released: oneshot::Sender<()>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.chunk
    }
}

/// The chunk's bytes, to be read by the HTTP client.
pub(super) fn lend(chunk: MemoryObj) -> (Bytes, Released) {
    let (sender, receiver) = oneshot::channel();
    (Bytes::from_owner(Lent { chunk, _released: sender }), Released(receiver))
}
