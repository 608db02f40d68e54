//! `kvconn stores`: lists the stores that have a name.

use std::io::Write;

use connectors::redact;
use serde_json::json;

use crate::exit::{Answer, Failure};
use crate::output::{Errors, Out, Style, mode, print_note, users};
use crate::setup::Setup;
use crate::stores::{Stores, URL_VARIABLE, default_text};

pub(crate) fn run(setup: &Setup, out: &mut Out) -> Result<Answer, Failure> {
    // The file may be a pipe.
    let stores = setup.interrupt.blocking(Stores::load_if_there)?;
    let default =
        default_text()?.map(|text| if text.starts_with('@') { users(&text).into_owned() } else { redact(&text) });
    let mut errors = Errors::default();
    let mut named: Vec<(&str, String)> = Vec::new();
    for name in stores.iter().flat_map(Stores::names) {
        match stores.as_ref().map(|stores| stores.url(name)) {
            Some(Ok(url)) => named.push((name, redact(&url))),
            Some(Err(e)) => errors.add(e),
            None => {}
        }
    }
    let file = stores.as_ref().map(|stores| users(&stores.path().to_string_lossy()).into_owned());
    if mode::is_json() {
        let stores = named.iter().map(|(name, url)| json!({ "name": name, "url": url }));
        out.json(&json!({ "file": file, "default": default, "stores": stores.collect::<Vec<_>>() }))?;
    } else {
        let rows = named.iter().map(|(name, url)| (format!("@{name}"), url.clone()));
        let rows: Vec<_> = default.into_iter().map(|url| ("@".to_owned(), url)).chain(rows).collect();
        print(&rows, out)?;
        if rows.is_empty() {
            print_note(format_args!(
                "no store has a name; `kvconn stores --help` says how to give it one, or set {URL_VARIABLE}"
            ));
        }
    }
    errors.finish().map_or(Ok(Answer::Yes), Err)
}

fn print(rows: &[(String, String)], out: &mut Out) -> Result<(), Failure> {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let Style { bold, plain, .. } = out.style();
    for (name, url) in rows {
        let (name, url) = (out.shown(name).into_owned(), out.shown(url).into_owned());
        writeln!(out, "{bold}{name:width$}{plain}  {url}")?;
    }
    Ok(())
}
