//! The contract of every connector, over TLS.

use connector_core::conformance::Kit;
use kvconn_redis_server::RedisServer;

mod redis {
    connector_core::conformance_tests!(super::kit("redis", &[], ""));
}

mod redis_with_a_time_to_live_by_tls_1_2 {
    connector_core::conformance_tests!(super::kit(
        "redis",
        &["--tls-protocols", "TLSv1.2"],
        "&ttl_sec=1000&connections=1&namespace=team-a"
    ));
}

mod resp {
    connector_core::conformance_tests!(super::kit("resp", &["--tls-protocols", "TLSv1.3"], ""));
}

/// A store on a new server, which lives as long as the kit.
fn kit(scheme: &str, args: &[&str], options: &str) -> Kit {
    let server = RedisServer::start_tls(args);
    let ca = server.certificates().ca_pem();
    let url = format!("{}?tls=true&tls_ca={}{options}", server.tls_url(scheme), ca.display());
    Kit::new(move |backend| {
        let _lives = &server;
        connectors::builder(&url).local_cpu_backend(backend).open()
    })
}
