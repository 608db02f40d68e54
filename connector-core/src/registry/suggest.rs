//! The nearest known name to a misspelt one.

/// Names that other programs give to one of ours, with the names that it may have here.
const SAME_MEANING: &[(&str, &[&str])] = &[
    ("user", &["username"]),
    ("pwd", &["password"]),
    ("pass", &["password"]),
    ("passwd", &["password"]),
    ("ttl", &["ttl_sec"]),
    ("ttl_seconds", &["ttl_sec"]),
    ("ttl_secs", &["ttl_sec"]),
    ("expire", &["ttl_sec"]),
    ("db", &["database"]),
    ("database", &["db"]),
    ("database_id", &["database", "db"]),
    ("prefix", &["key_prefix", "namespace"]),
    ("key_prefix", &["namespace"]),
    ("num_workers", &["connections"]),
    ("max_connections", &["connections"]),
    ("min_idle_conns", &["min_idle"]),
    ("min_connections", &["min_idle"]),
    ("socket_timeout", &["io_timeout_ms"]),
    ("request_timeout", &["io_timeout_ms"]),
    ("socket_connect_timeout", &["connect_timeout_ms"]),
    ("connection_timeout", &["connect_timeout_ms"]),
    // TLS, in the words of redis-py, valkey-glide, hiredis and LMCache.
    ("ssl", &["tls"]),
    ("use_ssl", &["tls"]),
    ("use_tls", &["tls"]),
    ("tls_enable", &["tls"]),
    ("tls_enabled", &["tls"]),
    ("ssl_ca_certs", &["tls_ca"]),
    ("ssl_ca_path", &["tls_ca"]),
    ("cacert", &["tls_ca"]),
    ("ssl_certfile", &["tls_cert"]),
    ("ssl_keyfile", &["tls_key"]),
    ("ssl_cert_reqs", &["tls_insecure"]),
    ("use_insecure_tls", &["tls_insecure"]),
    ("insecure", &["tls_insecure"]),
    ("ssl_check_hostname", &["tls_server_name"]),
    ("sni", &["tls_server_name"]),
    // Sentinels and clusters.
    ("sentinel_master", &["sentinel_service"]),
    ("sentinel_master_id", &["sentinel_service"]),
    ("master_name", &["sentinel_service"]),
    ("mastername", &["sentinel_service"]),
    ("service", &["sentinel_service"]),
    ("service_name", &["sentinel_service"]),
    ("mode", &["cluster"]),
    ("cluster_mode", &["cluster"]),
    ("startup_nodes", &["cluster"]),
    ("valkey_mode", &["mode"]),
    ("read_from_replicas", &["replica_reads"]),
    ("read_from", &["replica_reads"]),
    // Schemes.
    ("valkey", &["resp", "redis"]),
    ("valkey-sync", &["valkey", "resp"]),
    ("valkey-cluster", &["valkey", "resp"]),
    ("resp-cluster", &["resp"]),
    ("sentinel", &["redis-sentinel"]),
    ("redis-socket", &["unix"]),
    ("redis+socket", &["unix"]),
    ("redis+unix", &["unix"]),
    ("file", &["fs"]),
    ("s3a", &["s3"]),
    ("az", &["azure"]),
    ("endpoint_url", &["endpoint"]),
    ("region_name", &["region"]),
    ("access_key", &["access_key_id"]),
    ("secret_key", &["secret_access_key"]),
];

/// The nearest of `known` to a text, if it is near enough to be a misspelling or has the same meaning.
pub(crate) fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = text.to_lowercase();
    let known: Vec<&str> = known.collect();
    let meant = SAME_MEANING.iter().find(|(name, _)| *name == lower).map_or(&[][..], |(_, meant)| *meant);
    if let Some(same) = meant.iter().find_map(|meant| known.iter().find(|k| *k == meant)) {
        return Some(same);
    }
    known
        .into_iter()
        .filter(|k| !k.is_empty())
        .map(|k| (strsim::damerau_levenshtein(&lower, &k.to_lowercase()), k))
        .filter(|(distance, k)| *distance <= 2.max(k.chars().count() / 3) && *distance < k.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// ` (did you mean `X`?)`, or nothing.
pub fn did_you_mean<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(text, known).map_or_else(String::new, |k| format!(" (did you mean `{k}`?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_offered_and_far_ones_are_not() {
        let known = ["kvconn.fs", "kvconn.memory", "acme.kv"];
        assert_eq!(nearest("kvcon.fs", known.into_iter()), Some("kvconn.fs"));
        assert_eq!(nearest("KVCONN.MEMORY", known.into_iter()), Some("kvconn.memory"));
        assert_eq!(nearest("json", known.into_iter()), None);
        assert_eq!(did_you_mean("x", ["y"].into_iter()), "");
    }

    #[test]
    fn a_name_of_the_same_meaning_is_offered_before_a_near_one() {
        let known = ["resp", "redis", "fs", "username", "password", "db", "ttl_sec"];
        for (text, meant) in
            [("valkey", "resp"), ("FILE", "fs"), ("user", "username"), ("pwd", "password"), ("pass", "password")]
        {
            assert_eq!(nearest(text, known.into_iter()), Some(meant));
        }
        assert_eq!(nearest("valkey", ["redis"].into_iter()), Some("redis"));
        assert_eq!(nearest("ttl", known.into_iter()), Some("ttl_sec"));
        assert_eq!(nearest("database", known.into_iter()), Some("db"));
        assert_eq!(nearest("db", ["database"].into_iter()), Some("database"));
        // boto3's and pyarrow's words, far from those of the AWS CLI.
        let known = ["endpoint", "region", "access_key_id", "secret_access_key"];
        let others = ["endpoint_url", "region_name", "access_key", "secret_key"];
        assert_eq!(others.map(|text| nearest(text, known.into_iter())), known.map(Some));
    }
}
