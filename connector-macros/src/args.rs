//! The arguments in the attribute's parentheses.
//!
//! ```text
//! args  = [ arg { "," arg } [ "," ] ]
//! arg   = "module"  "=" string        a dotted path of identifiers
//!       | "name"    "=" string        an identifier
//!       | "scheme"  "=" string        lower case; may repeat
//!       | "url"     "=" string        an example; may repeat
//!       | "options" "=" type
//!       | "crate"   "=" path
//! ```
//!
//! Every argument is parsed separately, so that one run of the compiler reports every wrong one.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Error, LitStr, Path, Token, Type};

/// The attribute. Each knows other arguments.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attribute {
    Connector,
    Adapter,
    Options,
}

impl Attribute {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connector => "#[external_connector]",
            Self::Adapter => "#[connector_adapter]",
            Self::Options => "#[connector_options]",
        }
    }

    fn known(self) -> &'static [&'static str] {
        match self {
            Self::Connector => &["module", "name", "scheme", "url", "options", "crate"],
            Self::Adapter => &["scheme", "crate"],
            Self::Options => &["crate"],
        }
    }

    fn example(self) -> &'static str {
        match self {
            Self::Connector => "#[external_connector(module = \"acme.kv\", name = \"AcmeConnector\")]",
            Self::Adapter => "#[connector_adapter(scheme = \"acme\")]",
            Self::Options => "#[connector_options]",
        }
    }
}

#[derive(Default)]
pub(crate) struct Args {
    pub(crate) module: Option<LitStr>,
    pub(crate) name: Option<LitStr>,
    pub(crate) schemes: Vec<LitStr>,
    pub(crate) urls: Vec<LitStr>,
    pub(crate) options: Option<Type>,
    pub(crate) core: Option<Path>,
}

/// Schemes that kvconn itself serves.
const RESERVED_SCHEMES: [&str; 2] = ["external", "plugin"];

/// The valid arguments, and the errors of the others.
pub(crate) fn parse(attribute: Attribute, tokens: TokenStream) -> (Args, Vec<Error>) {
    let mut args = Args::default();
    let mut errors = Vec::new();
    for piece in split_at_commas(tokens) {
        if let Err(e) = (|input: ParseStream<'_>| parse_one(attribute, input, &mut args)).parse2(piece) {
            errors.push(e);
        }
    }
    let missing = |what: &str| {
        Error::new(
            Span::call_site(),
            format!("{} needs `{what} = \"..\"`: write `{}`", attribute.name(), attribute.example()),
        )
    };
    for url in &args.urls {
        let text = url.value();
        if !text.split_once("://").is_some_and(|(scheme, _)| args.schemes.iter().any(|s| s.value() == scheme)) {
            let why = format!("url `{text}` does not start with a `scheme` of this attribute and `://`");
            errors.push(Error::new(url.span(), why));
        }
    }
    if errors.is_empty() {
        match attribute {
            Attribute::Connector if args.module.is_none() => errors.push(missing("module")),
            Attribute::Adapter if args.schemes.is_empty() => errors.push(missing("scheme")),
            _ => {}
        }
    }
    (args, errors)
}

fn parse_one(attribute: Attribute, input: ParseStream<'_>, args: &mut Args) -> syn::Result<()> {
    let key = input.call(Ident::parse_any).map_err(|e| {
        Error::new(e.span(), format!("expected an argument of {}, as in `{}`", attribute.name(), attribute.example()))
    })?;
    let text = key.to_string();
    if !attribute.known().contains(&text.as_str()) {
        let known: Vec<String> = attribute.known().iter().map(|k| format!("`{k}`")).collect();
        // The value of an unknown argument is not checked.
        input.parse::<TokenStream>()?;
        return Err(Error::new(
            key.span(),
            format!(
                "unknown argument `{text}` of {}{}: it knows {}",
                attribute.name(),
                guess(attribute, &text),
                known.join(", ")
            ),
        ));
    }
    let form = if text == "options" || text == "crate" { "path" } else { "\"..\"" };
    if !input.peek(Token![=]) {
        input.parse::<TokenStream>()?;
        return Err(Error::new(key.span(), format!("argument `{text}` needs a value: write `{text} = {form}`")));
    }
    input.parse::<Token![=]>()?;
    let twice =
        || Error::new(key.span(), format!("argument `{text}` is given twice; {} takes it once", attribute.name()));
    match text.as_str() {
        "module" => set(&mut args.module, check_module(string(input, &key)?)?).map_err(|()| twice()),
        "name" => set(&mut args.name, check_name(string(input, &key)?)?).map_err(|()| twice()),
        "scheme" => {
            let scheme = check_scheme(string(input, &key)?)?;
            if args.schemes.iter().any(|s| s.value() == scheme.value()) {
                return Err(Error::new(scheme.span(), format!("scheme `{}` is given twice", scheme.value())));
            }
            if attribute == Attribute::Adapter && !args.schemes.is_empty() {
                return Err(twice());
            }
            args.schemes.push(scheme);
            Ok(())
        }
        "url" => {
            args.urls.push(string(input, &key)?);
            Ok(())
        }
        "options" => set(&mut args.options, whole(input, "options", "a type: write `options = AcmeOptions`")?)
            .map_err(|()| twice()),
        _ => {
            let path = input.call(Path::parse_mod_style);
            let rest: TokenStream = input.parse()?;
            match path {
                Ok(path) if rest.is_empty() => set(&mut args.core, path).map_err(|()| twice()),
                _ => Err(Error::new(key.span(), "argument `crate` takes a path: write `crate = ::my_connector_core`")),
            }
        }
    }
}

