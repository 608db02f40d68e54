//! The replicas that may answer reads.

use std::sync::Arc;
use std::time::Duration;

use connector_core::Result;
use tokio::time::Instant;

use crate::resp_wire::connection::Connection;
use crate::resp_wire::errors::refusal;
use crate::resp_wire::exchange::{Exchange, exchange_at};
use crate::resp_wire::reply::Reply;
use crate::resp_wire::request::Request;
use crate::resp_wire::server::Server;
use crate::resp_wire::topology::Route;
use crate::resp_wire::transport::Address;

/// The replicas of a master. A read goes to each of them in turn. Checks in the background leave out a replica that is
/// down or lost its master, and take it in again. A replica that failed a read is left out at once, so no read waits for it.
#[derive(Default)]
pub(super) struct Replicas {
    all: Vec<Replica>,
    next: usize,
}

struct Replica {
    server: Arc<Server>,
    is_up: bool,
    next_check: Instant,
}

/// The time between two checks of a replica. Sentinels do not announce a lost link to the master, and such a replica still
/// answers by default (`replica-serve-stale-data yes`), with old chunks.
const CHECK_EVERY: Duration = Duration::from_secs(1);

impl Replicas {
    /// Keeps the replicas at these addresses, and makes the others. Returns the ones to check. Calls to a replica that is
    /// not kept go to another server at once.
    pub(super) fn set(&mut self, addresses: Vec<Address>, new: impl Fn(Address) -> Arc<Server>) -> Vec<Arc<Server>> {
        let is_kept = |replica: &mut Replica| addresses.contains(replica.server.address());
        self.all.extract_if(.., |replica| !is_kept(replica)).for_each(|replica| replica.server.retire());
        let mut to_check = Vec::new();
        for address in addresses {
            if self.all.iter().all(|replica| *replica.server.address() != address) {
                let server = new(address);
                to_check.push(server.clone());
                self.all.push(Replica { server, is_up: false, next_check: Instant::now() + CHECK_EVERY });
            }
        }
        to_check
    }

    /// The next replica that is up, and the ones to check.
    pub(super) fn pick(&mut self) -> (Option<Arc<Server>>, Vec<Arc<Server>>) {
        let now = Instant::now();
        let mut to_check = Vec::new();
        for replica in &mut self.all {
            replica.is_up &= !replica.server.is_suspect();
            if replica.next_check <= now {
                replica.next_check = now + CHECK_EVERY;
                to_check.push(replica.server.clone());
            }
        }
        self.next = self.next.wrapping_add(1);
        let up = self.all.iter().filter(|replica| replica.is_up);
        let picked = up.clone().nth(self.next.checked_rem(up.count()).unwrap_or(0));
        (picked.map(|replica| replica.server.clone()), to_check)
    }

    /// Leaves out this replica. False if it is not one of them.
    pub(super) fn leave_out(&mut self, server: &Arc<Server>) -> bool {
        self.find(server).map(|replica| replica.is_up = false).is_some()
    }

    /// The end of a check.
    pub(super) fn checked(&mut self, server: &Arc<Server>, is_up: bool) {
        if let Some(replica) = self.find(server) {
            replica.is_up = is_up;
            if is_up {
                replica.server.trust();
            }
        }
    }

    fn find(&mut self, server: &Arc<Server>) -> Option<&mut Replica> {
        self.all.iter_mut().find(|replica| Arc::ptr_eq(&replica.server, server))
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.all.iter().map(|replica| &replica.server)
    }

    pub(super) fn close(&mut self) {
        self.all.drain(..).for_each(|replica| replica.server.close());
    }
}

/// Whether the server is a replica with a link to its master.
pub(super) async fn is_up(server: &Arc<Server>) -> bool {
    matches!(exchange_at(&Route::to(server), &mut IsReplica).await.0, Ok(true))
}

struct IsReplica;

impl Exchange for IsReplica {
    type Answer = bool;
    const SMALL: bool = true;
    const READS: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        None
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["ROLE".into()]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<bool>> {
        let is = |part: Option<&Reply>, text: &[u8]| matches!(part, Some(Reply::Bulk(bytes)) if bytes == text);
        Ok(match connection.reply().await? {
            Reply::Array(parts) => Ok(is(parts.first(), b"slave") && is(parts.get(3), b"connected")),
            other => Err(refusal(other, "a role")),
        })
    }
}
