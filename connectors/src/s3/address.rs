//! The bucket, the server and the region that a URL names.
//!
//! | URL | bucket | server |
//! |---|---|---|
//! | `s3://bucket/prefix` | the host | the option `endpoint`, or Amazon's |
//! | `s3://bucket.s3.region.amazonaws.com` | before `.s3` | behind it; LMCache's form |
//! | `s3://bucket.host:port` | the first label | the rest; LMCache's form for other servers |
//! | `external://host:port/kvconn.s3/` | the option `bucket` | the host, or the option `endpoint` |
//! | the same without a bucket in an option | the host, read as that of `s3://`; with port 0 as one without a port | |
//! | `plugin://s3` | the option `bucket`, or LMCache's `remote_url` | the option `endpoint`, or Amazon's |

use std::net::IpAddr;

use connector_core::{ConnectorContext, Error, ErrorKind, Location, RemoteUrl, Result};

use super::S3Options;
use super::options::Style;
use crate::cloud::{prefix, twice};

/// Where the objects are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) bucket: String,
    /// Stands before every name, without slashes at its ends.
    pub(super) prefix: String,
    /// The server's URL, without the bucket.
    pub(super) endpoint: String,
    pub(super) region: String,
    /// Whether the bucket is a part of the host in requests.
    pub(super) is_virtual: bool,
}

/// The parts that the host of a URL names.
#[derive(Default)]
struct Named {
    bucket: Option<String>,
    /// Host and port without the bucket.
    server: Option<String>,
    region: Option<String>,
}

/// The region of a bucket that names none, as for Amazon's own command.
const REGION: &str = "us-east-1";

impl Address {
    /// The address from the URL, the options and the environment.
    ///
    /// # Errors
    /// `InvalidUrl` and `InvalidOption` for parts that are missing, wrong, or named twice.
    pub(super) fn of(options: &S3Options, ctx: &ConnectorContext) -> Result<Self> {
        let location = ctx.location();
        let (mut named, mut path) = named_by(&location, options, ctx)?;
        let endpoint = match options.endpoint.as_deref() {
            // The setting of LMCache's server holds the bucket, too.
            Some(text) if text.starts_with("s3://") => {
                let url = RemoteUrl::parse(text).map_err(|e| e.at("option `endpoint`"))?;
                if named.bucket.is_some() {
                    return Err(twice("bucket", "the URL and the option `endpoint`"));
                }
                (named, path) = (in_host(&url, options)?, url.path().to_owned());
                None
            }
            Some(text) => Some(endpoint_of(text, options)?),
            None if named.server.is_some() => None,
            None => match environment(["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]) {
                Some(text) => Some(endpoint_of(&text, options)?),
                None => None,
            },
        };
        // An `external://` URL with a bucket in an option has a server alone, and an endpoint takes its place.
        let has_both = named.bucket.is_some() && named.server.is_some();
        if endpoint.is_some() && has_both {
            return Err(twice("server", "the URL's host and the option `endpoint`"));
        }
        if named.bucket.is_some() && options.bucket.is_some() {
            return Err(twice("bucket", "the URL and the option `bucket`"));
        }
        let Some(bucket) = named.bucket.or_else(|| options.bucket.clone()) else {
            return Err(Error::new(ErrorKind::InvalidUrl, format!("`{location}` names no bucket"))
                .with_hint("write `s3://bucket/prefix`, or set the option `bucket`"));
        };
        let endpoint = match (endpoint, named.server) {
            (Some(endpoint), _) => Some(endpoint),
            (None, Some(server)) if is_amazons(&server) => Some(format!("https://{server}")),
            (None, Some(server)) => Some(format!("{}://{server}", scheme(options))),
            (None, None) => None,
        };
        let in_endpoint = endpoint.as_deref().and_then(host_of).and_then(|host| amazon(&format!("x.{host}"))?.region);
        let in_host = named.region.or(in_endpoint);
        if let (Some(in_host), Some(option)) = (&in_host, &options.region)
            && in_host != option
        {
            let why = format!("the region is `{in_host}` in the host and `{option}` in the option `region`");
            return Err(Error::new(ErrorKind::InvalidOption, why).with_hint("keep one of them"));
        }
        let region = in_host
            .or_else(|| options.region.clone())
            .or_else(|| environment(["AWS_REGION", "AWS_DEFAULT_REGION"]))
            .unwrap_or_else(|| REGION.to_owned());
        let is_a_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if !region.chars().all(is_a_letter) {
            let why = format!("the region {region:?} has other characters than letters, digits and `-`");
            return Err(Error::new(ErrorKind::InvalidOption, why).with_hint("write `region=eu-west-1`"));
        }
        let endpoint = endpoint.unwrap_or_else(|| {
            let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
            format!("https://s3.{region}.{domain}")
        });
        let is_amazons = host_of(&endpoint).is_some_and(is_amazons);
        check_bucket(&bucket, is_amazons)?;
        let is_virtual = match options.style {
            Style::Auto => (is_amazons || has_both) && !bucket.contains('.'),
            Style::Path => false,
            Style::Virtual if bucket.contains('.') => {
                let why = format!("`style=virtual` cannot name the bucket `{bucket}`: certificates match no dot in it");
                return Err(Error::new(ErrorKind::InvalidOption, why).with_hint("write `style=path`"));
            }
            Style::Virtual => true,
        };
        let prefix = prefix(&path, options.prefix.as_deref())?;
        Ok(Self { bucket, prefix, endpoint, region, is_virtual })
    }
}

/// The parts that the host of the URL names, and its path.
fn named_by(location: &Location, options: &S3Options, ctx: &ConnectorContext) -> Result<(Named, String)> {
    let path = location.path().to_owned();
    match (location.scheme(), location.host(), &ctx.config().remote_url) {
        (Some(_), ..) => Ok((in_host(ctx.url(), options)?, path)),
        // LMCache's URLs need a host, so `localhost:0` names none. Without a bucket elsewhere, the host is that of `s3://`.
        (None, Some(host), _) => match location.port() {
            None if host == "localhost" => Ok((Named::default(), path)),
            _ if !has_bucket(options) => Ok((in_host(ctx.url(), options)?, path)),
            None => Ok((Named::default(), path)),
            Some(port) => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
                Ok((Named { server: Some(format!("{host}:{port}")), ..Named::default() }, path))
            }
        },
        (None, None, Some(text)) if options.bucket.is_none() && text.starts_with("s3://") => {
            let url = RemoteUrl::parse(text)?;
            Ok((in_host(&url, options)?, url.path().to_owned()))
        }
        _ => Ok((Named::default(), String::new())),
    }
}

