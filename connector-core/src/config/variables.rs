//! Finds misspelt environment variables.

use super::{CONFIG_FILE_VARIABLE, keys};
use crate::registry::nearest;

pub(super) const PREFIX: &str = "LMCACHE_";

/// The largest edit distance of a misspelt variable. A file's keys allow more, but `LMCACHE_RUNTIME_PLUGIN_ROLE` is a
/// variable of LMCache, not a misspelt key.
const MAX_TYPOS: usize = 2;

/// The variable that sets a key, for example `LMCACHE_CHUNK_SIZE`.
pub(super) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase())
}

/// All keys that a variable can set, including old names.
pub(super) fn all_keys() -> impl Iterator<Item = &'static str> {
    keys::KEYS.into_iter().chain(keys::ALIASES.into_iter().map(|(old, _)| old))
}

/// Each variable that sets no key but is near to one that does, with that other variable. Variables that are near to
/// none are fine: LMCache reads many `LMCACHE_` variables that are not part of the configuration.
pub(super) fn misspelt<'a>(names: impl Iterator<Item = &'a str>) -> impl Iterator<Item = (&'a str, String)> {
    names.filter_map(|name| {
        let key = name.strip_prefix(PREFIX).filter(|_| name != CONFIG_FILE_VARIABLE)?;
        let near = nearest(key, all_keys())?;
        let is_typo = strsim::damerau_levenshtein(&key.to_ascii_lowercase(), near) <= MAX_TYPOS;
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
    fn a_misspelt_variable_is_found_with_the_right_one() {
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

    /// The variables that LMCache 0.5.6 reads outside its configuration.
    #[test]
    fn variables_of_other_parts_of_lmcache_are_not_misspelt() {
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
