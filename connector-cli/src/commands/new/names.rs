//! The names of a project, from the name that the user gives.

use connectors::registry::{self, SchemeOwner};
use connectors::{Error, ErrorKind, Result};

use crate::output::users;

/// The names in the files of a project.
///
/// A connector's package needs a module below it, `acme.kv`, so a name with the suffix `-kv` gives the scheme and the package
/// without it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// The crate, and the Python distribution: `acme-kv`.
    pub(super) krate: String,
    /// The crate in Rust code: `acme_kv`.
    pub(super) ident: String,
    /// The Python package, and the first part of the connector's module: `acme`.
    pub(super) package: String,
    /// `acme`.
    pub(super) scheme: String,
    /// `acme://`.
    pub(super) scheme_url: String,
    /// `scheme = "acme"`.
    pub(super) scheme_argument: String,
    /// The start of the names of types: `Acme`.
    pub(super) type_name: String,
}

impl Names {
    /// The names for `name`.
    ///
    /// # Errors
    /// `InvalidInput` for a name that cannot name a crate, a Python package and a scheme, or that is taken.
    pub(super) fn of(name: &str) -> Result<Self> {
        check_letters(name)?;
        let ident = name.replace('-', "_");
        let stem = name.strip_suffix("-kv").or_else(|| name.strip_suffix("_kv")).unwrap_or(name);
        let package = stem.replace('-', "_");
        let scheme = stem.replace('_', "-");
        let taken = [
            (RUST_KEYWORDS, &ident, "a keyword of Rust"),
            (RUST_KEYWORDS, &package, "a keyword of Rust"),
            (CRATES, &ident, "a crate that the connector needs or Rust has"),
            (PYTHON_KEYWORDS, &package, "a keyword of Python"),
            (PYTHON_MODULES, &package, "a module of Python itself"),
            (PYTHON_PACKAGES, &package, "a Python package that runs beside kvconn"),
        ];
        for (words, word, what) in taken {
            if words.split_whitespace().any(|taken| taken == word) {
                return Err(
                    refusal(name, &format!("{word} is {what}")).with_hint(format!("choose another, as `my-{name}`"))
                );
            }
        }
        if let Some(owner) = owner_of(&scheme)? {
            let why = format!("the scheme {scheme}:// belongs to {owner}");
            return Err(refusal(name, &why).with_hint(format!("choose another, as `my-{name}`")));
        }
        let type_name = stem.split(['-', '_']).map(capitalized).collect();
        Ok(Self {
            krate: name.to_owned(),
            ident,
            package,
            scheme_url: format!("{scheme}://"),
            scheme_argument: format!("scheme = \"{scheme}\""),
            scheme,
            type_name,
        })
    }
}

fn refusal(name: &str, why: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("`{}` cannot be the connector's name: {why}", users(name)))
}

fn check_letters(name: &str) -> Result<()> {
    const RULE: &str = "write lower-case letters, digits, `-` and `_`, a letter first, as in `my-store`";
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let why = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.starts_with(|c: char| c.is_ascii_digit()) {
        "it starts with a digit".to_owned()
    } else if name.contains(|c: char| c.is_ascii_uppercase()) {
        "it has capital letters".to_owned()
    } else if let Some(other) = name.chars().find(|c| !is_allowed(*c)) {
        format!("it has the character {other:?}")
    } else if name.split(['-', '_']).any(str::is_empty) {
        "it starts or ends with `-` or `_`, or has two of them in a row".to_owned()
    } else {
        return Ok(());
    };
    Err(refusal(name, &why).with_hint(RULE))
}

/// The connector that has the scheme already: kvconn prefers its own.
fn owner_of(scheme: &str) -> Result<Option<String>> {
    if matches!(scheme, "external" | "plugin") {
        return Ok(Some("kvconn itself".to_owned()));
    }
    Ok(registry::find_scheme(scheme)?.map(|owner| match owner {
        SchemeOwner::Connector(entry) => entry.full_name(),
        SchemeOwner::Adapter(entry) => format!("the adapter of {}", entry.origin().package),
    }))
}

fn capitalized(part: &str) -> String {
    let mut letters = part.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

const RUST_KEYWORDS: &str = "abstract as async await become box break const continue crate do dyn else enum extern false \
    final fn for gen if impl in let loop macro match mod move mut override priv pub ref return self static struct super trait \
    true try type typeof unsafe unsized use virtual where while yield";

const CRATES: &str =
    "alloc connector_core connector_macros connector_python connectors core kvconn proc_macro std test";

const PYTHON_KEYWORDS: &str = "and as assert async await break class continue def del elif else except finally for from \
    global if import in is lambda nonlocal not or pass raise return try while with yield";

const PYTHON_PACKAGES: &str = "jax kvconn lmcache maturin numpy pip pytest setuptools sglang torch vllm wheel";

/// `sys.stdlib_module_names` and `test`, without names that have a capital letter or start with `_`. Python imports its own
/// module first.
const PYTHON_MODULES: &str = "abc aifc antigravity argparse array ast asynchat asyncio asyncore atexit audioop base64 bdb \
    binascii bisect builtins bz2 calendar cgi cgitb chunk cmath cmd code codecs codeop collections colorsys compileall \
    compression concurrent configparser contextlib contextvars copy copyreg crypt csv ctypes curses dataclasses datetime dbm \
    decimal difflib dis distutils doctest email encodings ensurepip enum errno faulthandler fcntl filecmp fileinput fnmatch \
    fractions ftplib functools gc genericpath getopt getpass gettext glob graphlib grp gzip hashlib heapq hmac html http \
    idlelib imaplib imghdr imp importlib inspect io ipaddress itertools json keyword lib2to3 linecache locale logging lzma \
    mailbox mailcap marshal math mimetypes mmap modulefinder msilib msvcrt multiprocessing netrc nis nntplib nt ntpath \
    nturl2path numbers opcode operator optparse os ossaudiodev pathlib pdb pickle pickletools pipes pkgutil platform plistlib \
    poplib posix posixpath pprint profile pstats pty pwd py_compile pyclbr pydoc pydoc_data pyexpat queue quopri random re \
    readline reprlib resource rlcompleter runpy sched secrets select selectors shelve shlex shutil signal site smtpd smtplib \
    sndhdr socket socketserver spwd sqlite3 sre_compile sre_constants sre_parse ssl stat statistics string stringprep struct \
    subprocess sunau symtable sys sysconfig syslog tabnanny tarfile telnetlib tempfile termios test textwrap this threading time \
    timeit tkinter token tokenize tomllib trace traceback tracemalloc tty turtle turtledemo types typing unicodedata unittest \
    urllib uu uuid venv warnings wave weakref webbrowser winreg winsound wsgiref xdrlib xml xmlrpc zipapp zipfile zipimport \
    zlib zoneinfo";
