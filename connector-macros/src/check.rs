//! Checks the item below the attribute.

use proc_macro2::{Ident, TokenStream};
use syn::spanned::Spanned;
use syn::{Attribute as SynAttribute, Error, Expr, Item, Lit, Meta};

use crate::args::Attribute;

/// The facts about the struct that the entry needs.
pub(crate) struct Subject {
    pub(crate) ident: Ident,
    pub(crate) doc: String,
}

/// The struct, or the reason why the item cannot be registered.
pub(crate) fn subject(attribute: Attribute, item: &TokenStream) -> Result<Subject, Error> {
    let what = if attribute == Attribute::Adapter { "an adapter" } else { "a connector" };
    let not_a_struct =
        |span, found: &str| Error::new(span, format!("{} goes on a struct, and this is {found}", attribute.name()));
    let item: Item = syn::parse2(item.clone())?;
    let item = match item {
        Item::Struct(item) => item,
        Item::Enum(e) => return Err(not_a_struct(e.ident.span(), "an enum; put it on a struct that holds the enum")),
        Item::Union(u) => return Err(not_a_struct(u.ident.span(), "a union; put it on a struct that holds the union")),
        Item::Fn(f) => {
            return Err(not_a_struct(f.sig.ident.span(), "a function; put it on the struct of the connector"));
        }
        Item::Impl(i) => return Err(not_a_struct(i.self_ty.span(), "an `impl` block; put it on the struct itself")),
        Item::Trait(t) => return Err(not_a_struct(t.ident.span(), "a trait; put it on a struct that implements it")),
        Item::Type(t) => return Err(not_a_struct(t.ident.span(), "a type alias; put it on the struct itself")),
        Item::Mod(m) => return Err(not_a_struct(m.ident.span(), "a module; put it on a struct inside")),
        other => return Err(not_a_struct(other.span(), "none")),
    };
    if !item.generics.params.is_empty() {
        return Err(Error::new(
            item.ident.span(),
            format!(
                "{what} is registered once, by one name, so it cannot be generic: put {} on a struct without parameters",
                attribute.name()
            ),
        ));
    }
    Ok(Subject { ident: item.ident, doc: doc(&item.attrs) })
}

/// The doc comment's text, without the space behind each `///`.
fn doc(attrs: &[SynAttribute]) -> String {
    let lines = attrs.iter().filter_map(|attr| match &attr.meta {
        Meta::NameValue(nv) if nv.path.is_ident("doc") => match &nv.value {
            Expr::Lit(lit) => match &lit.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<String> = lines.map(|l| l.strip_prefix(' ').unwrap_or(&l).to_owned()).collect();
    lines.join("\n").trim().to_owned()
}
