//! Environment variables that were meant to be a configuration key, and are none.

use super::{CONFIG_FILE_VARIABLE, keys};
use crate::registry::nearest;

pub(super) const PREFIX: &str = "LMCACHE_";

/// Fewer than a key of a file may have: `LMCACHE_RUNTIME_PLUGIN_ROLE` is LMCache's own, and no misspelt key.
const MOST_TYPOS: usize = 2;

/// The variable of a key: `LMCACHE_CHUNK_SIZE`.
pub(super) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase())
}

/// Keys under the names that the environment may use.
pub(super) fn all_keys() -> impl Iterator<Item = &'static str> {
    keys::KEYS.into_iter().chain(keys::ALIASES.into_iter().map(|(old, _)| old))
}

/// Each variable that is no key but near to one, and the variable of that key. What is near to none is somebody else's:
/// LMCache reads many `LMCACHE_` variables that are no configuration.
pub(super) fn misspelt<'a>(names: impl Iterator<Item = &'a str>) -> impl Iterator<Item = (&'a str, String)> {
    names.filter_map(|name| {
        let key = name.strip_prefix(PREFIX).filter(|_| name != CONFIG_FILE_VARIABLE)?;
        let near = nearest(key, all_keys())?;
        let is_typo = strsim::damerau_levenshtein(&key.to_ascii_lowercase(), near) <= MOST_TYPOS;
        Some((name, variable_of(near))).filter(|(name, meant)| is_typo && name != meant)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings<'a>(names: &'a [&str]) -> Vec<(&'a str, String)> {
        misspelt(names.iter().copied()).collect()
    }

    #[test]
    fn a_misspelt_variable_is_named_with_the_one_that_was_meant() {
        for (name, meant) in [
            ("LMCACHE_CHUNK_SIZ", "LMCACHE_CHUNK_SIZE"),
            ("LMCACHE_REMOTE_ULR", "LMCACHE_REMOTE_URL"),
            ("LMCACHE_EXTRACONFIG", "LMCACHE_EXTRA_CONFIG"),
            ("LMCACHE_chunk_size", "LMCACHE_CHUNK_SIZE"),
            ("LMCACHE_EXTERNAL_BACKEND", "LMCACHE_EXTERNAL_BACKENDS"),
        ] {
            assert_eq!(warnings(&["HOME", name]), [(name, meant.to_owned())]);
        }
    }

    #[test]
    fn keys_and_their_old_names_are_not_misspelt() {
        let names: Vec<String> = all_keys().map(variable_of).collect();
        assert_eq!(misspelt(names.iter().map(String::as_str)).next(), None);
    }

    /// What LMCache 0.5.6 reads from the environment without it being configuration.
    #[test]
    fn variables_of_lmcaches_other_parts_are_not_misspelt() {
        let others = "CONFIG_FILE CONTROLLER_CONFIG_FILE USAGE_TRACK_INTERVAL USAGE_TRACK_URL TRACK_USAGE LOG_LEVEL \
            RUNTIME_PLUGIN_CONFIG RUNTIME_PLUGIN_ROLE RUNTIME_PLUGIN_WORKER_ID RUNTIME_PLUGIN_WORKER_COUNT \
            RUNTIME_PLUGIN_EXTRA_CONFIG PLUGIN_CONFIG PLUGIN_ROLE PLUGIN_WORKER_ID PLUGIN_WORKER_COUNT \
            MP_TRANSFER_MODE DISABLE_BANNER COORDINATOR_URL COORDINATOR_HEARTBEAT_INTERVAL COORDINATOR_ADVERTISE_IP \
            COORDINATOR_EVENT_REPORTING COORDINATOR_EVENT_FLUSH_INTERVAL RESP_USERNAME RESP_PASSWORD RESP_HOST \
            RESP_PORT MQ_TIMEOUT AEROSPIKE_HOSTS AEROSPIKE_SET AEROSPIKE_NAMESPACE AEROSPIKE_USERNAME \
            AEROSPIKE_PASSWORD REQUEST_TELEMETRY_TYPE REQUEST_TELEMETRY_ENDPOINT OFFLOAD_RPC_PORT FORCE_SKIP_SAVE \
            DEVICE_BACKEND GPU_STAGING_BUFFER_BYTES ROCM_ENABLE_BATCH_MEMCPY MUSA_HANDLE_TRANSFER \
            MUSA_NATIVE_KV_TRANSFER KV_TRANSFER_ABI_VERSION SERVER_URL";
        let names: Vec<String> = others.split_whitespace().map(variable_of).collect();
        let near: Vec<_> = misspelt(names.iter().map(String::as_str)).collect();
        assert_eq!(near, []);
    }
}
