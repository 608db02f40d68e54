//! The servers that a URL names.

use connector_core::{Error, ErrorKind, HostPort, RemoteUrl, Result};

use super::options::PORT;
use super::transport::Address;

/// The only server of the URL.
///
/// # Errors
/// `InvalidUrl` for no host or several.
pub(crate) fn one_address(url: &RemoteUrl) -> Result<Address> {
    match url.hosts() {
        [] => Err(Error::new(ErrorKind::InvalidUrl, format!("`{url}` names no server"))
            .with_hint(format!("write `{}://host:port`", url.scheme()))),
        [one] => Ok(address(one, PORT)),
        several => {
            let why = format!("`{url}` names {} servers, and this store takes one", several.len());
            Err(Error::new(ErrorKind::InvalidUrl, why).with_hint(
                "for the nodes of a cluster add the option `cluster=true`; for sentinels write `redis-sentinel://host:26379,..`",
            ))
        }
    }
}

/// All servers of a URL whose hosts are `role`: sentinels, or nodes of a cluster. `port` is that of a host without one.
///
/// # Errors
/// `InvalidUrl` for no host, for a host that is there twice, and for a comma in the user or the password.
pub(crate) fn all_addresses(url: &RemoteUrl, port: u16, role: &str) -> Result<Vec<Address>> {
    let wrong = |why: String, hint: String| Err(Error::new(ErrorKind::InvalidUrl, why).with_hint(hint));
    // In `h1,user:pw@h2` the first host would be a part of the user.
    if [url.username(), url.password()].into_iter().flatten().any(|text| text.contains(',')) {
        return wrong(
            format!("`{url}` has a comma before its `@`"),
            "write user and password once, before the first host; write a comma of a password as `%2C`".to_owned(),
        );
    }
    if url.hosts().is_empty() {
        return wrong(
            format!("`{url}` names no {role}"),
            format!("write `{}://host:{port},host:{port}`", url.scheme()),
        );
    }
    let mut addresses = Vec::with_capacity(url.hosts().len());
    for host in url.hosts() {
        let address = address(host, port);
        if addresses.contains(&address) {
            return wrong(format!("`{url}` names the {role} {address} twice"), "name each one once".to_owned());
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn address(host: &HostPort, port: u16) -> Address {
    // LMCache's users write port 0 for no port.
    Address::Tcp { host: host.host.clone(), port: host.port.filter(|port| *port != 0).unwrap_or(port) }
}
