//! The place and the rights of a store, for an operator.

use std::sync::Arc;

use connector_core::{Diagnosis, Result};

use super::store::Store;

impl Store {
    /// # Errors
    /// The service's.
    pub(crate) async fn diagnose(self: &Arc<Self>) -> Result<Vec<Diagnosis>> {
        let place = &self.place;
        let region = place.region.as_ref().map(|region| format!(", region {region}")).unwrap_or_default();
        let prefix = self.services.current().operator.info().root();
        let bucket = place.service.bucket();
        let mut lines =
            vec![Diagnosis::ok(bucket, format!("`{}` at {}{region}, prefix `{prefix}`", place.bucket, place.endpoint))];
        if place.endpoint.starts_with("http://") && !is_near(&place.endpoint) {
            let advice = "use an endpoint with `https://`: others on the network can read the chunks";
            lines.push(Diagnosis::warn("tls", "requests are not encrypted", advice));
        }
        if !self.probe().await? {
            let text = "the server denies access to an object that does not exist, so lookups of missing chunks fail";
            let advice = "grant the right to list the bucket; on S3 `s3:ListBucket`";
            lines.push(Diagnosis::fail("lookups", text, advice));
        }
        Ok(lines)
    }
}

/// Whether the server runs on this machine.
fn is_near(endpoint: &str) -> bool {
    let host = endpoint.trim_start_matches("http://");
    ["localhost", "127.", "[::1]"].into_iter().any(|near| host.starts_with(near))
}
