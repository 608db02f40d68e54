//! Nodes that send requests to each other, or to a node that is away.

use std::sync::{Arc, OnceLock};

use connectors::ErrorKind;
use kvconn_redis_server::fake;

use crate::store::{Kind, Store};

/// A node with all slots, which sends each request to another port.
fn node(code: &'static str, to: u16) -> u16 {
    let own = Arc::new(OnceLock::<u16>::new());
    let port = own.clone();
    let node = fake::answering(move |words| {
        let port = port.wait();
        let answer = match &*words[0] {
            "CLUSTER" => format!("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n"),
            "HELLO" => "-ERR unknown command\r\n".to_owned(),
            "GET" | "STRLEN" | "MGET" => format!("-{code} 1 127.0.0.1:{}\r\n", if to == 0 { *port } else { to }),
            "PING" => "+PONG\r\n".to_owned(),
            _ => "+OK\r\n".to_owned(),
        };
        Some(answer.into_bytes())
    });
    own.set(node).expect("one port");
    node
}

pub(crate) async fn a_redirection_that_leads_nowhere_is_a_temporary_error(kind: Kind) {
    for (code, to) in [("MOVED", 0), ("ASK", 0), ("MOVED", 1), ("ASK", 1)] {
        let url = format!("{}://127.0.0.1:{}{}", kind.scheme, node(code, to), kind.options);
        let store = Store::open(&format!("{url}&connect_timeout_ms=1000")).await;
        let batch = store.batched_get(&[1, 2]).await.into_iter().map(|answer| answer.map(drop));
        for answer in batch.chain([store.get(1).await.map(drop)]) {
            let e = answer.expect_err("no node has the chunk");
            assert!(matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) && e.is_temporary(), "{e:?}");
            assert!(!e.to_string().contains("cluster=true"), "{e}");
        }
        store.leaks_nothing().await;
    }
}
