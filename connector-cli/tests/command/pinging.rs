//! `kvconn ping`: counts, summaries and time limits.

use std::process::{Child, Stdio};

use kvconn_redis_server::RedisServer;
use rustix::process::Signal;

use super::{Finished, kvconn, run, signal, store, wait_until};

#[test]
fn each_ping_has_a_line_and_a_summary_follows() {
    let (_dir, url) = store();
    let result = run(&["ping", &url, "-c", "4", "-i", "0"]).exits(0);
    let lines: Vec<&str> = result.text().lines().collect();
    assert!(lines[0].starts_with("kvconn.fs/FSConnector answered in ") && lines[1].starts_with("2: "), "{lines:?}");
    assert!(lines[3].starts_with("4: ") && lines[4] == "4 sent, 4 answered, 0 lost (0 %)", "{lines:?}");
    assert!(
        lines[5].starts_with("min ") && ["avg", "p99", "max"].iter().all(|part| lines[5].contains(part)),
        "{lines:?}"
    );
    let json = run(&["ping", &url, "-c", "3", "-i", "0", "--json"]).exits(0).json();
    let pings = &json["pings"];
    assert_eq!((&pings["sent"], &pings["lost"]), (&3.into(), &0.into()), "{json}");
    let figures = ["min", "avg", "p99", "max"].map(|name| pings[format!("{name}_seconds")].as_f64().expect("a number"));
    assert!(
        figures[0] > 0.0 && figures.windows(2).all(|pair| pair[0] <= pair[1] || pair == [figures[1], figures[2]]),
        "{json}"
    );
}

/// Starts the command, and returns when it has the answer to its first ping.
fn answered(redis: &RedisServer, args: &[&str]) -> Child {
    redis.cli(&["CONFIG", "RESETSTAT"]);
    let mut command = kvconn(args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    // The first one opens the connection. The third one follows the answer to the second.
    wait_until(&mut child, || {
        let stats = redis.cli(&["INFO", "commandstats"]);
        let stats = String::from_utf8_lossy(stats.bytes().expect("INFO is text")).into_owned();
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_ping:calls=")?.split(',').next());
        calls.is_some_and(|calls| calls.parse::<u32>().expect("a number") >= 3)
    });
    child
}

#[test]
fn ctrl_c_ends_the_pings_with_a_summary() {
    let redis = RedisServer::start(&[]);
    let url = redis.url("redis");
    for json in [false, true] {
        let more: &[&str] = if json { &["--json"] } else { &[] };
        let child = answered(&redis, &[&["ping", &url, "-c", "0", "-i", "0.01", "-v"], more].concat());
        signal(&child, Signal::INT);
        let result = Finished::from(child.wait_with_output().expect("it ends")).exits(130);
        match json {
            true => assert!(result.json()["pings"]["sent"].as_u64().is_some_and(|sent| sent > 0), "{result:?}"),
            false => assert!(result.text().contains(" sent, ") && result.text().contains("min "), "{result:?}"),
        }
    }
}

#[test]
fn a_server_that_does_not_answer_is_lost_within_the_timeout() {
    let redis = RedisServer::start(&[]);
    let url = redis.url("redis");
    let child = answered(&redis, &["ping", &url, "-c", "12", "-i", "0.3", "--timeout", "0.5", "--json"]);
    redis.stop_signal();
    let result = Finished::from(child.wait_with_output().expect("it ends"));
    let json = result.json();
    let (sent, lost) = (&json["pings"]["sent"], json["pings"]["lost"].as_u64().expect("a number"));
    assert!(*sent == 12 && (1..12).contains(&lost), "{json}");
    assert_eq!(result.code, Some(1), "{json}");
    assert!(json["error"].as_str().is_some_and(|e| e.contains("within 500ms")), "{json}");
    // The server does not answer the open either.
    let json = run(&["ping", &url, "--timeout", "0.5", "--json"]).exits(3).json();
    assert!(json["error"].is_string() && json["pings"]["sent"] == 0, "{json}");
    redis.cont();
    for wrong in [["--timeout", "0"], ["--interval", "-1"], ["--count", "many"]] {
        run(&[&["ping", &url], &wrong[..]].concat()).exits(2);
    }
}