/// Whether an option names the bucket.
fn has_bucket(options: &S3Options) -> bool {
    options.bucket.is_some() || options.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("s3://"))
}

/// The parts that the host of an `s3://` URL names. Port 0 means no port.
fn in_host(url: &RemoteUrl, options: &S3Options) -> Result<Named> {
    // As written: the parsed host is in lower case, and some servers have buckets with upper case.
    let written = url.expose().split_once("://").map_or("", |(_, rest)| rest);
    let written = written.split(['/', '?', '#']).next().unwrap_or_default();
    if written.contains('@') {
        return Err(Error::new(ErrorKind::InvalidUrl, "the `s3://` URL has a user or a password")
            .with_hint("set `access_key_id` and `secret_access_key`, or keep the keys in the environment"));
    }
    let (host, port) = match url.port() {
        Some(port) => {
            (written.rsplit_once(':').map_or(written, |(host, _)| host), Some(port).filter(|port| *port != 0))
        }
        None => (written, None),
    };
    if host.is_empty() {
        return Ok(Named::default());
    }
    if let Some(named) = amazon(&host.to_ascii_lowercase()) {
        return Ok(named);
    }
    let has_endpoint = options.endpoint.as_ref().is_some_and(|endpoint| !endpoint.starts_with("s3://"));
    let is_a_server = port.is_some() || options.disable_tls == Some(true) || options.style == Style::Virtual;
    if has_endpoint && port.is_none() || !host.contains('.') && port.is_none() {
        return Ok(Named { bucket: Some(host.to_owned()), ..Named::default() });
    }
    let wrong =
        |why: &str, hint: String| Err(Error::new(ErrorKind::InvalidUrl, format!("`{url}` {why}")).with_hint(hint));
    if has_endpoint {
        return wrong("has a port, and the option `endpoint` names the server", "remove one of them".to_owned());
    }
    match host.split_once('.') {
        Some((bucket, rest)) if is_a_server && host.parse::<IpAddr>().is_err() => {
            let server = port.map_or_else(|| rest.to_owned(), |port| format!("{rest}:{port}"));
            Ok(Named { bucket: Some(bucket.to_owned()), server: Some(server), region: None })
        }
        Some(_) if !is_a_server => wrong(
            "names a bucket with a dot, or a bucket and a server",
            format!(
                "write `s3://{host}.s3.amazonaws.com` for a bucket of Amazon's, or `s3://bucket?endpoint=https://host`"
            ),
        ),
        _ => {
            let port = port.map_or_else(String::new, |port| format!(":{port}"));
            wrong("names a server, but no bucket", format!("write `s3://bucket?endpoint=http://{host}{port}`"))
        }
    }
}

