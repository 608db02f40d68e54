//! Removes stale chunks from the front. The task retries until the front has removed them.

use std::sync::{Arc, Weak};

use connector_core::{CacheKey, Result};
use futures::stream::StreamExt;
use tokio::time::sleep;

use super::keys::{Repair, Stale};
use super::tiers::{FIRST_PAUSE, LONGEST_PAUSE, Tiers};

/// Ends when no key is stale, or when the connector is dropped: the task does not keep it alive.
pub(super) async fn repair(tiers: Weak<Tiers>, mut repair: Repair) {
    let mut pause = FIRST_PAUSE;
    loop {
        sleep(pause).await;
        let Some(tiers) = tiers.upgrade() else { return };
        match remove_all(&tiers, &mut repair).await {
            Ok(()) => return,
            Err(_) if tiers.gate.is_closed() => return,
            // `front_failed` has logged the error.
            Err(_) => pause = (pause * 2).min(LONGEST_PAUSE),
        }
    }
}

/// Removes stale chunks until no key is stale, or until the front fails.
async fn remove_all(tiers: &Arc<Tiers>, repair: &mut Repair) -> Result<()> {
    let _pass = tiers.gate.enter()?;
    loop {
        match repair.next() {
            Stale::None => return Ok(()),
            Stale::Keys(keys) => {
                for key in keys {
                    remove(tiers, &key).await?;
                }
            }
            Stale::All => {
                let mut keys = tiers.front.list("");
                while let Some(key) = keys.next().await {
                    remove(tiers, &key.inspect_err(|e| tiers.front_failed("list", e))?).await?;
                }
                drop(keys);
                repair.emptied();
            }
        }
    }
}

/// Removes one key. Holds the key's lock, so that the removal waits for a running fill.
async fn remove(tiers: &Arc<Tiers>, key: &CacheKey) -> Result<()> {
    // Enters the gate again, so that `close` waits for one key and not for all of them.
    let _pass = tiers.gate.enter()?;
    let guard = tiers.keys.guard(key);
    let _lock = guard.lock.clone().lock_owned().await;
    if !tiers.keys.may_ask_front(key) {
        tiers.try_remove_from_front(key).await?;
    }
    Ok(())
}
