//! `kvconn.gcs` `GCSConnector`: one object a chunk, in a bucket of Google Cloud Storage.
//!
//! `gs://bucket/prefix` names the bucket. The names of objects are those of `s3`, so a bucket that LMCache or kvconn fills
//! through Google's S3 interface is readable here.
//!
//! The JSON API sends no custom metadata with an object's bytes. An entry that kvconn writes is therefore a parameter of the
//! content type: `application/octet-stream; kvconnkey=..`. Listings hold it, too, so a listing asks for no object again.
//!
//! # Credentials
//!
//! The first of these that is given:
//!
//! 1. `anonymous=true`: kvconn signs nothing, as for a public bucket or an emulator;
//! 2. `token`: an OAuth 2 access token, which kvconn does not renew;
//! 3. `credentials`: the JSON of a service account's key, of an authorized user, or of a federated account;
//! 4. the file that `GOOGLE_APPLICATION_CREDENTIALS` names, then `gcloud/application_default_credentials.json` in
//!    `$XDG_CONFIG_HOME` or `~/.config`, then the metadata server of the machine.
//!
//! # Limits
//!
//! An object's name has at most 1,024 bytes with its prefix. Tests run on fake-gcs-server, which has no multipart uploads, no
//! conditions by ETag and no credentials.

mod connector;
mod options;

pub use connector::GCSConnector;
pub use options::GcsOptions;

pub use crate::cloud::CloudSettings;
