//! The contract of every connector.

use connector_core::conformance::Kit;
use kvconn_redis_server::SentinelGroup;

mod master {
    connector_core::conformance_tests!(super::kit(""));
}

/// A replica gets a put later than the master, so the reads of the kit go to the master.
mod by_name_in_a_database {
    connector_core::conformance_tests!(super::kit("/redismaster?db=3&namespace=team-a&connections=2"));
}

/// A store on a new group, which lives as long as the kit.
fn kit(rest: &'static str) -> Kit {
    let group = SentinelGroup::start(1, 0, &[]);
    let url = format!("{}{rest}", group.url("redis-sentinel"));
    Kit::new(move |backend| {
        let _lives = &group;
        connectors::builder(&url).local_cpu_backend(backend).open()
    })
}
