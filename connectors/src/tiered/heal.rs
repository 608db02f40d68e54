//! Makes the front right again after it failed to remove what was replaced: tries until it has removed that.

use std::sync::{Arc, Weak};
use std::time::Duration;

use connector_core::{CacheKey, Result};
use futures::stream::StreamExt;
use tokio::time::sleep;

use super::keys::{Doubts, Healing};
use super::tiers::Tiers;

/// How long the front is left alone after a failure: doubled each time, to the second number.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Ends when nothing is in doubt, or with the connector, which it does not keep.
pub(super) async fn heal(tiers: Weak<Tiers>, mut healing: Healing) {
    let mut pause = FIRST_PAUSE;
    loop {
        sleep(pause).await;
        let Some(tiers) = tiers.upgrade() else { return };
        match round(&tiers, &mut healing).await {
            Ok(()) => return,
            Err(_) if tiers.gate.is_closed() => return,
            // It was logged where it happened.
            Err(_) => pause = (pause * 2).min(LONGEST_PAUSE),
        }
    }
}

/// Goes on until nothing is in doubt, or the front fails.
async fn round(tiers: &Arc<Tiers>, healing: &mut Healing) -> Result<()> {
    let _pass = tiers.gate.enter()?;
    loop {
        match healing.next() {
            Doubts::None => return Ok(()),
            Doubts::Keys(keys) => {
                for key in keys {
                    remove(tiers, &key).await?;
                }
            }
            Doubts::All => {
                let mut keys = tiers.front.list("");
                while let Some(key) = keys.next().await {
                    remove(tiers, &key.inspect_err(|e| tiers.front_failed("list", e))?).await?;
                }
                drop(keys);
                healing.emptied();
            }
        }
    }
}

/// Under the key's lock, so that it comes behind a fill that has begun.
async fn remove(tiers: &Arc<Tiers>, key: &CacheKey) -> Result<()> {
    // A close waits for one key, not for all of them.
    let _open = tiers.gate.enter()?;
    let used = tiers.keys.use_of(key);
    let _lock = used.lock().lock_owned().await;
    if !tiers.keys.trusts_front(key) {
        tiers.try_take_out(key).await?;
    }
    Ok(())
}