/// ` (did you mean `X`?)`, or nothing.
fn guess(attribute: Attribute, text: &str) -> String {
    let nearest = attribute.known().iter().find(|known| is_near(text, known));
    nearest.map_or_else(String::new, |known| format!(" (did you mean `{known}`?)"))
}

/// Whether two words differ in at most two adjacent letters: one too many, one too few, another, or swapped.
fn is_near(text: &str, known: &str) -> bool {
    let start = text.bytes().zip(known.bytes()).take_while(|(a, b)| a == b).count();
    let (text, known) = (&text.as_bytes()[start..], &known.as_bytes()[start..]);
    let end = text.iter().rev().zip(known.iter().rev()).take_while(|(a, b)| a == b).count();
    text.len().max(known.len()) - end <= 2 && start + end > 1
}

fn set<T>(place: &mut Option<T>, value: T) -> Result<(), ()> {
    if place.is_some() {
        return Err(());
    }
    *place = Some(value);
    Ok(())
}

fn string(input: ParseStream<'_>, key: &Ident) -> syn::Result<LitStr> {
    // No token follows a bare `=`, so the error points at the key.
    let span = if input.is_empty() { key.span() } else { input.span() };
    let literal = input.parse::<LitStr>();
    let rest: TokenStream = input.parse()?;
    literal
        .ok()
        .filter(|_| rest.is_empty())
        .ok_or_else(|| Error::new(span, format!("argument `{key}` takes a string literal: write `{key} = \"..\"`")))
}

fn whole<T: syn::parse::Parse>(input: ParseStream<'_>, key: &str, what: &str) -> syn::Result<T> {
    let span = input.span();
    let value = input.parse::<T>();
    let rest: TokenStream = input.parse()?;
    value.ok().filter(|_| rest.is_empty()).ok_or_else(|| Error::new(span, format!("argument `{key}` takes {what}")))
}

fn check_module(literal: LitStr) -> syn::Result<LitStr> {
    let module = literal.value();
    let why = if module.is_empty() {
        "module is empty".to_owned()
    } else if module.split('.').any(str::is_empty) {
        format!("module `{module}` is not a dotted path: a part of it is empty")
    } else if let Some(bad) = module.split('.').find(|segment| !is_identifier(segment)) {
        format!("module `{module}` is not a dotted path: `{bad}` is not an identifier")
    } else {
        return Ok(literal);
    };
    Err(Error::new(literal.span(), format!("{why}; write it as in `module = \"acme.kv\"`")))
}

fn check_name(literal: LitStr) -> syn::Result<LitStr> {
    let name = literal.value();
    let why = if name.is_empty() {
        "connector name is empty".to_owned()
    } else if !is_identifier(&name) {
        format!("connector name `{name}` is not an identifier")
    } else {
        return Ok(literal);
    };
    Err(Error::new(literal.span(), format!("{why}; write it as in `name = \"AcmeConnector\"`")))
}

fn check_scheme(literal: LitStr) -> syn::Result<LitStr> {
    let scheme = literal.value();
    let why = if scheme.is_empty() {
        "scheme is empty; write it as in `scheme = \"acme\"`".to_owned()
    } else if let Some(bare) = scheme.strip_suffix("://") {
        format!("scheme `{scheme}` is written without `://`: `scheme = \"{bare}\"`")
    } else if is_scheme(&scheme.to_ascii_lowercase()) && !is_scheme(&scheme) {
        format!("scheme `{scheme}` is written in lower case: `scheme = \"{}\"`", scheme.to_ascii_lowercase())
    } else if !is_scheme(&scheme) {
        format!("scheme `{scheme}` is not a URL scheme: lower-case letters, digits, `+`, `-` and `.`, a letter first")
    } else if RESERVED_SCHEMES.contains(&scheme.as_str()) {
        format!("scheme `{scheme}` is kvconn's own; choose another")
    } else {
        return Ok(literal);
    };
    Err(Error::new(literal.span(), why))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))
}

/// An identifier in both Rust and Python, because one URL names the connector in both.
fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The arguments as token streams, split at commas. A comma inside brackets, or in a type's `<A, B>`, does not split.
fn split_at_commas(tokens: TokenStream) -> Vec<TokenStream> {
    let mut pieces: Vec<Vec<TokenTree>> = vec![Vec::new()];
    let mut angle = 0u32;
    for token in tokens {
        if let TokenTree::Punct(p) = &token {
            match p.as_char() {
                '<' => angle += 1,
                '>' => angle = angle.saturating_sub(1),
                ',' if angle == 0 => {
                    pieces.push(Vec::new());
                    continue;
                }
                _ => {}
            }
        }
        if let Some(last) = pieces.last_mut() {
            last.push(token);
        }
    }
    pieces.into_iter().filter(|p| !p.is_empty()).map(|p| p.into_iter().collect()).collect()
}
