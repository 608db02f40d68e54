//! `acme._native`: the library through which the Python package `kvconn` opens the connector of acme-kv.

use acme_kv as _; // links the connector

connector_python::wheel!(_native);
