//! `kvconn new`: writes the crate of a connector, with its Python package and tests.
//!
//! The template is `examples/acme-kv`, whose files `connector-cli/template` links to, because the published crate has no
//! examples. kvconn replaces the names in it.

mod names;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use connectors::{Error, ErrorKind};
use serde_json::json;

use crate::args::NewArgs;
use crate::exit::{Answer, Failure};
use crate::output::{Out, Style, mode, users};
use names::Names;

/// The files of a project, and where they go. The names of files contain names, too.
const FILES: [(&str, &str); 11] = [
    (".cargo/config.toml", include_str!("../../template/cargo-config.toml")),
    (".github/workflows/ci.yml", include_str!("../../template/ci.yml")),
    (".gitignore", include_str!("../../template/gitignore")),
    ("Cargo.toml", concat!("[workspace]\nmembers = [\"wheel\"]\n\n", include_str!("../../template/crate.toml"))),
    ("README.md", include_str!("../../template/README.md")),
    ("src/lib.rs", include_str!("../../template/crate.rs")),
    ("wheel/Cargo.toml", include_str!("../../template/wheel.toml")),
    ("wheel/pyproject.toml", include_str!("../../template/pyproject.toml")),
    ("wheel/python/acme/__init__.py", include_str!("../../template/package.py")),
    ("wheel/src/lib.rs", include_str!("../../template/wheel.rs")),
    ("wheel/tests/test_acme.py", include_str!("../../template/tests.py")),
];

/// Where the example has kvconn's crates.
const CORE: &str = concat!(r#"path = "../../connector-core", version = ""#, env!("CARGO_PKG_VERSION"), '"');
const PYTHON: &str = concat!(r#"path = "../../../connector-python", version = ""#, env!("CARGO_PKG_VERSION"), '"');
const PYTHON_PACKAGE: &str = "../../connector-python";

pub(crate) fn run(args: &NewArgs, out: &mut Out) -> Result<Answer, Failure> {
    let names = Names::of(&args.name)?;
    let source = args.kvconn_path.as_deref().map_or_else(|| Ok(Source::release()), Source::checkout)?;
    let folder = args.path.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    refuse_a_folder_with_files(&folder)?;

    let pairs = pairs(&names, &source);
    let mut files = Vec::new();
    for (path, text) in FILES {
        let path = replaced(path, &pairs);
        write(&folder.join(&path), &replaced(text, &pairs))?;
        files.push(path);
    }
    if mode::is_json() {
        out.json(&json!({ "crate": names.krate, "scheme": names.scheme, "folder": folder.to_string_lossy(), "files": files }))?;
        return Ok(Answer::Yes);
    }
    if mode::is_quiet() {
        return Ok(Answer::Yes);
    }

    let Style { bold, plain, .. } = out.style();
    let shown = users(&folder.to_string_lossy()).into_owned();
    writeln!(out, "{bold}{}{plain}: the connector of {}://, in {}", names.krate, names.scheme, out.shown(&shown))?;
    writeln!(out, "  src/lib.rs    write your store here")?;
    writeln!(out, "  cargo test    checks that it keeps the contract of every connector")?;
    writeln!(out, "  README.md     its Python package, and its URLs")?;
    Ok(Answer::Yes)
}

/// Where a project takes kvconn from.
struct Source {
    core: String,
    python: String,
    /// The argument of `pip install`.
    package: String,
}

impl Source {
    /// The release of this command.
    fn release() -> Self {
        const URL: &str = env!("CARGO_PKG_REPOSITORY");
        const TAG: &str = concat!("v", env!("CARGO_PKG_VERSION"));
        let dependency = format!(r#"git = "{URL}", tag = "{TAG}""#);
        Self {
            core: dependency.clone(),
            python: dependency,
            package: format!("'kvconn @ git+{URL}@{TAG}#subdirectory=connector-python'"),
        }
    }

    /// A checkout of kvconn.
    fn checkout(folder: &Path) -> Result<Self, Error> {
        let refuse = |why: &str| {
            let shown = folder.to_string_lossy();
            Error::new(ErrorKind::InvalidInput, format!("`--kvconn-path {}` {why}", users(&shown)))
        };
        let found = fs::canonicalize(folder).map_err(|e| refuse(&format!("cannot be read: {e}")))?;
        if !found.join("connector-core/Cargo.toml").is_file() {
            return Err(refuse("is not a checkout of kvconn: it has no connector-core/Cargo.toml"));
        }
        let text = found.to_str().ok_or_else(|| refuse("is not UTF-8, so Cargo.toml cannot name it"))?;
        if text.contains(|c: char| c.is_control() || matches!(c, '"' | '\'' | '\\')) {
            return Err(refuse("has a quote, a backslash or a control character, so Cargo.toml cannot name it"));
        }
        Ok(Self {
            core: format!(r#"path = "{text}/connector-core""#),
            python: format!(r#"path = "{text}/connector-python""#),
            package: format!("'{text}/connector-python'"),
        })
    }
}

/// The texts of the example and their replacements. Of two that start at one place, the first counts.
fn pairs<'a>(names: &'a Names, source: &'a Source) -> [(&'static str, &'a str); 9] {
    [
        (CORE, &source.core),
        (PYTHON, &source.python),
        (PYTHON_PACKAGE, &source.package),
        ("scheme = \"acme\"", &names.scheme_argument),
        ("acme://", &names.scheme_url),
        ("acme-kv", &names.krate),
        ("acme_kv", &names.ident),
        ("Acme", &names.type_name),
        ("acme", &names.package),
    ]
}

/// Replaces in one pass, because a name may contain a text that is replaced.
fn replaced(text: &str, pairs: &[(&str, &str)]) -> String {
    let mut made = String::with_capacity(text.len());
    let mut rest = text;
    let next = |rest: &str| {
        let found = pairs.iter().filter_map(|(from, to)| rest.find(from).map(|at| (at, *from, *to)));
        found.min_by_key(|(at, ..)| *at)
    };
    while let Some((at, from, to)) = next(rest) {
        made.push_str(&rest[..at]);
        made.push_str(to);
        rest = &rest[at + from.len()..];
    }
    made.push_str(rest);
    made
}

fn refuse_a_folder_with_files(folder: &Path) -> Result<(), Error> {
    let shown = folder.to_string_lossy();
    let shown = users(&shown);
    let is_empty = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => true,
        Err(e) => return Err(Error::io(e, format_args!("read the folder `{shown}`"))),
    };
    if !is_empty {
        let message = format!("the folder `{shown}` is not empty, and kvconn overwrites no file");
        return Err(Error::new(ErrorKind::InvalidInput, message).with_hint("choose another folder with `--path DIR`"));
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| fs::write(path, text))
        .map_err(|e| Error::io(e, format_args!("write `{}`", users(&path.to_string_lossy()))))
}
