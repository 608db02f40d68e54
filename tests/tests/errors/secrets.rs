//! No output shows a password, wherever the password is in the input.

use super::*;

/// A password in every place of a URL, in URLs that open and in URLs that fail at every stage.
const URLS_WITH_A_SECRET: [&str; 22] = [
    "memory://u:hunter2@a:1",
    "memory://:hunter2@a:1",
    "memory://u:x@hunter2@a:1",
    "memory://u:hunter2@a:1?capcity=1",
    "memory://u:hunter2@a:1?capacity=lots",
    "memory://u:hunter2@a:99999",
    "memory://u:hunter2@,b:1",
    "memory://u:hunter2@[::1",
    "memory://u:hunter2@a:1\n",
    " memory://u:hunter2@a:1",
    "cassandra://u:hunter2@h:1",
    "external://u:hunter2@h1:0,h2:0/m/?connector_name=C",
    "external://u:hunter2@h:0/no.such/?connector_name=C",
    "external://u:hunter2@h:0/m/",
    "external://u:hunter2@h/m/?connector_name=C",
    "strict://h:0?password=hunter2",
    "strict://h:0?pass%77ord=hunter2",
    "strict://h:0?back=redis://u:hunter2@h:1",
    "strict://h:0?connections=redis://u:hunter2@h:1",
    "strict://h:0?back=redis%3A%2F%2Fu%3Ahunter2%40h%3A1",
    "fs://u:hunter2@h/tmp",
    "plugin://u:hunter2@name",
];

#[tokio::test]
async fn no_output_shows_a_secret_of_a_url() {
    for url in URLS_WITH_A_SECRET {
        let builder = connectors::builder(url);
        let mut shown = vec![format!("{builder:?} {builder:#?}"), connector_core::redact(url).into_owned()];
        match RemoteUrl::parse(url) {
            Ok(parsed) => {
                shown.push(format!("{parsed} {parsed:?} {parsed:#?}"));
                assert!(parsed.expose().contains(SECRET), "the connection itself needs it");
            }
            Err(e) => shown.push(all_of(&e)),
        }
        match builder.clone().build() {
            Ok(context) => shown.push(format!("{context:?} {context:#?} {}", context.connector_name())),
            Err(e) => shown.push(all_of(&e)),
        }
        match builder.open().await {
            Ok(connector) => shown.push(format!("{connector:?} {}", connector.name())),
            Err(e) => shown.push(all_of(&e)),
        }
        for text in shown {
            assert!(!text.contains(SECRET), "{url} is shown as\n{text}");
        }
    }
}

#[tokio::test]
async fn no_output_shows_a_secret_of_the_configuration() {
    let configs = [
        json!({"strict_password": "hunter2"}),
        json!({"strict_password": ["hunter2"]}),
        json!({"strict_connections": "redis://u:hunter2@h:1"}),
        json!({"remote_storage_plugin.strict.password": "hunter2"}),
        json!({"remote_storage_plugin.strict.url": "redis://u:hunter2@h:99999"}),
        json!({"remote_storage_plugin.strict.url": "plugin://u:hunter2@h:1"}),
        json!({"remote_storage_plugin.strict.url": ["redis://u:hunter2@h:1"]}),
        json!({"remote_storage_plugin.strict.url": "cassandra://u:hunter2@h:1"}),
    ];
    for extra in configs {
        let builder = connectors::builder("plugin://strict").config(config(&extra));
        let shown = [format!("{builder:?}"), all_of(&builder.open().await.unwrap_err())];
        for text in shown {
            assert!(!text.contains(SECRET), "{extra} is shown as\n{text}");
        }
    }
}
