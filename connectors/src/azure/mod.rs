//! `kvconn.azure` `AzureConnector`: one blob a chunk, in a container of Azure Blob Storage.
//!
//! `azure://container/prefix` names the container, and `account_url`, `account_name` or `connection_string` the account.
//! Without a prefix, an in-process key has the blob that LMCache's connector gives it: the key's text with `/` as `_`, then
//! percent-encoded. LMCache keeps no object keys on Azure. kvconn names their blobs by their percent-encoded text, so that
//! a listing tells both kinds apart.
//!
//! OpenDAL drops the metadata that Azure sends with a blob's bytes. An entry that kvconn writes is therefore a parameter of
//! the content type: `application/octet-stream; kvconnkey=..`. Listings hold it, too, so a listing asks for no blob again.
//!
//! # Credentials
//!
//! The first of these that is given, as in LMCache:
//!
//! 1. `anonymous=true`: kvconn signs nothing, as for a public container;
//! 2. `connection_string` with a key or a shared access signature;
//! 3. `account_key`;
//! 4. `sas_token`, a shared access signature;
//! 5. the environment: `AZURE_STORAGE_ACCOUNT_NAME` with `AZURE_STORAGE_ACCOUNT_KEY`, `AZURE_STORAGE_SAS_TOKEN`,
//!    `AZURE_STORAGE_BEARER_TOKEN`; then a service principal with a certificate or a secret (`AZURE_TENANT_ID`,
//!    `AZURE_CLIENT_ID`, `AZURE_CLIENT_SECRET`), Azure Pipelines, a workload identity (`AZURE_FEDERATED_TOKEN_FILE`), and the
//!    machine's managed identity. kvconn does not run the command `az`.
//!
//! # Limits
//!
//! A blob's name has at most 1,024 bytes with its prefix. Tests run on Azurite, with an account key and with a shared access
//! signature.

mod account;
mod connector;
mod options;

pub use connector::AzureConnector;
pub use options::AzureOptions;

pub use crate::cloud::CloudSettings;
