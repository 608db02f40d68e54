//! HTTP requests.

use connector_core::{Error, ErrorKind, Result};
use futures::TryStreamExt;
use http_body as _;
use opendal::raw::Operation;
use opendal::{Buffer, HttpBody, HttpTransport, HttpTransporter};

use super::refusal::refused;

/// The longest body of a refusal that kvconn reads.
const MOST_OF_A_REFUSAL: usize = 64 * 1024;

struct Transport(reqwest::Client);

/// A transport with its own connections.
pub(super) fn transport() -> Result<HttpTransporter> {
    let client = reqwest::Client::builder().http1_only().redirect(reqwest::redirect::Policy::none()).build();
    let client = client.map_err(|e| Error::new(ErrorKind::Other, "cannot make an HTTP client").with_source(e))?;
    Ok(HttpTransporter::new(Transport(client)))
}

fn failed(e: reqwest::Error) -> opendal::Error {
    opendal::Error::new(opendal::ErrorKind::Unexpected, "the request failed")
        .set_temporary()
        .set_source(e.without_url())
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: http::Request<Buffer>) -> opendal::Result<http::Response<HttpBody>> {
        let (parts, mut body) = request.into_parts();
        let mut builder = self.0.request(parts.method.clone(), parts.uri.to_string()).headers(parts.headers);
        if !body.is_empty() {
            // One part: `Buffer` gives its parts without a copy.
            let all = body.next().filter(|_| body.is_empty()).unwrap_or_default();
            builder = builder.body(reqwest::Body::from(all));
        }
        let mut response = builder.send().await.map_err(failed)?;
        if let Some(operation) = parts.extensions.get::<Operation>()
            && !response.status().is_success()
            && response.status() != http::StatusCode::NOT_MODIFIED
        {
            let mut head = http::Response::new(()).into_parts().0;
            (head.status, head.headers) = (response.status(), response.headers().clone());
            let mut body = Vec::new();
            while body.len() < MOST_OF_A_REFUSAL
                && let Ok(Some(part)) = response.chunk().await
            {
                body.extend_from_slice(&part);
            }
            return Err(refused(*operation, &head, &body));
        }
        let len = if parts.method == http::Method::HEAD { None } else { response.content_length() };
        let mut answer = http::Response::builder().status(response.status());
        if let Some(headers) = answer.headers_mut() {
            *headers = response.headers().clone();
        }
        let body = response.bytes_stream().map_ok(Buffer::from).map_err(failed);
        answer.body(HttpBody::new(body, len)).map_err(|e| {
            opendal::Error::new(opendal::ErrorKind::Unexpected, "the response cannot be read").set_source(e)
        })
    }
}