/// The parts of a host of Amazon's: `bucket.s3.region.amazonaws.com` and its other forms.
fn amazon(host: &str) -> Option<Named> {
    let (rest, domain) = ["amazonaws.com", "amazonaws.com.cn"]
        .iter()
        .find_map(|domain| Some((host.strip_suffix(domain)?.strip_suffix('.')?, *domain)))?;
    let labels: Vec<&str> = rest.split('.').collect();
    let service = labels
        .iter()
        .rposition(|label| *label == "s3" || label.starts_with("s3-") || label.starts_with("s3express-"))?;
    let behind = &labels[service + 1..];
    let region = match (labels[service].strip_prefix("s3-"), behind) {
        (_, ["dualstack", region] | [region] | [region, "vpce"]) => Some((*region).to_owned()),
        // The form of the first years: `s3-eu-west-1`.
        (Some(region), []) if !["accelerate", "fips", "external-1"].contains(&region) => Some(region.to_owned()),
        _ => None,
    };
    let bucket = labels[..service].join(".");
    let server = format!("{}.{domain}", labels[service..].join("."));
    (!bucket.is_empty()).then_some(Named { bucket: Some(bucket), server: Some(server), region })
}

/// The server's URL, with a scheme and without a path.
fn endpoint_of(text: &str, options: &S3Options) -> Result<String> {
    let wrong = |why: &str| {
        Error::new(ErrorKind::InvalidOption, format!("option `endpoint`: {why}"))
            .with_hint("write `http://host:port` or `https://host`, and the bucket as `s3://bucket`")
    };
    let text = text.trim_end_matches('/');
    let text = if text.contains("://") { text.to_owned() } else { format!("{}://{text}", scheme(options)) };
    let uri: http::Uri = text.parse().map_err(|_| wrong("its value is not a URL"))?;
    let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
    let has_port = authority.as_str().len() > authority.host().len();
    let of_a_bucket = amazon(authority.host()).filter(|_| !authority.host().contains(".vpce."));
    match uri.scheme_str() {
        _ if authority.as_str().contains('@') => Err(wrong("it has a user or a password")),
        _ if uri.path() != "/" || uri.query().is_some() => Err(wrong("it has a path or a query")),
        _ if authority.host().is_empty() => Err(wrong("it names no host")),
        _ if has_port && authority.port_u16().is_none() => Err(wrong("its port is not a number from 0 to 65535")),
        _ if of_a_bucket.is_some() => Err(wrong("its host begins with a bucket")),
        Some("https") if options.disable_tls == Some(true) => Err(wrong("it is `https`, and `disable_tls` is set")),
        Some("http" | "https") => Ok(text),
        _ => Err(wrong("its scheme is neither `http` nor `https`")),
    }
}

fn scheme(options: &S3Options) -> &'static str {
    if options.disable_tls == Some(true) { "http" } else { "https" }
}

fn host_of(endpoint: &str) -> Option<&str> {
    let (_, authority) = endpoint.split_once("://")?;
    Some(authority.split_once(':').map_or(authority, |(host, _)| host))
}

fn is_amazons(host: &str) -> bool {
    host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn")
}

/// Refuses a name that no bucket can have. Servers other than Amazon's have more names.
fn check_bucket(bucket: &str, is_amazons: bool) -> Result<()> {
    let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let why = if let Some(c) = bucket.chars().find(|&c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.' | '_')) {
        format!("the character {c:?} is not in the names of buckets")
    } else if !(3..=if is_amazons { 63 } else { 255 }).contains(&bucket.len()) {
        let most = if is_amazons { 63 } else { 255 };
        format!("it has {} characters, and a bucket has 3 to {most}", bucket.len())
    } else if !is_amazons {
        return Ok(());
    } else if let Some(c) = bucket.chars().find(|c| c.is_ascii_uppercase() || *c == '_') {
        format!("Amazon's buckets have lower-case letters, digits, `-` and `.`, but not {c:?}")
    } else if !bucket.starts_with(is_letter) || !bucket.ends_with(is_letter) || bucket.contains("..") {
        "it starts and ends with a letter or a digit, and has no two dots in a row".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::InvalidUrl, format!("`{bucket}` is not the name of a bucket: {why}")))
}

fn environment<const N: usize>(names: [&str; N]) -> Option<String> {
    names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}
