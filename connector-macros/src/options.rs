//! `#[connector_options]`: the derives of an options type, with the paths of the crates that `connector-core` re-exports.
//!
//! ```text
//! field attribute = "#[option(" key { "," key } ")]"
//! key             = "secret" | "unit" "=" string | "flatten"
//! ```

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Error, Expr, ExprLit, Fields, Item, Lit, Meta, MetaNameValue, Path, Token, parse_quote};

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
            derived_twice(&mut item.attrs, &["Deserialize", "JsonSchema"], errors);
            let ident = &item.ident;
            let Fields::Named(fields) = &mut item.fields else {
                let message = format!(
                    "#[connector_options] needs a struct with named fields, one for each option: write `struct {ident} {{ .. }}`"
                );
                errors.push(Error::new(ident.span(), message));
                // The derives stay, because the compiler would report each use of the type without them.
                return Ok(quote! {
                    #[derive(#core::serde::Deserialize, #core::schemars::JsonSchema)]
                    #[serde(crate = #serde)]
                    #[schemars(crate = #schemars)]
                    #item
                });
            };
            for field in &mut fields.named {
                read_keys(&mut field.attrs, &path("options::flattened"), errors);
            }
            // Both derives call this function, so that a missing `Default` is one error.
            let default = format!("{ident}::__kvconn_default");
            let (generics, arguments, bounds) = item.generics.split_for_impl();
            let make = quote_spanned!(ident.span()=> <Self as #core::options::Defaults>::defaults());
            Ok(quote! {
                #[derive(#core::serde::Deserialize, #core::schemars::JsonSchema)]
                #[serde(crate = #serde, default = #default)]
                #[schemars(crate = #schemars)]
                #item

                impl #generics #ident #arguments #bounds {
                    #[doc(hidden)]
                    fn __kvconn_default() -> Self {
                        #make
                    }
                }
            })
        }
        Item::Enum(mut item) => {
            derived_twice(&mut item.attrs, &["Deserialize", "Serialize", "JsonSchema"], errors);
            Ok(quote! {
                #[derive(#core::serde::Deserialize, #core::serde::Serialize, #core::schemars::JsonSchema)]
                #[serde(crate = #serde)]
                #[schemars(crate = #schemars)]
                #item
            })
        }
        other => {
            let message =
                "#[connector_options] goes on the struct of a connector's options, or on an enum of an option's values";
            Err(Error::new(other.span(), message))
        }
    }
}

/// Removes each derive below the attribute that the attribute writes itself, and gives an error for it.
fn derived_twice(attrs: &mut [Attribute], own: &[&str], errors: &mut Vec<Error>) {
    for attr in attrs.iter_mut().filter(|attr| attr.path().is_ident("derive")) {
        let Ok(paths) = attr.parse_args_with(Punctuated::<Path, Token![,]>::parse_terminated) else { continue };
        let is_own = |path: &Path| path.segments.last().is_some_and(|last| own.iter().any(|name| last.ident == name));
        let (twice, others): (Vec<Path>, Vec<Path>) = paths.into_iter().partition(is_own);
        for path in &twice {
            let name = path.to_token_stream().to_string().replace(' ', "");
            let message = format!("#[connector_options] derives `{name}` itself; remove it from this `derive`");
            errors.push(Error::new(path.span(), message));
        }
        *attr = parse_quote!(#[derive(#(#others),*)]);
    }
}

/// Replaces a field's `#[option(..)]` by attributes of serde and schemars.
fn read_keys(attrs: &mut Vec<Attribute>, flattened: &str, errors: &mut Vec<Error>) {
    const KNOWN: &str = "write `#[option(secret)]`, `#[option(unit = \"ms\")]` or `#[option(flatten)]`";
    let own: Vec<Attribute> = attrs.extract_if(.., |attr| attr.path().is_ident("option")).collect();
    for attr in own {
        let keys = match attr.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated) {
            Ok(keys) if !keys.is_empty() => keys,
            _ => {
                errors.push(Error::new(
                    attr.path().span(),
                    format!("#[option] has no keys that kvconn can read; {KNOWN}"),
                ));
                continue;
            }
        };
        for key in keys {
            let name = key.path().get_ident().map(ToString::to_string).unwrap_or_default();
            let written = match (name.as_str(), &key) {
                ("secret", Meta::Path(_)) => parse_quote!(#[schemars(extend("secret" = true))]),
                ("flatten", Meta::Path(_)) => parse_quote!(#[serde(flatten, deserialize_with = #flattened)]),
                (
                    "unit",
                    Meta::NameValue(MetaNameValue { value: Expr::Lit(ExprLit { lit: Lit::Str(unit), .. }), .. }),
                ) => {
                    parse_quote!(#[schemars(extend("unit" = #unit))])
                }
                (known @ ("secret" | "flatten"), _) => {
                    errors
                        .push(Error::new(key.span(), format!("`{known}` takes no value: write `#[option({known})]`")));
                    continue;
                }
                ("unit", _) => {
                    errors.push(Error::new(key.span(), "`unit` takes a string: write `#[option(unit = \"ms\")]`"));
                    continue;
                }
                _ => {
                    errors.push(Error::new(key.span(), format!("unknown key of #[option]; {KNOWN}")));
                    continue;
                }
            };
            attrs.push(written);
        }
    }
}
