//! The stores of this crate that were compiled out: a failed lookup names the feature to enable.

macro_rules! compiled_out {
    ($($feature:literal: $module:literal $name:literal [$($scheme:literal),*];)*) => {$(
        #[cfg(not(feature = $feature))]
        const _: () = {
            connector_core::__private::element! {
                HINTS: ConnectorHint = connector_core::__private::ConnectorHint {
                    module: $module,
                    name: $name,
                    schemes: &[$($scheme),*],
                    package: "connectors",
                    feature: $feature,
                }
            }
        };
    )*};
}

compiled_out! {
    "audit": "kvconn.audit" "AuditConnector" ["audit"];
    "blackhole": "kvconn.blackhole" "BlackholeConnector" ["blackhole"];
    "fs": "kvconn.fs" "FSConnector" ["fs"];
    "memory": "kvconn.memory" "MemoryConnector" ["memory"];
    "mock": "kvconn.mock" "MockConnector" ["mock"];
    "redis": "kvconn.redis" "RedisConnector" ["redis", "unix"];
    "resp": "kvconn.resp" "RESPConnector" ["resp"];
    "tiered": "kvconn.tiered" "TieredConnector" ["tiered"];
}
