//! `acme._native`: everything that the Python package `kvconn` needs to open the connector of acme-kv.

use acme_kv as _; // links the connector

connector_python::wheel!(_native);
