//! `#[connector_options]`: the derives of an options type, with the paths of the crates that `connector-core` re-exports.
//!
//! ```text
//! field attribute = "#[option(" key { "," key } ")]"
//! key             = "secret" | "unit" "=" string | "flatten"
//! ```

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::spanned::Spanned;
use syn::{Attribute, Error, Fields, Item, LitStr, parse_quote};

use crate::args;

pub(crate) fn connector_options(args: TokenStream, item: TokenStream) -> TokenStream {
    let (args, mut errors) = args::parse(args::Attribute::Options, args);
    let core = args.core.unwrap_or_else(|| parse_quote!(::connector_core));
    let expanded = expand(&core, item.clone(), &mut errors).unwrap_or_else(|e| {
        errors.push(e);
        item
    });
    let errors = errors.iter().map(Error::to_compile_error);
    quote!(#expanded #(#errors)*)
}

fn expand(core: &syn::Path, item: TokenStream, errors: &mut Vec<Error>) -> syn::Result<TokenStream> {
    let path = |name: &str| format!("{}::{name}", core.to_token_stream().to_string().replace(' ', ""));
    let (serde, schemars) = (path("serde"), path("schemars"));
    match syn::parse2(item)? {
        Item::Struct(mut item) => {
            let Fields::Named(fields) = &mut item.fields else {
                return Err(Error::new(item.ident.span(), "#[connector_options] needs a struct with named fields"));
            };
            for field in &mut fields.named {
                errors.extend(read_keys(&mut field.attrs, &path("options::flattened")).err());
            }
            Ok(quote! {
                #[derive(#core::serde::Deserialize, #core::schemars::JsonSchema)]
                #[serde(crate = #serde, default)]
                #[schemars(crate = #schemars)]
                #item
            })
        }
        Item::Enum(item) => Ok(quote! {
            #[derive(#core::serde::Deserialize, #core::serde::Serialize, #core::schemars::JsonSchema)]
            #[serde(crate = #serde)]
            #[schemars(crate = #schemars)]
            #item
        }),
        other => {
            let message =
                "#[connector_options] goes on the struct of a connector's options, or on an enum of an option's values";
            Err(Error::new(other.span(), message))
        }
    }
}

/// Replaces a field's `#[option(..)]` by attributes of serde and schemars.
fn read_keys(attrs: &mut Vec<Attribute>, flattened: &str) -> syn::Result<()> {
    let mut written = Vec::new();
    let own: Vec<Attribute> = attrs.extract_if(.., |attr| attr.path().is_ident("option")).collect();
    for attr in own {
        attr.parse_nested_meta(|key| {
            if key.path.is_ident("secret") {
                written.push(parse_quote!(#[schemars(extend("secret" = true))]));
            } else if key.path.is_ident("unit") {
                let unit: LitStr = key.value()?.parse()?;
                written.push(parse_quote!(#[schemars(extend("unit" = #unit))]));
            } else if key.path.is_ident("flatten") {
                written.push(parse_quote!(#[serde(flatten, deserialize_with = #flattened)]));
            } else {
                return Err(key.error("unknown key of #[option]: it knows `secret`, `unit = \"ms\"` and `flatten`"));
            }
            Ok(())
        })?;
    }
    attrs.extend(written);
    Ok(())
}
