//! A wire with latency in front of a server: `delay PORT SECONDS`.
//!
//! Prints the port for clients. Delays every byte by the time, in each direction. Ends when its stdin does.

use std::io::Read;
use std::net::Ipv4Addr;
use std::time::Duration;

use kvconn_redis_server::Proxy;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let mut next = |name: &str| args.next().unwrap_or_else(|| panic!("the argument {name} is missing"));
    let port: u16 = next("PORT").parse().expect("PORT is a port");
    let delay: f64 = next("SECONDS").parse().expect("SECONDS is a number");
    let proxy = Proxy::start((Ipv4Addr::LOCALHOST, port).into()).await;
    proxy.latency(Duration::from_secs_f64(delay));
    println!("{}", proxy.address().port());
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    ended.await.expect("no panic").expect("stdin is readable");
}
