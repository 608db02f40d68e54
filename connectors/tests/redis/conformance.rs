//! The contract of every connector.

use connector_core::conformance::Kit;
use kvconn_redis_server::RedisServer;

mod tcp {
    connector_core::conformance_tests!(super::kit(|server| server.url("redis")));
}

mod tcp_by_resp2_on_one_connection {
    connector_core::conformance_tests!(super::kit(|server| {
        format!("{}/3?protocol=2&connections=1&max_value_bytes=3000000", server.url("redis"))
    }));
}

mod in_a_namespace {
    connector_core::conformance_tests!(super::kit(|server| format!("{}?namespace=team-a", server.url("redis"))));
}

mod unix_with_a_time_to_live {
    connector_core::conformance_tests!(super::kit(|server| {
        format!("unix://{}?ttl_sec=1000&refresh_ttl=true", server.socket_path().display())
    }));
}

/// A store on a new server, which lives as long as the kit.
fn kit(url: impl FnOnce(&RedisServer) -> String) -> Kit {
    let server = RedisServer::start(&[]);
    let url = url(&server);
    Kit::new(move |backend| {
        let _lives = &server;
        connectors::builder(&url).local_cpu_backend(backend).open()
    })
}
