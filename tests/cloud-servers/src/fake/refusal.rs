//! S3's answer to a request that it does not serve.

use quick_xml::escape::escape;

use super::http::{Body, Response};

/// An error of S3: a status, a code, and XML.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
    /// Further elements of the XML.
    pub elements: Vec<(&'static str, String)>,
    pub headers: Vec<(&'static str, String)>,
}

impl Refusal {
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), elements: Vec::new(), headers: Vec::new() }
    }

    pub(super) fn element(mut self, name: &'static str, text: impl Into<String>) -> Self {
        self.elements.push((name, text.into()));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn denied() -> Self {
        Self::new(403, "AccessDenied", "Access Denied")
    }

    pub(super) fn no_such_key(key: &str) -> Self {
        Self::new(404, "NoSuchKey", "The specified key does not exist.").element("Key", key)
    }

    pub(super) fn no_such_bucket(bucket: &str) -> Self {
        Self::new(404, "NoSuchBucket", "The specified bucket does not exist").element("BucketName", bucket)
    }

    pub(super) fn response(&self) -> Response {
        let mut xml = format!("<Error><Code>{}</Code><Message>{}</Message>", self.code, escape(&self.message));
        for (name, text) in &self.elements {
            xml += &format!("<{name}>{}</{name}>", escape(text));
        }
        xml += "<RequestId>4442587FB7D0A2F9</RequestId></Error>";
        let mut response = Response::xml(xml);
        response.status = self.status;
        response.headers.extend(self.headers.clone());
        // A `304` has no body.
        if self.status == 304 {
            response.body = Body::Text(String::new());
        }
        response
    }
}
